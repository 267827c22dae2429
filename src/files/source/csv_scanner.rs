//! The scanner for CSV.

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader};

use crate::files::{
    BadRecord, CsvFormat,
    source::{
        quotes::Quotes,
        scan::{Extent, Scan, skip_line_ends},
    },
};

/// The largest number of columns in a record.
const MAX_COLUMNS: usize = 64 * 1024;

/// Reads records one by one. The memory depends on the longest allowed record.
pub(crate) struct CsvScanner<R> {
    input: R,
    parser: Reader,
    quotes: Quotes,
    max_record_bytes: u64,
    offset: u64,
    output: Vec<u8>,
    ends: Vec<usize>,
    columns: usize,
    /// The record as it is in the file, if it is kept.
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

    /// Returns for each field whether it is quoted, in a file with commas and double quotes.
    #[allow(dead_code, reason = "for an import, which needs a database")]
    pub fn quoted(self) -> Vec<bool> {
        let (mut fields, mut quoted, mut begins) = (Vec::new(), false, true);
        for byte in self.raw {
            if begins {
                fields.push(*byte == b'"');
            }
            // A doubled quote ends one quoted part and begins another.
            quoted ^= *byte == b'"';
            begins = *byte == b',' && !quoted;
        }
        fields
    }

    /// Returns the content of all fields in a row, and the end of each field in it.
    pub fn parts(self) -> (&'a [u8], &'a [usize]) {
        let used = self.ends.last().copied().unwrap_or(0);
        (&self.output[..used], self.ends)
    }
}

impl<R: BufRead> CsvScanner<R> {
    /// Reads records from `input`, which begins at `offset` of the file: at the beginning of the file, after a byte
    /// order mark, or after a record.
    pub fn new(input: R, format: &CsvFormat, offset: u64) -> Self {
        let mut parser = format.parser();
        // An empty line, which is skipped. The parser removes a byte order mark at its very first byte, which need
        // not be the beginning of the file.
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

    /// Returns the latest record. A record that is too large has no fields.
    pub fn fields(&self) -> Fields<'_> {
        Fields {
            output: &self.output,
            ends: &self.ends[..self.columns],
            raw: self.raw.as_deref().unwrap_or_default(),
        }
    }

    /// Checks that the quotes of the record are where they may be.
    pub fn check_quotes(&self) -> Result<(), BadRecord> {
        self.quotes.check()
    }

    /// Reads the LF of a CR LF, of which the parser reads only the CR.
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
        // The parser would skip empty lines, too, but without telling where the record begins.
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
