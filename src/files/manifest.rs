//! What a finished result consists of.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    concatenate::{Copied, copy_part},
    part_format::PartFormat,
    sink_directory::SinkDirectory,
    sink_error::SinkError,
};
use crate::page::PageToken;

/// The name of a manifest in its directory.
pub(super) const MANIFEST: &str = "manifest.json";

/// The parts of a finished result, in the order of the data. It is written once all of them are there, so
/// whoever finds it may take them.
///
/// ```no_run
/// use temporal_batch::files::Manifest;
///
/// # fn main() -> Result<(), temporal_batch::files::SinkError> {
/// if let Some(manifest) = Manifest::read("users")? {
///     println!("{} records in {} files", manifest.records, manifest.parts.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// Of this form: 1.
    pub version: u32,
    /// The batch whose result it is.
    pub batch_id: String,
    /// Its execution.
    pub batch_run: String,
    /// How the records are written.
    #[serde(flatten)]
    pub format: PartFormat,
    /// Whether the parts are compressed.
    #[serde(default)]
    pub gzip: bool,
    /// Records of all parts.
    pub records: u64,
    /// Bytes of all parts, as they are on the disk.
    pub bytes: u64,
    /// Files of attempts that did not count, which were removed.
    #[serde(default)]
    pub orphans: u64,
    /// The one file with everything, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concatenated: Option<ManifestFile>,
    /// The parts. Together they are all of the data: each begins where the one before it ends.
    pub parts: Vec<ManifestPart>,
}

/// A part of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestPart {
    /// The records come after this cursor; absent: from the beginning of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    /// Up to this one; absent: to the end of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    /// The file.
    #[serde(flatten)]
    pub file: ManifestFile,
}

/// A file of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestFile {
    /// Its name in the directory, or the path that was asked for.
    pub file: String,
    /// Records in it.
    pub records: u64,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Of its bytes, as `sha256sum` shows it.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of a directory; `None`: its result is not finished.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(directory: impl AsRef<Path>) -> Result<Option<Self>, SinkError> {
        SinkDirectory::new(directory.as_ref().to_path_buf()).manifest()
    }

    /// Reads all parts in the directory, and tells those that are not as they were written.
    ///
    /// # Errors
    /// A part that is there cannot be read.
    pub fn verify(&self, directory: impl AsRef<Path>) -> Result<Vec<BadPart>, SinkError> {
        let mut bad = Vec::new();
        for part in &self.parts {
            if let Some(message) = self.verify_part(directory.as_ref(), part)? {
                bad.push(BadPart {
                    part: part.clone(),
                    message,
                });
            }
        }
        Ok(bad)
    }

    pub(super) fn verify_part(
        &self,
        directory: &Path,
        part: &ManifestPart,
    ) -> Result<Option<String>, SinkError> {
        let file = &part.file;
        let path = directory.join(&file.file);
        let Copied {
            records,
            bytes,
            sha256,
        } = match copy_part(&path, &self.format, self.gzip, None) {
            Ok(copied) => copied,
            Err(SinkError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Some(format!("{} is missing", file.file)));
            }
            Err(SinkError::Unreadable { message, .. }) => {
                return Ok(Some(format!("{} has changed: {message}", file.file)));
            }
            Err(error) => return Err(error),
        };
        let same = records == file.records && bytes == file.bytes && sha256 == file.sha256;
        Ok((!same).then(|| {
            format!(
                "{} has changed: it has {records} records in {bytes} bytes, and was written with {} in {}",
                file.file, file.records, file.bytes
            )
        }))
    }
}

/// A part that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadPart {
    /// The part.
    pub part: ManifestPart,
    /// What is wrong, for people.
    pub message: String,
}
