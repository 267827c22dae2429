//! Every name and payload that is stored in a history.
//!
//! Histories outlive deployments: a name here never changes, a field never changes its meaning, and a new
//! field has a serde default. The state carried over a continue-as-new is [`Carry`], with the
//! [`Ledger`] in it under the same rules. Histories recorded by every released version are replayed in
//! the tests.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    audit::{Audit, Given},
    batch::{BatchSpec, HookNames},
    hooks::FailureNotice,
    ledger::Ledger,
    notices::Notices,
    page::PageToken,
    page_ledger::StrideTotals,
    progress::{BatchReport, FailedItem, ItemCounts, PageFailure, Progress, Timestamp},
    retry::{RetryMode, RetryPolicy},
    tolerance::Tally,
};

/// Version written into new histories.
pub(crate) const VERSION: u32 = 1;

/// Type of the controller workflow.
pub(crate) const CONTROLLER: &str = "temporal-batch.controller";

/// Activity that looks up the processor.
pub(crate) const PREPARE: &str = "temporal-batch.prepare";
/// Activity that runs a stride.
pub(crate) const STRIDE: &str = "temporal-batch.stride";
/// Activity that calls a hook of the user's.
pub(crate) const HOOK: &str = "temporal-batch.hook";
/// Activity that keeps the final report with the dead letters.
pub(crate) const KEEP_REPORT: &str = "temporal-batch.keep_report";
/// Signal with the starts of following strides.
pub(crate) const NEXT_PAGE: &str = "next_page";
/// Query for a [`Progress`](crate::Progress).
pub(crate) const PROGRESS: &str = "progress";
/// Query for where a stride ends.
pub(crate) const ACCEPTED_END: &str = "accepted_end";
/// Query for what running strides should do.
pub(crate) const CONTROL: &str = "control";
/// Update that stops dispatching.
pub(crate) const PAUSE: &str = "pause";
/// Update that goes on dispatching.
pub(crate) const RESUME: &str = "resume";
/// Update that changes limits.
pub(crate) const SET: &str = "set";

/// Input of the controller workflow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ControllerInput {
    pub version: u32,
    /// Minted when the batch is started; kept over continue-as-new and reset.
    pub batch_run: String,
    pub spec: BatchSpec,
    /// Who started or continued the batch; absent after a continue-as-new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry: Option<Carry>,
}

/// How a batch, or the rest of one, was begun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// For the audit, such as `start` or `continue`.
    pub action: String,
    #[serde(flatten)]
    pub given: Given,
}

/// Details of a batch that ended before its end: its report, and what it takes to go on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndDetails {
    /// Readers that only know reports find one.
    #[serde(flatten)]
    pub report: BatchReport,
    /// The input of a controller that goes on where this one stood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation: Option<Box<ControllerInput>>,
}

/// What one run of the controller hands to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Carry {
    pub ledger: Ledger,
    pub prepared: Prepared,
    pub controls: Controls,
    pub started_at: Timestamp,
    /// Runs before this one.
    pub runs: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    #[serde(default)]
    pub notices: Notices,
    #[serde(default)]
    pub audit: Audit,
}

/// What operators can change while the batch runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Controls {
    pub max_parallelism: u32,
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub pause_reason: Option<String>,
    /// More failed than is tolerated; until somebody resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tripped: Option<String>,
    /// What had been done and had failed when somebody resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgiven: Option<Tally>,
    /// The batch stops itself, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<String>,
}

/// Input of the prepare activity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PrepareInput {
    pub processor: String,
    pub args: serde_json::Value,
    #[serde(default)]
    pub first_cursor: Option<PageToken>,
    /// The batch is a redrive: its items are the dead letters of the processor.
    #[serde(default)]
    pub redrive: bool,
    #[serde(default, skip_serializing_if = "HookNames::is_empty")]
    pub hooks: HookNames,
}

/// Input of the hook activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HookOrder {
    pub name: String,
    #[serde(flatten)]
    pub call: HookCall,
    /// What one attempt may take.
    pub timeout: Duration,
}

/// What a hook is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "call", rename_all = "snake_case")]
pub(crate) enum HookCall {
    Failure(Box<FailureNotice>),
    Progress(Box<Progress>),
    Completed(Box<BatchReport>),
    Failed(Box<BatchReport>),
}

/// Input of the activity that keeps the final report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeepReport {
    pub processor: String,
    pub report: BatchReport,
}

/// What a worker says about a processor before the first page. Stored, so that a running batch keeps the
/// settings it began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prepared {
    pub retry_mode: RetryMode,
    pub retry: RetryPolicy,
    pub page_timeout: Duration,
    pub heartbeat_timeout: Duration,
    #[serde(default)]
    pub items_expected: Option<u64>,
    /// The processor keeps dead letters, so that its strides give failed pages up themselves.
    #[serde(default)]
    pub dead_letters: bool,
    /// The processor keeps a ledger of the pages that it applied.
    #[serde(default)]
    pub once_per_page: bool,
}

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
    #[serde(default)]
    pub look_ahead: u32,
    pub page_size: u32,
    /// Attempt at the first page of the order, as the controller counts them.
    pub attempt: u32,
    /// Items per second that this stride may process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_share: Option<f64>,
    pub page_timeout: Duration,
    /// What the controller has counted of this stride already.
    #[serde(default)]
    pub done: StrideTotals,
    /// Attempts that a page has in all, extended ones included; `None` is without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_allowed: Option<u32>,
    /// When the first page of the order failed first, if it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// The last attempt at the first page of the order failed like this without giving it up: its worker
    /// was lost. It is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up: Option<FailedAttempt>,
    /// The items are dead letters of the processor.
    #[serde(default)]
    pub redrive: bool,
}

/// Result of the stride activity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideReport {
    /// Everything from the start of the order up to here is finished. `None`: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
    /// The data ends at `covered_to` (or at the start of the order).
    #[serde(default)]
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
    #[serde(default)]
    pub pages_failed: u32,
    /// The first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_pages: Vec<PageFailure>,
    /// Why items were skipped, how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
}

/// An attempt at a page that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedAttempt {
    /// Where the failed page ends, if its fetch got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_end: Option<PageToken>,
    /// The failed page is the last: the source said so.
    #[serde(default)]
    pub last_page: bool,
    pub error_type: String,
    pub message: String,
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// Nothing is wrong with the page: the worker's code does not fit the batch, or the engine could not
    /// do its part. Such attempts are not counted against the page.
    #[serde(default)]
    pub not_the_page: bool,
    /// The page was given up, and nobody knows where the next one starts.
    #[serde(default)]
    pub coverage_stops: bool,
}

/// Payload of the `next_page` signal: the starts of the strides that follow `stride`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NextPage {
    pub batch_run: String,
    /// The stride that announces; the first token starts the stride after it.
    pub stride: u64,
    pub starts: Vec<PageToken>,
}

/// Heartbeat details of a stride: a hint where a later attempt may go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// What is finished, as in a report.
    pub done: StrideReport,
}

/// Argument of the `accepted_end` query.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AcceptedEndQuery {
    pub batch_run: String,
    pub stride: u64,
}

/// Answer of the `accepted_end` query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AcceptedEnd {
    /// Whether the batch run is still the one that was asked about, and the stride is still open.
    pub open: bool,
    #[serde(default)]
    pub end: Option<PageToken>,
}

/// Answer of the `control` query, which every worker asks once a second for each batch whose strides it
/// runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ControlState {
    pub batch_run: String,
    /// Strides should end at the next page boundary: paused, cancelled, or a continue-as-new is due.
    pub stop_at_page_boundary: bool,
}

/// Argument of the `pause` update.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PauseRequest {
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
}

/// Argument of the `resume` update, which may be left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ResumeRequest {
    #[serde(flatten)]
    pub given: Given,
}

/// Argument of the `set` update. What is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SetRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallelism: Option<u32>,
    #[serde(flatten)]
    pub given: Given,
}

/// Error type of a controller that fails with a [`BatchReport`](crate::BatchReport) in its details.
pub(crate) const BATCH_FAILED: &str = "BatchFailed";

/// Error type of a controller whose batch was refused before its first page.
pub(crate) const BATCH_REFUSED: &str = "BatchRefused";

/// Error type of a stride that was given to a worker which does not know its processor.
pub(crate) const UNKNOWN_PROCESSOR: &str = "UnknownProcessor";
