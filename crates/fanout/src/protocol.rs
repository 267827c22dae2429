//! Names and payloads that are stored in histories. Names never change, and new fields have a serde default.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    outcome::{ItemFailure, ItemOutcome},
    retry::{Failures, Retry},
    state::Carry,
};

pub(crate) const FANOUT: &str = "temporal-batch.fanout";
pub(crate) const ITEM: &str = "temporal-batch.fanout-item";

pub(crate) const PROCESS: &str = "temporal-batch.fanout-process";
pub(crate) const READ: &str = "temporal-batch.fanout-read";
pub(crate) const AGGREGATE: &str = "temporal-batch.fanout-aggregate";
pub(crate) const ASK: &str = "temporal-batch.fanout-ask";
pub(crate) const WATCH: &str = "temporal-batch.fanout-watch";
pub(crate) const LOOK_UP: &str = "temporal-batch.fanout-look-up";

pub(crate) const ITEM_DONE: &str = "item_done";
pub(crate) const REPORT: &str = "report_by_signal";
pub(crate) const PROGRESS: &str = "progress";
pub(crate) const GET_PROGRESS: &str = "get_progress";
pub(crate) const STATUS: &str = "status";

/// The time limit of a workflow task of a fan-out. A worker that is killed in a task delays the fan-out by that much, and
/// not its children. With the server's default of 10 s a busy worker that has to replay a run of many children would never
/// be done in time, and would replay for ever.
pub(crate) const TASK_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) const MEMO_PROCESSOR: &str = "processor";
pub(crate) const MEMO_CONTENT: &str = "content";

/// The type of the failure with which a fan-out ends; its details are the report.
pub(crate) const FANOUT_FAILED: &str = "FanoutFailed";

/// Returns the task queue of all activities other than those of items, so that items cannot delay them.
pub(crate) fn aside_queue(queue: &str) -> String {
    format!("{queue}.fanout")
}

/// Returns the workflow id of the child of an item.
pub(crate) fn child_id(fanout: &str, item: &str) -> String {
    format!("{fanout}/item/{item}")
}

/// The way in which the parent learns that a child has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The result of the child tells it. This is the default.
    #[default]
    JoinAll,
    /// A signal `item_done` of the child tells it. A child that ends without its signal is counted by its result or failure.
    Signals,
}

/// The reaction to an item that fails.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The other items go on, and the outcome of every item is collected.
    CollectAll {
        /// The failed items that are tolerated.
        tolerate: Tolerate,
    },
    /// The first failure cancels the children that are running, and the fan-out fails.
    FailFast,
}

/// The default is to collect all outcomes and to tolerate every failure.
impl Default for OnFailure {
    fn default() -> Self {
        Self::CollectAll {
            tolerate: Tolerate::All,
        }
    }
}

/// The failed items that a fan-out tolerates before it fails itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerate {
    /// Any number.
    All,
    /// A number of items. With one more, no further items are started, and the fan-out fails once the running ones have
    /// ended.
    Count(u64),
    /// A percentage of all items, from 0 to 100, which is compared at the end.
    Percent(f64),
}

/// The treatment of an item whose id an earlier item has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// The item is left out, and counted as a duplicate. This is the default.
    #[default]
    CountOnce,
    /// A duplicate in a list refuses the start. A duplicate from a source is a failed item.
    Refuse,
}

/// The fate of running children when the fan-out ends before them, because it is terminated or times out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosePolicy {
    /// The children run on. This is the default, because only such children can outlive a continue-as-new.
    #[default]
    Abandon,
    /// The children are asked to cancel. The fan-out waits for its running children before it continues as new.
    RequestCancel,
    /// The children are terminated. The fan-out waits for its running children before it continues as new.
    Terminate,
}

/// The settings of a fan-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FanoutSpec {
    pub id: String,
    /// Unique for each start.
    pub run: String,
    pub processor: String,
    pub mode: Mode,
    pub window: u32,
    pub on_failure: OnFailure,
    pub duplicates: Duplicates,
    pub close: ClosePolicy,
    /// The workflow type of the children, if it is the user's own.
    pub child_type: Option<String>,
    pub child_queue: Option<String>,
    pub retry: Retry,
    pub attempt_timeout: Duration,
    pub heartbeat_timeout: Duration,
    pub execution_timeout: Option<Duration>,
    pub page_size: u32,
    pub events_per_run: u32,
    /// True if the children may have the ids of ended workflows.
    pub rerun: bool,
}

/// The most bytes of all outputs of running children together.
const OUTPUT_BYTES: usize = 500_000;
const LARGEST_OUTPUT: usize = 256 * 1024;

impl FanoutSpec {
    /// Returns the most bytes of one output.
    pub fn output_limit(&self) -> usize {
        (OUTPUT_BYTES / self.window.max(1) as usize).min(LARGEST_OUTPUT)
    }
}

/// The input of a fan-out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FanoutInput {
    pub spec: FanoutSpec,
    pub carry: Carry,
}

/// One item of a list or a page, with its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GivenItem {
    pub id: String,
    pub item: Value,
}

/// The input of a child.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ItemInput {
    pub fanout: String,
    pub fanout_run: String,
    pub item_id: String,
    pub processor: String,
    pub item: Value,
    pub retry: Retry,
    pub attempt_timeout: Duration,
    pub heartbeat_timeout: Duration,
    pub output_limit: usize,
    /// True if the child reports its end by a signal.
    pub reports: bool,
    /// The failures of earlier runs of the child.
    #[serde(default)]
    pub failures: Failures,
}

/// The result of a child of the type [`ITEM`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ItemResult {
    /// The output, unless it was reported.
    #[serde(default)]
    pub output: Option<Value>,
    /// True if the parent has got the output by a signal.
    #[serde(default)]
    pub reported: bool,
}

/// The signal [`ITEM_DONE`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ItemDone {
    pub item_id: String,
    #[serde(default)]
    pub output: Value,
    #[serde(default)]
    pub failure: Option<ItemFailure>,
    /// The start of the fan-out that is meant. A workflow of the user's own need not know it.
    #[serde(default)]
    pub fanout_run: Option<String>,
}

/// One attempt at an item.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessOrder {
    pub fanout: String,
    pub fanout_run: String,
    pub item_id: String,
    pub processor: String,
    pub item: Value,
    pub attempt: u32,
    pub output_limit: usize,
}

/// The details of the failure of an attempt.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AttemptDetails {
    #[serde(default)]
    pub environment: bool,
    #[serde(default)]
    pub delay: Option<Duration>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReadOrder {
    pub processor: String,
    pub source: String,
    pub args: Value,
    /// True once the source has completed its arguments.
    pub prepared: bool,
    pub token: Option<Value>,
    pub limit: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ItemsRead {
    pub items: Vec<GivenItem>,
    pub args: Value,
    /// The start of the next page. `None` at the end.
    pub token: Option<Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AggregateOrder {
    pub processor: String,
    pub fanout: String,
    pub so_far: Option<Value>,
    pub outcomes: Vec<ItemOutcome<Value>>,
    pub last: bool,
}

/// Children of earlier runs that are asked to report by signal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AskOrder {
    pub children: Vec<String>,
}

/// Children of earlier runs that are watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WatchOrder {
    pub children: Vec<WatchedChild>,
    /// True if the children are workflows of the user's own.
    pub of_user: bool,
    /// The most bytes of one output.
    pub output_limit: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WatchedChild {
    pub position: u64,
    pub workflow_id: String,
}

/// The end of a child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChildEnd {
    Done(Value),
    /// The output came by signal.
    Reported,
    Failed(ItemFailure),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndedChild {
    pub position: u64,
    pub end: ChildEnd,
}

/// A child that could not be started because its id was used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LookUpOrder {
    pub workflow_id: String,
    /// The start of the fan-out, and the position of the item.
    pub run: String,
    pub position: u64,
}

/// The workflow that has or had the id of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IdOwner {
    /// The child of the same item.
    Same,
    /// The child of another item of the same start of the fan-out.
    Duplicate,
    /// A workflow that has nothing to do with this start of the fan-out, and has ended.
    Ended,
    /// Such a workflow that runs.
    Running,
    /// The workflow no longer exists.
    Gone,
}

/// Returns the text in the details of a child that tells whose child it is.
pub(crate) fn child_details(run: &str, position: u64) -> String {
    format!("{}{position}", of_start(run))
}

fn of_start(run: &str) -> String {
    format!("start {run}, position ")
}

/// Returns the position of a child of this start, by its details.
pub(crate) fn position_in_details(run: &str, details: &str) -> Option<u64> {
    details.strip_prefix(&of_start(run))?.parse().ok()
}

/// The state of one child, by its query `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemStatus {
    /// The phase of the child.
    pub phase: ItemPhase,
    /// The number of the latest attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// The latest failure.
    pub last_failure: Option<ItemFailure>,
}

/// The phase of the child of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemPhase {
    /// The child waits for its first attempt or for the next one.
    Pending,
    /// An attempt is running, or waits for a worker.
    Running,
    /// The child has ended with an output.
    Done,
    /// The child has failed or was cancelled.
    Failed,
}
