//! The errors of the client, by operation.

use temporalio_client::errors::ClientError;

use super::{BatchStatus, Remedy};
use crate::{
    base::{
        text::{count, exactly},
        time::Timestamp,
    },
    batch::validate::InvalidBatch,
};

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
        "a batch \"{batch_id}\" is already running; watch that one, or choose another batch id"
    )]
    AlreadyRunning {
        /// The id.
        batch_id: String,
    },
    /// A batch with this id is running and differs from the one to attach to.
    #[error(
        "a batch \"{batch_id}\" is already running and is not the same: {differs}; choose another batch id"
    )]
    RunsDifferently {
        /// The id.
        batch_id: String,
        /// The difference.
        differs: String,
    },
    /// A batch with this id has ended, and a new one would process everything again.
    #[error("a batch \"{batch_id}\" has already ended ({state}); {}", ways(*state))]
    AlreadyEnded {
        /// The id.
        batch_id: String,
        /// The state in which it ended.
        state: BatchStatus,
    },
    /// The batch cannot continue.
    #[error("batch \"{batch_id}\" cannot be continued: {why}")]
    CannotContinue {
        /// The id.
        batch_id: String,
        /// The reason, with a way out.
        why: String,
    },
    /// The server did not accept the batch.
    #[error("the server did not start the batch")]
    Server {
        /// The server's error.
        source: Source,
    },
}

/// Returns the options for a batch that has ended.
fn ways(state: BatchStatus) -> &'static str {
    match state {
        BatchStatus::Failed | BatchStatus::Cancelled => {
            "continue it from where it stopped, allow a rerun to run everything again, or choose another \
             batch id"
        }
        _ => "choose another batch id, or allow a rerun to run everything again",
    }
}

/// A batch was not accepted by a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// A worker refused the batch before the first page. The batch has ended.
    #[error("{reason}")]
    Refused {
        /// The reason.
        reason: String,
    },
    /// The state of the batch could not be read, so it is unknown whether a worker accepted it.
    #[error(transparent)]
    Unknown(#[from] ProgressError),
    /// The batch waits because the workers of its task queue do not have its processor. It continues once a
    /// worker with the processor polls the queue.
    #[error("the batch waits: {reason}")]
    NoProcessor {
        /// The missing processor, and the processors of the worker that was asked.
        reason: String,
    },
}

/// Progress could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgressError {
    /// The server has no such batch.
    #[error("there is no batch \"{batch_id}\" (see `list`)")]
    NotFound {
        /// The id.
        batch_id: String,
    },
    /// The task queue has no worker that answers.
    #[error("no worker answered for batch \"{batch_id}\"; start one on its task queue")]
    NoWorker {
        /// The id.
        batch_id: String,
    },
    /// Workers poll, but none can replay the history of the batch's current run: its code differs from the code
    /// that wrote it, or the history is damaged. Nothing is lost, and the batch stands still until a worker
    /// can. If no such worker can be deployed, see [`BatchHandle::recover`](super::BatchHandle::recover).
    #[error(
        "the workflow task of batch \"{batch_id}\" has failed {} in a row, so the batch stands still; {remedy}",
        count(u64::from(*times), "time")
    )]
    TaskFails {
        /// The id.
        batch_id: String,
        /// The number of failed attempts so far.
        times: u32,
        /// The way to end the standstill.
        remedy: Remedy,
    },
    /// The server did not answer.
    #[error("the server did not answer")]
    Server {
        /// The server's error.
        source: Source,
    },
}

fn ago(earlier: Timestamp, now: Timestamp) -> String {
    exactly(now.since(earlier))
}

/// A request to a batch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A value is not allowed. The request was not sent.
    #[error(transparent)]
    Invalid(#[from] InvalidBatch),
    /// The request names no setting. It was not sent.
    #[error("no setting is given; name at least one")]
    NothingToSet,
    /// The pause would already be over. The request was not sent.
    #[error("the pause would already be over: its end was {} ago", ago(*until, *now))]
    PauseIsOver {
        /// The end of the pause.
        until: Timestamp,
        /// The time of this machine.
        now: Timestamp,
    },
    /// The controller refused the request.
    #[error("the batch refused this: {reason}")]
    Refused {
        /// The reason.
        reason: String,
    },
    /// The server has no such batch.
    #[error("there is no batch \"{batch_id}\" (see `list`)")]
    NotFound {
        /// The id.
        batch_id: String,
    },
    /// The batch has ended.
    #[error("batch \"{batch_id}\" is no longer running ({state})")]
    NotRunning {
        /// The id.
        batch_id: String,
        /// The state in which it ended.
        state: BatchStatus,
    },
    /// Workers poll, but none can replay the history of the batch's current run; see
    /// [`ProgressError::TaskFails`]. The request was not sent.
    #[error(transparent)]
    TaskFails(ProgressError),
    /// The server did not accept the request.
    #[error("the server did not answer")]
    Server {
        /// The server's error.
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
        /// The reason.
        reason: String,
    },
    /// The workflow was ended from outside, so the batch could not report.
    #[error("the batch was {state} from outside and left no report")]
    NoReport {
        /// The state in which it ended.
        state: BatchStatus,
    },
    /// The server has no such batch.
    #[error("there is no batch \"{batch_id}\" (see `list`)")]
    NotFound {
        /// The id.
        batch_id: String,
    },
    /// The server did not answer.
    #[error("the server did not answer")]
    Server {
        /// The server's error.
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
