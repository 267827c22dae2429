//! Takes a batch out of a history that its workers cannot replay.

use futures::TryStreamExt as _;
use temporalio_client::{
    NamespacedClient as _, UntypedWorkflow, WorkflowExecutionDescription, WorkflowExecutionInfo,
    WorkflowFetchHistoryOptions, WorkflowHandle,
    errors::WorkflowInteractionError,
    tonic::{Code, IntoRequest as _},
};
use temporalio_common::{
    data_converters::{
        SerializationContextData, TemporalDeserializable, WorkflowSerializationContext,
    },
    protos::temporal::api::{
        common::v1::{Payloads, WorkflowExecution},
        history::v1::{HistoryEvent, history_event::Attributes},
        workflowservice::v1::ResetWorkflowExecutionRequest,
    },
};

use super::{BatchHandle, BatchState, ProgressError, handle::state_of};
use crate::{
    protocol::{ControllerInput, Prepared},
    retry::RetryMode,
};

/// From this attempt on a workflow task fails for a reason that stays. Temporal tries again when a worker
/// was lost or slow, so the first ones say nothing.
const TELLING_ATTEMPT: i32 = 3;

/// A batch could not be recovered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
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
    /// No worker has begun with its current run yet, so there is nothing to take back.
    #[error("batch \"{batch_id}\" has not begun yet; start a worker on its task queue")]
    NotBegun {
        /// The id.
        batch_id: String,
    },
    /// Its processor wants each page to be tried once, and a recovery may run pages again.
    #[error(
        "the pages of batch \"{batch_id}\" may run once only, and a recovery runs those again that finished \
         since its last continue-as-new; force it if its pages are kept in a ledger, or may be repeated"
    )]
    AtMostOnce {
        /// The id.
        batch_id: String,
    },
    /// The server did not do it.
    #[error("the server did not answer")]
    Server {
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// # Recover
impl BatchHandle {
    /// Starts the current Temporal run of the batch again, from what it was handed at its start or at its last
    /// continue-as-new. This is the remedy where every workflow task fails because the history of the run
    /// cannot be replayed ([`ProgressError::TaskFails`]), and deploying the code that wrote it is no way out.
    ///
    /// | what | becomes of it |
    /// |---|---|
    /// | the batch run, counts and failures up to the last continue-as-new | stay |
    /// | the arguments, where the processor [completed](crate::PageProcessor::prepare) them | stay |
    /// | pages that finished since then | run again, and are counted once; with a ledger their effects are skipped |
    /// | pages that run | end at their page, and run again |
    /// | pause, resume, limits, a cancellation since then | are applied again |
    /// | a deadline, if the batch never continued as new | begins again |
    ///
    /// Calling it for a batch that is well only costs those pages. The reason is kept in Temporal's history
    /// of the run, with the operator.
    ///
    /// # Errors
    /// Refused for a processor in [`RetryMode::AtMostOnce`], ledger or not; see
    /// [`recover_by_force`](Self::recover_by_force). Where the client lacks the codec to read the history, the
    /// mode cannot be seen, and nothing is refused. Otherwise see [`RecoverError`].
    pub async fn recover(&self, reason: impl Into<String>) -> Result<(), RecoverError> {
        self.recover_unless(reason.into(), true).await
    }

    /// The same, also where pages should be tried only once.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub async fn recover_by_force(&self, reason: impl Into<String>) -> Result<(), RecoverError> {
        self.recover_unless(reason.into(), false).await
    }

    async fn recover_unless(&self, reason: String, at_most_once: bool) -> Result<(), RecoverError> {
        let description = self.describe().await?;
        let batch_id = self.batch_id.clone();
        let state = state_of(&description);
        if !state.is_open() {
            return Err(RecoverError::NotRunning { batch_id, state });
        }
        let run_id = description.run_id();
        let beginning = self.beginning(run_id).await?;
        let Some(first_task) = self.task_to_repeat(&beginning).await else {
            return Err(RecoverError::NotBegun { batch_id });
        };
        if at_most_once && self.retry_mode(&beginning).await == Some(RetryMode::AtMostOnce) {
            return Err(RecoverError::AtMostOnce { batch_id });
        }
        let request = ResetWorkflowExecutionRequest {
            namespace: self.client.namespace(),
            workflow_execution: Some(WorkflowExecution {
                workflow_id: batch_id,
                run_id: run_id.to_owned(),
            }),
            reason: self.because(reason).given().to_text(),
            workflow_task_finish_event_id: first_task.event_id,
            request_id: uuid::Uuid::new_v4().to_string(),
            identity: self.client.identity(),
            ..Default::default()
        };
        let mut service = self.client.connection().workflow_service();
        let reset = service.reset_workflow_execution(request.into_request());
        match reset.await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Err(self.not_found().into()),
            Err(status) => Err(RecoverError::Server {
                source: status.into(),
            }),
        }
    }

    /// The workflow task that is done again, and everything after it: the first one, unless the processor has
    /// completed the arguments since. It might complete them differently now.
    async fn task_to_repeat<'a>(&self, beginning: &'a [HistoryEvent]) -> Option<&'a HistoryEvent> {
        let (prepare, rest) = match beginning.iter().position(ends_activity) {
            Some(at) => beginning.split_at(at),
            None => (beginning, &[][..]),
        };
        let completed_args = match rest.first().map(|event| &event.attributes) {
            Some(Some(Attributes::ActivityTaskCompletedEventAttributes(completed))) => {
                let prepared: Option<Prepared> = self.decode(&completed.result).await;
                prepared.is_some_and(|prepared| prepared.args.is_some())
            }
            _ => false,
        };
        let after = rest.iter().find(|event| ends_task(event));
        let first = prepare.iter().find(|event| ends_task(event));
        after.filter(|_| completed_args).or(first)
    }

    /// The events of a run up to where its first pages are dispatched.
    async fn beginning(&self, run_id: &str) -> Result<Vec<HistoryEvent>, RecoverError> {
        let info = WorkflowExecutionInfo::builder()
            .namespace(self.client.namespace())
            .workflow_id(self.batch_id.clone())
            .run_id(run_id)
            .build();
        let workflow: WorkflowHandle<_, UntypedWorkflow> = info.bind_untyped(self.client.clone());
        let mut events = workflow.fetch_history(WorkflowFetchHistoryOptions::default());
        let mut beginning = Vec::new();
        let mut prepared = false;
        while let Some(event) = events.try_next().await? {
            let dispatched = prepared && ends_task(&event);
            prepared |= ends_activity(&event);
            beginning.push(event);
            if dispatched {
                break;
            }
        }
        Ok(beginning)
    }

    /// `None` where no page was dispatched yet, or where it cannot be read.
    async fn retry_mode(&self, beginning: &[HistoryEvent]) -> Option<RetryMode> {
        for event in beginning {
            match &event.attributes {
                Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => {
                    let input: Option<ControllerInput> = self.decode(&started.input).await;
                    if let Some(carry) = input?.carry {
                        return Some(carry.prepared.retry_mode);
                    }
                }
                // A batch that was not handed anything looks up its processor first.
                Some(Attributes::ActivityTaskCompletedEventAttributes(completed)) => {
                    let prepared: Option<Prepared> = self.decode(&completed.result).await;
                    return prepared.map(|prepared| prepared.retry_mode);
                }
                _ => {}
            }
        }
        None
    }

    async fn decode<T: TemporalDeserializable + 'static>(
        &self,
        payloads: &Option<Payloads>,
    ) -> Option<T> {
        let payloads = payloads.as_ref()?.payloads.clone();
        let converter = self.client.data_converter();
        let context = SerializationContextData::Workflow(WorkflowSerializationContext::new());
        converter.from_payloads(&context, payloads).await.ok()
    }
}

fn ends_activity(event: &HistoryEvent) -> bool {
    matches!(
        event.attributes,
        Some(Attributes::ActivityTaskCompletedEventAttributes(_))
    )
}

/// Temporal resets to the end of a workflow task, however it ended.
fn ends_task(event: &HistoryEvent) -> bool {
    matches!(
        event.attributes,
        Some(
            Attributes::WorkflowTaskCompletedEventAttributes(_)
                | Attributes::WorkflowTaskFailedEventAttributes(_)
                | Attributes::WorkflowTaskTimedOutEventAttributes(_)
        )
    )
}

/// How often the workflow task of a batch has failed, where it fails for good.
pub(super) fn failing_task(description: &WorkflowExecutionDescription) -> Option<u32> {
    let task = description.raw().pending_workflow_task.as_ref()?;
    let failed = u32::try_from(task.attempt - 1).ok()?;
    (task.attempt >= TELLING_ATTEMPT).then_some(failed)
}

impl From<ProgressError> for RecoverError {
    fn from(error: ProgressError) -> Self {
        match error {
            ProgressError::NotFound { batch_id } => Self::NotFound { batch_id },
            error => Self::Server {
                source: error.into(),
            },
        }
    }
}

impl From<WorkflowInteractionError> for RecoverError {
    fn from(error: WorkflowInteractionError) -> Self {
        Self::Server {
            source: error.into(),
        }
    }
}
