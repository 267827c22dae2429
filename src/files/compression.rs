//! Files that cannot be read as they are, recognized by their first bytes.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Seek},
    path::Path,
};

use flate2::read::MultiGzDecoder;

/// The kind of a file, recognized by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Apparently text. The first record begins after `skip` bytes.
    Text {
        skip: u64,
    },
    Gzip,
    /// Compressed with another program.
    Other(&'static str),
    Utf16,
}

/// The number of bytes that identify the kind.
pub(super) const MAGIC: usize = 6;

const UTF_8: &[u8] = b"\xef\xbb\xbf";
const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
const OTHERS: [(&[u8], &str); 4] = [
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
];

impl Beginning {
    pub fn of(first: &[u8]) -> Self {
        if first.starts_with(b"\x1f\x8b") {
            return Self::Gzip;
        }
        if UTF_16.iter().any(|mark| first.starts_with(mark)) {
            return Self::Utf16;
        }
        let other = OTHERS.iter().find(|(magic, _)| first.starts_with(magic));
        match other {
            Some((_, name)) => Self::Other(name),
            None if first.starts_with(UTF_8) => Self::Text {
                skip: UTF_8.len() as u64,
            },
            None => Self::Text { skip: 0 },
        }
    }
}

/// Reads at most `most` bytes of text from the beginning of a file, which may be gzip, without a byte order mark.
/// Also returns whether they are the whole text.
#[cfg(feature = "cli")]
#[allow(dead_code, reason = "for `import`, which needs a database")]
pub(crate) fn text_from(path: &Path, most: u64) -> io::Result<(Vec<u8>, bool)> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut file = File::open(path)?;
    let mut first = Vec::new();
    file.by_ref().take(MAGIC as u64).read_to_end(&mut first)?;
    file.rewind()?;
    let file = BufReader::new(file);
    let input: Box<dyn Read> = match Beginning::of(&first) {
        Beginning::Gzip => Box::new(MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut text = Vec::new();
    let read = input.take(most).read_to_end(&mut text)?;
    let skip = match Beginning::of(&text) {
        Beginning::Text { skip } => skip as usize,
        _ => 0,
    };
    Ok((text.split_off(skip), (read as u64) < most))
}
