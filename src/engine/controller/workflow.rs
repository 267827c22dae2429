//! The course that every workflow of a batch takes: begin, prepare, take the lock, work, end or continue as new.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporalio_common::{MemoValues, WorkflowDefinition};
use temporalio_sdk::{ContinueAsNewOptions, WorkflowContext, WorkflowResult};
use temporalio_workflow::workflows::WorkflowImplementation;

use super::{
    ending::end,
    lock,
    prepare::prepare,
    side_calls::{OwnCall, SideCalls},
};
use crate::{
    base::time::Timestamp,
    decisions::{
        carry::ControllerInput,
        state::{BatchState, work::Work},
    },
    progress::report::BatchReport,
    protocol,
};

/// A workflow of a batch.
pub(super) trait BatchWorkflow:
    WorkflowImplementation<Run: WorkflowDefinition<Input = ControllerInput<Self::Work>>>
{
    type Work: Work;

    /// The side activities that only this workflow calls, in the order in which they are begun.
    const OWN_CALLS: &'static [OwnCall<Self>];

    fn state(&self) -> &BatchState<Self::Work>;

    fn state_mut(&mut self) -> &mut BatchState<Self::Work>;

    /// Decides and acts until the batch is over.
    async fn work(ctx: &WorkflowContext<Self>) -> WorkflowResult<BatchReport>;
}

/// Access to the state of the batch of a workflow.
pub(super) trait BatchContext<W> {
    fn batch<R>(&self, look: impl FnOnce(&BatchState<W>) -> R) -> R;

    fn batch_mut<R>(&self, change: impl FnOnce(&mut BatchState<W>) -> R) -> R;
}

impl<W: BatchWorkflow> BatchContext<W::Work> for WorkflowContext<W> {
    fn batch<R>(&self, look: impl FnOnce(&BatchState<W::Work>) -> R) -> R {
        self.state(|workflow| look(workflow.state()))
    }

    fn batch_mut<R>(&self, change: impl FnOnce(&mut BatchState<W::Work>) -> R) -> R {
        self.state_mut(|workflow| change(workflow.state_mut()))
    }
}

/// Runs a workflow of a batch.
pub(super) async fn run_batch<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
) -> WorkflowResult<BatchReport> {
    refuse_newer(ctx).await;
    let now = now(ctx);
    if ctx.batch_mut(|s| s.begin(now)) {
        log(ctx, "batch started");
    }
    let mut ending = prepare(ctx).await?;
    if ending.is_none() {
        ending = lock::take(ctx).await?;
    }
    match ending {
        Some(ending) if ctx.batch(|s| s.work.running() == 0) => {
            end(ctx, ending, SideCalls::default()).await
        }
        // A batch that is ending still waits for its running strides.
        _ => W::work(ctx).await,
    }
}

/// Ends this run of the workflow and begins the next one of the same batch run.
pub(super) fn hand_over<W: BatchWorkflow>(ctx: &WorkflowContext<W>) -> WorkflowResult<()> {
    let input = ctx.batch(|s| s.fitting_input());
    log(ctx, "continuing as new");
    let mut options = ContinueAsNewOptions::default();
    options.memo = Some(lasting_memo(ctx));
    ctx.continue_as_new(input, options)?;
    Ok(())
}

/// Returns the memo for the next run. By default the SDK passes on the memo of the start, without the arguments that
/// the processor completed. The next run publishes the progress and the control state itself.
fn lasting_memo<W: BatchWorkflow>(ctx: &WorkflowContext<W>) -> MemoValues {
    const OF_THE_MOMENT: [&str; 4] = [
        protocol::MEMO_CONTROL,
        protocol::MEMO_PROGRESS,
        protocol::MEMO_FULL,
        protocol::MEMO_ENDED,
    ];
    let memo = ctx.memo();
    let mut lasting = MemoValues::new();
    for field in memo.keys().filter(|field| !OF_THE_MOMENT.contains(field)) {
        if let Ok(Some(value)) = memo.get::<serde_json::Value>(field) {
            lasting.insert(field, value);
        }
    }
    lasting
}

/// A batch that a newer version started or handed over waits for a worker of that version.
async fn refuse_newer<W: BatchWorkflow>(ctx: &WorkflowContext<W>) {
    let version = ctx.batch(|s| s.input.version);
    if version > protocol::VERSION {
        ctx.force_task_fail(format!(
            "the batch was written by protocol version {version}; this worker knows up to {}",
            protocol::VERSION
        ));
        std::future::pending::<()>().await;
    }
}

/// Logs the message once: a replay was logged before.
pub(super) fn log<W: BatchWorkflow>(ctx: &WorkflowContext<W>, what: &str) {
    if ctx.is_replaying() {
        return;
    }
    ctx.batch(|s| {
        let spec = &s.input.spec;
        tracing::info!(
            batch = spec.batch_id,
            batch_run = s.input.batch_run,
            processor = spec.processor,
            workflow_run = ctx.run_id(),
            run = s.runs + 1,
            pages = s.work.totals().pages_completed,
            items = s.work.totals().items.total(),
            "{what}"
        );
    });
}

pub(super) fn now<W>(ctx: &WorkflowContext<W>) -> Timestamp {
    time(ctx.workflow_time())
}

pub(super) fn time(of_the_workflow: Option<std::time::SystemTime>) -> Timestamp {
    of_the_workflow.map_or(Timestamp(0), Timestamp::from)
}
