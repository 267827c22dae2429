//! The errors of a directory of parts, and of its file system.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::base::{
    disk::{is_full, with_free_space},
    error::PageError,
};

/// A directory that cannot be written into, or whose parts cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The directory has files of another origin.
    #[error(
        "{} is not empty: it contains {found}; choose a new or an empty directory",
        directory.display()
    )]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// Another batch run writes into the directory, or did not finish.
    #[error(
        "{} holds unfinished parts of batch \"{batch_id}\" (batch run {batch_run}); let that batch \
         finish, choose another directory, or remove this one",
        directory.display()
    )]
    Taken {
        /// The directory.
        directory: PathBuf,
        /// The batch that writes into it.
        batch_id: String,
        /// The execution of the batch.
        batch_run: String,
    },
    /// The directory has a manifest, so nothing is added to it.
    #[error(
        "{} holds the finished result of batch \"{batch_id}\" (batch run {batch_run}); choose another \
         directory, or remove this one",
        directory.display()
    )]
    Finished {
        /// The directory.
        directory: PathBuf,
        /// The batch that wrote the result.
        batch_id: String,
        /// The execution of the batch.
        batch_run: String,
    },
    /// The parent directory is missing. Only the last directory of a path is created.
    #[error(
        "there is no directory {}, in which {} would be made; make it first, or check the path",
        parent.display(),
        directory.display()
    )]
    NoParent {
        /// The given directory.
        directory: PathBuf,
        /// The missing directory.
        parent: PathBuf,
    },
    /// A file among the parts cannot be read.
    #[error("{} is not as it was written: {message}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// The file system reports an error.
    #[error("{}", of_file_system(action, path, source))]
    Io {
        /// The action that failed.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
}

/// Puts a full disk first, since listings truncate long messages.
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

    /// Returns the error as that of a page. Errors of the file system are retryable: a full disk can be cleared, a
    /// permission granted.
    pub(crate) fn into_page_error(self) -> PageError {
        let error_type = match &self {
            Self::NotEmpty { .. } => "DirectoryNotEmpty",
            Self::Taken { .. } => "DirectoryTaken",
            Self::Finished { .. } => "DirectoryFinished",
            Self::NoParent { .. } => "NoDirectory",
            Self::Unreadable { .. } => "PartUnreadable",
            Self::Io { source, .. } => {
                if is_full(source) {
                    return PageError::environment(&self).with_type("DiskFull");
                }
                let error_type = match source.kind() {
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
