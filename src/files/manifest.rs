//! What a finished result consists of.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sink::{
    concatenate::{Copied, copy_part},
    directory::{SinkDirectory, read_json, write_json},
    error::SinkError,
    part_format::PartFormat,
};
use crate::{cell::EncodedColumn, page::token::PageToken};

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
    /// How the values of each column are written, where the records are rows of a table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encodings: Vec<EncodedColumn>,
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

    /// The path of the manifest that has a file among its parts: `FILE.manifest.json`, or `manifest.json` in the
    /// same directory.
    pub fn beside(file: impl AsRef<Path>) -> Option<PathBuf> {
        let file = file.as_ref();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let lists = |path: &PathBuf| match read_json::<Parts>(path) {
            Ok(Some(Parts { parts })) => parts.iter().any(|part| part.file == name),
            // Other programs have files of that name, too.
            _ => false,
        };
        let manifests = [of_one_file(&name), MANIFEST.to_owned()];
        let mut paths = manifests
            .map(|manifest| file.with_file_name(manifest))
            .into_iter();
        paths.find(lists)
    }

    /// Reads a manifest, whatever its name.
    ///
    /// # Errors
    /// The file is not there, cannot be read, or is no manifest.
    pub fn at(path: impl AsRef<Path>) -> Result<Self, SinkError> {
        let path = path.as_ref();
        read_json(path)?.ok_or_else(|| SinkError::Unreadable {
            path: path.to_path_buf(),
            message: "there is no such file".to_owned(),
        })
    }

    /// The same for all of its records in one file.
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

    /// Writes it beside the file of this name, which it describes.
    pub(super) fn write_beside(&self, directory: &Path, name: &str) -> Result<(), SinkError> {
        write_json(directory, &of_one_file(name), self)
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

/// The name of the manifest of one file.
fn of_one_file(name: &str) -> String {
    format!("{name}.{MANIFEST}")
}

/// The field that tells a manifest from other files.
#[derive(Deserialize)]
struct Parts {
    parts: Vec<PartName>,
}

#[derive(Deserialize)]
struct PartName {
    file: String,
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
