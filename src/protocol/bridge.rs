//! Messages between a controller and its bridges.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    batch::retry::RetryMode,
    protocol::{StrideOrder, StrideReport},
};

/// Input of a bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeInput {
    pub batch_run: String,
    /// The workflow id of the controller whose strides these are.
    pub controller: String,
    pub terms: StrideTerms,
    pub orders: Vec<StrideOrder>,
}

/// The settings with which the activities of strides are scheduled. They are the same for a whole batch run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideTerms {
    pub retry_mode: RetryMode,
    pub heartbeat_timeout: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
}

/// Payload of the `orders` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeOrders {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<StrideOrder>,
    /// True if no more orders follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// Payload of the `bridge_results` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeResults {
    pub batch_run: String,
    /// The workflow id of the bridge. It is needed because a reset restarts the numbers of dispatches.
    pub bridge: String,
    pub results: Vec<BridgeResult>,
}

/// The result of one stride on a bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeResult {
    pub stride: u64,
    pub dispatch: u64,
    pub report: StrideReport,
}

/// Input of the activity that watches bridges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeWatch {
    pub bridges: Vec<String>,
}

/// The largest number of results in one signal. A report can be several kilobytes long.
pub(crate) const RESULTS_AT_ONCE: usize = 20;
