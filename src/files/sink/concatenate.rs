//! One file with all parts, in order.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use sha2::{Digest, Sha256};

use crate::{
    base::disk::directory_of,
    files::{
        manifest::{Manifest, ManifestFile},
        sink::{
            error::SinkError,
            part_format::PartFormat,
            whole_file::{sync_directory, write_file},
        },
    },
};

/// Writes the parts of a finished result into one file, in the order of the data. A CSV header comes once, and the
/// file is compressed if the parts are. The file appears as a whole or not at all, and replaces a file of that name.
/// The memory for it does not depend on the size. If the records are rows of a table, a manifest beside the file
/// (`FILE.manifest.json`) describes the encoding of their values.
///
/// # Errors
/// The directory has no finished result, a part has changed, or the file system fails.
pub fn concatenate(
    directory: impl AsRef<Path>,
    file: impl AsRef<Path>,
) -> Result<ManifestFile, SinkError> {
    let directory = directory.as_ref();
    let Some(manifest) = Manifest::read(directory)? else {
        return Err(SinkError::Unreadable {
            path: directory.to_path_buf(),
            message: "there is no manifest in it, so its result is not finished".to_owned(),
        });
    };
    let parts = manifest.parts.iter().map(|part| {
        let path = directory.join(&part.file.file);
        (path, part.file.sha256.as_str())
    });
    write_concatenation(parts, &manifest, file.as_ref())
}

/// Concatenates parts of a result, and compares their checksums.
pub(crate) fn write_concatenation<'a, P: AsRef<Path>>(
    parts: impl Iterator<Item = (P, &'a str)>,
    manifest: &Manifest,
    file: &Path,
) -> Result<ManifestFile, SinkError> {
    let parts = parts.map(|(path, sha256)| (path, Some(sha256)));
    let written = write_parts(parts, (&manifest.format, manifest.gzip), file)?;
    let parent = directory_of(file);
    if !manifest.encodings.is_empty() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let beside = manifest.of_one_file(&written, &name);
        beside.write_beside(parent, &name)?;
    }
    sync_directory(parent)?;
    Ok(written)
}

/// Concatenates parts, and compares the checksums that are known. The caller syncs the directory.
pub(super) fn write_parts<'a, P: AsRef<Path>>(
    parts: impl Iterator<Item = (P, Option<&'a str>)>,
    (format, gzip): (&PartFormat, bool),
    file: &Path,
) -> Result<ManifestFile, SinkError> {
    let parent = directory_of(file);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut of_parts = Ok(());
    let mut records = 0;
    let (bytes, sha256) = write_file(parent, &name, |to| {
        let mut summed = Summed::new(to);
        let copy = |to: &mut dyn Write| -> io::Result<()> {
            to.write_all(&format.header())?;
            for (path, sha256) in parts {
                let path = path.as_ref();
                let copied = copy_part(path, format, gzip, Some(to)).and_then(|copied| {
                    if sha256.is_some_and(|sha256| sha256 != copied.sha256) {
                        return Err(SinkError::Unreadable {
                            path: path.to_path_buf(),
                            message: "its checksum differs".to_owned(),
                        });
                    }
                    Ok(copied)
                });
                match copied {
                    Ok(copied) => records += copied.records,
                    Err(error) => {
                        of_parts = Err(error);
                        return Err(io::Error::other("a part cannot be copied"));
                    }
                }
            }
            Ok(())
        };
        if gzip {
            let mut encoder = GzEncoder::new(&mut summed, Compression::default());
            copy(&mut encoder)?;
            encoder.finish()?;
        } else {
            copy(&mut summed)?;
        }
        Ok(summed.sum())
    })
    .or_else(|error| {
        std::mem::replace(&mut of_parts, Ok(()))?;
        Err(error)
    })?;
    Ok(ManifestFile {
        file: file.display().to_string(),
        records,
        bytes,
        sha256,
    })
}

/// The totals of a part that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub records: u64,
    pub bytes: u64,
    pub sha256: String,
}

/// Reads a part, and writes its records without the header.
pub(crate) fn copy_part(
    path: &Path,
    format: &PartFormat,
    gzip: bool,
    mut to: Option<&mut dyn Write>,
) -> Result<Copied, SinkError> {
    let failed = || SinkError::io("read the part", path);
    let unreadable = |message: &str| SinkError::Unreadable {
        path: path.to_path_buf(),
        message: message.to_owned(),
    };
    let file = File::open(path).map_err(failed())?;
    let mut raw = Summed::new(file);
    let mut counter = RecordCounter {
        csv: format.is_csv(),
        ..RecordCounter::default()
    };
    let mut header = format.header();
    let mut decoder;
    let input: &mut dyn Read = if gzip {
        decoder = MultiGzDecoder::new(&mut raw);
        &mut decoder
    } else {
        &mut raw
    };
    let mut buffer = vec![0; 64 * 1_024];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e)
                if gzip
                    && matches!(
                        e.kind(),
                        io::ErrorKind::InvalidData
                            | io::ErrorKind::InvalidInput
                            | io::ErrorKind::UnexpectedEof
                    ) =>
            {
                return Err(unreadable(&e.to_string()));
            }
            Err(e) => return Err(failed()(e)),
        };
        let mut bytes = &buffer[..read];
        if !header.is_empty() {
            let length = header.len().min(bytes.len());
            if header[..length] != bytes[..length] {
                return Err(unreadable("it begins with a different header"));
            }
            header.drain(..length);
            bytes = &bytes[length..];
        }
        counter.count(bytes);
        if let Some(to) = &mut to {
            to.write_all(bytes).map_err(|source| SinkError::Io {
                action: "copy the part",
                path: path.to_path_buf(),
                source,
            })?;
        }
    }
    if !header.is_empty() || !counter.at_end_of_line {
        return Err(unreadable("it ends too early"));
    }
    let (bytes, sha256) = raw.sum();
    Ok(Copied {
        records: counter.records,
        bytes,
        sha256,
    })
}

/// Counts the lines that end outside of quotes.
struct RecordCounter {
    csv: bool,
    quoted: bool,
    at_end_of_line: bool,
    records: u64,
}

impl Default for RecordCounter {
    fn default() -> Self {
        Self {
            csv: false,
            quoted: false,
            at_end_of_line: true,
            records: 0,
        }
    }
}

impl RecordCounter {
    fn count(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                // A doubled quote ends one quoted part and begins another.
                b'"' if self.csv => self.quoted = !self.quoted,
                b'\n' if !self.quoted => self.records += 1,
                _ => {}
            }
        }
        if let Some(last) = bytes.last() {
            self.at_end_of_line = *last == b'\n' && !self.quoted;
        }
    }
}

/// Counts the bytes that pass through, and computes their checksum.
struct Summed<T> {
    inner: T,
    bytes: u64,
    sha256: Sha256,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            bytes: 0,
            sha256: Sha256::new(),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    fn sum(self) -> (u64, String) {
        let sum = self.sha256.finalize();
        let hex = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        (self.bytes, hex)
    }
}

impl<T: Read> Read for Summed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.add(&buffer[..read]);
        Ok(read)
    }
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
