//! The numbers that a fan-out tells while it runs, and its report.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::outcome::FailedItem;

/// The numbers of a fan-out at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Items that have ended, failed ones included.
    pub completed: u64,
    /// Items so far. With a list of items the number is final from the beginning. An item of a source that repeats an id from
    /// thousands of items before is part of it until its start is refused.
    pub total: u64,
    /// Items that have failed. They are part of `completed`.
    pub failed: u64,
    /// Items whose child has been started and has not ended.
    pub in_flight: u64,
    /// Items that were left out because an earlier item has the same id.
    pub duplicates: u64,
    /// True once all items have been read from their source.
    pub all_read: bool,
}

/// The outcome of a fan-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FanoutOutcome {
    /// Every item has ended, and no more failed than are tolerated.
    Completed,
    /// An item failed in fail-fast mode, more items failed than are tolerated, or the items could not be read or
    /// aggregated.
    Failed,
    /// The fan-out was cancelled.
    Cancelled,
}

/// The report of a fan-out that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FanoutReport {
    /// The id of the fan-out.
    pub id: String,
    /// The outcome of the fan-out.
    pub outcome: FanoutOutcome,
    /// The reason why the fan-out did not complete.
    pub reason: Option<String>,
    /// The last numbers.
    pub progress: Progress,
    /// Items that were read and not started, because the fan-out stopped early.
    pub not_started: u64,
    /// Reports by signal that belong to no item, or to an item that was counted long before.
    pub stray_reports: u64,
    /// The first 50 failed items, in the order in which they failed.
    pub failures: Vec<FailedItem>,
    /// The aggregated result: by default `{batch_id, total_items, summary, completed_at}`. `None` if the fan-out was
    /// cancelled or could not aggregate.
    pub result: Option<Value>,
    /// The number of workflow runs, one more than the times it continued as new.
    pub runs: u32,
}
