//! Messages between a batch and the controllers of its partitions.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    base::stored::is_default,
    batch::pace_settings::stride::Stride,
    page::token::PageToken,
    progress::{ItemCounts, failures::PageFailure, phase::Phase},
    protocol::steering::PageSizeSetting,
};

use super::message::messages;

messages!(
    SplitOrder,
    SplitAnswer,
    ShareOrder,
    Settled,
    PartitionsOrder,
    PartitionNews
);

/// The partition that a controller runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartOf {
    /// The number of the partition in the batch.
    pub number: u32,
    pub name: String,
    /// The sequence number of the latest order that the controller received.
    pub seq: u64,
    /// True if the controller must report that its strides keep to that order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub says_when_settled: bool,
}

/// Returns the id of a partition's workflow.
pub(crate) fn partition_id(batch_id: &str, number: u32) -> String {
    format!("{batch_id}.p{number}")
}

/// Returns the number of the partition that a workflow of this batch runs.
pub(crate) fn partition_in(batch_id: &str, workflow_id: &str) -> Option<u32> {
    workflow_id
        .strip_prefix(batch_id)?
        .strip_prefix(".p")?
        .parse()
        .ok()
}

/// Input of the activity that watches partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct PartitionsOrder {
    pub batch_id: String,
    pub batch_run: String,
}

/// Payload of the `partition_news` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct PartitionNews {
    pub batch_run: String,
    pub looks: Vec<(u32, PartitionSnapshot)>,
}

/// Payload of the `share` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct ShareOrder {
    pub batch_run: String,
    pub seq: u64,
    pub told: PartitionOrder,
    /// True if the partition must report when its strides keep to the order.
    pub say_when_settled: bool,
}

/// Payload of the `settled` signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct Settled {
    pub batch_run: String,
    pub number: u32,
    pub seq: u64,
}

/// Input of the activity that has a range split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct SplitOrder {
    pub processor: String,
    pub args: serde_json::Value,
    pub partition: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
}

/// Result of the activity that has a range split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct SplitAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<PageToken>,
}

/// Error type of the controller of a partition that was told to stop, with [`EndDetails`].
pub(crate) const PARTITION_STOPPED: &str = "PartitionStopped";

/// The limits and instructions for a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionOrder {
    pub share: Share,
    pub paused: bool,
    pub stop_now: bool,
    /// True if the partition must stop and return the rest of its work.
    pub stop: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_pause: Option<Duration>,
    pub page_size: PageSizeSetting,
    /// The stride length. If absent, the length with which the batch was started applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Stride>,
}

/// The latest known state of a partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionSnapshot {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    pub pages_completed: u64,
    pub pages_failed: u64,
    pub items: ItemCounts,
    #[serde(default, skip_serializing_if = "is_default")]
    pub retries: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub dead_letters: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub announcements_dropped: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub hooks_failed: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub notices_dropped: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub in_flight: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub stuck: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub waiting: u32,
    /// True if the partition has had free slots but no work for them for a while.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_water_mark: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<PageFailure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_reason: Option<String>,
}

/// The part of the limits that belongs to one partition, or to all of them together. An absent rate is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub parallelism: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_rate: Option<f64>,
}
