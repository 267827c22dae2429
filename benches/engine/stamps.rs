//! Times at which pages began and ended, written by their processes into a file that outlives them.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Error;

/// One line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub at: Duration,
    pub page: u64,
    pub begins: bool,
}

/// The time since the epoch, which is comparable between processes.
pub fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// Writes one stamp. A short appended line is never split, even beside those of other processes.
pub fn write(path: &Path, page: u64, begins: bool) -> std::io::Result<()> {
    static FILES: Mutex<Option<HashMap<PathBuf, File>>> = Mutex::new(None);
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let files = files.get_or_insert_with(HashMap::new);
    if !files.contains_key(path) {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        files.insert(path.to_owned(), file);
    }
    let line = format!("{} {page} {begins}\n", now().as_micros());
    let mut file = &files[path];
    file.write_all(line.as_bytes())
}

/// The stamps of the file in the order of time, without a line that is still being written.
pub fn read(path: &Path) -> Result<Vec<Stamp>, Error> {
    let text = std::fs::read_to_string(path).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(String::new()),
        _ => Err(error),
    })?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut stamps = Vec::new();
    for line in whole.lines() {
        let mut fields = line.split(' ');
        let mut field = || fields.next().ok_or(format!("not a stamp: {line}"));
        stamps.push(Stamp {
            at: Duration::from_micros(field()?.parse()?),
            page: field()?.parse()?,
            begins: field()?.parse()?,
        });
    }
    stamps.sort_by_key(|stamp| stamp.at);
    Ok(stamps)
}

/// The pages that had begun and not ended at this time.
pub fn open_at(stamps: &[Stamp], at: Duration) -> Vec<u64> {
    let mut open = BTreeMap::new();
    for stamp in stamps.iter().take_while(|stamp| stamp.at <= at) {
        *open.entry(stamp.page).or_insert(0) = i32::from(stamp.begins);
    }
    open.retain(|_, begun| *begun > 0);
    open.into_keys().collect()
}

/// The use of a batch's slots.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub mean_share: f64,
    /// The part of slots in use in the tenth of a second in which it was lowest.
    pub lowest_share: f64,
    /// The longest uninterrupted time, in seconds, in which less than nine tenths of the slots were in use.
    pub longest_below: f64,
}

const WINDOW: Duration = Duration::from_millis(100);

/// Measures from the first moment in which every slot was in use to the last beginning of a page.
pub fn flight(stamps: &[Stamp], slots: u32) -> Option<Flight> {
    let last_begin = stamps.iter().rfind(|stamp| stamp.begins)?.at;
    let full = f64::from(slots);
    let mut in_flight = 0.0;
    let mut since: Option<Duration> = None;
    let mut windows: Vec<f64> = Vec::new();
    let (mut area, mut below, mut longest) = (0.0, 0.0, 0.0_f64);
    let mut before = Duration::ZERO;
    for stamp in stamps.iter().take_while(|stamp| stamp.at <= last_begin) {
        if let Some(since) = since {
            let share = in_flight / full;
            let span = (stamp.at - before).as_secs_f64();
            area += share * span;
            below = if share < 0.9 { below + span } else { 0.0 };
            longest = longest.max(below);
            spread(&mut windows, share, before - since, stamp.at - since);
        }
        in_flight += if stamp.begins { 1.0 } else { -1.0 };
        if since.is_none() && in_flight >= full {
            since = Some(stamp.at);
        }
        before = stamp.at;
    }
    // The last window may be cut short.
    windows.pop();
    let whole = (last_begin - since?).as_secs_f64();
    (whole > 0.0).then_some(Flight {
        mean_share: area / whole,
        lowest_share: windows.into_iter().fold(f64::INFINITY, f64::min),
        longest_below: longest,
    })
}

/// Adds a share that applied between two times to the average of each window.
fn spread(windows: &mut Vec<f64>, share: f64, from: Duration, to: Duration) {
    let window = WINDOW.as_secs_f64();
    let (mut from, to) = (from.as_secs_f64(), to.as_secs_f64());
    while from < to {
        // Truncation is intended.
        let at = (from / window + 1e-9) as usize;
        let end = to.min((at + 1) as f64 * window);
        if windows.len() <= at {
            windows.resize(at + 1, 0.0);
        }
        windows[at] += share * (end - from) / window;
        if end <= from {
            return;
        }
        from = end;
    }
}
