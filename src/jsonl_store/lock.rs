//! Locks between processes.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::ErrorKind,
    path::Path,
};

use super::place::cannot;
use crate::base::error::PageError;

/// A file lock, held until it is dropped or the process ends.
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn exclusive(path: &Path) -> Result<Self, PageError> {
        let file = Self::create(path)?;
        file.lock().map_err(cannot("lock", path))?;
        Ok(Self(file))
    }

    /// Tries to lock the file. `None` if it is already locked.
    pub(super) fn try_exclusive(path: &Path) -> Result<Option<Self>, PageError> {
        let file = Self::create(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(cannot("lock", path)(error)),
        }
    }

    /// Excludes writers, if the lock file exists. Reading creates nothing.
    pub(super) fn shared(path: &Path) -> Result<Option<Self>, PageError> {
        match File::open(path) {
            Ok(file) => {
                file.lock_shared().map_err(cannot("lock", path))?;
                Ok(Some(Self(file)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("open", path)(error)),
        }
    }

    pub(super) fn create(path: &Path) -> Result<File, PageError> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(cannot("open", path))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough while a starting child process has a copy of the handle. After an
        // error, closing has to do.
        let _ = self.0.unlock();
    }
}
