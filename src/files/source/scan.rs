//! The walk from record to record through an open file, shared by CSV and JSON Lines.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    ops::Range,
    sync::Arc,
};

use crate::{
    files::{
        BadRecord, FilePosition, FileRecord,
        error::FileError,
        source::{bad_record::MAX_KEPT, line_number::lines, source_file::OpenFile},
    },
    page::{PAGE_BYTES, range::PageRange, size::Size},
};

const BUFFER: usize = 128 * 1024;

/// A file from an offset to the end that it had.
pub(crate) type Input = BufReader<Part>;

/// Reads a part of a file. Several parts can be read at once, since they share no position.
pub(crate) struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let read = read_at(&self.file, &mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, at)
}

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The first byte.
    pub start: u64,
    /// The first byte after the record and its line end.
    pub end: u64,
    /// True if the record has a line end. Without one, the rest may not be written yet.
    pub terminated: bool,
    /// True if the record is longer than allowed, so that its content was not kept.
    pub too_large: bool,
}

/// A walk from record to record.
pub(crate) trait Scan {
    /// Moves to the end of the next record; `None` at the end of the data.
    fn advance(&mut self) -> io::Result<Option<Extent>>;

    /// Returns the offset before which everything was read.
    fn offset(&self) -> u64;
}

/// Returns the file from `offset` on.
pub(crate) fn input(file: &OpenFile, offset: u64) -> Input {
    input_of(file, offset, BUFFER)
}

/// Returns the file from `offset` on, with a buffer of another size.
pub(crate) fn input_of(file: &OpenFile, offset: u64, buffer: usize) -> Input {
    BufReader::with_capacity(buffer, part(file, offset, file.size))
}

/// Returns the part between two offsets.
pub(crate) fn part(file: &OpenFile, from: u64, to: u64) -> Part {
    Part {
        file: Arc::clone(&file.handle),
        at: from,
        end: to,
    }
}

/// The bounds of a range in a file whose first record begins at `data`.
pub(crate) struct Bounds {
    pub start: FilePosition,
    end: Option<u64>,
}

impl Bounds {
    pub fn of(range: &PageRange<FilePosition>, data: u64) -> Self {
        let first = FilePosition {
            offset: data,
            record: 0,
        };
        Self {
            start: range.start().map_or(first, |start| (*start).max(first)),
            end: range.end().map(|end| end.offset),
        }
    }

    fn is_over(&self, at: u64) -> bool {
        self.end.is_some_and(|end| at >= end)
    }
}

/// The records of a page, and whether they end the file.
pub(crate) struct Records<T> {
    pub records: Vec<FileRecord<T>>,
    pub at_end: bool,
}

/// Reads at most `limit` records.
pub(crate) fn read<S: Scan, T>(
    file: &OpenFile,
    scanner: &mut S,
    bounds: &Bounds,
    limit: usize,
    mut content: impl FnMut(&S, Extent) -> Result<T, BadRecord>,
) -> Result<Records<T>, FileError> {
    let mut records = Vec::new();
    let mut at = bounds.start;
    while records.len() < limit
        && at.offset - bounds.start.offset < PAGE_BYTES as u64
        && !bounds.is_over(at.offset)
    {
        let Some(extent) = next(file, scanner)? else {
            file.still_the_same()?;
            return Ok(Records {
                records,
                at_end: true,
            });
        };
        at = FilePosition {
            offset: extent.end,
            record: at.record + 1,
        };
        let content = match content(scanner, extent) {
            Ok(content) => Ok(content),
            Err(mut bad) => {
                let bytes = extent.start..extent.end;
                bad.text = text(file, &bytes)?;
                bad.lines = Some(lines(file, &bytes).map_err(|e| file.not_readable(e))?);
                Err(Box::new(bad))
            }
        };
        records.push(FileRecord {
            start: extent.start,
            end: at,
            content,
        });
    }
    file.still_the_same()?;
    Ok(Records {
        records,
        at_end: false,
    })
}

/// Returns the position `count` records further on; `None` if there are fewer.
pub(crate) fn skip<S: Scan>(
    file: &OpenFile,
    scanner: &mut S,
    bounds: &Bounds,
    count: u64,
) -> Result<Option<FilePosition>, FileError> {
    let mut at = bounds.start;
    for _ in 0..count {
        if bounds.is_over(at.offset) {
            return Ok(None);
        }
        let Some(extent) = next(file, scanner)? else {
            return Ok(None);
        };
        at = FilePosition {
            offset: extent.end,
            record: at.record + 1,
        };
    }
    file.still_the_same()?;
    Ok(Some(at))
}

fn next<S: Scan>(file: &OpenFile, scanner: &mut S) -> Result<Option<Extent>, FileError> {
    let found = scanner.advance().map_err(|e| file.not_readable(e))?;
    match found {
        // In a growing file, the end of this record is not written yet.
        Some(extent) if file.may_grow && !extent.terminated => Ok(None),
        Some(extent) => Ok(Some(extent)),
        // Otherwise a truncated file would look like the end of the data.
        None if scanner.offset() < file.size => Err(file.changed("it is smaller now")),
        None => Ok(None),
    }
}

/// Returns the beginning of a record, as it is in the file.
pub(crate) fn text(file: &OpenFile, bytes: &Range<u64>) -> Result<String, FileError> {
    let length = (bytes.end - bytes.start).min(MAX_KEPT as u64);
    let mut read = Vec::new();
    let mut input = input_of(file, bytes.start, MAX_KEPT).take(length);
    input
        .read_to_end(&mut read)
        .map_err(|e| file.not_readable(e))?;
    let text = String::from_utf8_lossy(&read);
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Skips line ends, and returns their number of bytes.
pub(crate) fn skip_line_ends<R: BufRead>(input: &mut R) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let ends = buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
        let ends = ends.count();
        let all = ends == buffer.len();
        input.consume(ends);
        skipped += ends as u64;
        if !all || ends == 0 {
            return Ok(skipped);
        }
    }
}

/// The number of bytes whose records are counted for an estimate.
const GUESS_FROM: u64 = 1024 * 1024;

/// Returns the approximate number of records from `start` on; exact for a small file.
pub(crate) fn guess_count<S: Scan>(
    file: &OpenFile,
    scanner: &mut S,
    start: u64,
) -> Result<Size, FileError> {
    let mut records = 0u64;
    while scanner.offset() - start < GUESS_FROM {
        if next(file, scanner)?.is_none() {
            return Ok(Size::Exact(records));
        }
        records += 1;
    }
    let looked_at = u128::from(scanner.offset() - start);
    let all = u128::from(file.size.saturating_sub(start));
    let records = u128::from(records) * all / looked_at;
    Ok(Size::Estimate(u64::try_from(records).unwrap_or(u64::MAX)))
}
