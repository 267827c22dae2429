//! Files whose first bytes say that they cannot be read as they are.

/// What a file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Text, as far as one can see; its first record begins after so many bytes.
    Text {
        skip: u64,
    },
    Gzip,
    /// Compressed in another way.
    Other(&'static str),
    Utf16,
}

/// How many bytes tell.
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
