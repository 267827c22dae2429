//! What can go wrong, by what was asked.

use temporalio_client::errors::ClientError;

use super::{BatchState, Remedy};
use crate::{base::time::Timestamp, batch::validate::InvalidBatch};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A batch could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidBatch),
    /// A batch with this id is running. Attach to it, or choose another id.
    #[error(
        "a batch \"{batch_id}\" is running already; watch that one, or choose another batch id"
    )]
    AlreadyRunning {
        /// The id.
        batch_id: String,
    },
    /// A batch with this id is running, and is not the one that would be attached to.
    #[error(
        "a batch \"{batch_id}\" is running already and is not the same: {differs}; choose another batch id"
    )]
    RunsDifferently {
        /// The id.
        batch_id: String,
        /// What is not the same.
        differs: String,
    },
    /// A batch with this id has ended. Everything would be run again.
    #[error("a batch \"{batch_id}\" has ended already ({state}); {}", ways(*state))]
    AlreadyEnded {
        /// The id.
        batch_id: String,
        /// How it ended.
        state: BatchState,
    },
    /// The batch cannot go on where it stood.
    #[error("batch \"{batch_id}\" cannot be continued: {why}")]
    CannotContinue {
        /// The id.
        batch_id: String,
        /// Why, and what can be done.
        why: String,
    },
    /// The server did not take it.
    #[error("the server did not start the batch")]
    Server {
        /// What it said.
        source: Source,
    },
}

/// What can be done about a batch that has ended.
fn ways(state: BatchState) -> &'static str {
    match state {
        BatchState::Failed | BatchState::Cancelled => {
            "continue it to go on where it stood, allow a rerun to run everything again, or choose another \
             batch id"
        }
        _ => "choose another batch id, or allow a rerun to run everything again",
    }
}

/// A batch was not accepted by a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// A worker refused it before the first page. The batch has ended.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// It could not be seen whether one did.
    #[error(transparent)]
    Unknown(#[from] ProgressError),
    /// The batch waits, since the workers of its task queue do not have its processor. It goes on once one comes that
    /// has.
    #[error("the batch waits: {reason}")]
    NoProcessor {
        /// The processor that is missing, and the processors of the worker that was asked.
        reason: String,
    },
}

/// Progress could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgressError {
    /// The server knows no such batch.
    #[error("there is no batch \"{batch_id}\" (see `list`)")]
    NotFound {
        /// The id.
        batch_id: String,
    },
    /// Nobody who could answer polls the task queue.
    #[error("no worker answered for batch \"{batch_id}\"; start one on its task queue")]
    NoWorker {
        /// The id.
        batch_id: String,
    },
    /// Workers poll, but none can go on with the history of the batch's current run: its code is older or newer
    /// than what wrote it, or the history is damaged. Nothing is lost, and the batch stands still until one can.
    /// Where none will, see [`BatchHandle::recover`](super::BatchHandle::recover).
    #[error(
        "the workflow task of batch \"{batch_id}\" has failed {times} times in a row, so the batch stands \
         still; {remedy}"
    )]
    TaskFails {
        /// The id.
        batch_id: String,
        /// Attempts that failed so far.
        times: u32,
        /// What ends the standstill.
        remedy: Remedy,
    },
    /// The server did not answer.
    #[error("the server did not answer")]
    Server {
        /// What it said.
        source: Source,
    },
}

fn ago(earlier: Timestamp, now: Timestamp) -> String {
    humantime::format_duration(now.since(earlier)).to_string()
}

/// A batch could not be steered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A value is not allowed. Nothing was sent.
    #[error(transparent)]
    Invalid(#[from] InvalidBatch),
    /// No setting was named. Nothing was sent.
    #[error("nothing is to be set; name at least one setting")]
    NothingToSet,
    /// The pause would be over before it began. Nothing was sent.
    #[error("the pause is over already: its end was {} ago", ago(*until, *now))]
    PauseIsOver {
        /// When the pause was to end.
        until: Timestamp,
        /// The time of this machine.
        now: Timestamp,
    },
    /// The controller refused it.
    #[error("the batch refused this: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The server knows no such batch.
    #[error("there is no batch \"{batch_id}\" (see `list`)")]
    NotFound {
        /// The id.
        batch_id: String,
    },
    /// It has ended.
    #[error("batch \"{batch_id}\" is not running any more ({state})")]
    NotRunning {
        /// The id.
        batch_id: String,
        /// How it ended.
        state: BatchState,
    },
    /// Workers poll, but none can go on with the history of the batch's current run; see
    /// [`ProgressError::TaskFails`]. Nothing was sent.
    #[error(transparent)]
    TaskFails(ProgressError),
    /// The server did not take it.
    #[error("the server did not answer")]
    Server {
        /// What it said.
        source: Source,
    },
}

/// A batch has no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// A worker refused the batch before the first page.
    #[error("the batch was refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Its workflow was ended from outside, so the batch could not report.
    #[error("the batch was {state} from outside and left no report")]
    NoReport {
        /// How it ended.
        state: BatchState,
    },
    /// The server knows no such batch.
    #[error("there is no batch \"{batch_id}\" (see `list`)")]
    NotFound {
        /// The id.
        batch_id: String,
    },
    /// The server did not answer.
    #[error("the server did not answer")]
    Server {
        /// What it said.
        source: Source,
    },
}

/// The batches could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("the server did not list its batches")]
pub struct ListError {
    #[from]
    source: ClientError,
}
