//! Looking at what a batch did: between its stages, at its end, and later.

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        text::{count, number},
        time::Timestamp,
    },
    page::token::PageToken,
};

/// Ranges that are described in a [`Check`], and notes that are kept of it.
const MAX_DESCRIBED: usize = 20;

/// What a check found, range by range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// Ranges that were looked at.
    pub ranges: u64,
    /// Items in them, where they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// Ranges that do not hold.
    pub failed_ranges: u64,
    /// Items that are not as they should be.
    pub failed_items: u64,
    /// The first ranges that do not hold, at most 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedRange>,
    /// What else is worth knowing, for people; nothing in it is wrong. Batches keep the first 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A range that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRange {
    /// It begins after this; absent: at the beginning of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    /// It ends with this; absent: at the end of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    /// Items in it that are not as they should be.
    pub items: u64,
    /// What is wrong, for people.
    pub message: String,
}

impl Check {
    /// Whether everything that was looked at is as it should be.
    pub fn holds(&self) -> bool {
        self.failed_ranges == 0 && self.failed_items == 0
    }

    /// Adds a range that holds.
    pub fn passes(&mut self, items: u64) {
        self.ranges += 1;
        *self.items.get_or_insert_default() += items;
    }

    /// Adds a range that does not hold.
    pub fn fails(&mut self, failed: FailedRange) {
        self.ranges += 1;
        self.failed_ranges += 1;
        self.failed_items += failed.items;
        if self.failed.len() < MAX_DESCRIBED {
            self.failed.push(failed);
        }
    }
}

/// A check that was made, or could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checked {
    /// Everything up to here was looked at; absent: to the end of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
    /// What was found; absent where the processor checks nothing, or the check could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Check>,
    /// Why it could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When.
    pub at: Timestamp,
    /// It was made after the last page.
    pub at_end: bool,
}

impl Checked {
    /// What keeps it from saying that everything is as it should be. A processor that checks nothing finds
    /// nothing.
    pub fn failure(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(format!("the check could not be made: {error}"));
        }
        let found = self.found.as_ref().filter(|found| !found.holds())?;
        Some(format!("the check does not hold: {}", found.summary()))
    }

    /// Whether something was looked at, and is as it should be.
    pub fn passed(&self) -> bool {
        self.error.is_none() && self.found.as_ref().is_some_and(Check::holds)
    }
}

impl Check {
    /// In one line, for people: `2 of 10 ranges do not hold, 17 items: first message`.
    pub fn summary(&self) -> String {
        let items = match self.items {
            Some(items) => format!(" with {}", count(items, "item")),
            None => String::new(),
        };
        if self.holds() {
            let verb = if self.ranges == 1 { "holds" } else { "hold" };
            return format!("{}{items} {verb}", count(self.ranges, "range"));
        }
        let verb = if self.failed_ranges == 1 {
            "does"
        } else {
            "do"
        };
        let mut text = format!(
            "{} of {} {verb} not hold, {}",
            number(self.failed_ranges),
            count(self.ranges, "range"),
            count(self.failed_items, "item"),
        );
        if let Some(first) = self.failed.first() {
            text.push_str(": ");
            text.push_str(&first.message);
        }
        text
    }

    /// Messages of users are kept short: a check is stored in a history.
    pub(crate) fn shortened(mut self) -> Self {
        self.failed.truncate(MAX_DESCRIBED);
        for failed in &mut self.failed {
            failed.message = crate::base::error::truncate(&failed.message, MAX_CHECK_MESSAGE_CHARS);
        }
        self.notes.truncate(MAX_DESCRIBED);
        for note in &mut self.notes {
            *note = crate::base::error::truncate(note, MAX_CHECK_MESSAGE_CHARS);
        }
        self
    }
}

/// What is kept of the message of a range, and of a note.
const MAX_CHECK_MESSAGE_CHARS: usize = 200;
