//! Failures of pages and items, as they are listed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{base::time::Timestamp, page::token::PageToken};

/// What is being done about a page that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureState {
    /// It has quick attempts left.
    Retrying,
    /// Its quick attempts are spent: it is in the slow lane.
    Stuck,
    /// The same, and nobody knows where the next page begins.
    Blocked,
    /// It was given up and is a dead letter; a redrive tries it again.
    DeadLetter,
    /// It was given up, and nothing but the batch remembers it.
    #[default]
    GivenUp,
}

impl fmt::Display for FailureState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retrying => "retrying",
            Self::Stuck => "stuck",
            Self::Blocked => "blocked",
            Self::DeadLetter => "dead letter",
            Self::GivenUp => "given up",
        })
    }
}

/// A page that is failing or was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageFailure {
    /// The stride that the page belongs to.
    pub stride: u64,
    /// The page begins after this; `None` is the beginning of the data.
    pub start: Option<PageToken>,
    /// The page ends here, where that is known.
    pub end: Option<PageToken>,
    /// The kind of the last error.
    pub error_type: String,
    /// The last error's message, shortened.
    pub message: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the page failed first.
    pub first_at: Timestamp,
    /// When it failed last.
    pub last_at: Timestamp,
    /// When its extended retries end if it goes on to fail and the batch is not paused meanwhile. `None` while it has
    /// quick attempts, and where they have no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_up_at: Option<Timestamp>,
    /// What is being done about it.
    #[serde(default)]
    pub state: FailureState,
}

/// An item that its processor gave up on. The page it belongs to counts as done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedItem {
    /// What the processor calls the item.
    pub key: String,
    /// The kind of error.
    pub error_type: String,
    /// The message, shortened.
    pub message: String,
    /// Whether it is a dead letter, which a redrive tries again.
    #[serde(default)]
    pub dead_letter: bool,
}
