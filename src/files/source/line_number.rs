//! The number of a line, as an editor shows it.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    ops::{Range, RangeInclusive},
    sync::{Mutex, PoisonError},
};

use memchr::memchr2_iter;

use crate::files::source::{fingerprint::Identity, reading::part, source_file::OpenFile};

const BUFFER: usize = 128 * 1024;
/// Places of one file whose lines are remembered.
const MOST_REMEMBERED: usize = 256;

/// Lines before offsets of the file that was counted last: a page begins in the middle, and counting from the
/// beginning for every bad record would read the file again and again.
static REMEMBERED: Mutex<Option<(Identity, BTreeMap<u64, u64>)>> = Mutex::new(None);

/// The first and the last line of a record.
pub(crate) fn lines(file: &OpenFile, bytes: &Range<u64>) -> io::Result<RangeInclusive<u64>> {
    let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    let (of, known) = remembered.get_or_insert_with(|| (file.identity().clone(), BTreeMap::new()));
    if of != file.identity() {
        *of = file.identity().clone();
        known.clear();
    }
    let nearest = known.range(..=bytes.start).next_back();
    let (from, before) = nearest.map_or((0, 0), |(offset, lines)| (*offset, *lines));
    // A record does not begin between CR and LF, so neither does a place that is remembered.
    let before = before + line_ends(file, from, bytes.start)?.count;
    if known.len() == MOST_REMEMBERED {
        known.pop_first();
    }
    known.insert(bytes.start, before);
    drop(remembered);
    let first = before + 1;
    let within = line_ends(file, bytes.start, bytes.end)?;
    // Its own line end is still on its last line.
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

    /// Whether the last one is the last thing that there is.
    pub fn at_end(&self) -> bool {
        matches!(self.last, Some(b'\r' | b'\n'))
    }
}

/// The line ends between two offsets.
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
