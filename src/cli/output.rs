//! The output of a command: results on standard output, everything else on standard error.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _, Write as _},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use indicatif::MultiProgress;
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;

pub(crate) use crate::base::text::{about, count, duration, exactly, number, one_line, per_second};
use crate::base::{
    text::{escaped, steers},
    time::Timestamp,
};

/// All progress bars of the process. They are removed while another line is written to standard error, or the two would
/// run into each other.
pub(crate) static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The longest line on standard error, in characters. A longer line would be dominated by some value of the user.
const MAX_LINE: usize = 1_200;

/// Returns a text that is safe to print: foreign content in it can neither control the terminal nor hide other text.
///
/// All output goes through here or through [`json`].
fn printable(text: &str) -> String {
    escaped(
        text,
        |c| c == '\n' || !steers(c),
        |c, to| to.extend(c.escape_default()),
    )
}

/// Removes the middle of long lines.
fn shortened(text: &str) -> String {
    let shorten = |line: &str| {
        let all = line.chars().count();
        if all <= MAX_LINE {
            return line.to_owned();
        }
        let begin: String = line.chars().take(MAX_LINE / 2).collect();
        let end: String = line.chars().skip(all - MAX_LINE / 3).collect();
        let left_out = number((all - MAX_LINE / 2 - MAX_LINE / 3) as u64);
        format!("{begin} ... ({left_out} characters left out) ... {end}")
    };
    text.split('\n').map(shorten).collect::<Vec<_>>().join("\n")
}

/// Writes a result. `false` if standard output is closed: that is no error, but there is no point in writing more.
pub(crate) fn result(text: impl fmt::Display) -> bool {
    write_result(&printable(&text.to_string()))
}

fn write_result(text: &str) -> bool {
    BARS.suspend(|| {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
    })
}

/// Writes a result as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> bool {
    match serde_json::to_string(value) {
        // JSON leaves some of these characters unescaped.
        Ok(text) => write_result(&escaped(
            &text,
            |c| !steers(c),
            |c, to| {
                let _ = write!(to, "\\u{:04x}", u32::from(c));
            },
        )),
        Err(error) => {
            note(format_args!(
                "error: the result does not serialize: {error}"
            ));
            false
        }
    }
}

/// Writes a line for the user that is not part of the result.
pub(crate) fn note(text: impl fmt::Display) {
    let text = shortened(&printable(&text.to_string()));
    if let Some(held) = held().as_mut() {
        held.write(format!("{text}\n").as_bytes());
        return;
    }
    BARS.suspend(|| {
        // A closed standard error cannot be reported anywhere.
        let _ = writeln!(io::stderr().lock(), "{text}");
    });
}

/// Lines for standard error that wait while the full screen is shown.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// The most lines that are held back.
const MAX_HELD: usize = 200;

#[derive(Debug, Default)]
struct Held {
    lines: VecDeque<String>,
    /// The number of earlier lines that were dropped.
    dropped: u64,
    /// An unfinished line.
    part: Vec<u8>,
}

impl Held {
    fn write(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.part.extend_from_slice(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.part.extend_from_slice(bytes);
    }

    fn end_line(&mut self) {
        if self.lines.len() == MAX_HELD {
            self.lines.pop_front();
            self.dropped += 1;
        }
        let line = String::from_utf8_lossy(&self.part).into_owned();
        self.lines.push_back(line);
        self.part.clear();
    }

    fn into_text(mut self) -> String {
        if !self.part.is_empty() {
            self.end_line();
        }
        let mut text = String::new();
        if self.dropped > 0 {
            let dropped = count(self.dropped, "earlier line");
            let _ = writeln!(text, "({dropped} left out)");
        }
        for line in self.lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

fn held() -> MutexGuard<'static, Option<Held>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds back standard error until [`release`], up to the latest 200 lines.
pub(crate) fn hold() {
    held().get_or_insert_default();
}

/// Writes the lines that were held back.
pub(crate) fn release() {
    if let Some(held) = held().take() {
        // A closed standard error cannot be reported anywhere.
        let _ = io::stderr().lock().write_all(held.into_text().as_bytes());
    }
}

/// Returns the latest line that is held back, with its escape sequences.
pub(crate) fn last_held() -> Option<String> {
    held().as_ref()?.lines.back().cloned()
}

/// Returns whether progress can be drawn on the full screen.
pub(crate) fn has_screen() -> bool {
    has_terminal() && io::stdout().is_terminal()
}

/// Returns whether progress can be drawn as a bar.
pub(crate) fn has_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

pub(crate) fn wants_color() -> bool {
    has_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes log lines without disturbing the progress bars.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(held) = held().as_mut() {
            held.write(bytes);
            return Ok(bytes.len());
        }
        BARS.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

/// Aligns rows in columns, each as wide as its widest cell.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns a time in UTC, to the second.
pub(crate) fn time(at: Timestamp) -> String {
    let mut text = String::new();
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(at.0));
    let written = time.map(|time| write!(text, "{}", humantime::format_rfc3339_seconds(time)));
    match written {
        Some(Ok(())) => text,
        // After the year 9999.
        _ => at.0.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_get_separators() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (123_456, "123,456"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(n), text);
        }
        assert_eq!(count(1, "page"), "1 page");
        assert_eq!(count(2_000, "page"), "2,000 pages");
    }

    #[test]
    fn durations_are_for_people() {
        for (millis, text) in [
            (0, "0.0s"),
            (1_234, "1.2s"),
            (12_700, "13s"),
            (192_000, "3m 12s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn lines_are_held_back_whole_and_only_the_latest() {
        let mut held = Held::default();
        held.write(b"begun ");
        held.write(b"and ended\nnext");
        assert_eq!(held.lines, ["begun and ended"]);
        let mut many = Held::default();
        for n in 0..250 {
            many.write(format!("line {n}\n").as_bytes());
        }
        let text = many.into_text();
        assert!(
            text.starts_with("(50 earlier lines left out)\nline 50\n"),
            "{text}"
        );
        assert!(text.ends_with("line 249\n"), "{text}");
        assert_eq!(held.into_text(), "begun and ended\nnext\n");
    }

    #[test]
    fn nothing_that_is_printed_steers_a_terminal_or_fills_it() {
        let text = "a\u{1b}[31m\r\u{9b}2J\u{202e}b\nc é";
        assert_eq!(printable(text), "a\\u{1b}[31m\\r\\u{9b}2J\\u{202e}b\nc é");
        assert!(!one_line(text).contains('\n'));
        let long = format!("{}end", "x".repeat(100_000));
        let short = shortened(&format!("one\n{long}"));
        assert!(
            short.starts_with("one\nxxx") && short.ends_with("xend"),
            "{short}"
        );
        assert!(
            short.len() < 1_300 && short.contains("99,003 characters left out"),
            "{short}"
        );
    }

    #[test]
    fn times_are_utc_and_never_panic() {
        assert_eq!(time(Timestamp(1_500)), "1970-01-01T00:00:01Z");
        assert_eq!(time(Timestamp(u64::MAX)), u64::MAX.to_string());
    }
}
