//! Bridges: their names, and the messages between a controller and its bridges.

use serde::{Deserialize, Serialize};

use crate::protocol::{StrideOrder, StrideReport, StrideTerms};

use super::message::messages;

messages!(WatchOrder, StrideResults, BridgeOrders, BridgeInput);

/// Type of the workflow that runs strides over a continue-as-new of their controller.
pub(crate) const BRIDGE: &str = "temporal-batch.bridge";

/// Signal with strides for a bridge.
pub(crate) const BRIDGE_ORDERS: &str = "orders";

/// Signal with the results of strides on a bridge.
pub(crate) const STRIDE_RESULTS: &str = "stride_results";

/// Activity that notices workflows which are gone.
pub(crate) const WATCH_WORKFLOWS: &str = "temporal-batch.watch_workflows";

/// Input of a bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct BridgeInput {
    pub batch_run: String,
    /// The workflow id of the controller whose strides these are.
    pub controller: String,
    pub terms: StrideTerms,
    pub orders: Vec<StrideOrder>,
}

/// Payload of the `orders` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct BridgeOrders {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<StrideOrder>,
    /// True if no more orders follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// Payload of the `stride_results` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct StrideResults {
    pub batch_run: String,
    /// The workflow id of the bridge. It is needed because a reset restarts the numbers of dispatches.
    pub owner: String,
    pub results: Vec<DispatchReport>,
}

/// The report of one dispatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DispatchReport {
    pub stride: u64,
    pub dispatch: u64,
    pub report: StrideReport,
}

/// Input of the activity that watches workflows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct WatchOrder {
    pub workflows: Vec<String>,
}

/// The largest number of results in one signal. A report can be several kilobytes long.
pub(crate) const RESULTS_AT_ONCE: usize = 20;
