//! Files that appear as a whole or not at all.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Write},
    path::Path,
    time::SystemTime,
};

use serde::{Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use super::error::SinkError;

/// The beginning of the name of an incomplete file.
pub(super) const HALF: &str = ".tmp-";

#[cfg(unix)]
pub(super) fn mode(bits: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SinkError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(SinkError::io("read", path)(e)),
    };
    let read = serde_json::from_slice(&text).map_err(|e| SinkError::Unreadable {
        path: path.to_path_buf(),
        message: e.to_string(),
    })?;
    Ok(Some(read))
}

pub(crate) fn write_json(
    directory: &Path,
    name: &str,
    value: &impl Serialize,
) -> Result<(), SinkError> {
    write_file(directory, name, |to| {
        serde_json::to_writer_pretty(&mut *to, value)?;
        to.write_all(b"\n")
    })
}

/// Writes a file that appears as a whole or not at all. It is durable once its directory is synced.
pub(crate) fn write_file<T>(
    directory: &Path,
    name: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> Result<T, SinkError> {
    let target = directory.join(name);
    let mut builder = tempfile::Builder::new();
    builder.prefix(HALF);
    // The mode that any other program would use.
    #[cfg(unix)]
    builder.permissions(mode(0o666));
    let failed = SinkError::io("write", &target);
    let written = (|| -> io::Result<(T, NamedTempFile)> {
        let mut file = builder.tempfile_in(directory)?;
        let mut buffer = BufWriter::with_capacity(64 * 1_024, file.as_file_mut());
        let written = write(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        // File systems have time stamps of milliseconds, in which a page can be written twice.
        let _ = file.as_file().set_modified(SystemTime::now());
        file.as_file().sync_all()?;
        Ok((written, file))
    })();
    let (written, file) = written.map_err(failed)?;
    file.persist(&target)
        .map_err(|e| SinkError::io("write", &target)(e.error))?;
    Ok(written)
}

/// Makes the renames in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), SinkError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(SinkError::io("sync the directory", path))?;
    }
    Ok(())
}
