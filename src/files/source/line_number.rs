//! Line numbers, as an editor shows them.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    ops::{Range, RangeInclusive},
    sync::{Mutex, PoisonError},
};

use memchr::memchr2_iter;

use crate::files::source::{fingerprint::Identity, scan::part, source_file::OpenFile};

const BUFFER: usize = 128 * 1024;
/// The number of positions of one file whose line numbers are remembered.
const MOST_REMEMBERED: usize = 256;

/// The numbers of lines before some offsets of the latest file. Pages begin in the middle, and counting from the
/// beginning for every bad record would read the file again and again.
static REMEMBERED: Mutex<Option<(Identity, BTreeMap<u64, u64>)>> = Mutex::new(None);

/// Returns the first and the last line of a record.
pub(crate) fn lines(file: &OpenFile, bytes: &Range<u64>) -> io::Result<RangeInclusive<u64>> {
    let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    let (of, known) = remembered.get_or_insert_with(|| (file.identity().clone(), BTreeMap::new()));
    if of != file.identity() {
        *of = file.identity().clone();
        known.clear();
    }
    let nearest = known.range(..=bytes.start).next_back();
    let (from, before) = nearest.map_or((0, 0), |(offset, lines)| (*offset, *lines));
    // A record does not begin between CR and LF, and neither does a remembered position.
    let before = before + line_ends(file, from, bytes.start)?.count;
    if known.len() == MOST_REMEMBERED {
        known.pop_first();
    }
    known.insert(bytes.start, before);
    drop(remembered);
    let first = before + 1;
    let within = line_ends(file, bytes.start, bytes.end)?;
    // The line end of the record belongs to its last line.
    Ok(first..=first + within.count - u64::from(within.at_end()))
}

/// Counts line ends: LF, CR LF and CR.
#[derive(Debug, Default)]
pub(crate) struct LineEnds {
    pub count: u64,
    last: Option<u8>,
}

impl LineEnds {
    pub fn add(&mut self, bytes: &[u8]) {
        for at in memchr2_iter(b'\r', b'\n', bytes) {
            let second_half = match at.checked_sub(1) {
                Some(before) => bytes[before] == b'\r',
                None => self.last == Some(b'\r'),
            };
            if bytes[at] == b'\r' || !second_half {
                self.count += 1;
            }
        }
        self.last = bytes.last().copied().or(self.last);
    }

    /// Returns whether the bytes end with a line end.
    pub fn at_end(&self) -> bool {
        matches!(self.last, Some(b'\r' | b'\n'))
    }
}

/// Returns the line ends between two offsets.
fn line_ends(file: &OpenFile, from: u64, to: u64) -> io::Result<LineEnds> {
    let mut input = part(file, from, to);
    let mut buffer = vec![0; BUFFER];
    let mut ends = LineEnds::default();
    loop {
        let read = input.read(&mut buffer)?;
        if read == 0 {
            return Ok(ends);
        }
        ends.add(&buffer[..read]);
    }
}
