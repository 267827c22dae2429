//! The contents of a finished result.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sink::{
    concatenate::{Copied, copy_part},
    directory::SinkDirectory,
    error::SinkError,
    part_format::PartFormat,
    whole_file::{read_json, write_json},
};
use crate::{base::text::count, cell::EncodedColumn, page::token::PageToken};

/// The name of a manifest in its directory.
pub(super) const MANIFEST: &str = "manifest.json";

/// The parts of a finished result, in the order of the data. It is written after all parts, so its presence means
/// that the result is complete.
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
    /// The version of the manifest's form: 1.
    pub version: u32,
    /// The batch that wrote the result.
    pub batch_id: String,
    /// The execution of the batch.
    pub batch_run: String,
    /// The format of the records.
    #[serde(flatten)]
    pub format: PartFormat,
    /// True if the parts are compressed.
    #[serde(default)]
    pub gzip: bool,
    /// The number of records in all parts.
    pub records: u64,
    /// The number of bytes in all parts, as they are on the disk.
    pub bytes: u64,
    /// The number of removed files, written by attempts that did not count.
    #[serde(default)]
    pub orphans: u64,
    /// The file with all records, if it was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concatenated: Option<ManifestFile>,
    /// The encoding of each column, if the records are rows of a table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encodings: Vec<EncodedColumn>,
    /// The parts, which together are all of the data: each begins where the previous one ends.
    pub parts: Vec<ManifestPart>,
}

/// A part of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestPart {
    /// The cursor after which the records begin; absent for the beginning of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    /// The cursor of the last record; absent for the end of the data.
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
    /// The name in the directory, or the path that was requested.
    pub file: String,
    /// The number of records.
    pub records: u64,
    /// The size in bytes.
    pub bytes: u64,
    /// The SHA-256 checksum, as `sha256sum` shows it.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of a directory. `None` if its result is not finished.
    ///
    /// # Errors
    /// The manifest cannot be read, or the file is not a manifest.
    pub fn read(directory: impl AsRef<Path>) -> Result<Option<Self>, SinkError> {
        SinkDirectory::new(directory.as_ref().to_path_buf()).manifest()
    }

    /// Returns the path of the manifest that lists a file: `FILE.manifest.json`, or `manifest.json` in the same
    /// directory.
    pub fn beside(file: impl AsRef<Path>) -> Option<PathBuf> {
        let file = file.as_ref();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let lists = |path: &PathBuf| match read_json::<Parts>(path) {
            Ok(Some(Parts { parts })) => parts.iter().any(|part| part.file == name),
            // Other programs use this file name, too.
            _ => false,
        };
        let manifests = [of_one_file(&name), MANIFEST.to_owned()];
        let mut paths = manifests
            .map(|manifest| file.with_file_name(manifest))
            .into_iter();
        paths.find(lists)
    }

    /// Reads a manifest with any name.
    ///
    /// # Errors
    /// The file is missing, cannot be read, or is not a manifest.
    pub fn at(path: impl AsRef<Path>) -> Result<Self, SinkError> {
        let path = path.as_ref();
        read_json(path)?.ok_or_else(|| SinkError::Unreadable {
            path: path.to_path_buf(),
            message: "there is no such file".to_owned(),
        })
    }

    /// Returns the manifest of a file with all records.
    pub(super) fn of_one_file(&self, file: &ManifestFile, name: &str) -> Self {
        let part = ManifestPart {
            start: self.parts.first().and_then(|part| part.start.clone()),
            end: self.parts.last().and_then(|part| part.end.clone()),
            file: ManifestFile {
                file: name.to_owned(),
                ..file.clone()
            },
        };
        Self {
            records: file.records,
            bytes: file.bytes,
            concatenated: None,
            parts: vec![part],
            ..self.clone()
        }
    }

    /// Writes the manifest beside the file that it describes.
    pub(super) fn write_beside(&self, directory: &Path, name: &str) -> Result<(), SinkError> {
        write_json(directory, &of_one_file(name), self)
    }

    /// Reads all parts in the directory, and returns those that have changed.
    ///
    /// # Errors
    /// An existing part cannot be read.
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
                "{} has changed: it has {} in {}, and was written with {} in {}",
                file.file,
                count(records, "record"),
                count(bytes, "byte"),
                count(file.records, "record"),
                count(file.bytes, "byte"),
            )
        }))
    }
}

/// Returns the name of the manifest of one file.
fn of_one_file(name: &str) -> String {
    format!("{name}.{MANIFEST}")
}

/// The field that distinguishes a manifest from other files.
#[derive(Deserialize)]
struct Parts {
    parts: Vec<PartName>,
}

#[derive(Deserialize)]
struct PartName {
    file: String,
}

/// A part that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadPart {
    /// The part.
    pub part: ManifestPart,
    /// The difference, for people.
    pub message: String,
}
