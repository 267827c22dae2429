//! Failures of pages and items, as listings show them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{base::time::Timestamp, page::token::PageToken};

/// The treatment of a page that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureState {
    /// The page has quick attempts left.
    Retrying,
    /// The quick attempts are used up, and the page is in extended retries.
    Stuck,
    /// Like `Stuck`, and the start of the next page is not known yet.
    Blocked,
    /// The page was given up and is a dead letter, which a redrive can retry.
    DeadLetter,
    /// The page was given up, and only the batch has a record of it.
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
    /// The exclusive start of the page. `None` at the beginning of the data.
    pub start: Option<PageToken>,
    /// The end of the page, if known.
    pub end: Option<PageToken>,
    /// The type of the last error.
    pub error_type: String,
    /// The message of the last error, shortened.
    pub message: String,
    /// The number of attempts so far.
    pub attempts: u32,
    /// The time of the first failure.
    pub first_at: Timestamp,
    /// The time of the last failure.
    pub last_at: Timestamp,
    /// The time at which extended retries end if the page keeps failing and the batch is not paused. `None`
    /// while the page has quick attempts, and if the retries have no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_up_at: Option<Timestamp>,
    /// The treatment of the page.
    #[serde(default)]
    pub state: FailureState,
}

/// An item that its processor gave up. Its page counts as finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedItem {
    /// The name that the processor gives to the item.
    pub key: String,
    /// The type of the error.
    pub error_type: String,
    /// The message, shortened.
    pub message: String,
    /// True if the item is a dead letter, which a redrive can retry.
    #[serde(default)]
    pub dead_letter: bool,
}
