//! The number of a line, as an editor shows it.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};

use memchr::memchr2_iter;

use super::{
    fingerprint::Identity,
    reading::{Extent, part},
    source_file::OpenFile,
};

const BUFFER: usize = 128 * 1024;
/// Places of one file whose lines are remembered.
const MOST_REMEMBERED: usize = 256;

/// Lines before offsets of the file that was counted last: a page begins in the middle, and counting from the
/// beginning for every bad record would read the file again and again.
static REMEMBERED: Mutex<Option<(Identity, BTreeMap<u64, u64>)>> = Mutex::new(None);

/// The first and the last line of a record.
pub(super) fn lines(file: &OpenFile, extent: Extent) -> io::Result<RangeInclusive<u64>> {
    let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    let (of, known) = remembered.get_or_insert_with(|| (file.identity().clone(), BTreeMap::new()));
    if of != file.identity() {
        *of = file.identity().clone();
        known.clear();
    }
    let nearest = known.range(..=extent.start).next_back();
    let (from, before) = nearest.map_or((0, 0), |(offset, lines)| (*offset, *lines));
    // A record does not begin between CR and LF, so neither does a place that is remembered.
    let before = before + line_ends(file, from, extent.start)?.count;
    if known.len() == MOST_REMEMBERED {
        known.pop_first();
    }
    known.insert(extent.start, before);
    drop(remembered);
    let first = before + 1;
    let within = line_ends(file, extent.start, extent.end)?;
    // Its own line end is still on its last line.
    Ok(first..=first + within.count - u64::from(within.at_end))
}

struct LineEnds {
    count: u64,
    /// The last one is the last thing that there is.
    at_end: bool,
}

/// LF, CR LF and CR between two offsets.
fn line_ends(file: &OpenFile, from: u64, to: u64) -> io::Result<LineEnds> {
    let mut input = part(file, from, to);
    let mut buffer = vec![0; BUFFER];
    let mut count = 0;
    let mut last = None;
    loop {
        let read = input.read(&mut buffer)?;
        if read == 0 {
            let at_end = matches!(last, Some(b'\r' | b'\n'));
            return Ok(LineEnds { count, at_end });
        }
        let bytes = &buffer[..read];
        for at in memchr2_iter(b'\r', b'\n', bytes) {
            let second_half = match at.checked_sub(1) {
                Some(before) => bytes[before] == b'\r',
                None => last == Some(b'\r'),
            };
            if bytes[at] == b'\r' || !second_half {
                count += 1;
            }
        }
        last = bytes.last().copied();
    }
}
