//! The file of a source, and its identity.

use std::{
    fs::{File, Metadata},
    io::Read,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::files::{
    Fingerprint,
    compression::{Beginning, MAGIC},
    error::FileError,
    source::spool,
    source::{fingerprint::Identity, line_number::lines, scan::text},
};

/// The file of a source: part of the arguments of a batch.
///
/// A file is on one machine. Every worker that may get a page must have it at the same path, unchanged, with the same
/// time of last change (a shared folder, `cp -p`, `rsync -t`). A worker without it, or with another one, reads
/// nothing and fails the page with the retryable error `FileNotHere` or `FileChanged`, which uses up no attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// The path. Preparing makes it absolute.
    pub path: PathBuf,
    /// Allows records to be appended while the batch runs. Records that exist at the start are processed; the last
    /// line only if it has a line end.
    #[serde(default)]
    pub may_grow: bool,
    /// A folder for a decompressed copy of a gzip file; without one such a file is refused. The copy is made when the
    /// batch is prepared, and again by a worker that finds none. Only the user of the worker can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<PathBuf>,
    /// The state of the file when the batch was prepared. Without it, changes are not noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// The gzip file whose copy is at `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) packed: Option<Packed>,
}

/// A gzip file that is read from a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Packed {
    path: PathBuf,
    fingerprint: Fingerprint,
}

impl SourceFile {
    /// Describes the file at a path, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            may_grow: false,
            spool: None,
            fingerprint: None,
            packed: None,
        }
    }

    /// Returns the same file without the path of its copy, which differs each time.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn without_copy(mut self) -> Self {
        if let Some(packed) = &self.packed {
            self.path.clone_from(&packed.path);
        }
        self
    }

    /// Returns the name of the file for people; the name of the gzip file, if the file is read from a copy.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn name(&self) -> String {
        let path = self.original();
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Returns the original file, of which `path` may be a decompressed copy.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn original(&self) -> &Path {
        let packed = self.packed.as_ref().map(|packed| &packed.path);
        packed.unwrap_or(&self.path)
    }

    /// Returns the lines of a record, and its first 4 KiB.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn record_at(
        &self,
        bytes: &Range<u64>,
    ) -> Result<(RangeInclusive<u64>, String), FileError> {
        let file = self.open()?;
        let lines = lines(&file, bytes).map_err(|e| file.not_readable(e))?;
        Ok((lines, text(&file, bytes)?))
    }

    /// Takes the fingerprint, and decompresses the file if requested.
    pub(crate) fn prepared(mut self) -> Result<Self, FileError> {
        if let Some(copy) = self.copy()? {
            self.path = copy;
        }
        if self.fingerprint.is_some() {
            self.open()?;
            return Ok(self);
        }
        let path = std::fs::canonicalize(&self.path);
        self.path = path.map_err(|e| unreadable(&self.path, e))?;
        if let Some(folder) = &self.spool {
            let (handle, _) = regular_file(&self.path)?;
            if beginning(&self.path, &handle)? == Beginning::Gzip {
                let fingerprint = Fingerprint::of(&self.path, &handle);
                let fingerprint = fingerprint.map_err(|e| unreadable(&self.path, e))?;
                let copy = spool::copy_of(&self.path, &fingerprint, folder)?;
                let path = std::mem::replace(&mut self.path, copy);
                self.packed = Some(Packed { path, fingerprint });
            }
        }
        let file = self.open()?;
        let fingerprint = Fingerprint::of(&self.path, &file.handle);
        self.fingerprint = Some(fingerprint.map_err(|e| file.not_readable(e))?);
        Ok(self)
    }

    /// Returns the copy in the spool, if the file is read from one.
    fn copy(&self) -> Result<Option<PathBuf>, FileError> {
        match (&self.packed, &self.spool) {
            (Some(packed), Some(folder)) => {
                spool::copy_of(&packed.path, &packed.fingerprint, folder).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Opens the file, and checks that it is the right one.
    pub(crate) fn open(&self) -> Result<OpenFile, FileError> {
        let path = self.copy()?.unwrap_or_else(|| self.path.clone());
        let (handle, metadata) = regular_file(&path)?;
        let mut size = metadata.len();
        if let Some(fingerprint) = &self.fingerprint {
            let difference = fingerprint.difference(&path, &handle, self.may_grow);
            if let Some(what) = difference.map_err(|e| unreadable(&path, e))? {
                return Err(FileError::Changed { path, what });
            }
            size = fingerprint.size;
        }
        let text = match beginning(&path, &handle)? {
            Beginning::Text { skip } => skip,
            Beginning::Utf16 => return Err(FileError::Utf16 { path }),
            Beginning::Gzip => {
                return Err(FileError::Compressed {
                    path,
                    with: "gzip",
                    advice: ", or name a folder to decompress it into with --spool FOLDER, or `spool` in code",
                });
            }
            Beginning::Other(with) => {
                return Err(FileError::Compressed {
                    path,
                    with,
                    advice: "",
                });
            }
        };
        Ok(OpenFile {
            identity: Identity::of(&path, &metadata),
            path,
            handle: Arc::new(handle),
            size,
            text,
            may_grow: self.may_grow,
        })
    }
}

/// An open file that is the right one.
pub(crate) struct OpenFile {
    path: PathBuf,
    pub(crate) handle: Arc<File>,
    /// The end of the part that is read.
    pub(crate) size: u64,
    /// The beginning of the text, after a byte order mark.
    pub(crate) text: u64,
    pub(crate) may_grow: bool,
    identity: Identity,
}

impl OpenFile {
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Refuses data that was read while another program wrote to the file.
    pub(crate) fn still_the_same(&self) -> Result<(), FileError> {
        let metadata = self.handle.metadata().map_err(|e| self.not_readable(e))?;
        if !self.may_grow && Identity::of(&self.path, &metadata) != self.identity {
            return Err(self.changed("it has been written to since"));
        }
        Ok(())
    }

    pub(crate) fn changed(&self, what: &'static str) -> FileError {
        let path = self.path.clone();
        FileError::Changed { path, what }
    }

    pub(crate) fn not_readable(&self, source: std::io::Error) -> FileError {
        unreadable(&self.path, source)
    }

    pub(crate) fn bad_header(&self, what: impl Into<String>) -> FileError {
        FileError::BadHeader {
            path: self.path.clone(),
            what: what.into(),
        }
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> FileError {
    let path = path.to_owned();
    match source.kind() {
        std::io::ErrorKind::NotFound => FileError::NotHere { path },
        _ => FileError::NotReadable { path, source },
    }
}

fn regular_file(path: &Path) -> Result<(File, Metadata), FileError> {
    // Checked before opening, which would wait for the writer of a pipe.
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, e))?;
    if !metadata.is_file() {
        let path = path.to_owned();
        return Err(FileError::NotAFile { path });
    }
    let open = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    open().map_err(|e| unreadable(path, e))
}

fn beginning(path: &Path, mut handle: &File) -> Result<Beginning, FileError> {
    use std::io::{Seek, SeekFrom};
    let mut first = Vec::new();
    let mut read = || {
        handle.seek(SeekFrom::Start(0))?;
        handle.take(MAGIC as u64).read_to_end(&mut first)
    };
    read().map_err(|e| unreadable(path, e))?;
    Ok(Beginning::of(&first))
}
