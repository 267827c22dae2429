//! Batches as Temporal knows them without asking a worker.

use temporalio_common::protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus;

use crate::{base::time::Timestamp, progress::phase::Outcome};

/// A batch in a listing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ListedBatch {
    /// The id of the batch.
    pub batch_id: String,
    /// The name of its processor.
    pub processor: Option<String>,
    /// The batch whose dead letters it redrives, if any.
    pub redrive_of: Option<String>,
    /// The state: running, or the way in which it ended.
    pub state: BatchStatus,
    /// The outcome, if its controller has reported it.
    pub outcome: Option<Outcome>,
    /// The task queue of its workers.
    pub task_queue: String,
    /// The start of the batch run. If no worker has started it yet, the time at which the server accepted it.
    pub started_at: Option<Timestamp>,
    /// The end of the batch.
    pub ended_at: Option<Timestamp>,
}

/// The state of a batch as Temporal knows it without asking a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BatchStatus {
    /// The batch has not ended.
    Running,
    /// The batch completed; some pages or items may be listed as failed.
    Completed,
    /// The batch stopped by itself, or was refused.
    Failed,
    /// The batch was cancelled.
    Cancelled,
    /// The workflow was terminated by force.
    Terminated,
    /// The workflow exceeded its time limit.
    TimedOut,
    /// A state that is newer than this program.
    Unknown,
}

impl BatchStatus {
    /// Returns whether the batch has not ended.
    pub fn is_open(self) -> bool {
        self == Self::Running
    }
}

impl std::fmt::Display for BatchStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Terminated => "terminated",
            Self::TimedOut => "timed out",
            Self::Unknown => "unknown",
        })
    }
}

impl From<TemporalStatus> for BatchStatus {
    fn from(status: TemporalStatus) -> Self {
        match status {
            TemporalStatus::Running | TemporalStatus::ContinuedAsNew => Self::Running,
            TemporalStatus::Completed => Self::Completed,
            TemporalStatus::Failed => Self::Failed,
            TemporalStatus::Canceled => Self::Cancelled,
            TemporalStatus::Terminated => Self::Terminated,
            TemporalStatus::TimedOut => Self::TimedOut,
            _ => Self::Unknown,
        }
    }
}
