//! Progress of the partitions and stages of a batch.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    page::{
        size::{Size, Stand},
        token::PageToken,
    },
    progress::ItemCounts,
};

/// How many [partitions](crate::PageProcessor::partitions) a batch has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionCounts {
    /// All of them. It grows when one is split.
    pub total: u32,
    /// Those whose controller runs.
    pub running: u32,
    /// Those that are done.
    pub finished: u32,
}

/// Where a [partition](crate::PageProcessor::partitions) stands. Counts of one that runs are some seconds old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// What the processor calls it. The rest of one that was split is called `name/number`.
    pub name: String,
    /// What it is doing.
    pub state: PartitionState,
    /// Pages finished.
    pub pages_completed: u64,
    /// Pages given up.
    pub pages_failed: u64,
    /// Pages in flight.
    pub pages_in_flight: u32,
    /// Its share of the limit on pages in flight.
    pub max_parallelism: u32,
    /// Items by outcome.
    pub items: ItemCounts,
    /// Items that it has, where that is known: about as many as its processor said, and those that are done once it
    /// is finished. Never less than what is done.
    #[serde(default)]
    pub items_expected: Option<u64>,
    /// Everything of it up to here is finished. `None` where nothing is yet, and where everything is.
    #[serde(default)]
    pub low_water_mark: Option<PageToken>,
}

/// What a partition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartitionState {
    /// Its controller runs.
    Running,
    /// It has not begun, or has stopped before its end.
    Waiting,
    /// Its controller was ended from outside.
    Lost,
    /// It is done.
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

/// Where a batch with [stages](crate::Batch::stages) stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageProgress {
    /// The number of the current stage, from 1.
    pub number: u32,
    /// How many there are, the last one, which is everything, included.
    pub of: u32,
    /// What it was called when the batch was started, `100items`, `1%` or `all`.
    pub stage: String,
    /// Items in all at which it is over; absent for the last one.
    #[serde(default)]
    pub items: Option<u64>,
    /// What it is doing.
    pub state: StageState,
    /// Why it waits.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What a stage is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StageState {
    /// Its items are being processed.
    #[default]
    Running,
    /// They are done, and looked at.
    Checking,
    /// It was asked that somebody approves it.
    WaitingForApproval,
    /// Its check does not hold, or more failed than is tolerated. Somebody can approve it all the same.
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
    /// Leaves what may be shown of the size of a partition of a batch that stands so.
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

    /// Share of its items that are done, from 0 to 100, where their number is known.
    pub fn percent(&self) -> Option<f64> {
        let size = Size::from_hint(self.items_expected);
        size.percent(self.items.total(), self.stand(Stand::Underway))
    }
}
