//! Starts batches, and looks at and steers those that run.

use std::{future::Future, time::Duration};

use futures::TryStreamExt as _;
use temporalio_client::{
    Client, WorkflowCancelOptions, WorkflowDescribeOptions, WorkflowExecuteUpdateOptions,
    WorkflowFetchHistoryOptions, WorkflowGetResultOptions, WorkflowHandle, WorkflowHistory,
    WorkflowIdConflictPolicy, WorkflowIdReusePolicy, WorkflowListOptions, WorkflowQueryOptions,
    WorkflowStartOptions,
    errors::{
        ClientError, WorkflowGetResultError, WorkflowInteractionError, WorkflowQueryError,
        WorkflowStartError, WorkflowUpdateError,
    },
    tonic,
};
use temporalio_common::{
    MemoValues,
    error::IncomingError,
    protos::temporal::api::{
        enums::v1::WorkflowExecutionStatus as TemporalStatus, history::v1::History,
    },
};

use crate::{
    batch::{Batch, InvalidBatch, validate_id, validate_max_parallelism},
    connect::{ConnectError, ConnectOptions, connect},
    controller::Controller,
    progress::{BatchReport, Phase, Progress, Timestamp},
    protocol::{self, ControllerInput, PauseRequest, SetRequest},
};

/// Longest wait for a controller to answer; for that a worker has to poll its task queue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The memo field that holds the processor's name, for listings.
const MEMO_PROCESSOR: &str = "processor";

/// Starts batches and finds them again.
///
/// ```no_run
/// # use temporal_batch::*;
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = BatchClient::connect(&ConnectOptions::new()).await?;
/// let batch = Batch::named("hash-emails-2026-11", "hash-emails", serde_json::Value::Null).page_size(500);
/// let handle = client.start(&batch).await?;
/// let report = handle.result().await?;
/// println!("{}: {} items", report.outcome, report.progress.items.processed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BatchClient {
    client: Client,
}

/// # Construct
impl BatchClient {
    /// Connects; see [`connect`].
    ///
    /// # Errors
    /// When the server cannot be reached or the options contradict each other.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ConnectError> {
        Ok(Self::new(connect(options).await?))
    }

    /// Uses a connection that is there already, with its payload codec.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The connection, for [`Worker::new`](crate::Worker::new) and for everything else Temporal can do.
    pub fn temporal(&self) -> &Client {
        &self.client
    }
}

/// # Start and find
impl BatchClient {
    /// Starts a batch as a new batch run.
    ///
    /// Whether a worker knows the processor and understands the arguments shows when one has picked the
    /// batch up: see [`BatchHandle::accepted`].
    ///
    /// # Errors
    /// When a setting is not allowed, when the id is taken, or when the server does not take it. Nothing
    /// was started then.
    pub async fn start(&self, batch: &Batch) -> Result<BatchHandle, StartError> {
        batch.validate()?;
        let batch_id = batch.id().to_owned();
        let input = ControllerInput {
            version: protocol::VERSION,
            batch_run: uuid::Uuid::new_v4().to_string(),
            spec: batch.spec.clone(),
            carry: None,
        };
        let mut memo = MemoValues::new();
        memo.insert(MEMO_PROCESSOR, batch.processor().to_owned());
        let reuse = if batch.rerun {
            WorkflowIdReusePolicy::AllowDuplicate
        } else {
            WorkflowIdReusePolicy::RejectDuplicate
        };
        let options = WorkflowStartOptions::new(batch.task_queue.clone(), batch_id.clone())
            .id_conflict_policy(WorkflowIdConflictPolicy::Fail)
            .id_reuse_policy(reuse)
            .memo(memo)
            .static_summary(format!("batch of {}", batch.processor()))
            .build();
        match self
            .client
            .start_workflow(Controller::run, input, options)
            .await
        {
            Ok(_) => Ok(self.handle_unchecked(batch_id)),
            Err(WorkflowStartError::AlreadyStarted { .. }) => Err(self.why_taken(batch_id).await),
            Err(source) => Err(StartError::Server {
                source: source.into(),
            }),
        }
    }

    async fn why_taken(&self, batch_id: String) -> StartError {
        let handle = self.handle_unchecked(batch_id.clone());
        match handle.state().await {
            Ok(state) if !state.is_open() => StartError::AlreadyEnded { batch_id, state },
            _ => StartError::AlreadyRunning { batch_id },
        }
    }

    /// A batch by its id, running or ended. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// When the id could not be one of a batch.
    pub fn handle(&self, batch_id: impl Into<String>) -> Result<BatchHandle, InvalidBatch> {
        let batch_id = batch_id.into();
        validate_id(&batch_id)?;
        Ok(self.handle_unchecked(batch_id))
    }

    fn handle_unchecked(&self, batch_id: String) -> BatchHandle {
        BatchHandle {
            client: self.client.clone(),
            batch_id,
        }
    }

    /// The batches that the server remembers, the latest first, at most `limit`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn list(&self, limit: usize) -> Result<Vec<ListedBatch>, ListError> {
        let query = format!("WorkflowType = '{}'", protocol::CONTROLLER);
        // The latest execution comes first and stands for those before it: earlier runs of the batch, and
        // earlier batch runs.
        let mut executions = self
            .client
            .list_workflows(query, WorkflowListOptions::default());
        let mut batches: Vec<ListedBatch> = Vec::new();
        while batches.len() < limit
            && let Some(execution) = executions.try_next().await?
        {
            let status = execution.raw().status();
            let listed = batches.iter().any(|b| b.batch_id == execution.id());
            if listed || status == TemporalStatus::ContinuedAsNew {
                continue;
            }
            let state = BatchState::from(status);
            batches.push(ListedBatch {
                batch_id: execution.id().to_owned(),
                processor: execution.memo().get(MEMO_PROCESSOR).ok().flatten(),
                state,
                task_queue: execution.task_queue().to_owned(),
                started_at: execution.start_time().map(Timestamp::from),
                ended_at: execution.close_time().map(Timestamp::from),
            });
        }
        Ok(batches)
    }
}

/// A batch in a listing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ListedBatch {
    /// The batch.
    pub batch_id: String,
    /// Its processor.
    pub processor: Option<String>,
    /// Whether it runs, and how it ended.
    pub state: BatchState,
    /// The queue on which its workers poll.
    pub task_queue: String,
    /// When its latest Temporal run started; the start of the batch itself is in its progress.
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

/// One batch, to look at and to steer.
///
/// A handle follows the batch over continue-as-new. What needs an answer of the controller
/// ([`progress`](Self::progress), [`pause`](Self::pause) and the like) needs a worker that polls the
/// batch's task queue; [`cancel`](Self::cancel), [`state`](Self::state) and [`result`](Self::result) do not.
#[derive(Clone)]
pub struct BatchHandle {
    client: Client,
    batch_id: String,
}

/// # Look
impl BatchHandle {
    /// The id of the batch.
    pub fn id(&self) -> &str {
        &self.batch_id
    }

    fn workflow(&self) -> WorkflowHandle<Client, Controller> {
        self.client.get_workflow_handle(self.batch_id.clone())
    }

    /// What Temporal knows without asking a worker.
    ///
    /// # Errors
    /// When there is no such batch, or the server does not answer.
    pub async fn state(&self) -> Result<BatchState, ProgressError> {
        let options = WorkflowDescribeOptions::default();
        let description = self
            .workflow()
            .describe(options)
            .await
            .map_err(|e| self.interaction(e))?;
        let info = description.raw().workflow_execution_info.as_ref();
        Ok(info.map_or(BatchState::Unknown, |info| info.status().into()))
    }

    /// Progress, while the batch runs and for as long as the server remembers it.
    ///
    /// # Errors
    /// When there is no such batch, no worker answers within 10 s, or the server does not.
    pub async fn progress(&self) -> Result<Progress, ProgressError> {
        let workflow = self.workflow();
        let options = WorkflowQueryOptions::default();
        let answer = workflow.query(Controller::progress, (), options);
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(progress)) => Ok(progress),
            Ok(Err(WorkflowQueryError::NotFound(_))) => Err(self.not_found()),
            Ok(Err(WorkflowQueryError::Rpc(status))) if no_worker(&status) => Err(self.no_answer()),
            Ok(Err(source)) => Err(ProgressError::Server {
                source: source.into(),
            }),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// Waits until a worker has looked up the processor and read the arguments.
    ///
    /// # Errors
    /// When the worker refuses the batch, or none answers within 10 s.
    pub async fn accepted(&self) -> Result<(), AcceptError> {
        let wait = async {
            loop {
                if !self.state().await?.is_open() {
                    return match self.result().await {
                        Err(ResultError::Refused { reason }) => {
                            Err(AcceptError::Refused { reason })
                        }
                        _ => Ok(()),
                    };
                }
                if self.progress().await?.phase != Phase::Preparing {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, wait).await {
            Ok(accepted) => accepted,
            Err(_) => Err(self.no_answer().into()),
        }
    }

    /// Waits for the end.
    ///
    /// A batch that stopped by itself or was cancelled has a report too; its
    /// [`outcome`](BatchReport::outcome) says so.
    ///
    /// # Errors
    /// When the batch ended without a report (refused, terminated, timed out), when there is no such batch,
    /// or when the server does not answer.
    pub async fn result(&self) -> Result<BatchReport, ResultError> {
        let options = WorkflowGetResultOptions::default();
        match self.workflow().get_result(options).await {
            Ok(report) => Ok(report),
            Err(WorkflowGetResultError::Failed(error)) => failed(&error),
            Err(WorkflowGetResultError::Cancelled { details }) => details
                .deserialize::<BatchReport>()
                .ok()
                .ok_or(ResultError::NoReport {
                    state: BatchState::Cancelled,
                }),
            Err(WorkflowGetResultError::Terminated { .. }) => Err(ResultError::NoReport {
                state: BatchState::Terminated,
            }),
            Err(WorkflowGetResultError::TimedOut) => Err(ResultError::NoReport {
                state: BatchState::TimedOut,
            }),
            Err(WorkflowGetResultError::NotFound(_)) => Err(ResultError::NotFound {
                batch_id: self.batch_id.clone(),
            }),
            Err(source) => Err(ResultError::Server {
                source: source.into(),
            }),
        }
    }

    /// The history of the latest run, as JSON for
    /// [`replay_history`](crate::testing::replay_history).
    ///
    /// # Errors
    /// When there is no such batch, or the server does not answer.
    pub async fn history(&self) -> Result<Vec<u8>, ProgressError> {
        let history = self
            .workflow()
            .fetch_history(WorkflowFetchHistoryOptions::default());
        // Fetched lazily, so a missing batch shows only here.
        let events = history.into_events().await;
        let events = events.map_err(|e| self.interaction(e))?;
        let history = WorkflowHistory::from(History { events });
        history
            .to_json()
            .await
            .map_err(|e| ProgressError::Server { source: e.into() })
    }

    fn not_found(&self) -> ProgressError {
        ProgressError::NotFound {
            batch_id: self.batch_id.clone(),
        }
    }

    fn no_answer(&self) -> ProgressError {
        ProgressError::NoWorker {
            batch_id: self.batch_id.clone(),
        }
    }

    fn interaction(&self, error: WorkflowInteractionError) -> ProgressError {
        match error {
            WorkflowInteractionError::NotFound(_) => self.not_found(),
            source => ProgressError::Server {
                source: source.into(),
            },
        }
    }
}

/// A failed workflow carries the report of its batch, unless the batch was refused.
fn failed(error: &IncomingError) -> Result<BatchReport, ResultError> {
    let IncomingError::Application(failure) = error else {
        return Err(ResultError::NoReport {
            state: BatchState::Failed,
        });
    };
    match failure.type_name() {
        Some(protocol::BATCH_REFUSED) => Err(ResultError::Refused {
            reason: failure.source_error().to_string(),
        }),
        _ => failure
            .details::<BatchReport>()
            .ok()
            .flatten()
            .ok_or(ResultError::NoReport {
                state: BatchState::Failed,
            }),
    }
}

/// Temporal's ways of saying that nobody polls the task queue.
fn no_worker(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled | tonic::Code::FailedPrecondition
    )
}

/// # Steer
impl BatchHandle {
    /// Stops dispatching; pages that run are finished. Pausing what is paused changes only the reason.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn pause(&self, reason: impl Into<String>) -> Result<(), ControlError> {
        let reason = reason.into();
        let request = PauseRequest {
            reason: (!reason.is_empty()).then_some(reason),
        };
        let workflow = self.workflow();
        self.update(workflow.execute_update(Controller::pause, request, options()))
            .await
    }

    /// Goes on. Resuming what runs changes nothing.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn resume(&self) -> Result<(), ControlError> {
        let workflow = self.workflow();
        self.update(workflow.execute_update(Controller::resume, (), options()))
            .await
    }

    /// Sets the limit on pages in flight. 0 starts no further pages.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn set_max_parallelism(&self, pages: u32) -> Result<(), ControlError> {
        validate_max_parallelism(pages)?;
        let request = SetRequest {
            max_parallelism: Some(pages),
        };
        let workflow = self.workflow();
        self.update(workflow.execute_update(Controller::set, request, options()))
            .await
    }

    /// Cancels the batch. Running pages are told and may finish; the batch then ends with a report that
    /// says where it stood. This returns as soon as the server knows, worker or not.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn cancel(&self, reason: impl Into<String>) -> Result<(), ControlError> {
        // Temporal takes a cancellation of what has ended without a word.
        if !matches!(self.state().await, Ok(BatchState::Running)) {
            return Err(self.not_running().await);
        }
        let options = WorkflowCancelOptions::builder()
            .reason(reason.into())
            .build();
        match self.workflow().cancel(options).await {
            Ok(()) => Ok(()),
            Err(WorkflowInteractionError::NotFound(_)) => Err(self.not_running().await),
            Err(source) => Err(ControlError::Server {
                source: source.into(),
            }),
        }
    }

    async fn update<T>(
        &self,
        update: impl Future<Output = Result<T, WorkflowUpdateError>>,
    ) -> Result<(), ControlError> {
        // An update of a workflow that has ended would only be refused after its time limit.
        if !matches!(self.state().await, Ok(BatchState::Running)) {
            return Err(self.not_running().await);
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, update).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(WorkflowUpdateError::NotFound(_))) => Err(self.not_running().await),
            Ok(Err(WorkflowUpdateError::Failed(failure))) => Err(ControlError::Refused {
                reason: failure.message,
            }),
            Ok(Err(WorkflowUpdateError::Rpc(status))) if !no_worker(&status) => {
                Err(ControlError::Server {
                    source: status.into(),
                })
            }
            Ok(Err(WorkflowUpdateError::Rpc(_))) | Err(_) => Err(ControlError::NoWorker {
                batch_id: self.batch_id.clone(),
            }),
            Ok(Err(source)) => Err(ControlError::Server {
                source: source.into(),
            }),
        }
    }

    async fn not_running(&self) -> ControlError {
        let batch_id = self.batch_id.clone();
        match self.state().await {
            Ok(state) => ControlError::NotRunning { batch_id, state },
            Err(ProgressError::NotFound { .. }) => ControlError::NotFound { batch_id },
            Err(error) => ControlError::Server {
                source: error.into(),
            },
        }
    }
}

fn options() -> WorkflowExecuteUpdateOptions {
    WorkflowExecuteUpdateOptions::default()
}

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
    /// A batch with this id has ended. Everything would be run again.
    #[error(
        "a batch \"{batch_id}\" has ended already ({state}); choose another batch id, or allow a rerun \
         to run everything again"
    )]
    AlreadyEnded {
        /// The id.
        batch_id: String,
        /// How it ended.
        state: BatchState,
    },
    /// The server did not take it.
    #[error("the server did not start the batch")]
    Server {
        /// What it said.
        source: Source,
    },
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
    /// The server did not answer.
    #[error("the server did not answer")]
    Server {
        /// What it said.
        source: Source,
    },
}

/// A batch could not be steered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The value is not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidBatch),
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
    /// Nobody who could answer polls the task queue. It is possible that the change still takes effect
    /// when a worker comes.
    #[error("no worker answered for batch \"{batch_id}\"; start one on its task queue")]
    NoWorker {
        /// The id.
        batch_id: String,
    },
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
