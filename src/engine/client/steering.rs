//! Requests of operators, with a worker or without.

use std::{fmt, future::Future, time::Duration};

use temporalio_client::{
    WorkflowCancelOptions, WorkflowExecuteUpdateOptions, WorkflowSignalOptions,
    errors::{WorkflowInteractionError, WorkflowUpdateError},
    tonic,
};
use temporalio_common::protos::temporal::api::failure::v1::failure::FailureInfo;

use super::{
    BatchHandle, BatchState, ControlError, PauseOptions, ProgressError, Settings, Workers,
    because::no_worker, handle::state_of, recovery::failing_task,
};
use crate::{
    engine::controller::Controller,
    progress::audit::Given,
    protocol::{ApproveRequest, ResumeRequest, Steer, SteerRequest},
};

/// Longest wait for a controller to answer. One that answers at all does so at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "steered")]
#[non_exhaustive]
pub enum Steered {
    /// The controller has applied it.
    Applied,
    /// No worker could apply it. The server keeps it, in the order in which requests came, and it takes
    /// effect before anything else when a worker is back.
    Queued {
        /// Where a worker is missing.
        task_queue: String,
        /// Workers were seen to poll there, but none answered in time.
        polling: bool,
    },
}

impl Steered {
    /// Whether it has taken effect.
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
            "{why}: the request is kept and takes effect when one is back"
        )
    }
}

/// # Steer
///
/// Requests are checked here before anything is sent. Then the controller is asked, and its answer is
/// waited for: [`Steered::Applied`]. Where no worker polls the task queue, or none answers within 5 s, the
/// request is left with the server: [`Steered::Queued`].
///
/// A request that was left there after it got no answer may reach the controller twice, with one id. What
/// is asked for can be done twice without harm: pausing what is paused changes its reason, setting what is
/// set changes nothing.
///
/// Requests of one client that follow each other are applied in that order. Between operators the order is
/// that in which the server took them; where one request was queued and another was answered, the audit of
/// the batch tells which one was applied last.
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
    pub async fn pause(&self, reason: impl Into<String>) -> Result<Steered, ControlError> {
        self.pause_with(PauseOptions::new().reason(reason)).await
    }

    /// Pauses, with more to say than a reason.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use temporal_batch::PauseOptions;
    /// # async fn example(handle: temporal_batch::BatchHandle) -> Result<(), temporal_batch::ControlError> {
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
        let id = new_id();
        let mut request = options.into_request();
        let given = self.given();
        request.who = given.who;
        request.reason = request.reason.or(given.why);
        request.id = Some(id.clone());
        let workflow = self.workflow();
        let what = Steer::Pause(request.clone());
        let update = workflow.execute_update(Controller::pause, request, update_of(&id));
        self.steer(id, what, update).await
    }

    /// Goes on. Resuming what runs changes nothing. If the batch had paused itself because more failed than
    /// is tolerated, what has failed so far is forgiven.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn resume(&self) -> Result<Steered, ControlError> {
        let id = new_id();
        let request = ResumeRequest {
            given: self.given(),
            id: Some(id.clone()),
        };
        let workflow = self.workflow();
        let what = Steer::Resume(request.clone());
        let update = workflow.execute_update(Controller::resume, request, update_of(&id));
        self.steer(id, what, update).await
    }

    /// Goes on after a [stage](crate::Batch::stages) that waits for it, whatever its check found. What has failed
    /// so far is forgiven.
    ///
    /// # Errors
    /// Refused where no stage waits. Otherwise see [`ControlError`].
    pub async fn approve(&self) -> Result<Steered, ControlError> {
        let id = new_id();
        let request = ApproveRequest {
            given: self.given(),
            id: Some(id.clone()),
        };
        let workflow = self.workflow();
        let what = Steer::Approve(request.clone());
        let update = workflow.execute_update(Controller::approve, request, update_of(&id));
        self.steer(id, what, update).await
    }

    /// Changes limits; what the settings do not name stays as it is.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn set(&self, settings: Settings) -> Result<Steered, ControlError> {
        if settings.is_empty() {
            return Err(ControlError::NothingToSet);
        }
        settings.validate()?;
        let id = new_id();
        let mut request = settings.into_request();
        request.given = self.given();
        request.id = Some(id.clone());
        let workflow = self.workflow();
        let what = Steer::Set(request.clone());
        let update = workflow.execute_update(Controller::set, request, update_of(&id));
        self.steer(id, what, update).await
    }

    /// Sets the limit on pages in flight. 0 starts no further pages.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn set_max_parallelism(&self, pages: u32) -> Result<Steered, ControlError> {
        self.set(Settings::new().max_parallelism(pages)).await
    }

    /// Cancels the batch. Running pages are told and may finish; the batch then ends with a report that
    /// says where it stood. This returns as soon as the server knows, worker or not.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn cancel(&self, reason: impl Into<String>) -> Result<(), ControlError> {
        // Temporal takes a cancellation of what has ended without a word.
        match self.state().await {
            Ok(BatchState::Running) => {}
            other => return Err(self.not_steerable(other)),
        }
        let options = WorkflowCancelOptions::builder()
            .reason(self.because(reason).given().to_text())
            .build();
        let cancelled = self.workflow().cancel(options).await;
        self.taken(cancelled).await
    }

    /// Asks the controller where one can answer, and leaves the request with the server otherwise.
    async fn steer<T>(
        &self,
        id: String,
        what: Steer,
        update: impl Future<Output = Result<T, WorkflowUpdateError>>,
    ) -> Result<Steered, ControlError> {
        // An update of a workflow that has ended would only be refused after its time limit.
        let description = match self.describe().await {
            Ok(description) => description,
            Err(error) => return Err(self.not_steerable(Err(error))),
        };
        match state_of(&description) {
            BatchState::Running => {}
            ended => return Err(self.not_steerable(Ok(ended))),
        }
        let task_queue = description.task_queue().to_owned();
        // Where the server does not say, the answer will.
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
            match tokio::time::timeout(ANSWER_TIMEOUT, update).await {
                Ok(Ok(_)) => return Ok(Steered::Applied),
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
        let options = WorkflowSignalOptions::builder()
            .request_id(id.clone())
            .build();
        let request = SteerRequest { id, what };
        let workflow = self.workflow();
        let sent = workflow.signal(Controller::steer, request, options).await;
        self.taken(sent).await?;
        Ok(Steered::Queued {
            task_queue,
            polling,
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

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Whether the controller has not handled an update, although the server has answered: no worker polls the task queue,
/// or the SDK lost the update. SDK core 0.10 loses an update that comes together with a query.
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

/// The server takes an update of one id once.
fn update_of(id: &str) -> WorkflowExecuteUpdateOptions {
    let mut options = WorkflowExecuteUpdateOptions::default();
    options.update_id = Some(id.to_owned());
    options
}
