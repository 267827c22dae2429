//! The workflow of a fan-out.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporal_batch::of_crates::in_step;
use temporalio_common::data_converters::RawValue;
use temporalio_sdk::{
    ApplicationFailure, ContinueAsNewOptions, SyncWorkflowContext, WorkflowContext,
    WorkflowContextView, WorkflowResult, WorkflowTermination,
};

use super::calls::Calls;
use crate::{
    progress::{FanoutOutcome, FanoutReport, Progress},
    protocol::{self, FanoutInput, ItemDone},
    state::{FanoutState, Next},
};

/// See the [module documentation](self).
#[temporalio_macros::workflow]
pub(crate) struct FanoutWorkflow(pub(super) FanoutState);

#[temporalio_macros::workflow_methods]
impl FanoutWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: FanoutInput) -> Self {
        Self(FanoutState::of(input))
    }

    #[run(name = protocol::FANOUT)]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<FanoutReport> {
        let ctx = &*ctx;
        in_step(ctx, work(ctx)).await
    }

    /// The end of an item, from its child. A signal that cannot be read is a stray: an error would stop the workflow for ever.
    #[signal(name = protocol::ITEM_DONE)]
    pub(crate) fn item_done(&mut self, ctx: &mut SyncWorkflowContext<Self>, done: RawValue) {
        let done = done.payloads.first().map(|done| &done.data[..]);
        let done = serde_json::from_slice::<ItemDone>(done.unwrap_or_default());
        let Ok(done) = done else {
            self.0.unreadable_report();
            return;
        };
        let id = done.item_id.clone();
        let counts = self.0.reported(done);
        if !ctx.is_replaying() {
            let (fanout, item) = (&self.0.spec.id, id);
            tracing::info!(fanout, item, counts, "completion signal received");
        }
    }

    /// The numbers of the fan-out, without an event in the history.
    #[query(name = protocol::PROGRESS)]
    pub(crate) fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.0.progress()
    }

    /// The numbers of the fan-out, with two events in the history.
    #[update(name = protocol::GET_PROGRESS)]
    pub(crate) fn get_progress(&mut self, _ctx: &mut SyncWorkflowContext<Self>) -> Progress {
        self.0.progress()
    }
}

/// Decides and acts until the fan-out is over.
async fn work(ctx: &WorkflowContext<FanoutWorkflow>) -> WorkflowResult<FanoutReport> {
    let mut calls = Calls::default();
    loop {
        let (events, suggested) = (ctx.history_length(), ctx.continue_as_new_suggested());
        let next = ctx.state_mut(|w| {
            w.0.refresh(events, suggested);
            w.0.next()
        });
        match next {
            Next::Steps(steps) => calls.begin(ctx, steps),
            Next::Wait => {
                ctx.set_current_details(ctx.state(|w| w.0.details()));
                calls.something_happens(ctx).await;
            }
            Next::HandOver => {
                hand_over(ctx)?;
                return finish(ctx);
            }
            Next::Finish => return finish(ctx),
        }
    }
}

/// The most bytes of the input of a run: less than the 2 MiB at which Temporal refuses it, each time that it is tried.
const INPUT_BYTES: usize = 2_000_000;

/// Continues as new. Returns only if the state is too large for that, and the fan-out has failed.
fn hand_over(ctx: &WorkflowContext<FanoutWorkflow>) -> WorkflowResult<()> {
    let input = ctx.state(|w| FanoutInput {
        spec: w.0.spec.clone(),
        carry: w.0.carry.clone(),
    });
    let bytes = serde_json::to_string(&input).map_or(usize::MAX, |json| json.len());
    if bytes > INPUT_BYTES {
        ctx.state_mut(|w| w.0.too_large(bytes));
        return Ok(());
    }
    log(ctx, "continuing as new");
    ctx.continue_as_new(input, ContinueAsNewOptions::default())?;
    Ok(())
}

fn finish(ctx: &WorkflowContext<FanoutWorkflow>) -> WorkflowResult<FanoutReport> {
    let report = ctx.state(|w| w.0.report());
    ctx.set_current_details(ctx.state(|w| w.0.details()));
    log(ctx, "fan-out ended");
    match report.outcome {
        FanoutOutcome::Completed => Ok(report),
        FanoutOutcome::Cancelled => Err(WorkflowTermination::cancelled_with_details(report)),
        FanoutOutcome::Failed => {
            let reason = report.reason.clone().unwrap_or_default();
            Err(ApplicationFailure::builder(reason)
                .type_name(protocol::FANOUT_FAILED.to_owned())
                .non_retryable(true)
                .details(report)
                .build()
                .into())
        }
    }
}

/// Logs the message once: a replay was logged before.
fn log(ctx: &WorkflowContext<FanoutWorkflow>, what: &str) {
    if ctx.is_replaying() {
        return;
    }
    ctx.state(|w| {
        let (progress, fanout) = (w.0.progress(), &w.0.spec.id);
        let (completed, failed) = (progress.completed, progress.failed);
        tracing::info!(fanout, completed, failed, total = progress.total, "{what}");
    });
}
