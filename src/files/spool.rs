//! A decompressed copy of a gzip file.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use super::{Fingerprint, error::FileError};

/// Decompresses `file` into a folder, unless a copy of exactly this file is there. The copy gets its name
/// when it is whole.
pub(super) fn decompress(path: &Path, file: &File, folder: &Path) -> Result<PathBuf, FileError> {
    let failed = |to: &Path, source| FileError::NotSpooled {
        path: path.to_owned(),
        to: to.to_owned(),
        source,
    };
    let fingerprint = Fingerprint::of(path, file).map_err(|e| failed(folder, e))?;
    let folder = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::canonicalize(folder))
        .map_err(|e| failed(folder, e))?;
    let to = folder.join(name(path, &fingerprint));
    if to.is_file() {
        return Ok(to);
    }
    let unique = uuid::Uuid::new_v4().simple();
    let part = folder.join(format!(".{unique}.part"));
    let copied = copy(file, &part).and_then(|()| std::fs::rename(&part, &to));
    if let Err(error) = copied {
        // It may not exist.
        let _ = std::fs::remove_file(&part);
        return Err(failed(&to, error));
    }
    Ok(to)
}

fn copy(mut file: &File, part: &Path) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut from = MultiGzDecoder::new(BufReader::with_capacity(256 * 1024, file));
    let mut to = BufWriter::with_capacity(256 * 1024, File::create_new(part)?);
    io::copy(&mut from, &mut to)?;
    let to = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    to.sync_all()
}

/// `users.csv.gz` becomes `users-1f3a5c7e9b2d.csv`.
fn name(path: &Path, fingerprint: &Fingerprint) -> PathBuf {
    let of = serde_json::json!(fingerprint);
    let id = crate::dead_letter::stable_id(&of);
    let id = &id.replace('-', "")[..12];
    let plain = path.with_extension("");
    let stem = plain.file_stem().unwrap_or_default().to_string_lossy();
    match plain.extension() {
        Some(extension) => format!("{stem}-{id}.{}", extension.to_string_lossy()).into(),
        None => format!("{stem}-{id}").into(),
    }
}
