//! Directories to write into.

#[cfg(feature = "cli")]
use std::io::{self, Write as _};
use std::{fs, io::ErrorKind, path::Path};

#[cfg(feature = "cli")]
use super::whole_file::HALF;
use super::{error::SinkError, whole_file::sync_directory};
use crate::base::disk::directory_of;

/// Creates a directory, unless it exists. It is durable once its parent is on the disk.
///
/// # Errors
/// The parent is missing. It is not created, since with a mistake in the path the files would end up where no reader
/// looks.
pub(super) fn create_directory(path: &Path) -> Result<(), SinkError> {
    if path.is_dir() {
        return Ok(());
    }
    let around = existing_parent(path)?;
    match fs::create_dir(path) {
        Ok(()) => sync_directory(around),
        // Another attempt has created it.
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(SinkError::io("create the directory", path)(e)),
    }
}

/// Returns the parent directory of a path.
fn existing_parent(path: &Path) -> Result<&Path, SinkError> {
    let around = directory_of(path);
    let failed = SinkError::io("create anything in", around);
    match fs::metadata(around) {
        Ok(found) if found.is_dir() => Ok(around),
        Ok(_) => Err(failed(ErrorKind::NotADirectory.into())),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(SinkError::NoParent {
            directory: path.to_path_buf(),
            parent: around.to_path_buf(),
        }),
        Err(e) => Err(failed(e)),
    }
}

/// Checks that files can be written into a directory, or that it can be created. The check leaves no file behind.
///
/// # Errors
/// The path is not a directory, the directory or its parent cannot be written to, or the disk is full.
#[cfg(feature = "cli")]
pub(crate) fn check_writable(directory: &Path) -> Result<(), SinkError> {
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {
            try_file(directory).map_err(SinkError::io("write into", directory))
        }
        Ok(_) => Err(SinkError::io("write into", directory)(
            ErrorKind::NotADirectory.into(),
        )),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let around = existing_parent(directory)?;
            let tried = tempfile::Builder::new().prefix(HALF).tempdir_in(around);
            tried.map_err(SinkError::io("create a directory in", around))?;
            try_file(around).map_err(SinkError::io("write into", around))
        }
        Err(e) => Err(SinkError::io("look at", directory)(e)),
    }
}

/// Checks that a file can be written at this path.
#[cfg(feature = "cli")]
pub(crate) fn check_writable_file(file: &Path) -> Result<(), SinkError> {
    let around = existing_parent(file)?;
    try_file(around).map_err(SinkError::io("write into", around))
}

/// Writes a file into a directory, and removes it.
#[cfg(feature = "cli")]
pub(crate) fn try_file(directory: &Path) -> io::Result<()> {
    let file = tempfile::Builder::new().prefix(HALF).tempfile_in(directory);
    let mut file = file?;
    // A full disk accepts the name of a file, but none of its content.
    file.write_all(&[0; 4_096])?;
    file.as_file().sync_all()
}
