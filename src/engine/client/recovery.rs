//! Recovery of a batch whose history its workers cannot replay.

use futures::future::BoxFuture;
use serde::de::IgnoredAny;
use temporalio_client::{
    NamespacedClient as _, WorkflowExecutionDescription, WorkflowSignalOptions,
    errors::WorkflowInteractionError,
    tonic::{Code, IntoRequest as _, Status},
};
use temporalio_common::{
    data_converters::{
        SerializationContextData, TemporalDeserializable, WorkflowSerializationContext,
    },
    protos::temporal::api::{
        common::v1::{Payloads, WorkflowExecution},
        enums::v1::{TimeoutType, WorkflowTaskFailedCause},
        history::v1::{HistoryEvent, history_event::Attributes},
        workflowservice::v1::{
            GetWorkflowExecutionHistoryRequest, GetWorkflowExecutionHistoryReverseRequest,
            ResetWorkflowExecutionRequest,
        },
    },
};

use super::{
    BatchHandle, BatchStatus, ProgressError, Remedy,
    handle::state_of,
    running::time,
    standstill::{Cause, Next, Recovered, Repeat, Standstill},
};
use crate::{
    base::time::Timestamp,
    batch::retry::RetryMode,
    decisions::carry::ControllerInput,
    engine::controller::Controller,
    progress::audit::Given,
    protocol::{Prepared, RecoverNote, Steer, SteerRequest},
};

/// The attempt from which on a failing workflow task is taken to fail permanently. Temporal retries after a
/// worker was lost or slow, so the first failures are not significant.
const TELLING_ATTEMPT: i32 = 3;
/// Number of events that are read from the end of a history. Fewer are added between two attempts.
const LATEST_EVENTS: i32 = 200;
/// Number of events in a page when reading the beginning of a history.
const FIRST_EVENTS: i32 = 25;
/// Prefixes of request ids.
const RECOVER: &str = "recover-";
const HEAR_WHY: &str = "hear-why-";

/// A batch could not be recovered. Its state is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
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
    /// The current run has not been started by a worker yet, so there is nothing to recover.
    #[error("batch \"{batch_id}\" has not begun yet; start a worker on its task queue")]
    NotBegun {
        /// The id.
        batch_id: String,
    },
    /// The processor allows one attempt at each page, and a recovery may run pages again.
    #[error(
        "the pages of batch \"{batch_id}\" may run only once, and a recovery repeats those that finished \
         since its last continue-as-new; force it if its pages are kept in a ledger, or may be repeated"
    )]
    AtMostOnce {
        /// The id.
        batch_id: String,
    },
    /// The server did not perform the request.
    #[error("the server did not answer")]
    Server {
        /// The server's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// # Recover
impl BatchHandle {
    /// Restarts the current Temporal run of the batch, from the state that it received at its start or its last
    /// continue-as-new. Use it if every workflow task fails because the history of the run cannot be replayed
    /// ([`ProgressError::TaskFails`]) and the code that wrote it cannot be deployed.
    ///
    /// | state | effect |
    /// |---|---|
    /// | the batch run, counts and failures up to the last continue-as-new | kept |
    /// | the arguments, if the processor [completed](crate::PageProcessor::prepare) them | kept |
    /// | pages that finished since then | run again, and are counted once; with a ledger they have no effects |
    /// | running pages | finish, and run again |
    /// | pause, resume, limits, a cancellation since then | are applied again |
    /// | a deadline, if the batch never continued as new | starts over |
    ///
    /// For a healthy batch the only cost is to run those pages again. The reason and the operator are kept in
    /// Temporal's history of the run.
    ///
    /// # Errors
    /// A processor in [`RetryMode::AtMostOnce`] is refused, even with a ledger; see
    /// [`recover_by_force`](Self::recover_by_force). If the client lacks the codec to read the history, the
    /// mode is unknown and the recovery is not refused. For other errors see [`RecoverError`].
    pub async fn recover(&self, reason: impl Into<String>) -> Result<(), RecoverError> {
        self.recover_unless(reason.into(), true).await
    }

    /// Recovers the batch like [`recover`](Self::recover), even if each page allows only one attempt.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub async fn recover_by_force(&self, reason: impl Into<String>) -> Result<(), RecoverError> {
        self.recover_unless(reason.into(), false).await
    }

    fn recover_unless(
        &self,
        reason: String,
        at_most_once: bool,
    ) -> BoxFuture<'_, Result<(), RecoverError>> {
        Box::pin(async move {
            let description = self.describe().await?;
            let batch_id = self.batch_id.clone();
            let state = state_of(&description);
            if !state.is_open() {
                return Err(RecoverError::NotRunning { batch_id, state });
            }
            let beginning = self.beginning(description.run_id()).await?;
            if at_most_once && beginning.repeat == Repeat::AtMostOnce {
                return Err(RecoverError::AtMostOnce { batch_id });
            }
            let given = self.because(reason).given();
            self.start_again(description.run_id(), &beginning, given)
                .await
        })
    }

    /// Decides for a worker what to do about a batch whose workflow task it could not finish, and does it.
    pub(crate) async fn recover_by_itself(&self) -> Result<ByItself, RecoverError> {
        let description = self.describe().await?;
        let state = state_of(&description);
        let Some((standstill, beginning)) = self.standstill(&description).await? else {
            return Ok(ByItself::Well);
        };
        if !state.is_open() {
            return Ok(ByItself::Well);
        }
        match standstill.next() {
            Next::Wait => Ok(ByItself::LookAgain),
            Next::HearWhy => {
                let id = format!("{HEAR_WHY}{}", description.run_id());
                self.note(&self.batch_id, id, Steer::Nothing).await?;
                Ok(ByItself::LookAgain)
            }
            Next::Recover(next) => {
                let given = Given::by_itself(next.reason());
                self.start_again(description.run_id(), &beginning, given)
                    .await?;
                Ok(ByItself::Recovered(next.cause))
            }
            Next::Leave(remedy) => Ok(ByItself::Left(remedy)),
        }
    }

    /// Returns how the standstill of a batch whose workflow task fails can be ended.
    pub(super) fn remedy<'a>(
        &'a self,
        description: &'a WorkflowExecutionDescription,
    ) -> BoxFuture<'a, Remedy> {
        Box::pin(async move {
            match self.standstill(description).await {
                Ok(Some((standstill, _))) => standstill.remedy(),
                Ok(None) => Remedy::Deploy,
                Err(error) => {
                    tracing::debug!(%error, "the history of the batch was not read");
                    Remedy::Deploy
                }
            }
        })
    }

    /// Resets a run. The note for the audit is sent first, because the new run receives it again. If the worker
    /// dies before the reset, the next recovery makes up for it.
    async fn start_again(
        &self,
        run_id: &str,
        beginning: &Beginning,
        given: Given,
    ) -> Result<(), RecoverError> {
        let Some(first_task) = beginning.task_to_repeat else {
            let batch_id = self.batch_id.clone();
            return Err(RecoverError::NotBegun { batch_id });
        };
        // The request id depends on the run: the server ignores a second request with the same id.
        let request_id = format!("{RECOVER}{run_id}");
        let reason = given.to_text();
        let note = Steer::Recover(RecoverNote {
            partition: beginning.partition,
            given,
        });
        let batch_id = beginning.batch_id.as_ref().unwrap_or(&self.batch_id);
        self.note(batch_id, request_id.clone(), note).await?;
        let request = ResetWorkflowExecutionRequest {
            namespace: self.client.namespace(),
            workflow_execution: Some(self.execution(run_id)),
            reason,
            workflow_task_finish_event_id: first_task,
            request_id,
            identity: self.client.identity(),
            ..Default::default()
        };
        let mut service = self.client.connection().workflow_service();
        let reset = service.reset_workflow_execution(request.into_request());
        reset
            .await
            .map(|_| ())
            .map_err(|status| self.failed(status))
    }

    /// Sends a note to the controller of the batch, which may be the parent of this one. A controller that has
    /// ended needs none.
    fn note<'a>(
        &'a self,
        batch_id: &'a str,
        id: String,
        what: Steer,
    ) -> BoxFuture<'a, Result<(), RecoverError>> {
        Box::pin(async move {
            let options = WorkflowSignalOptions::builder()
                .request_id(id.clone())
                .build();
            let controller = self.client.get_workflow_handle::<Controller>(batch_id);
            let request = SteerRequest { id, what };
            match controller.signal(Controller::steer, request, options).await {
                Ok(()) | Err(WorkflowInteractionError::NotFound(_)) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Collects the facts about a failing workflow task. `None` if no task is pending.
    fn standstill<'a>(
        &'a self,
        description: &'a WorkflowExecutionDescription,
    ) -> BoxFuture<'a, Result<Option<(Standstill, Beginning)>, RecoverError>> {
        Box::pin(async move {
            let Some(task) = &description.raw().pending_workflow_task else {
                return Ok(None);
            };
            let (mut failures, cause) = self.latest_failures(description.run_id()).await?;
            // The history contains the first failed attempt of a task, and no further ones.
            failures += u32::try_from(task.attempt - 2).unwrap_or(0);
            let beginning = self.beginning(description.run_id()).await?;
            let standstill = Standstill {
                failures,
                cause,
                repeat: beginning.repeat,
                before: beginning.recovered.clone(),
                at: time(task.scheduled_time).unwrap_or_default(),
            };
            Ok(Some((standstill, beginning)))
        })
    }

    /// Reads the latest events of a run, latest first.
    async fn latest_events(&self, run_id: &str) -> Result<Vec<HistoryEvent>, RecoverError> {
        let request = GetWorkflowExecutionHistoryReverseRequest {
            namespace: self.client.namespace(),
            execution: Some(self.execution(run_id)),
            maximum_page_size: LATEST_EVENTS,
            ..Default::default()
        };
        let mut service = self.client.connection().workflow_service();
        let page = service.get_workflow_execution_history_reverse(request.into_request());
        let page = page.await.map_err(|status| self.failed(status))?;
        Ok(page.into_inner().history.unwrap_or_default().events)
    }

    /// Returns the time at which the cancellation of a run was requested, if it was.
    pub(super) async fn cancelled_at(
        &self,
        run_id: &str,
    ) -> Result<Option<Timestamp>, RecoverError> {
        let events = self.latest_events(run_id).await?;
        let requested = events.into_iter().find(|event| {
            matches!(
                event.attributes,
                Some(Attributes::WorkflowExecutionCancelRequestedEventAttributes(
                    _
                ))
            )
        });
        Ok(requested.and_then(|event| time(event.event_time)))
    }

    /// Counts the failures since the last successful workflow task, as recorded in the history.
    async fn latest_failures(&self, run_id: &str) -> Result<(u32, Cause), RecoverError> {
        let events = self.latest_events(run_id).await?;
        let (mut failures, mut cause) = (0, None);
        for event in events {
            match event.attributes {
                Some(Attributes::WorkflowTaskCompletedEventAttributes(_)) => break,
                Some(Attributes::WorkflowTaskFailedEventAttributes(failed)) => {
                    if failed.cause() == WorkflowTaskFailedCause::ResetWorkflow {
                        break;
                    }
                    failures += 1;
                    let message = failed.failure.as_ref().map_or("", |f| f.message.as_str());
                    cause = cause.or(Some(match failed.cause() {
                        WorkflowTaskFailedCause::NonDeterministicError => {
                            Cause::unreplayable(message)
                        }
                        _ => Cause::Other,
                    }));
                }
                // If a worker is gone, its tasks time out before they are started.
                Some(Attributes::WorkflowTaskTimedOutEventAttributes(timed_out))
                    if timed_out.timeout_type() == TimeoutType::StartToClose =>
                {
                    failures += 1;
                }
                _ => {}
            }
        }
        Ok((failures, cause.unwrap_or(Cause::Silent)))
    }

    /// Reads the events of a run up to the dispatch of its first pages.
    async fn beginning(&self, run_id: &str) -> Result<Beginning, RecoverError> {
        let mut events = Vec::new();
        let mut next_page_token = Vec::new();
        let mut prepared = false;
        'pages: loop {
            let request = GetWorkflowExecutionHistoryRequest {
                namespace: self.client.namespace(),
                execution: Some(self.execution(run_id)),
                maximum_page_size: FIRST_EVENTS,
                next_page_token,
                ..Default::default()
            };
            let mut service = self.client.connection().workflow_service();
            let page = service.get_workflow_execution_history(request.into_request());
            let page = page
                .await
                .map_err(|status| self.failed(status))?
                .into_inner();
            for event in page.history.unwrap_or_default().events {
                let dispatched = prepared && ends_task(&event);
                prepared |= ends_activity(&event);
                events.push(event);
                if dispatched {
                    break 'pages;
                }
            }
            next_page_token = page.next_page_token;
            if next_page_token.is_empty() {
                break;
            }
        }
        let input = self.input_in(&events).await;
        let prepared = self.prepared_in(&events).await;
        let part = input.as_ref().and_then(|input| input.part.as_ref());
        Ok(Beginning {
            batch_id: input.as_ref().map(|input| input.spec.batch_id.clone()),
            partition: part.map(|part| part.number),
            recovered: events.iter().rev().find_map(recovered_in),
            task_to_repeat: task_to_repeat(&events, prepared.as_ref()),
            repeat: match input.map(|input| input.carry) {
                Some(Some(carry)) => repeat(&carry.prepared),
                // A run that received no state looks up its processor first.
                Some(None) => match &prepared {
                    Some(Ok(prepared)) => repeat(prepared),
                    Some(Err(Unreadable)) => Repeat::Unreadable,
                    None => Repeat::Allowed,
                },
                None => Repeat::Unreadable,
            },
        })
    }

    async fn input_in(&self, events: &[HistoryEvent]) -> Option<ControllerInput<IgnoredAny>> {
        match events.first()?.attributes.as_ref()? {
            Attributes::WorkflowExecutionStartedEventAttributes(started) => {
                self.decode(&started.input).await
            }
            _ => None,
        }
    }

    /// Reads the result of the first activity of the run.
    async fn prepared_in(&self, events: &[HistoryEvent]) -> Option<Result<Prepared, Unreadable>> {
        let event = events.iter().find(|event| ends_activity(event))?;
        match event.attributes.as_ref()? {
            Attributes::ActivityTaskCompletedEventAttributes(completed) => {
                Some(self.decode(&completed.result).await.ok_or(Unreadable))
            }
            _ => None,
        }
    }

    fn execution(&self, run_id: &str) -> WorkflowExecution {
        WorkflowExecution {
            workflow_id: self.batch_id.clone(),
            run_id: run_id.to_owned(),
        }
    }

    fn failed(&self, status: Status) -> RecoverError {
        match status.code() {
            Code::NotFound => self.not_found().into(),
            _ => RecoverError::Server {
                source: status.into(),
            },
        }
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

/// The beginning of a run.
pub(super) struct Beginning {
    /// The batch, which for a partition is its parent. `None` if the input cannot be read.
    batch_id: Option<String>,
    partition: Option<u32>,
    repeat: Repeat,
    recovered: Option<Recovered>,
    /// The workflow task to which the run can be reset, if there is one.
    task_to_repeat: Option<i64>,
}

struct Unreadable;

/// The result of inspecting a batch whose workflow task may fail.
#[derive(Debug)]
pub(crate) enum ByItself {
    Well,
    LookAgain,
    /// The batch was recovered, for this cause.
    Recovered(String),
    Left(Remedy),
}

fn repeat(prepared: &Prepared) -> Repeat {
    match prepared.retry_mode {
        RetryMode::AtMostOnce => Repeat::AtMostOnce,
        _ => Repeat::Allowed,
    }
}

/// Returns the workflow task from which the run is repeated. That is the first one, unless the processor has
/// completed the arguments since then, which it might now do differently.
fn task_to_repeat(
    beginning: &[HistoryEvent],
    prepared: Option<&Result<Prepared, Unreadable>>,
) -> Option<i64> {
    let end_of_task = |events: &[HistoryEvent]| {
        let task = events.iter().find(|event| ends_task(event));
        task.map(|event| event.event_id)
    };
    let at = beginning.iter().position(ends_activity);
    let (prepare, rest) = beginning.split_at(at.unwrap_or(beginning.len()));
    let completed_args = prepared
        .and_then(|prepared| prepared.as_ref().ok())
        .is_some_and(|prepared| prepared.args.is_some());
    let after = end_of_task(rest).filter(|_| completed_args);
    after.or_else(|| end_of_task(prepare))
}

/// The recovery by a worker with which this run began.
fn recovered_in(event: &HistoryEvent) -> Option<Recovered> {
    match event.attributes.as_ref()? {
        Attributes::WorkflowTaskFailedEventAttributes(failed)
            if failed.cause() == WorkflowTaskFailedCause::ResetWorkflow =>
        {
            let given = Given::from_text(&failed.failure.as_ref()?.message);
            Recovered::from_reason(&given.why?, time(event.event_time).unwrap_or_default())
        }
        _ => None,
    }
}

fn ends_activity(event: &HistoryEvent) -> bool {
    matches!(
        event.attributes,
        Some(Attributes::ActivityTaskCompletedEventAttributes(_))
    )
}

/// Returns whether the event ends a workflow task in any way. Temporal resets to such events.
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

/// Returns whether the workflow task of a batch is being retried. A new event would turn the next attempt into
/// a first one, and hide that the task fails permanently.
pub(super) fn repeats_task(description: &WorkflowExecutionDescription) -> bool {
    let task = description.raw().pending_workflow_task.as_ref();
    task.is_some_and(|task| task.attempt > 1)
}

/// Returns how often the workflow task of a batch has failed, if it fails permanently.
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
