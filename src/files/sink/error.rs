//! What a directory of parts refuses, and what the file system does.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::base::{
    disk::{is_full, with_free_space},
    error::PageError,
};

/// A directory that parts cannot be written into, or whose parts cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// Its files are not known here.
    #[error(
        "{} is not empty: there is {found} in it; give a new or an empty directory",
        directory.display()
    )]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// Another batch run writes into it, or did not finish.
    #[error(
        "{} holds unfinished parts of batch \"{batch_id}\" (batch run {batch_run}); let that one finish, \
         or give another directory, or remove this one",
        directory.display()
    )]
    Taken {
        /// The directory.
        directory: PathBuf,
        /// The batch that writes into it.
        batch_id: String,
        /// Its execution.
        batch_run: String,
    },
    /// It has a manifest, so nothing is added any more.
    #[error(
        "{} holds the finished result of batch \"{batch_id}\" (batch run {batch_run}); give another \
         directory, or remove this one",
        directory.display()
    )]
    Finished {
        /// The directory.
        directory: PathBuf,
        /// The batch whose result it is.
        batch_id: String,
        /// Its execution.
        batch_run: String,
    },
    /// Only the last directory of a path is made.
    #[error(
        "there is no directory {}, in which {} would be made; make it first, or check the path",
        parent.display(),
        directory.display()
    )]
    NoParent {
        /// The directory that was named.
        directory: PathBuf,
        /// The directory that is missing.
        parent: PathBuf,
    },
    /// A file that belongs to the parts cannot be understood.
    #[error("{} is not what was written there: {message}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The file system.
    #[error("{}", of_file_system(action, path, source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A full disk is told first, since listings cut long messages.
fn of_file_system(action: &str, path: &Path, error: &io::Error) -> String {
    let why = with_free_space(error, path);
    match is_full(error) {
        true => format!("{why}; cannot {action} {}", path.display()),
        false => format!("cannot {action} {}: {why}", path.display()),
    }
}

impl SinkError {
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    /// What it means for a page. Errors of the file system are worth another try: a full disk can be
    /// cleared, a permission given.
    pub(crate) fn into_page_error(self) -> PageError {
        let error_type = match &self {
            Self::NotEmpty { .. } => "DirectoryNotEmpty",
            Self::Taken { .. } => "DirectoryTaken",
            Self::Finished { .. } => "DirectoryFinished",
            Self::NoParent { .. } => "NoDirectory",
            Self::Unreadable { .. } => "PartUnreadable",
            Self::Io { source, .. } => {
                let error_type = match source.kind() {
                    _ if is_full(source) => "DiskFull",
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                        "PermissionDenied"
                    }
                    _ => "FileError",
                };
                return PageError::retryable(&self).with_type(error_type);
            }
        };
        PageError::non_retryable(error_type, &self)
    }
}
