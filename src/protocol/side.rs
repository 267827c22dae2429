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

use super::message::messages;

messages!(
    WindowsOrder,
    WaitNews,
    ThrottleOrder,
    ThrottleNews,
    Prepared,
    PrepareInput,
    LockOrder,
    LockHeld,
    KeepReport,
    HookOrder,
    Combined,
    CombineOrder,
    CheckOrder,
    CheckAnswer
);

/// Input of the prepare activity.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
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
    /// The batch that is told the reason for a wait.
    pub batch_id: String,
    pub batch_run: String,
    /// True if the processor must name the partitions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partitioned: bool,
}

/// Input of the hook activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct HookOrder {
    pub name: String,
    #[serde(flatten)]
    pub call: HookCall,
    /// The timeout of one attempt.
    pub timeout: Duration,
}

/// Input of the activity that keeps the final report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct KeepReport {
    pub processor: String,
    pub args: serde_json::Value,
    pub report: BatchReport,
}

/// The settings of a processor, as a worker reports them before the first page. They are stored, so that a running
/// batch keeps the settings with which it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct Prepared {
    pub retry_mode: RetryMode,
    pub retry: RetryPolicy,
    pub page_timeout: Duration,
    pub heartbeat_timeout: Duration,
    pub items_expected: Option<u64>,
    /// True if `items_expected` was counted rather than estimated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub items_exact: bool,
    /// True if the processor keeps dead letters, so that its strides abandon failed pages themselves.
    pub dead_letters: bool,
    /// True if the processor keeps a ledger of the pages that it applied.
    pub once_per_page: bool,
    /// The arguments as the processor completed them, where it changed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<serde_json::Value>,
    /// The reducer that folds the outputs of the pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducer: Option<Plan>,
    /// The partitions that the processor named. They are kept elsewhere from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionSpec>,
    /// True if the processor can split a range.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub splits: bool,
    /// True if the processor takes a permit of the rate for each item.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permit_per_item: bool,
}

impl Prepared {
    /// Returns the number of items in the batch, with its certainty.
    #[cfg_attr(not(feature = "temporal"), allow(dead_code, reason = "for the engine"))]
    pub fn size(&self) -> Size {
        let certainty = match self.items_exact {
            true => Certainty::Exact,
            false => Certainty::Estimate,
        };
        Size::of(self.items_expected, certainty)
    }
}

/// Input of the activity that computes windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct WindowsOrder {
    pub windows: Vec<Window>,
    pub from: Timestamp,
}

/// Input of the activity that polls the throttles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct ThrottleOrder {
    pub batch_id: String,
    pub batch_run: String,
    pub throttles: Vec<String>,
}

/// Payload of the `throttled` signal: the combined verdict of a batch's throttles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct ThrottleNews {
    pub batch_run: String,
    pub verdict: Verdict,
    /// The throttle that decides.
    pub by: String,
}

/// Input of the activity that takes a lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct LockOrder {
    pub name: String,
    pub batch_id: String,
    pub batch_run: String,
    /// True if the batch waits for the lock. Otherwise it is refused if the lock is taken.
    pub wait: bool,
}

/// Payload of the `lock_held` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct LockHeld {
    pub batch_run: String,
    /// The batch that has the lock.
    pub by: String,
}

/// Payload of the `waits` signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct WaitNews {
    pub batch_run: String,
    pub for_what: WaitsFor,
    /// The error of the last attempt, which will be repeated. Absent if the processor is still working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A human-readable description of what the processor is waiting for, where it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// True if no worker with the processor was found. `error` says so.
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
#[serde(remote = "Self")]
pub(crate) struct CheckOrder {
    pub batch_id: String,
    pub batch_run: String,
    pub processor: String,
    pub args: serde_json::Value,
    pub redrive: bool,
    /// The start of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_from: Option<PageToken>,
    /// The point up to which all pages are finished. Absent if that is the end of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<PageToken>,
}

/// Result of the check activity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct CheckAnswer {
    /// Absent where the processor checks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Check>,
}

/// Input of the activity that combines the outputs of pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct CombineOrder {
    pub processor: String,
    pub args: serde_json::Value,
    /// The partial results to combine, at least two.
    pub parts: Vec<serde_json::Value>,
}

/// Result of the activity that combines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct Combined {
    pub part: serde_json::Value,
}

/// Error type if the code of a processor does not return from combining.
pub(crate) const COMBINE_TIMED_OUT: &str = "CombineTimeout";
