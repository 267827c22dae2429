//! Orders and reports of strides.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        error::{Blame, MAX_MESSAGE_CHARS, truncate},
        stored::is_default,
        time::Timestamp,
    },
    batch::{
        retry::RetryMode,
        tolerance::{StrideTolerance, Tally},
    },
    page::token::PageToken,
    processor::{
        reducer::{Output, Plan},
        store::page_ledger::StrideTotals,
    },
    progress::{
        ItemCounts,
        failures::{FailedItem, PageFailure},
    },
};

/// Input of the stride activity: a run of consecutive pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideOrder {
    pub batch_run: String,
    pub batch_id: String,
    pub processor: String,
    pub args: serde_json::Value,
    pub stride: u64,
    /// Begin after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    /// The accepted start of the next stride, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    /// Pages to process before the rest is handed over, where `end` is not known.
    pub pages: u32,
    /// Starts of further strides to announce, where `end` is not known and the source can skip ahead.
    pub look_ahead: u32,
    pub page_size: u32,
    /// Attempt at the first page of the order, as the controller counts them.
    pub attempt: u32,
    /// Items per second that this stride may process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_share: Option<f64>,
    pub page_timeout: Duration,
    /// What the controller has counted of this stride already.
    pub done: StrideTotals,
    /// Attempts that a page has in all, extended ones included; `None` is without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_allowed: Option<u32>,
    /// When the first page of the order failed first, if it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// The failures so far speak against the first page of the order: another one takes it apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_apart: bool,
    /// The first page of the order has no attempts left. It is put aside, and not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up: Option<GiveUp>,
    /// The items are dead letters of the processor.
    pub redrive: bool,
    /// The page ledger of the batch has this stride, or the one before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_kept: bool,
    /// Counts the dispatches of the batch run from 1, so that a stride that was told to yield is not told
    /// again when it is dispatched anew.
    pub dispatch: u64,
    /// Pages per second that this stride may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_share: Option<f64>,
    /// Pause before each page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_pause: Option<Duration>,
    /// The throttles that are asked before each page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttles: Vec<String>,
    /// Items to go through at most, what was finished by earlier attempts at the order included. The rest is
    /// given back then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u64>,
    /// What the outputs of the pages are folded by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducer: Option<Plan>,
    /// The length of strides is tuned: this one gives the rest back at the end of a page after this long, and
    /// cuts finer where the data ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// But not finer than into strides of so many pages.
    pub shortest: u32,
    /// The workflow that has the stride, where it is not the one of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// The partition that the stride belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// Where that partition ends, if not with the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<PageToken>,
    /// The workflow id of the bridge that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Items that have been earned under the rate before, so that they may begin at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_ready: u32,
    /// Pages that have been earned before in the same way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_ready: u32,
    /// Items that have to be earned under the rate and not used: once those that are ready are begun, or before any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_owed: u32,
    /// Pages that are owed in the same way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_owed: u32,
    /// The failures with which the rest is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<StrideTolerance>,
}

impl StrideReport {
    /// The items and pages that the stride has done, and those of them that failed.
    pub fn tally(&self) -> Tally {
        let pages_failed = u64::from(self.pages_failed);
        Tally {
            items: self.items.total(),
            items_failed: self.items.failed,
            pages: u64::from(self.pages) + pages_failed,
            pages_failed,
        }
    }
}

impl StrideOrder {
    /// The workflow that has the stride.
    pub fn controller(&self) -> &str {
        self.controller.as_deref().unwrap_or(&self.batch_id)
    }

    /// Temporal's own attempts while workers are lost, before the controller hears of it.
    pub fn attempts_at_lost_workers(&self, mode: RetryMode) -> u32 {
        match mode {
            // What loses its worker while it is put aside is looked at less closely the next time.
            RetryMode::AtLeastOnce if self.give_up.is_none() => 3,
            RetryMode::AtLeastOnce | RetryMode::AtMostOnce => 1,
        }
    }
}

/// Result of the stride activity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideReport {
    /// Everything from the start of the order up to here is finished. `None`: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
    /// The data ends at `covered_to` (or at the start of the order).
    pub end_of_data: bool,
    pub pages: u32,
    pub items: ItemCounts,
    /// The page after `covered_to` failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailedAttempt>,
    /// The first items that were given up; `items.failed` counts all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_items: Vec<FailedItem>,
    /// Pages that the stride itself gave up, as a whole, and kept as dead letters.
    pub pages_failed: u32,
    /// The first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_pages: Vec<PageFailure>,
    /// Why items were skipped, how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
    /// How long the pages of this attempt took.
    pub timing: Timing,
    /// Dead letters that were kept, of items and of pages.
    pub dead_letters: u64,
    /// Items at most that the pages had which the stride gave up as a whole, where a stage limits its items.
    #[serde(default, skip_serializing_if = "is_default")]
    pub items_aside: u64,
    /// What the pages have put out, where the batch has a reducer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// The source was asked to skip ahead, and cannot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cannot_skip: bool,
    /// Items that it has earned under the rate and not begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_left: f64,
    /// The stride was to begin the first page of the batch, and has not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_untouched: bool,
    /// The same under the limit of pages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_untouched: bool,
    /// Pages that it has earned and not begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_left: f64,
}

/// How long pages took: unless said otherwise from the begin of `fetch` to the end of `process`, without the waits
/// for the rate, the throttles and the pause between pages. Failed attempts are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timing {
    /// What the pages were to have.
    pub page_size: u32,
    pub pages: u32,
    pub items: u64,
    pub busy_ms: u64,
    /// Pages with as many items as they were to have; the others say nothing of the page size.
    pub full_pages: u32,
    pub full_busy_ms: u64,
    pub full_slowest_ms: u64,
    /// All pages together, in microseconds, with their waits.
    pub took_us: u64,
}

/// An attempt at a page that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedAttempt {
    /// Where the failed page ends, if its fetch got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_end: Option<PageToken>,
    /// The failed page is the last: the source said so.
    pub last_page: bool,
    pub error_type: String,
    pub message: String,
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// Nothing is wrong with the page: the worker's code does not fit the batch, or the engine could not
    /// do its part. Such attempts are not counted against the page.
    pub not_the_page: bool,
    /// The page was given up, and nobody knows where the next one starts.
    pub coverage_stops: bool,
    /// Its worker was lost, so that it is not known how far the attempt came.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// A page of a processor that runs at most once could not be read, so its `process` has not begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
    /// Whom it speaks against.
    #[serde(default, skip_serializing_if = "Blame::is_moment")]
    pub blame: Blame,
}

/// Attempts to read a page, where the policy of its processor does not say: it allows one attempt to process it, or the
/// page is given up.
pub(crate) const MOST_READS: u32 = 10;

impl FailedAttempt {
    /// Where the page ends, and whether the data ends with it, if that is known.
    pub fn known_end(&self) -> Option<(Option<PageToken>, bool)> {
        let known = self.page_end.is_some() || self.last_page;
        known.then(|| (self.page_end.clone(), self.last_page))
    }

    /// An attempt that nobody hears of any more.
    pub fn lost(error_type: String, message: &str) -> Self {
        Self {
            page_end: None,
            last_page: false,
            error_type,
            message: truncate(message, MAX_MESSAGE_CHARS),
            retryable: true,
            retry_after: None,
            not_the_page: false,
            coverage_stops: false,
            lost: true,
            unread: false,
            blame: Blame::Moment,
        }
    }
}

/// A page without attempts left, which the next activity puts aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GiveUp {
    /// How its last attempt failed.
    pub failure: FailedAttempt,
    /// Times that it could not be put aside for a reason that may be its own.
    pub failed: u32,
    /// Workers that were lost while they put it aside.
    pub lost: u32,
}

impl From<FailedAttempt> for GiveUp {
    fn from(failure: FailedAttempt) -> Self {
        Self {
            failure,
            failed: 0,
            lost: 0,
        }
    }
}

/// Payload of the `next_page` signal: the starts of the strides that follow `stride`. None, where pages run at most
/// once: the data ends with the page that the stride is about to process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NextPage {
    pub batch_run: String,
    /// The stride that announces; the first token starts the stride after it.
    pub stride: u64,
    /// The dispatch whose activity announces. Absent in what workers sent before there was this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatch: Option<u64>,
    pub starts: Vec<PageToken>,
}

/// Heartbeat details of a stride: a hint where a later attempt may go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// What is finished, as in a report.
    pub done: StrideReport,
    /// The page that is being worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<RunningPage>,
    /// When this was said, by the clock of the worker.
    pub at: Timestamp,
}

/// A page that is being worked on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningPage {
    pub start: Option<PageToken>,
    pub since: Timestamp,
    pub attempt: u32,
}

/// Argument of the `accepted_end` update.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AcceptedEndRequest {
    pub batch_run: String,
    pub stride: u64,
}

/// Answer of the `accepted_end` update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AcceptedEnd {
    /// Whether the batch run is still the one that was asked about, and the stride is still open.
    pub open: bool,
    pub end: Option<PageToken>,
}
