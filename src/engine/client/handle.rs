//! One batch, to look at and to steer.

use std::time::Duration;

use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionDescription, WorkflowFetchHistoryOptions,
    WorkflowGetResultOptions, WorkflowHandle, WorkflowHistory,
    errors::{WorkflowGetResultError, WorkflowInteractionError},
};
use temporalio_common::{error::IncomingError, protos::temporal::api::history::v1::History};

use super::{
    AcceptError, BatchState, ProgressError, ResultError, observation::Looks, outage::Outages,
};
use crate::{
    decisions::carry::EndDetails,
    engine::controller::Controller,
    progress::{
        phase::{HeldBy, Phase},
        report::BatchReport,
    },
    protocol,
};

/// Longest wait for a worker to accept a batch.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One batch, to look at and to steer.
///
/// A handle follows the batch over continue-as-new. Nothing here needs a worker: without one,
/// [`look`](Self::look) shows what the controller has left with the server, and what is asked of the
/// controller ([`pause`](Self::pause) and the like) is kept until a worker is back.
#[derive(Clone)]
pub struct BatchHandle {
    pub(super) client: Client,
    pub(super) batch_id: String,
    pub(super) operator: String,
    pub(super) reason: Option<String>,
    pub(super) looks: Looks,
    pub(super) outages: Outages,
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

    pub(super) fn workflow(&self) -> WorkflowHandle<Client, Controller> {
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
        let workflow = self.workflow();
        let describe = || workflow.describe(WorkflowDescribeOptions::default());
        let description = self.outages.through(describe).await;
        description.map_err(|e| self.interaction(e))
    }

    /// Waits until a worker has looked up the processor and read the arguments.
    ///
    /// # Errors
    /// When the worker refuses the batch, when the workers of its queue do not have its processor, or when none answers
    /// within 10 s. But for a refusal the batch waits.
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
                match self.progress().await {
                    // A batch that waits for its lock was accepted before.
                    Ok(progress)
                        if progress.phase != Phase::Preparing
                            || progress.lock_held_by.is_some() =>
                    {
                        // It may have been refused between the two looks.
                        if self.state().await?.is_open() {
                            return Ok(());
                        }
                        continue;
                    }
                    Ok(progress) if progress.held_by == Some(HeldBy::NoWorker) => {
                        let reason = progress.explanation;
                        return Err(AcceptError::NoProcessor { reason });
                    }
                    // One may be about to start.
                    Ok(_) | Err(ProgressError::NoWorker { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(ACCEPT_TIMEOUT, wait).await {
            Ok(accepted) => accepted,
            Err(_) => Err(self.no_answer().into()),
        }
    }

    /// Waits for the end.
    ///
    /// A batch that stopped by itself or was cancelled has a report too; its
    /// [`outcome`](BatchReport::outcome) says so. Where its workflow was reset, or terminated and started again
    /// by the time that is seen, the end of the new run is waited for.
    ///
    /// # Errors
    /// When the batch ended without a report (refused, terminated, timed out), when there is no such batch,
    /// or when the server does not answer.
    pub async fn result(&self) -> Result<BatchReport, ResultError> {
        Ok(self.ended().await?.report)
    }

    /// The end, with what it takes to go on.
    pub(super) async fn ended(&self) -> Result<EndDetails, ResultError> {
        loop {
            let ended = self.run_ended().await;
            let Err(ResultError::NoReport { state }) = ended else {
                return ended;
            };
            // A reset ends a run from outside, too, and the batch is in another one by then.
            match self.state().await {
                Ok(now) if now != state => tokio::time::sleep(LOOK_AGAIN).await,
                _ => return ended,
            }
        }
    }

    /// The end of the current run and of those that it continues as.
    async fn run_ended(&self) -> Result<EndDetails, ResultError> {
        let workflow = self.workflow();
        let get_result = || async {
            // The end is told when the batch has ended, and that the server is back when it is.
            let describe = workflow.describe(WorkflowDescribeOptions::default());
            describe.await?;
            self.outages.answered();
            let options = WorkflowGetResultOptions::default();
            workflow.get_result(options).await
        };
        match self.outages.through(get_result).await {
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

    pub(super) fn no_answer(&self) -> ProgressError {
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
