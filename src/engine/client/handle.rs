//! The handle of one batch.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::{DeserializeOwned, IgnoredAny};
use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionDescription, WorkflowFetchHistoryOptions,
    WorkflowGetResultOptions, WorkflowHandle, WorkflowHistory,
    errors::{WorkflowGetResultError, WorkflowInteractionError},
};
use temporalio_common::{error::IncomingError, protos::temporal::api::history::v1::History};

use super::{
    AcceptError, BatchStatus, ProgressError, ResultError, observation::Looks, outage::Outages,
};
use crate::{
    decisions::carry::EndDetails,
    engine::controller::Controller,
    progress::{
        phase::{HeldBy, Phase},
        report::BatchReport,
    },
    protocol::{self, message::Json},
};

/// Time limit for a worker to accept a batch.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between looks while waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A handle to observe and control one batch.
///
/// A handle follows the batch across continue-as-new. It needs no worker: without one, [`look`](Self::look)
/// shows the latest state that the controller left with the server, and requests to the controller
/// ([`pause`](Self::pause) and others) are kept until a worker is back.
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

    /// Returns the state that Temporal knows without asking a worker.
    ///
    /// # Errors
    /// The batch does not exist, or the server does not answer.
    pub async fn state(&self) -> Result<BatchStatus, ProgressError> {
        Ok(state_of(&self.describe().await?))
    }

    pub(super) fn describe(
        &self,
    ) -> BoxFuture<'_, Result<WorkflowExecutionDescription, ProgressError>> {
        Box::pin(async move {
            let workflow = self.workflow();
            let describe = || workflow.describe(WorkflowDescribeOptions::default());
            let description = self.outages.through(describe).await;
            description.map_err(|e| self.interaction(e))
        })
    }

    /// Waits until a worker has found the processor and read the arguments.
    ///
    /// # Errors
    /// The worker refuses the batch, the workers of its queue do not have its processor, or none answers within
    /// 10 s. Except after a refusal, the batch keeps waiting.
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
                        // The batch may have been refused between the two looks.
                        if self.state().await?.is_open() {
                            return Ok(());
                        }
                        continue;
                    }
                    Ok(progress) if progress.held_by == Some(HeldBy::NoWorker) => {
                        let reason = progress.explanation;
                        return Err(AcceptError::NoProcessor { reason });
                    }
                    // A worker may be about to start.
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

    /// Waits for the end of the batch.
    ///
    /// A batch that stopped itself or was cancelled also has a report, whose [`outcome`](BatchReport::outcome)
    /// says so. If its workflow was reset, or terminated and started again in the meantime, this waits for the
    /// end of the new run.
    ///
    /// # Errors
    /// The batch ended without a report (refused, terminated, timed out), does not exist, or the server does
    /// not answer.
    pub async fn result(&self) -> Result<BatchReport, ResultError> {
        self.report().await
    }

    fn report(&self) -> BoxFuture<'_, Result<BatchReport, ResultError>> {
        Box::pin(async move { Ok(self.ended::<IgnoredAny>().await?.report) })
    }

    /// Waits for the end, and returns it with the state for a continuation.
    pub(super) async fn ended<W: DeserializeOwned + 'static>(
        &self,
    ) -> Result<EndDetails<W>, ResultError> {
        loop {
            let ended = self.run_ended().await;
            let Err(ResultError::NoReport { state }) = ended else {
                return ended;
            };
            // A reset also ends a run from outside, and the batch then continues in another run.
            match self.state().await {
                Ok(now) if now != state => tokio::time::sleep(LOOK_AGAIN).await,
                _ => return ended,
            }
        }
    }

    /// Waits for the end of the current run and of those that it continues as.
    async fn run_ended<W: DeserializeOwned + 'static>(&self) -> Result<EndDetails<W>, ResultError> {
        let workflow = self.workflow();
        let get_result = || async {
            // The result call only returns when the batch has ended, so this call detects that the server is
            // back.
            let describe = workflow.describe(WorkflowDescribeOptions::default());
            describe.await?;
            self.outages.answered();
            let options = WorkflowGetResultOptions::default();
            workflow.get_result(options).await
        };
        match self.outages.through(get_result).await {
            Ok(Json(report)) => Ok(EndDetails {
                report,
                continuation: None,
            }),
            Err(WorkflowGetResultError::Failed(error)) => failed(&error),
            Err(WorkflowGetResultError::Cancelled { details }) => details
                .deserialize::<EndDetails<W>>()
                .ok()
                .ok_or(ResultError::NoReport {
                    state: BatchStatus::Cancelled,
                }),
            Err(WorkflowGetResultError::Terminated { .. }) => Err(ResultError::NoReport {
                state: BatchStatus::Terminated,
            }),
            Err(WorkflowGetResultError::TimedOut) => Err(ResultError::NoReport {
                state: BatchStatus::TimedOut,
            }),
            Err(WorkflowGetResultError::NotFound(_)) => Err(ResultError::NotFound {
                batch_id: self.batch_id.clone(),
            }),
            Err(source) => Err(ResultError::Server {
                source: source.into(),
            }),
        }
    }

    /// Fetches the history of the latest run, as JSON for [`replay_history`](crate::testing::replay_history).
    ///
    /// # Errors
    /// The batch does not exist, or the server does not answer.
    pub async fn history(&self) -> Result<Vec<u8>, ProgressError> {
        self.history_as_json().await
    }

    fn history_as_json(&self) -> BoxFuture<'_, Result<Vec<u8>, ProgressError>> {
        Box::pin(async move {
            let history = self
                .workflow()
                .fetch_history(WorkflowFetchHistoryOptions::default());
            // The history is fetched lazily, so a missing batch is detected only here.
            let events = history.into_events().await;
            let events = events.map_err(|e| self.interaction(e))?;
            let history = WorkflowHistory::from(History { events });
            history
                .to_json()
                .await
                .map_err(|e| ProgressError::Server { source: e.into() })
        })
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

/// Reads the report from a failed workflow. A batch that was refused has none.
fn failed<W: DeserializeOwned + 'static>(
    error: &IncomingError,
) -> Result<EndDetails<W>, ResultError> {
    let IncomingError::Application(failure) = error else {
        return Err(ResultError::NoReport {
            state: BatchStatus::Failed,
        });
    };
    match failure.type_name() {
        Some(protocol::BATCH_REFUSED) => Err(ResultError::Refused {
            reason: failure.source_error().to_string(),
        }),
        _ => failure
            .details::<EndDetails<W>>()
            .ok()
            .flatten()
            .ok_or(ResultError::NoReport {
                state: BatchStatus::Failed,
            }),
    }
}

pub(super) fn state_of(description: &WorkflowExecutionDescription) -> BatchStatus {
    let info = description.raw().workflow_execution_info.as_ref();
    info.map_or(BatchStatus::Unknown, |info| info.status().into())
}
