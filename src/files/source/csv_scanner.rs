//! From record to record through CSV.

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader};

use crate::files::{
    BadRecord, CsvFormat,
    source::{
        quotes::Quotes,
        reading::{Extent, Scan, skip_line_ends},
    },
};

/// Most columns of a record.
const MAX_COLUMNS: usize = 64 * 1024;

/// Reads records one by one, in memory that depends on the longest one that is allowed.
pub(crate) struct CsvScanner<R> {
    input: R,
    parser: Reader,
    quotes: Quotes,
    max_record_bytes: u64,
    offset: u64,
    output: Vec<u8>,
    ends: Vec<usize>,
    columns: usize,
    /// The record as it is in the file, where it is kept.
    raw: Option<Vec<u8>>,
}

/// The fields of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    output: &'a [u8],
    ends: &'a [usize],
    raw: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn len(self) -> usize {
        self.ends.len()
    }

    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let Self { output, ends, .. } = self;
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, end)| &output[start..*end])
    }

    /// Which fields are in quotes, in a file with commas and double quotes.
    #[allow(dead_code, reason = "for an import, which needs a database")]
    pub fn quoted(self) -> Vec<bool> {
        let (mut fields, mut quoted, mut begins) = (Vec::new(), false, true);
        for byte in self.raw {
            if begins {
                fields.push(*byte == b'"');
            }
            // A doubled quote ends and begins.
            quoted ^= *byte == b'"';
            begins = *byte == b',' && !quoted;
        }
        fields
    }

    /// Everything one after the other, and where each field ends in it.
    pub fn parts(self) -> (&'a [u8], &'a [usize]) {
        let used = self.ends.last().copied().unwrap_or(0);
        (&self.output[..used], self.ends)
    }
}

impl<R: BufRead> CsvScanner<R> {
    /// Reads what `input` gives, which begins at `offset` of the file: at its beginning, after a byte order
    /// mark, or after a record.
    pub fn new(input: R, format: &CsvFormat, offset: u64) -> Self {
        let mut parser = format.parser();
        // An empty line, which is skipped. Only at its very first byte does the parser take what looks like a
        // byte order mark for one, and that is not the beginning of the file.
        let _ = parser.read_record(b"\n", &mut [0; 4], &mut [0; 4]);
        Self {
            input,
            parser,
            quotes: Quotes::of(format),
            max_record_bytes: format.max_record_bytes,
            offset,
            output: vec![0; 4 * 1024],
            ends: vec![0; 64],
            columns: 0,
            raw: None,
        }
    }

    /// Keeps the bytes of each record.
    pub fn keep_raw(mut self) -> Self {
        self.raw = Some(Vec::new());
        self
    }

    /// The record that was read last. Not for one that is too large.
    pub fn fields(&self) -> Fields<'_> {
        Fields {
            output: &self.output,
            ends: &self.ends[..self.columns],
            raw: self.raw.as_deref().unwrap_or_default(),
        }
    }

    /// Whether its quotes are where they may be.
    pub fn check_quotes(&self) -> Result<(), BadRecord> {
        self.quotes.check()
    }

    /// CR LF is one line end, of which the parser wants only the first half.
    fn finish_line_end(&mut self, last: Option<u8>) -> io::Result<()> {
        if last == Some(b'\r') && self.input.fill_buf()?.first() == Some(&b'\n') {
            self.input.consume(1);
            self.offset += 1;
        }
        Ok(())
    }
}

impl<R: BufRead> Scan for CsvScanner<R> {
    fn advance(&mut self) -> io::Result<Option<Extent>> {
        // The parser would skip empty lines, too, but not tell where the record begins.
        self.offset += skip_line_ends(&mut self.input)?;
        let start = self.offset;
        self.quotes.begin();
        let (mut written, mut columns) = (0, 0);
        let mut too_large = false;
        self.raw.iter_mut().for_each(Vec::clear);
        loop {
            let buffer = self.input.fill_buf()?;
            let (result, read, out, ends) = self.parser.read_record(
                buffer,
                &mut self.output[written..],
                &mut self.ends[columns..],
            );
            let last = read.checked_sub(1).map(|last| buffer[last]);
            let at_end = buffer.is_empty();
            if let (Some(raw), false) = (&mut self.raw, too_large) {
                raw.extend_from_slice(&buffer[..read]);
            }
            self.quotes.follow(&buffer[..read]);
            self.input.consume(read);
            self.offset += read as u64;
            written += out;
            columns += ends;
            too_large |= self.offset - start > self.max_record_bytes;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if too_large => written = 0,
                ReadRecordResult::OutputFull => self.output.resize(self.output.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if columns >= MAX_COLUMNS => {
                    too_large = true;
                    columns = 0;
                }
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => {
                    if !at_end {
                        self.finish_line_end(last)?;
                    }
                    self.columns = if too_large { 0 } else { columns };
                    return Ok(Some(Extent {
                        start,
                        end: self.offset,
                        terminated: !at_end,
                        too_large,
                    }));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
