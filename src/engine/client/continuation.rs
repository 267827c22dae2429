//! The continuation of a batch that ended early.

use std::time::Duration;

use futures::future::BoxFuture;
use temporalio_client::{WorkflowExecutionDescription, WorkflowIdReusePolicy};
use temporalio_common::{HasWorkflowDefinition, Memo};

use super::{
    BatchClient, BatchHandle, BatchStatus, ResultError, StartError, batch_client::KeptArgs,
};
use crate::{
    batch::{
        Batch,
        spec::BatchSpec,
        tolerance::Tolerance,
        validate::{InvalidBatch, validate_deadline, validate_id, validate_max_parallelism},
    },
    decisions::{carry::ControllerInput, state::work::Work},
    engine::controller::{Controller, PartitionParent},
    protocol::{
        self, MEMO_ARGS,
        large_args::{Reference, carried},
    },
};

/// A continuation of a batch that failed, stopped or was cancelled: in the same batch run, from exactly where
/// it stopped, with the currently deployed code.
///
/// Pages that were given up stay given up, except for the page where coverage stopped, which gets new attempts.
/// Failures so far are forgiven, and a deadline counts from now.
///
/// | setting | default |
/// |---|---|
/// | `max_parallelism` | unchanged |
/// | `tolerate` | unchanged |
/// | `deadline` | the same duration, counted from now |
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    batch_id: String,
    max_parallelism: Option<u32>,
    deadline: Option<Duration>,
    tolerance: Option<Tolerance>,
    reason: Option<String>,
}

/// # Construct
impl Continuation {
    /// A continuation of this batch.
    pub fn of(batch_id: impl Into<String>) -> Self {
        Self {
            batch_id: batch_id.into(),
            max_parallelism: None,
            deadline: None,
            tolerance: None,
            reason: None,
        }
    }

    /// Limits the pages in flight, over all workers.
    #[must_use]
    pub fn max_parallelism(mut self, pages: u32) -> Self {
        self.max_parallelism = Some(pages);
        self
    }

    /// Stops the batch if it is not done after this time from now.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// Sets the failures that are tolerated. Further failures pause or stop the batch.
    #[must_use]
    pub fn tolerate(mut self, tolerance: Tolerance) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Sets the reason, which is kept in the audit of the batch.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    fn validate(&self) -> Result<(), InvalidBatch> {
        validate_id(&self.batch_id)?;
        if let Some(pages) = self.max_parallelism {
            validate_max_parallelism(pages)?;
        }
        validate_deadline(self.deadline)?;
        self.tolerance.as_ref().map_or(Ok(()), Tolerance::validate)
    }
}

/// The changes with which a batch continues.
trait Change {
    fn apply<W>(&self, input: &mut ControllerInput<W>) -> Result<(), String>;
}

impl Change for Continuation {
    fn apply<W>(&self, input: &mut ControllerInput<W>) -> Result<(), String> {
        if let Some(pages) = self.max_parallelism {
            input.spec.max_parallelism = pages;
            if let Some(carry) = &mut input.carry {
                carry.controls.max_parallelism = pages;
                carry.pacing.end_ramp();
                carry.pacing.fix_parallelism();
            }
        }
        if self.deadline.is_some() {
            input.spec.deadline = self.deadline;
        }
        if self.tolerance.is_some() {
            input.spec.tolerance.clone_from(&self.tolerance);
        }
        Ok(())
    }
}

/// A continuation with the limits of another batch.
impl Change for Batch {
    fn apply<W>(&self, input: &mut ControllerInput<W>) -> Result<(), String> {
        let (old, new) = (&input.spec, &self.spec);
        let args = carried(&new.args, &new.batch_id, MEMO_ARGS);
        if old.processor != new.processor || old.args != args {
            return Err("its processor or its arguments are different".to_owned());
        }
        let stride_before = old.stride;
        // The start, the stages and the kind of workflow are fixed for the batch run.
        input.spec = BatchSpec {
            first_cursor: old.first_cursor.clone(),
            stages: old.stages.clone(),
            approve_stages: old.approve_stages,
            partitioned: old.partitioned,
            ..new.clone()
        };
        if let Some(carry) = &mut input.carry {
            carry.controls.max_parallelism = new.max_parallelism;
            carry.pacing = carry.pacing.begun_again(&input.spec, stride_before);
        }
        Ok(())
    }
}

/// # Go on
impl BatchClient {
    /// Continues a batch that ended failed, stopped or cancelled.
    ///
    /// # Errors
    /// A setting is not allowed; the batch is running, has completed, or left nothing to continue from; or the
    /// server does not accept it.
    pub async fn continue_batch(
        &self,
        continuation: &Continuation,
    ) -> Result<BatchHandle, StartError> {
        continuation.validate()?;
        self.continue_with(continuation).await
    }

    fn continue_with<'a>(
        &'a self,
        continuation: &'a Continuation,
    ) -> BoxFuture<'a, Result<BatchHandle, StartError>> {
        let reason = continuation.reason.clone();
        Box::pin(self.go_on(&continuation.batch_id, reason, continuation))
    }

    /// Continues the batch with the limits of `batch`.
    pub(super) fn continue_as<'a>(
        &'a self,
        batch: &'a Batch,
    ) -> BoxFuture<'a, Result<BatchHandle, StartError>> {
        Box::pin(async move { self.go_on(batch.id(), None, batch).await })
    }

    async fn go_on(
        &self,
        batch_id: &str,
        reason: Option<String>,
        change: &(impl Change + Sync),
    ) -> Result<BatchHandle, StartError> {
        let cannot = cannot_continue(batch_id);
        let server = |source| StartError::Server { source };
        let handle = self.handle_unchecked(batch_id.to_owned());
        let description = match handle.describe().await {
            Ok(description) => description,
            Err(super::ProgressError::NotFound { .. }) => {
                return Err(cannot("there is no such batch".to_owned()));
            }
            Err(error) => return Err(server(error.into())),
        };
        if super::handle::state_of(&description).is_open() {
            let batch_id = batch_id.to_owned();
            return Err(StartError::AlreadyRunning { batch_id });
        }
        let ended = (&handle, &description);
        match description.workflow_type() {
            protocol::PARTITION_PARENT => {
                let workflow = || PartitionParent::run;
                self.go_on_as(workflow, ended, reason, change).await
            }
            _ => {
                let workflow = || Controller::run;
                self.go_on_as(workflow, ended, reason, change).await
            }
        }
    }

    /// Continues an ended batch whose workflow is of this type.
    async fn go_on_as<R, W: Work>(
        &self,
        workflow: impl Fn() -> R,
        (handle, description): (&BatchHandle, &WorkflowExecutionDescription),
        reason: Option<String>,
        change: &impl Change,
    ) -> Result<BatchHandle, StartError>
    where
        R: HasWorkflowDefinition<Input = ControllerInput<W>>,
    {
        let batch_id = handle.id();
        let cannot = cannot_continue(batch_id);
        let server = |source| StartError::Server { source };
        let ended = match handle.ended::<W>().await {
            Ok(ended) => ended,
            Err(error) => return Err(left_nothing(error).map_or_else(server, cannot)),
        };
        let Some(mut input) = ended.continuation else {
            return Err(cannot(format!(
                "it is {}; allow a rerun to run everything again",
                ended.report.outcome
            )));
        };
        input.revive().map_err(cannot)?;
        change.apply(&mut input).map_err(cannot)?;
        input.begun = Some(self.begun("continue", reason));
        let info = description.raw().workflow_execution_info.as_ref();
        let queue = info.map_or("", |info| info.task_queue.as_str());
        // The policy rejects the start if another client was faster and its batch has already completed.
        let reuse = WorkflowIdReusePolicy::AllowDuplicateFailedOnly;
        let of_prepared = input.carry.as_ref().map(|carry| &carry.prepared);
        let of_prepared = of_prepared.and_then(|prepared| prepared.args.as_ref());
        let memo = description.memo();
        let args = KeptArgs {
            given: meant(&input.spec.args, &memo).map_err(cannot)?,
            prepared: of_prepared
                .map(|args| meant(args, &memo))
                .transpose()
                .map_err(cannot)?,
        };
        let started = self
            .start_workflow(workflow, *input, args, queue, reuse)
            .await;
        self.started(batch_id, started)
    }
}

fn cannot_continue(batch_id: &str) -> impl Fn(String) -> StartError + Copy {
    move |why| StartError::CannotContinue {
        batch_id: batch_id.to_owned(),
        why,
    }
}

/// Returns the arguments of the batch that ended. They may be stored only in its memo.
fn meant(carried: &serde_json::Value, memo: &Memo) -> Result<serde_json::Value, String> {
    let Some(reference) = Reference::of(carried) else {
        return Ok(carried.clone());
    };
    let kept = memo.get::<serde_json::Value>(&reference.field);
    let kept = kept.ok().flatten().filter(|kept| reference.means(kept));
    kept.ok_or_else(|| "its arguments are no longer in its memo".to_owned())
}

/// Explains why a batch without a report cannot continue, or returns the server's error.
fn left_nothing(error: ResultError) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    match error {
        ResultError::Refused { reason } => Ok(format!(
            "it was refused before its first page ({reason}); allow a rerun to start it"
        )),
        ResultError::NoReport {
            state: state @ (BatchStatus::Terminated | BatchStatus::TimedOut),
        } => Ok(format!(
            "it was {state} from outside and left no report; allow a rerun to run everything again, or \
             reset its workflow with Temporal to a point before that"
        )),
        error => Err(error.into()),
    }
}

impl<W: Work> ControllerInput<W> {
    /// Prepares the remaining state of the batch to continue.
    fn revive(&mut self) -> Result<(), String> {
        let Some(carry) = &mut self.carry else {
            return Ok(());
        };
        carry.work.revive()?;
        let controls = &mut carry.controls;
        controls.paused = false;
        controls.pause_reason = None;
        controls.pause = None;
        controls.stop_now = false;
        controls.tripped = None;
        controls.stopping = None;
        controls.forgiven = Some(carry.work.forgiven());
        carry.notices.track_at = crate::base::time::Timestamp::default();
        Ok(())
    }
}
