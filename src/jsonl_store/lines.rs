//! The lines of the file, and the letters that they add up to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{base::error::PageError, processor::store::dead_letter::DeadLetter};

/// The error type of a line that is not a dead letter.
pub(super) const UNREADABLE: &str = "DeadLetterFileUnreadable";

/// Minimum number of superseded lines before the file is rewritten.
pub(super) const MIN_USELESS_LINES: usize = 64;

/// The content of a line.
pub(super) enum Line {
    Letter(Box<DeadLetter>),
    Removal(Removal),
    Settled(Settled),
}

/// A number of letters of a batch run that redrives settled and whose lines are gone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settled {
    /// The batch run.
    pub(super) settled: String,
    /// The number to add. It is negative if a letter was split into several that are not settled yet.
    pub(super) letters: i64,
}

/// The end of a redrive.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    /// The id of the removed letter.
    pub(super) removed: String,
    /// The letters that replace it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) letters: Vec<DeadLetter>,
}

impl Line {
    pub(super) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
            .map(Self::Letter)
            .or_else(|not_a_letter| {
                serde_json::from_slice(text)
                    .map(Self::Removal)
                    .or_else(|_| serde_json::from_slice(text).map(Self::Settled))
                    .map_err(|_| not_a_letter)
            })
    }

    /// Returns whether an invalid text without a newline may be the beginning of a line. Such a text is
    /// removed, so content of another kind must not match.
    pub(super) fn is_torn(text: &[u8]) -> bool {
        let begins = |start: &[u8]| text.starts_with(start) || start.starts_with(text);
        // Some file systems show zeros if a crash prevented the write.
        let known = [&br#"{"id":"#[..], br#"{"removed":"#, br#"{"settled":"#];
        known.into_iter().any(begins) || text.iter().all(|byte| *byte == 0)
    }
}

pub(super) fn push_line(lines: &mut Vec<u8>, line: &impl Serialize) -> Result<(), PageError> {
    serde_json::to_writer(&mut *lines, line)?;
    lines.push(b'\n');
    Ok(())
}

/// The content of a file.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) letters: BTreeMap<String, DeadLetter>,
    /// The number of letters that redrives removed, minus their replacements, by batch run.
    pub(super) settled: BTreeMap<String, i64>,
    pub(super) lines: usize,
}

impl Contents {
    /// Returns how many of these letters it does not contain.
    pub(super) fn missing(&self, letters: &[DeadLetter]) -> i64 {
        let ids: BTreeSet<_> = letters.iter().map(|letter| &letter.id).collect();
        let missing = ids.into_iter().filter(|id| !self.letters.contains_key(*id));
        i64::try_from(missing.count()).unwrap_or(i64::MAX)
    }

    pub(super) fn apply(&mut self, line: Line) {
        self.lines += 1;
        match line {
            Line::Letter(letter) => self.keep(*letter),
            Line::Removal(Removal { removed, letters }) => {
                let comes_back = letters.iter().any(|letter| letter.id == removed);
                if let Some(taken) = self.letters.get(&removed) {
                    let batch_run = taken.batch_run.clone();
                    let settled = i64::from(!comes_back) - self.missing(&letters);
                    *self.settled.entry(batch_run).or_default() += settled;
                }
                for letter in letters {
                    self.keep(letter);
                }
                if !comes_back {
                    self.letters.remove(&removed);
                }
            }
            Line::Settled(Settled { settled, letters }) => {
                *self.settled.entry(settled).or_default() += letters;
            }
        }
    }

    pub(super) fn keep(&mut self, mut letter: DeadLetter) {
        if let Some(earlier) = self.letters.get(&letter.id) {
            letter.first_at = earlier.first_at;
        }
        self.letters.insert(letter.id.clone(), letter);
    }

    pub(super) fn is_wasteful(&self) -> bool {
        let useful = self.letters.len() + self.settled.len();
        let useless = self.lines.saturating_sub(useful);
        useless >= MIN_USELESS_LINES && useless > self.letters.len()
    }
}
