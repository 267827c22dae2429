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

use super::message::messages;

messages!(
    StrideReport,
    StrideOrder,
    NextPage,
    Checkpoint,
    AcceptedEndRequest,
    AcceptedEnd
);

/// Input of the stride activity: a run of consecutive pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct StrideOrder {
    pub batch_run: String,
    pub batch_id: String,
    pub processor: String,
    pub args: serde_json::Value,
    pub stride: u64,
    /// The token after which the stride begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    /// The accepted start of the next stride, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    /// The number of pages to process before the rest is handed over, where `end` is not known.
    pub pages: u32,
    /// The number of further strides whose starts to announce, where `end` is not known and the source can skip
    /// ahead.
    pub look_ahead: u32,
    pub page_size: u32,
    /// The number of the attempt at the first page of the order, as the controller counts.
    pub attempt: u32,
    /// Items per second that this stride may process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_share: Option<f64>,
    pub page_timeout: Duration,
    /// The totals of this stride that the controller has already counted.
    pub done: StrideTotals,
    /// The total number of attempts that a page has, extended ones included; `None` means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_allowed: Option<u32>,
    /// The time at which the first page of the order first failed, if it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// True if the failures so far point to the first page of the order, so that another failure makes the stride
    /// bisect it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_apart: bool,
    /// Present if the first page of the order has no attempts left. The page is put aside and not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up: Option<GiveUp>,
    /// The items are dead letters of the processor.
    pub redrive: bool,
    /// The page ledger of the batch has this stride, or the one before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_kept: bool,
    /// The number of the dispatch, counted from 1 in the batch run. An instruction to yield names this number, so it
    /// does not apply to a later dispatch of the same stride.
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
    /// The largest number of items to process, including those finished by earlier attempts at the order. The stride
    /// then gives the rest back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u64>,
    /// The reducer that folds the outputs of the pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducer: Option<Plan>,
    /// The time after which this stride gives its remaining pages back, at the end of a page. Present if the stride
    /// length is tuned. The stride then also cuts shorter ones near the end of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// The length, in pages, of the shortest strides that this one cuts.
    pub min_pages_per_stride: u32,
    /// The workflow that has the stride, if it is not the workflow of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// The partition that the stride belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// The end of that partition, if it is not the end of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<PageToken>,
    /// The workflow that owns the activity, if it is not the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The number of items that were earned under the rate before, so that they may begin at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_ready: u32,
    /// The number of pages that were earned in the same way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_ready: u32,
    /// The number of items to be earned under the rate but not used: after the ready ones have begun, or before any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_owed: u32,
    /// The number of pages that are owed in the same way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_owed: u32,
    /// The tolerance beyond which the stride gives the rest back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<StrideTolerance>,
}

/// The settings with which the activities of strides are scheduled. They are the same for a whole batch run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideTerms {
    pub retry_mode: RetryMode,
    pub heartbeat_timeout: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
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

    /// The number of Temporal's own attempts while workers are lost, before the controller is informed.
    pub fn attempts_at_lost_workers(&self, mode: RetryMode) -> u32 {
        match mode {
            // A page that lost its worker while it was put aside is examined less closely the next time.
            RetryMode::AtLeastOnce if self.give_up.is_none() => 3,
            RetryMode::AtLeastOnce | RetryMode::AtMostOnce => 1,
        }
    }
}

/// Result of the stride activity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct StrideReport {
    /// The point up to which all pages from the start of the order are finished. `None` if no page is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
    /// The data ends at `covered_to` (or at the start of the order).
    pub end_of_data: bool,
    pub pages: u32,
    pub items: ItemCounts,
    /// The page after `covered_to` failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailedAttempt>,
    /// The first abandoned items; `items.failed` counts all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_items: Vec<FailedItem>,
    /// The number of pages that the stride itself abandoned whole and kept as dead letters.
    pub pages_failed: u32,
    /// The first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_pages: Vec<PageFailure>,
    /// The reasons why items were skipped, with their counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
    /// The durations of this attempt's pages.
    pub timing: Timing,
    /// The number of dead letters that were kept, of items and of pages.
    pub dead_letters: u64,
    /// Upper bound on the items in pages that the stride abandoned whole, where a stage limits its items.
    #[serde(default, skip_serializing_if = "is_default")]
    pub items_in_abandoned_pages: u64,
    /// The folded outputs of the pages, where the batch has a reducer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// True if the source was asked to skip ahead but cannot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cannot_skip: bool,
    /// The number of items that the stride has earned under the rate but not begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_left: f64,
    /// True if the stride should have begun the first page of the batch but has not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_untouched: bool,
    /// The same under the limit of pages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_untouched: bool,
    /// The number of pages that the stride has earned but not begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page_rate_left: f64,
}

/// The durations of pages. Unless stated otherwise they run from the start of `fetch` to the end of `process`,
/// without the waits for the rate, for the throttles and between pages. Failed attempts are not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timing {
    /// The requested number of items per page.
    pub page_size: u32,
    pub pages: u32,
    pub items: u64,
    pub busy_ms: u64,
    /// The number of pages with as many items as requested. Shorter pages say nothing about the page size.
    pub full_pages: u32,
    pub full_busy_ms: u64,
    pub full_slowest_ms: u64,
    /// The duration of all pages together, in microseconds, waits included.
    pub took_us: u64,
}

/// An attempt at a page that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedAttempt {
    /// The end of the failed page, if its fetch got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_end: Option<PageToken>,
    /// True if the failed page is the last one, according to the source.
    pub last_page: bool,
    pub error_type: String,
    pub message: String,
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// True if the environment is at fault and not the page. Such attempts are not counted against the page.
    pub not_the_page: bool,
    /// True if the page was abandoned and the start of the next one is unknown.
    pub coverage_stops: bool,
    /// True if the worker was lost, so that the extent of the attempt's work is unknown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// True if a page of an at-most-once processor could not be read, so that its `process` has not begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
    /// The cause that the failure points to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub blame: Blame,
}

/// The largest number of attempts to read a page, where the policy of its processor does not say: the policy allows
/// only one attempt to process the page, or the page is abandoned.
pub(crate) const MOST_READS: u32 = 10;

impl FailedAttempt {
    /// Returns the end of the page, and whether the data ends there, if this is known.
    pub fn known_end(&self) -> Option<(Option<PageToken>, bool)> {
        let known = self.page_end.is_some() || self.last_page;
        known.then(|| (self.page_end.clone(), self.last_page))
    }

    /// Returns the failure of an attempt that will never report.
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
    /// The failure of the page's last attempt.
    pub failure: FailedAttempt,
    /// The number of failures to put the page aside for a reason that may lie in the page.
    pub failed: u32,
    /// The number of workers that were lost while they put the page aside.
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

/// Payload of the `next_page` signal: the starts of the strides that follow `stride`. If pages run at most once, an
/// empty list means that the data ends with the page that the stride is about to process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct NextPage {
    pub batch_run: String,
    /// The stride that announces; the first token starts the stride after it.
    pub stride: u64,
    /// The dispatch whose activity announces.
    pub dispatch: u64,
    pub starts: Vec<PageToken>,
}

/// Heartbeat details of a stride: a hint where a later attempt may continue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct Checkpoint {
    /// The finished work, as in a report.
    pub done: StrideReport,
    /// The page that is being worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<RunningPage>,
    /// The time of the checkpoint, by the clock of the worker.
    pub at: Timestamp,
}

/// A page that is being worked on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningPage {
    pub start: Option<PageToken>,
    pub since: Timestamp,
    pub attempt: u32,
    /// The end of the page, once its items are processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    /// The items that are done, if the processor tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemMark>,
}

/// A place inside a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ItemMark {
    /// The number of items from the beginning of the page that are done.
    pub done: u64,
    /// The number of all its items.
    pub of: u64,
}

/// Argument of the `accepted_end` update.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct AcceptedEndRequest {
    pub batch_run: String,
    pub stride: u64,
}

/// Answer of the `accepted_end` update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct AcceptedEnd {
    /// True if the batch run is still the one in the request, and the stride is still open.
    pub open: bool,
    pub end: Option<PageToken>,
}
