//! What Temporal knows of batches without asking a worker.

use temporalio_common::protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus;

use crate::{base::time::Timestamp, progress::phase::Outcome};

/// A batch in a listing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ListedBatch {
    /// The batch.
    pub batch_id: String,
    /// Its processor.
    pub processor: Option<String>,
    /// The batch whose dead letters it redrives, if it does.
    pub redrive_of: Option<String>,
    /// Whether it runs, and how it ended.
    pub state: BatchState,
    /// How it ended, where its controller has told it.
    pub outcome: Option<Outcome>,
    /// The queue on which its workers poll.
    pub task_queue: String,
    /// When the batch run started; of a batch that no worker has begun with, when it was left with the server.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What Temporal knows of a batch without asking a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BatchState {
    /// It has not ended.
    Running,
    /// It came to its end; some pages or items may be listed as failed.
    Completed,
    /// It stopped by itself, or was refused.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Somebody ended its workflow by force.
    Terminated,
    /// Its workflow ran out of the time it had been given.
    TimedOut,
    /// Something newer than this program.
    Unknown,
}

impl BatchState {
    /// Whether the batch has not ended.
    pub fn is_open(self) -> bool {
        self == Self::Running
    }
}

impl std::fmt::Display for BatchState {
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

impl From<TemporalStatus> for BatchState {
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
