//! One batch, to look at and to steer.

use std::{future::Future, time::Duration};

use temporalio_client::{
    Client, WorkflowCancelOptions, WorkflowDescribeOptions, WorkflowExecuteUpdateOptions,
    WorkflowExecutionDescription, WorkflowFetchHistoryOptions, WorkflowGetResultOptions,
    WorkflowHandle, WorkflowHistory, WorkflowQueryOptions,
    errors::{
        WorkflowGetResultError, WorkflowInteractionError, WorkflowQueryError, WorkflowUpdateError,
    },
    tonic,
};
use temporalio_common::{error::IncomingError, protos::temporal::api::history::v1::History};

use crate::{
    audit::Given,
    batch::validate_max_parallelism,
    controller::{Controller, Optional},
    progress::{BatchReport, Phase, Progress},
    protocol::{self, EndDetails, PauseRequest, ResumeRequest, SetRequest},
};

use super::{
    AcceptError, BatchState, ControlError, ProgressError, ResultError, recovery::failing_task,
};

/// Longest wait for a controller to answer; for that a worker has to poll its task queue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One batch, to look at and to steer.
///
/// A handle follows the batch over continue-as-new. What needs an answer of the controller
/// ([`progress`](Self::progress), [`pause`](Self::pause) and the like) needs a worker that polls the
/// batch's task queue; [`cancel`](Self::cancel), [`state`](Self::state) and [`result`](Self::result) do not.
#[derive(Clone)]
pub struct BatchHandle {
    pub(super) client: Client,
    pub(super) batch_id: String,
    pub(super) operator: String,
    pub(super) reason: Option<String>,
}

impl std::fmt::Debug for BatchHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchHandle")
            .field("batch_id", &self.batch_id)
            .finish_non_exhaustive()
    }
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
        Ok(state_of(&self.describe().await?))
    }

    pub(super) async fn describe(&self) -> Result<WorkflowExecutionDescription, ProgressError> {
        let options = WorkflowDescribeOptions::default();
        let description = self.workflow().describe(options).await;
        description.map_err(|e| self.interaction(e))
    }

    /// Progress, while the batch runs and for as long as the server remembers it.
    ///
    /// # Errors
    /// When there is no such batch, no worker answers within 10 s or none can, or the server does not answer.
    pub async fn progress(&self) -> Result<Progress, ProgressError> {
        let workflow = self.workflow();
        let options = WorkflowQueryOptions::default();
        let answer = workflow.query(Controller::progress, (), options);
        let error = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(progress)) => return Ok(progress),
            Ok(Err(WorkflowQueryError::NotFound(_))) => return Err(self.not_found()),
            Ok(Err(WorkflowQueryError::Rpc(status))) if no_worker(&status) => self.no_answer(),
            Ok(Err(source)) => ProgressError::Server {
                source: source.into(),
            },
            Err(_) => self.no_answer(),
        };
        Err(self.task_fails().await.unwrap_or(error))
    }

    /// The reason of a missing answer that lies in the history.
    async fn task_fails(&self) -> Option<ProgressError> {
        let times = failing_task(&self.describe().await.ok()?)?;
        let batch_id = self.batch_id.clone();
        Some(ProgressError::TaskFails { batch_id, times })
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
        Ok(self.ended().await?.report)
    }

    /// The end, with what it takes to go on.
    pub(super) async fn ended(&self) -> Result<EndDetails, ResultError> {
        let options = WorkflowGetResultOptions::default();
        match self.workflow().get_result(options).await {
            Ok(report) => Ok(EndDetails {
                report,
                continuation: None,
            }),
            Err(WorkflowGetResultError::Failed(error)) => failed(&error),
            Err(WorkflowGetResultError::Cancelled { details }) => details
                .deserialize::<EndDetails>()
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

    pub(super) fn not_found(&self) -> ProgressError {
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
fn failed(error: &IncomingError) -> Result<EndDetails, ResultError> {
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
            .details::<EndDetails>()
            .ok()
            .flatten()
            .ok_or(ResultError::NoReport {
                state: BatchState::Failed,
            }),
    }
}

pub(super) fn state_of(description: &WorkflowExecutionDescription) -> BatchState {
    let info = description.raw().workflow_execution_info.as_ref();
    info.map_or(BatchState::Unknown, |info| info.status().into())
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
    /// The same batch, with a reason for what is asked of it next; kept in its audit.
    ///
    /// ```no_run
    /// # async fn example(handle: temporal_batch::BatchHandle) -> Result<(), temporal_batch::ControlError> {
    /// handle.because("the replica has caught up").resume().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn because(&self, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self {
            reason: (!reason.is_empty()).then_some(reason),
            ..self.clone()
        }
    }

    pub(super) fn given(&self) -> Given {
        Given {
            who: Some(self.operator.clone()),
            why: self.reason.clone(),
        }
    }

    /// Stops dispatching; pages that run are finished. Pausing what is paused changes only the reason.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn pause(&self, reason: impl Into<String>) -> Result<(), ControlError> {
        let given = self.because(reason).given();
        let request = PauseRequest {
            reason: given.why,
            who: given.who,
        };
        let workflow = self.workflow();
        self.update(workflow.execute_update(Controller::pause, request, options()))
            .await
    }

    /// Goes on. Resuming what runs changes nothing. If the batch had paused itself because more failed than
    /// is tolerated, what has failed so far is forgiven.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn resume(&self) -> Result<(), ControlError> {
        let workflow = self.workflow();
        let request = Optional(ResumeRequest {
            given: self.given(),
        });
        self.update(workflow.execute_update(Controller::resume, request, options()))
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
            given: self.given(),
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
        self.check_running().await?;
        let options = WorkflowCancelOptions::builder()
            .reason(self.because(reason).given().to_text())
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
        self.check_running().await?;
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
            Ok(Err(WorkflowUpdateError::Rpc(_))) | Err(_) => Err(match self.task_fails().await {
                Some(error) => ControlError::TaskFails(error),
                None => ControlError::NoWorker {
                    batch_id: self.batch_id.clone(),
                },
            }),
            Ok(Err(source)) => Err(ControlError::Server {
                source: source.into(),
            }),
        }
    }

    async fn check_running(&self) -> Result<(), ControlError> {
        match self.state().await {
            Ok(BatchState::Running) => Ok(()),
            other => Err(self.not_steerable(other)),
        }
    }

    async fn not_running(&self) -> ControlError {
        self.not_steerable(self.state().await)
    }

    fn not_steerable(&self, state: Result<BatchState, ProgressError>) -> ControlError {
        let batch_id = self.batch_id.clone();
        match state {
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
