//! The progress of a batch's partitions and stages.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    page::{
        size::{Size, Stand},
        token::PageToken,
    },
    progress::ItemCounts,
};

/// The number of [partitions](crate::PageProcessor::partitions) by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionCounts {
    /// All partitions. A split adds one.
    pub total: u32,
    /// Partitions whose controller is running.
    pub running: u32,
    /// Partitions that are finished.
    pub finished: u32,
}

/// The state of a [partition](crate::PageProcessor::partitions). The counts of a running partition are a few
/// seconds old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// The processor's name for the partition. The remainder of a split partition is called `name/number`.
    pub name: String,
    /// The current activity of the partition.
    pub state: PartitionState,
    /// Pages that are finished.
    pub pages_completed: u64,
    /// Pages that were given up.
    pub pages_failed: u64,
    /// Pages in flight.
    pub pages_in_flight: u32,
    /// The partition's share of the limit on pages in flight.
    pub max_parallelism: u32,
    /// The number of items by outcome.
    pub items: ItemCounts,
    /// The number of items in the partition, if known: the processor's estimate, or the items done once the
    /// partition is finished. It is never less than the items done.
    #[serde(default)]
    pub items_expected: Option<u64>,
    /// The cursor up to which everything is finished. `None` if nothing is finished yet, and if everything is.
    #[serde(default)]
    pub low_water_mark: Option<PageToken>,
}

/// The activity of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartitionState {
    /// The controller of the partition is running.
    Running,
    /// The partition has not started, or has stopped before its end.
    Waiting,
    /// The controller of the partition was ended from outside.
    Lost,
    /// The partition is finished.
    Finished,
}

impl fmt::Display for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Lost => "lost",
            Self::Finished => "finished",
        })
    }
}

/// The state of a batch with [stages](crate::Batch::stages).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageProgress {
    /// The number of the current stage, from 1.
    pub number: u32,
    /// The number of stages, including the last one, which is the rest of the data.
    pub of: u32,
    /// The stage as given at the start: `100items`, `1%` or `all`.
    pub stage: String,
    /// The total number of items at which the stage ends. Absent for the last stage.
    #[serde(default)]
    pub items: Option<u64>,
    /// The current activity of the stage.
    pub state: StageState,
    /// The reason for waiting.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The activity of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StageState {
    /// The items of the stage are being processed.
    #[default]
    Running,
    /// The items are done, and the check is running.
    Checking,
    /// The stage is done, and [`approve_stages`](crate::Batch::approve_stages) requires its approval.
    WaitingForApproval,
    /// The check failed, or there were more failures than tolerated. A person may still approve the stage.
    Failed,
}

impl fmt::Display for StageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Checking => "checking",
            Self::WaitingForApproval => "waiting for approval",
            Self::Failed => "failed",
        })
    }
}

impl PartitionProgress {
    /// Removes the size if it must not be shown while the batch is in this state.
    pub(crate) fn settle(&mut self, batch: Stand) {
        let size = Size::from_hint(self.items_expected);
        self.items_expected = size.shown(self.items.total(), self.stand(batch)).items();
    }

    fn stand(&self, batch: Stand) -> Stand {
        match (self.state, batch) {
            (PartitionState::Finished, _) if self.pages_failed == 0 => Stand::Complete,
            (PartitionState::Finished, _) | (_, Stand::Complete | Stand::Over) => Stand::Over,
            (_, Stand::Underway) => Stand::Underway,
        }
    }

    /// Returns the percentage of items done, from 0 to 100, if the number of items is known.
    pub fn percent(&self) -> Option<f64> {
        let size = Size::from_hint(self.items_expected);
        size.percent(self.items.total(), self.stand(Stand::Underway))
    }
}
