//! Checks of the work of a batch: between its stages, at its end, and later.

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        text::{count, number},
        time::Timestamp,
    },
    page::token::PageToken,
};

/// Maximum number of ranges described in a [`Check`], and of notes kept from it.
const MAX_DESCRIBED: usize = 20;

/// The result of a check, range by range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// The number of ranges checked.
    pub ranges: u64,
    /// The number of items in them, if counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// Items that the batch gave up, and that `items` leaves out. A redrive may have changed them since.
    #[serde(skip_serializing_if = "is_zero")]
    pub items_given_up: u64,
    /// Pages that the batch gave up as a whole, and whose items `items` leaves out.
    #[serde(skip_serializing_if = "is_zero")]
    pub pages_given_up: u64,
    /// The number of ranges that failed the check.
    pub failed_ranges: u64,
    /// The number of items that are wrong.
    pub failed_items: u64,
    /// The first ranges that failed, at most 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedRange>,
    /// Further findings for people, none of which is an error. Batches keep the first 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A range that failed a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRange {
    /// The exclusive start. Absent at the beginning of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    /// The inclusive end. Absent at the end of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    /// The number of items in it that are wrong.
    pub items: u64,
    /// A description of the fault, for people.
    pub message: String,
}

impl Check {
    /// Returns whether every range and item passed.
    pub fn holds(&self) -> bool {
        self.failed_ranges == 0 && self.failed_items == 0
    }

    /// Adds a range that passed, with its number of items.
    pub fn passes(&mut self, items: u64) {
        self.ranges += 1;
        *self.items.get_or_insert_default() += items;
    }

    /// Adds a range that failed.
    pub fn fails(&mut self, failed: FailedRange) {
        self.ranges += 1;
        self.failed_ranges += 1;
        self.failed_items += failed.items;
        if self.failed.len() < MAX_DESCRIBED {
            self.failed.push(failed);
        }
    }
}

/// A check that was made, or that could not be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checked {
    /// The cursor up to which data was checked. Absent if it was checked to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
    /// The result. Absent if the processor has no check, or if the check could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Check>,
    /// The reason why the check could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The time of the check.
    pub at: Timestamp,
    /// True if the check was made after the last page.
    pub at_end: bool,
}

impl Checked {
    /// Returns the reason why the check did not pass. A processor without a check has no failures.
    pub fn failure(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(format!("the check could not be made: {error}"));
        }
        let found = self.found.as_ref().filter(|found| !found.holds())?;
        Some(format!("the check does not hold: {}", found.summary()))
    }

    /// Returns whether something was checked and all of it passed.
    pub fn passed(&self) -> bool {
        self.error.is_none() && self.found.as_ref().is_some_and(Check::holds)
    }
}

impl Check {
    /// Returns the result as one line for people: `2 of 10 ranges do not hold, 17 items: first message`.
    pub fn summary(&self) -> String {
        let items = match self.items {
            Some(items) => format!(" with {}", count(items, "item")),
            None => String::new(),
        };
        if self.holds() {
            let without = match self.given_up() {
                Some(given_up) => format!(", without {given_up} that the batch gave up"),
                None => String::new(),
            };
            return format!(
                "{}{items} {}{without}",
                count(self.ranges, "range"),
                self.verb()
            );
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

    /// Returns the result of a batch whose given-up items and pages are all settled since.
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn summary_once_settled(&self) -> Option<String> {
        let (given_up, items) = (self.given_up()?, self.items?);
        let verb = match self.items_given_up + self.pages_given_up {
            1 => "is",
            _ => "are",
        };
        self.holds().then(|| {
            format!(
                "{} {} with {} that the batch finished, and {given_up} that it gave up {verb} settled",
                count(self.ranges, "range"),
                self.verb(),
                count(items, "item"),
            )
        })
    }

    fn verb(&self) -> &'static str {
        match self.ranges {
            1 => "holds",
            _ => "hold",
        }
    }

    /// Describes the items and pages that `items` leaves out.
    fn given_up(&self) -> Option<String> {
        let given_up = [(self.items_given_up, "item"), (self.pages_given_up, "page")];
        let given_up = given_up.into_iter().filter(|(n, _)| *n > 0);
        let given_up: Vec<_> = given_up.map(|(n, what)| count(n, what)).collect();
        (!given_up.is_empty()).then(|| given_up.join(" and "))
    }

    /// Shortens messages of users, because a check is stored in a history.
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

/// Maximum length of a stored message of a range, and of a note.
const MAX_CHECK_MESSAGE_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_were_given_up_are_told_apart_from_those_that_hold() {
        let mut check = Check {
            ranges: 10,
            items: Some(2_997),
            ..Check::default()
        };
        assert_eq!(check.summary(), "10 ranges with 2,997 items hold");
        assert_eq!(check.summary_once_settled(), None);
        (check.items_given_up, check.pages_given_up) = (3, 1);
        assert_eq!(
            check.summary(),
            "10 ranges with 2,997 items hold, without 3 items and 1 page that the batch gave up"
        );
        assert_eq!(
            check.summary_once_settled().unwrap(),
            "10 ranges hold with 2,997 items that the batch finished, and 3 items and 1 page that it gave up are settled"
        );
        check.failed_items = 1;
        assert_eq!(check.summary_once_settled(), None);
    }
}
