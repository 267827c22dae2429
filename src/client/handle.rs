//! One batch, to look at and to steer.

use std::{future::Future, time::Duration};

use temporalio_client::{
    Client, WorkflowCancelOptions, WorkflowDescribeOptions, WorkflowExecuteUpdateOptions,
    WorkflowFetchHistoryOptions, WorkflowGetResultOptions, WorkflowHandle, WorkflowHistory,
    WorkflowQueryOptions,
    errors::{
        WorkflowGetResultError, WorkflowInteractionError, WorkflowQueryError, WorkflowUpdateError,
    },
    tonic,
};
use temporalio_common::{error::IncomingError, protos::temporal::api::history::v1::History};

use crate::{
    batch::validate_max_parallelism,
    controller::Controller,
    progress::{BatchReport, Phase, Progress},
    protocol::{self, PauseRequest, SetRequest},
};

use super::{AcceptError, BatchState, ControlError, ProgressError, ResultError};

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
        self.check_running().await?;
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
            Ok(Err(WorkflowUpdateError::Rpc(_))) | Err(_) => Err(ControlError::NoWorker {
                batch_id: self.batch_id.clone(),
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
