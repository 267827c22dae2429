//! From record to record through an open file: what CSV and JSON Lines have in common.

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

/// A file from some offset to the end that it had.
pub(crate) type Input = BufReader<Part>;

/// Reads a part of a file. Several can be read at once: nothing depends on where the file is sought to.
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

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Its first byte.
    pub start: u64,
    /// The first byte after it and its line end.
    pub end: u64,
    /// It has a line end; without, the rest may not be written yet.
    pub terminated: bool,
    /// It is longer than allowed, so its content is not there.
    pub too_large: bool,
}

/// Goes from record to record.
pub(crate) trait Scan {
    /// Goes to the end of the next record; `None` at the end of the data.
    fn advance(&mut self) -> io::Result<Option<Extent>>;

    /// Everything before this offset was read.
    fn offset(&self) -> u64;
}

/// Reads from `offset` on.
pub(crate) fn input(file: &OpenFile, offset: u64) -> Input {
    input_of(file, offset, BUFFER)
}

/// The same with a buffer of another size.
pub(crate) fn input_of(file: &OpenFile, offset: u64, buffer: usize) -> Input {
    BufReader::with_capacity(buffer, part(file, offset, file.size))
}

/// From one offset to another.
pub(crate) fn part(file: &OpenFile, from: u64, to: u64) -> Part {
    Part {
        file: Arc::clone(&file.handle),
        at: from,
        end: to,
    }
}

/// Where a range is in a file whose first record begins at `data`.
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

/// The records of a page, and whether the file ends with them.
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

/// The position `count` records on; `None` where there are fewer.
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
        // Of a file that grows this is a record of which the end is not written yet.
        Some(extent) if file.may_grow && !extent.terminated => Ok(None),
        Some(extent) => Ok(Some(extent)),
        // Otherwise the data would seem to end where somebody has cut the file.
        None if scanner.offset() < file.size => Err(file.changed("it is smaller now")),
        None => Ok(None),
    }
}

/// The beginning of a record, as it is in the file.
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

/// Skips line ends, and tells how many bytes they were.
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

/// Bytes of records from which their number is guessed.
const GUESS_FROM: u64 = 1024 * 1024;

/// About how many records there are from `start` on; exact where the file is small.
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
