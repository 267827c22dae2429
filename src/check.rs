//! Looking at what a batch did: between its stages, at its end, and later.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{interruption::Interruption, page::PageToken, processor::PageProcessor};

/// What [`PageProcessor::check`] looks at.
pub struct CheckContext<P: PageProcessor> {
    pub(crate) args: Arc<P::Args>,
    pub(crate) batch_id: Arc<str>,
    pub(crate) batch_run: Arc<str>,
    /// `None`: all of the data.
    pub(crate) covered_to: Option<P::Cursor>,
    pub(crate) cancelled: Interruption,
}

impl<P: PageProcessor> CheckContext<P> {
    /// The arguments of the batch, as [`prepare`](PageProcessor::prepare) completed them.
    pub fn args(&self) -> &P::Args {
        &self.args
    }

    /// The id of the batch.
    pub fn batch_id(&self) -> &str {
        &self.batch_id
    }

    /// The execution of the batch; see [`PageContext::batch_run`](crate::PageContext::batch_run).
    pub fn batch_run(&self) -> &str {
        &self.batch_run
    }

    /// Everything up to and including this cursor is finished, and what comes after it need not be. `None`
    /// once the last page is finished.
    pub fn covered_to(&self) -> Option<&P::Cursor> {
        self.covered_to.as_ref()
    }

    /// Resolves when the check should end early: the batch is cancelled, or the worker stops.
    pub async fn cancelled(&self) {
        self.cancelled.comes().await;
    }
}

/// Ranges that are described in a [`Check`].
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
