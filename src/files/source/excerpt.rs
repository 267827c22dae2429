//! A copy of some records of a file, in a file of the same form.

use std::{
    io::{BufRead as _, Read as _},
    ops::{Range, RangeInclusive},
};

use crate::files::{
    error::FileError,
    source::{
        line_number::{LineEnds, lines},
        scan::{input_of, skip_line_ends},
        source_file::OpenFile,
    },
};

const BUFFER: usize = 64 * 1024;

/// A file to copy records from.
pub(crate) struct Excerpt {
    file: OpenFile,
    /// The offset of the first record, after a header.
    data: u64,
}

/// The place of the copied bytes, and their line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// The lines in the original file.
    pub lines: RangeInclusive<u64>,
    /// The number of line ends that were written.
    pub line_ends: u64,
}

/// The reason why the copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The file cannot be read any more, or has changed.
    Source(FileError),
    /// The copy cannot be written.
    Target(std::io::Error),
}

impl From<FileError> for CopyError {
    fn from(error: FileError) -> Self {
        Self::Source(error)
    }
}

impl Excerpt {
    pub(crate) fn new(file: OpenFile, data: u64) -> Self {
        Self { file, data }
    }

    /// Copies the byte order mark and the header, and returns their number of line ends.
    pub fn copy_header(
        &self,
        write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<u64, CopyError> {
        // A byte order mark without a header is not a line.
        let ends = self.data > self.file.text;
        self.copy_bytes(0..self.data, ends, write)
    }

    /// Copies the bytes between two offsets: one record, or several. Empty lines before them are left out. The last
    /// line gets a line end if it has none.
    pub fn copy(
        &self,
        from: Option<u64>,
        to: Option<u64>,
        write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<Copied, CopyError> {
        let from = from.unwrap_or(self.data).max(self.data);
        let to = to.unwrap_or(self.file.size).clamp(from, self.file.size);
        let mut input = input_of(&self.file, from, BUFFER);
        let skipped = skip_line_ends(&mut input).map_err(|e| self.file.not_readable(e))?;
        let from = (from + skipped).min(to);
        let lines = lines(&self.file, &(from..to)).map_err(|e| self.file.not_readable(e))?;
        let line_ends = self.copy_bytes(from..to, true, write)?;
        Ok(Copied { lines, line_ends })
    }

    fn copy_bytes(
        &self,
        bytes: Range<u64>,
        end_the_last: bool,
        write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<u64, CopyError> {
        let length = bytes.end.saturating_sub(bytes.start);
        let mut input = input_of(&self.file, bytes.start, BUFFER).take(length);
        let mut ends = LineEnds::default();
        loop {
            let read = input.fill_buf().map_err(|e| self.file.not_readable(e))?;
            if read.is_empty() {
                break;
            }
            ends.add(read);
            write(read).map_err(CopyError::Target)?;
            let read = read.len();
            input.consume(read);
        }
        if end_the_last && length > 0 && !ends.at_end() {
            ends.add(b"\n");
            write(b"\n").map_err(CopyError::Target)?;
        }
        self.file.still_the_same()?;
        Ok(ends.count)
    }
}

#[cfg(test)]
mod tests {
    use crate::files::{CsvSource, JsonLinesSource};

    #[test]
    fn records_are_copied_as_they_are_with_what_stands_before_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let text = "\u{feff}id,body\r\n1,a\r\n\r\n2,\"b\nb\"\n3,\u{e4}";
        std::fs::write(&path, text).unwrap();
        let at = |part: &str| Some(text.find(part).unwrap() as u64);
        let excerpt = CsvSource::new(&path).excerpt().unwrap();
        let mut written = Vec::new();
        let mut write = |bytes: &[u8]| {
            written.extend_from_slice(bytes);
            Ok(())
        };
        assert_eq!(excerpt.copy_header(&mut write).unwrap(), 1);
        // The range includes the end of the first record, and the empty line.
        let copied = excerpt.copy(at("\r\n2"), at("3,"), &mut write);
        let copied = copied.unwrap();
        assert_eq!((copied.lines, copied.line_ends), (4..=5, 2));
        let copied = excerpt.copy(at("3,"), None, &mut write).unwrap();
        assert_eq!((copied.lines, copied.line_ends), (6..=6, 1));
        let expected = "\u{feff}id,body\r\n2,\"b\nb\"\n3,\u{e4}\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn lines_of_json_have_no_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "{\"a\":1}\n{\"a\":2}").unwrap();
        let excerpt = JsonLinesSource::new(&path).excerpt().unwrap();
        let mut written = Vec::new();
        let mut write = |bytes: &[u8]| {
            written.extend_from_slice(bytes);
            Ok(())
        };
        assert_eq!(excerpt.copy_header(&mut write).unwrap(), 0);
        excerpt.copy(Some(8), None, &mut write).unwrap();
        assert_eq!(written, b"{\"a\":2}\n");
    }
}
