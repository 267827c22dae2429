//! Requests of operators, with or without a running worker.

use std::{fmt, time::Duration};

use futures::future::BoxFuture;
use temporalio_client::{
    WorkflowCancelOptions, WorkflowExecuteUpdateOptions, WorkflowSignalOptions,
    errors::{WorkflowInteractionError, WorkflowUpdateError},
    tonic,
};
use temporalio_common::protos::temporal::api::failure::v1::failure::FailureInfo;

use super::{
    BatchHandle, BatchStatus, ControlError, PauseOptions, ProgressError, Workers,
    because::no_worker, handle::state_of, recovery::failing_task,
};
use crate::{
    engine::controller::Controller,
    progress::audit::Given,
    protocol::{ApproveRequest, ResumeRequest, Steer, SteerRequest, settings::Settings},
};

/// Time limit for the controller's answer. A controller that can answer does so at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "steered")]
#[non_exhaustive]
pub enum Steered {
    /// The controller has applied the request.
    Applied,
    /// The request waits for a worker. The server keeps requests in their order of arrival, and they take
    /// effect before anything else when a worker is back.
    Queued {
        /// The task queue without a worker.
        task_queue: String,
        /// True if workers poll the queue but none answered in time.
        polling: bool,
    },
}

impl Steered {
    /// Returns whether the request has taken effect.
    pub fn is_applied(&self) -> bool {
        *self == Self::Applied
    }
}

impl fmt::Display for Steered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::Applied => return f.write_str("applied"),
            Self::Queued {
                task_queue,
                polling: false,
            } => no_worker(task_queue),
            Self::Queued { task_queue, .. } => {
                format!("no worker on task queue \"{task_queue}\" answered")
            }
        };
        write!(
            f,
            "{why}: the request is kept and takes effect when a worker is back"
        )
    }
}

/// # Control
///
/// Requests are validated here before they are sent. The controller is then asked and its answer awaited:
/// [`Steered::Applied`]. If no worker polls the task queue, or none answers within 5 s, the request is left
/// with the server: [`Steered::Queued`].
///
/// A request that was queued after a missing answer may reach the controller twice, with one id. All requests
/// are idempotent: pausing a paused batch changes its reason, and setting a value again changes nothing.
///
/// Requests of one client are applied in order. Requests of different operators are applied in the order in
/// which the server accepted them. If one was queued and another answered directly, the audit of the batch
/// shows which was applied last.
impl BatchHandle {
    /// Returns a handle of the same batch with a reason for its next requests, which is kept in the audit.
    ///
    /// ```no_run
    /// # async fn example(handle: temporal_batch::BatchHandle) -> Result<(), temporal_batch::errors::ControlError> {
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

    /// Stops dispatching; running pages finish. Pausing a paused batch changes only the reason.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn pause(&self, reason: impl Into<String>) -> Result<Steered, ControlError> {
        self.pause_with(PauseOptions::new().reason(reason)).await
    }

    /// Pauses with further options.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use temporal_batch::client::PauseOptions;
    /// # async fn example(handle: temporal_batch::BatchHandle) -> Result<(), temporal_batch::errors::ControlError> {
    /// let lunch = PauseOptions::new().reason("lunch").lasting(Duration::from_secs(3_600));
    /// handle.pause_with(lunch).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn pause_with(&self, options: PauseOptions) -> Result<Steered, ControlError> {
        options.validate()?;
        self.steer(Steer::Pause(options.into_request())).await
    }

    /// Resumes the batch. Resuming a running batch changes nothing. If the batch had paused itself because
    /// failures exceeded the tolerance, the failures so far are forgiven.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn resume(&self) -> Result<Steered, ControlError> {
        self.steer(Steer::Resume(ResumeRequest::default())).await
    }

    /// Approves the [stage](crate::Batch::stages) that waits, whatever its check found, and continues. Failures
    /// so far are forgiven.
    ///
    /// # Errors
    /// The request is refused if no stage waits. For other errors see [`ControlError`].
    pub async fn approve(&self) -> Result<Steered, ControlError> {
        self.steer(Steer::Approve(ApproveRequest::default())).await
    }

    /// Changes settings; those that are not named stay as they are.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn set(&self, settings: Settings) -> Result<Steered, ControlError> {
        if settings.is_empty() {
            return Err(ControlError::NothingToSet);
        }
        settings.validate()?;
        self.steer(Steer::Set(settings.into_request())).await
    }

    /// Sets the limit on pages in flight. With 0 no further pages start.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn set_max_parallelism(&self, pages: u32) -> Result<Steered, ControlError> {
        self.set(Settings::new().max_parallelism(pages)).await
    }

    /// Cancels the batch. Running pages are notified and may finish. The batch then ends with a report of how
    /// far it came. This returns once the server has accepted the request, with or without a worker.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn cancel(&self, reason: impl Into<String>) -> Result<(), ControlError> {
        // Temporal silently accepts a cancellation of a workflow that has ended.
        match self.state().await {
            Ok(BatchStatus::Running) => {}
            other => return Err(self.not_steerable(other)),
        }
        let options = WorkflowCancelOptions::builder()
            .reason(self.because(reason).given().to_text())
            .build();
        self.request_cancel(options).await
    }

    fn request_cancel(
        &self,
        options: WorkflowCancelOptions,
    ) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async move {
            let cancelled = self.workflow().cancel(options).await;
            self.taken(cancelled).await
        })
    }

    /// Asks the controller if a worker can answer, and queues the request at the server otherwise.
    async fn steer(&self, what: Steer) -> Result<Steered, ControlError> {
        let request = what.signed(self.given(), uuid::Uuid::new_v4().to_string());
        // An update of a workflow that has ended would only fail after its time limit.
        let description = match self.describe().await {
            Ok(description) => description,
            Err(error) => return Err(self.not_steerable(Err(error))),
        };
        match state_of(&description) {
            BatchStatus::Running => {}
            ended => return Err(self.not_steerable(Ok(ended))),
        }
        let task_queue = description.task_queue().to_owned();
        // If the server does not tell, the answer will.
        let workers = Workers::of(&self.client, &task_queue).await;
        let polling = workers.map_or(true, |workers| workers.any());
        if polling {
            if let Some(times) = failing_task(&description) {
                let batch_id = self.batch_id.clone();
                let remedy = self.remedy(&description).await;
                return Err(ControlError::TaskFails(ProgressError::TaskFails {
                    batch_id,
                    times,
                    remedy,
                }));
            }
            let update = self.update(request.clone());
            match tokio::time::timeout(ANSWER_TIMEOUT, update).await {
                Ok(Ok(())) => return Ok(Steered::Applied),
                Ok(Err(WorkflowUpdateError::NotFound(_))) => {
                    return Err(self.not_steerable(self.state().await));
                }
                Ok(Err(error)) if is_unanswered(&error) => {}
                Ok(Err(WorkflowUpdateError::Failed(failure))) => {
                    return Err(ControlError::Refused {
                        reason: failure.message,
                    });
                }
                Err(_) => {}
                Ok(Err(source)) => {
                    return Err(ControlError::Server {
                        source: source.into(),
                    });
                }
            }
        }
        self.signal(request).await?;
        Ok(Steered::Queued {
            task_queue,
            polling,
        })
    }

    /// Sends the request as an update, which a worker answers.
    fn update(&self, asked: SteerRequest) -> BoxFuture<'_, Result<(), WorkflowUpdateError>> {
        Box::pin(async move {
            let workflow = self.workflow();
            let mut options = WorkflowExecuteUpdateOptions::default();
            // The server accepts an update with this id only once.
            options.update_id = Some(asked.id);
            match asked.what {
                Steer::Pause(request) => {
                    let update = workflow.execute_update(Controller::pause, request, options);
                    update.await.map(drop)
                }
                Steer::Resume(request) => {
                    let update = workflow.execute_update(Controller::resume, request, options);
                    update.await.map(drop)
                }
                Steer::Approve(request) => {
                    let update = workflow.execute_update(Controller::approve, request, options);
                    update.await.map(drop)
                }
                Steer::Set(request) => {
                    let update = workflow.execute_update(Controller::set, request, options);
                    update.await.map(drop)
                }
                // Notes for the audit are signals only.
                Steer::Recover(_) | Steer::Nothing => Ok(()),
            }
        })
    }

    /// Sends the request as a signal, which waits at the server until a worker takes it.
    fn signal(&self, request: SteerRequest) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async move {
            let options = WorkflowSignalOptions::builder()
                .request_id(request.id.clone())
                .build();
            let workflow = self.workflow();
            let sent = workflow.signal(Controller::steer, request, options).await;
            self.taken(sent).await
        })
    }

    async fn taken(&self, sent: Result<(), WorkflowInteractionError>) -> Result<(), ControlError> {
        match sent {
            Ok(()) => Ok(()),
            Err(WorkflowInteractionError::NotFound(_)) => {
                Err(self.not_steerable(self.state().await))
            }
            Err(source) => Err(ControlError::Server {
                source: source.into(),
            }),
        }
    }

    fn not_steerable(&self, state: Result<BatchStatus, ProgressError>) -> ControlError {
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

/// Returns whether the controller has not handled an update although the server has answered: no worker polls
/// the task queue, or the SDK lost the update. SDK core 0.10 loses an update that arrives together with a
/// query.
pub(crate) fn is_unanswered(error: &WorkflowUpdateError) -> bool {
    match error {
        WorkflowUpdateError::Rpc(status) => matches!(
            status.code(),
            tonic::Code::DeadlineExceeded
                | tonic::Code::Cancelled
                | tonic::Code::FailedPrecondition
        ),
        WorkflowUpdateError::Failed(failure) => {
            matches!(
                failure.failure_info,
                Some(FailureInfo::ServerFailureInfo(_))
            )
        }
        _ => false,
    }
}
