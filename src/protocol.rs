//! Every name and payload that is stored in a history.
//!
//! Histories outlive deployments: a name here never changes, a field never changes its meaning, and a new
//! field has a serde default. The state carried over a continue-as-new is [`Carry`], with the
//! [`Ledger`] in it under the same rules. Histories recorded by every released version are replayed in
//! the tests.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    batch::BatchSpec,
    ledger::Ledger,
    page::PageToken,
    progress::{FailedItem, ItemCounts, Timestamp},
    retry::{RetryMode, RetryPolicy},
};

/// Version written into new histories.
pub(crate) const VERSION: u32 = 1;

/// Type of the controller workflow.
pub(crate) const CONTROLLER: &str = "temporal-batch.controller";

/// Activity that looks up the processor.
pub(crate) const PREPARE: &str = "temporal-batch.prepare";
/// Activity that runs a stride.
pub(crate) const STRIDE: &str = "temporal-batch.stride";
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry: Option<Carry>,
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
}

/// What operators can change while the batch runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Controls {
    pub max_parallelism: u32,
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub pause_reason: Option<String>,
}

/// Input of the prepare activity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PrepareInput {
    pub processor: String,
    pub args: serde_json::Value,
    #[serde(default)]
    pub first_cursor: Option<PageToken>,
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
}

/// Argument of the `set` update. What is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SetRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallelism: Option<u32>,
}

/// Error type of a controller that fails with a [`BatchReport`](crate::BatchReport) in its details.
pub(crate) const BATCH_FAILED: &str = "BatchFailed";

/// Error type of a controller whose batch was refused before its first page.
pub(crate) const BATCH_REFUSED: &str = "BatchRefused";
