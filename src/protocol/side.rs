//! Orders and answers of the side activities.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Timestamp,
    batch::{
        pace_settings::window::Window,
        partition_spec::PartitionSpec,
        retry::{RetryMode, RetryPolicy},
        spec::HookNames,
    },
    page::{
        size::{Certainty, Size},
        token::PageToken,
    },
    processor::{hooks::HookCall, reducer::Plan, throttle::Verdict},
    progress::{check::Check, report::BatchReport},
};

/// Input of the prepare activity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PrepareInput {
    pub processor: String,
    pub args: serde_json::Value,
    pub first_cursor: Option<PageToken>,
    /// The batch is a redrive: its items are the dead letters of the processor.
    pub redrive: bool,
    #[serde(default, skip_serializing_if = "HookNames::is_empty")]
    pub hooks: HookNames,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttles: Vec<String>,
    /// The batch that is told what is waited for.
    pub batch_id: String,
    pub batch_run: String,
    /// The processor is to name the partitions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partitioned: bool,
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

/// Input of the activity that keeps the final report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeepReport {
    pub processor: String,
    pub args: serde_json::Value,
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
    pub items_expected: Option<u64>,
    /// That number was counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub items_exact: bool,
    /// The processor keeps dead letters, so that its strides give failed pages up themselves.
    pub dead_letters: bool,
    /// The processor keeps a ledger of the pages that it applied.
    pub once_per_page: bool,
    /// The arguments as the processor completed them, where it changed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<serde_json::Value>,
    /// What the outputs of the pages are folded by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducer: Option<Plan>,
    /// The partitions that the processor named. They are kept elsewhere from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionSpec>,
    /// The processor can split a range.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub splits: bool,
    /// The processor takes a permit of the rate for each item.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permit_per_item: bool,
}

impl Prepared {
    /// How many items the batch has.
    #[cfg_attr(not(feature = "temporal"), allow(dead_code, reason = "for the engine"))]
    pub fn size(&self) -> Size {
        let certainty = match self.items_exact {
            true => Certainty::Exact,
            false => Certainty::Estimate,
        };
        Size::of(self.items_expected, certainty)
    }
}

/// Input of the activity that works out windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WindowsOrder {
    pub windows: Vec<Window>,
    pub from: Timestamp,
}

/// Input of the activity that asks the throttles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThrottleOrder {
    pub batch_id: String,
    pub batch_run: String,
    pub throttles: Vec<String>,
}

/// Payload of the `throttled` signal: what the throttles of a batch say together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThrottleNews {
    pub batch_run: String,
    pub verdict: Verdict,
    /// The throttle that decides.
    pub by: String,
}

/// Input of the activity that takes a lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LockOrder {
    pub name: String,
    pub batch_id: String,
    pub batch_run: String,
    /// Wait for it; refused otherwise.
    pub wait: bool,
}

/// Payload of the `lock_held` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LockHeld {
    pub batch_run: String,
    /// The batch that has the lock.
    pub by: String,
}

/// Payload of the `waits` signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitNews {
    pub batch_run: String,
    pub for_what: WaitsFor,
    /// Why the last attempt failed; the next one follows. Absent: the processor takes its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The event that the processor waits for, in words for people, where it has told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// No worker has been found that has the processor; the error says that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// Work of a processor beside the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WaitsFor {
    Prepare,
    Check,
}

/// Input of the check activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckOrder {
    pub batch_id: String,
    pub batch_run: String,
    pub processor: String,
    pub args: serde_json::Value,
    pub redrive: bool,
    /// Where the batch began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_from: Option<PageToken>,
    /// Everything up to here is finished; absent: to the end of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
}

/// Result of the check activity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckAnswer {
    /// Absent where the processor checks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Check>,
}

/// Input of the activity that combines what pages have put out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CombineOrder {
    pub processor: String,
    pub args: serde_json::Value,
    /// At least two.
    pub parts: Vec<serde_json::Value>,
}

/// Result of the activity that combines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Combined {
    pub part: serde_json::Value,
}

/// Error type where the code of a processor does not come back from combining.
pub(crate) const COMBINE_TIMED_OUT: &str = "CombineTimeout";
