//! The errors of whole files.

use std::{io, path::PathBuf};

use crate::base::{disk::with_free_space, error::PageError};

/// A file that cannot be read, or not by this worker, or that has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The file is missing on this machine. Another worker may have it.
    #[error("there is no file {path} on this machine; every worker needs it at this path")]
    NotHere { path: PathBuf },
    #[error("{path} cannot be read: {source}")]
    NotReadable { path: PathBuf, source: io::Error },
    #[error("{path} is not a regular file, so it cannot be read from the middle")]
    NotAFile { path: PathBuf },
    #[error(
        "{path} is not the file that the batch began with: {what}; put that file back as it was, or cancel the batch"
    )]
    Changed { path: PathBuf, what: &'static str },
    #[error(
        "{path} is compressed with {with}, so it cannot be read from the middle; decompress it{advice}"
    )]
    Compressed {
        path: PathBuf,
        with: &'static str,
        advice: &'static str,
    },
    #[error("{path} is UTF-16; convert it first, with `iconv -f UTF-16 -t UTF-8`")]
    Utf16 { path: PathBuf },
    #[error(
        "{path} cannot be decompressed to {to}: {}",
        with_free_space(source, to)
    )]
    NotSpooled {
        path: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
    #[error("the header of {path} cannot be read: {what}")]
    BadHeader { path: PathBuf, what: String },
}

impl FileError {
    /// Returns the error of a page, or of the start of a batch.
    pub fn into_page_error(self) -> PageError {
        let refused = |error_type| PageError::non_retryable(error_type, &self);
        match &self {
            Self::NotHere { .. } => PageError::environment(&self).with_type("FileNotHere"),
            Self::NotReadable { .. } => PageError::retryable(&self).with_type("FileNotReadable"),
            Self::NotAFile { .. } => refused("NotAFile"),
            Self::Changed { .. } => PageError::environment(&self).with_type("FileChanged"),
            Self::Compressed { .. } => refused("CompressedFile"),
            Self::Utf16 { .. } => refused("Utf16File"),
            Self::NotSpooled { .. } => PageError::retryable(&self).with_type("FileNotSpooled"),
            Self::BadHeader { .. } => refused("BadHeader"),
        }
    }
}
