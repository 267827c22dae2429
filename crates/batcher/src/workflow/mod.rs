//! The workflow of a shard, which only translates.
//!
//! ```text
//!   signal submit ─────┐                               ┌─> schedule a write
//!   activity result ───┼─> BatcherState ──> next step ─┼─> schedule a call that tells requesters
//!   timer, shutdown ───┘                               └─> timer, continue as new, complete
//! ```

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod calls;

use futures::future::FusedFuture as _;
use temporal_batch::{Timestamp, of_crates::Alarm};
use temporalio_sdk::{
    ContinueAsNewOptions, SyncWorkflowContext, WaitConditionOptions, WorkflowCancellationToken,
    WorkflowContext, WorkflowContextView, WorkflowResult,
};

use crate::{
    protocol::{self, BatcherInput, OutcomesAnswer, OutcomesRequest, Submission},
    state::{BatcherState, HandOver, Stats, Step},
};
use calls::Calls;

pub(crate) use calls::{ActivityDefs, ConfirmActivity, SubmitForActivity, WriteActivity};

/// Events after which a run no longer waits for its writes. Clients submit nothing to a run with 9,000.
const OVERDUE_EVENTS: u32 = 7_000;
/// Signals after which a run continues as new. Temporal refuses more than 10,000.
const DUE_SIGNALS: u32 = 4_000;
/// Signals after which a run no longer waits for its writes.
const OVERDUE_SIGNALS: u32 = 8_000;
/// Bytes of signals after which a run continues as new, and no longer waits. Temporal ends a run at 50 MB, and the requests
/// that are written are in the history twice.
const DUE_BYTES: u64 = 4 * 1024 * 1024;
const OVERDUE_BYTES: u64 = 8 * 1024 * 1024;

/// The workflow of a shard.
#[temporalio_macros::workflow]
pub(crate) struct BatcherWorkflow {
    input: BatcherInput,
    state: BatcherState,
    /// What this run has received.
    signals: u32,
    requests: u32,
    bytes: u64,
    /// Grows with each event that may change the next step.
    events: u64,
}

#[temporalio_macros::workflow_methods]
impl BatcherWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, mut input: BatcherInput) -> Self {
        Self {
            state: input.carried.take().unwrap_or_default().resumed(),
            input,
            signals: 0,
            requests: 0,
            bytes: 0,
            events: 0,
        }
    }

    #[run(name = protocol::BATCHER)]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Stats> {
        let ctx = &*ctx;
        temporal_batch::of_crates::in_step(ctx, work(ctx)).await
    }

    /// Requests to write.
    #[signal(name = protocol::SUBMIT)]
    pub(crate) fn submit(&mut self, ctx: &mut SyncWorkflowContext<Self>, submission: Submission) {
        self.signals += 1;
        for request in &submission.requests {
            self.requests += 1;
            self.bytes += request.bytes() as u64;
        }
        let now = time(ctx.workflow_time());
        self.state.submitted(&self.input.batcher, now, submission);
        self.events += 1;
    }

    /// Writes what is pending, then completes.
    #[signal(name = protocol::SHUTDOWN)]
    pub(crate) fn shutdown(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.state.shut_down();
        self.events += 1;
    }

    #[query(name = protocol::STATS)]
    pub(crate) fn stats(&self, _ctx: &WorkflowContextView) -> Stats {
        self.state.stats()
    }

    #[query(name = protocol::OUTCOMES)]
    pub(crate) fn outcomes(
        &self,
        _ctx: &WorkflowContextView,
        asked: OutcomesRequest,
    ) -> OutcomesAnswer {
        let ids = asked.request_ids.iter();
        OutcomesAnswer {
            known: ids.map(|id| self.state.known(id)).collect(),
        }
    }
}

impl BatcherWorkflow {
    /// Returns whether the next run should begin.
    fn hand_over(&self, suggested: bool, events: u32) -> HandOver {
        let Self { signals, bytes, .. } = *self;
        if events > OVERDUE_EVENTS || signals > OVERDUE_SIGNALS || bytes > OVERDUE_BYTES {
            return HandOver::Overdue;
        }
        let limit = self.input.batcher.limits.hand_over_after;
        let due = suggested
            || signals > DUE_SIGNALS
            || bytes > DUE_BYTES
            || limit.is_some_and(|limit| self.requests >= limit);
        match due {
            true => HandOver::Due,
            false => HandOver::No,
        }
    }
}

async fn work(ctx: &WorkflowContext<BatcherWorkflow>) -> WorkflowResult<Stats> {
    refuse_newer(ctx).await;
    let mut calls = Calls::default();
    let mut alarm = Alarm::default();
    loop {
        let (suggested, events) = (ctx.continue_as_new_suggested(), ctx.history_length());
        let now = time(ctx.workflow_time());
        let step = ctx.state_mut(|w| {
            let hand_over = w.hand_over(suggested, events);
            w.state.next(&w.input.batcher, now, hand_over)
        });
        match step {
            Step::Write(number) => calls.write(ctx, number),
            Step::Confirm(number) => calls.confirm(ctx, number),
            Step::Wait(until) => {
                match until {
                    Some(_) => alarm.set(ctx, until, now),
                    // An idle shard adds no events to its history.
                    None => alarm.off(),
                }
                something_happens(ctx, &mut calls, &mut alarm).await;
            }
            Step::HandOver => {
                let input = ctx.state(|w| BatcherInput {
                    version: protocol::VERSION,
                    carried: Some(w.state.clone()),
                    ..w.input.clone()
                });
                ctx.continue_as_new(input, ContinueAsNewOptions::default())?;
            }
            Step::Finish => return Ok(ctx.state(|w| w.state.stats())),
        }
    }
}

/// Waits for the end of a call, for a signal, for the timer or for a cancellation, which is a shutdown.
async fn something_happens<'a>(
    ctx: &'a WorkflowContext<BatcherWorkflow>,
    calls: &mut Calls<'a>,
    alarm: &mut Alarm<'a>,
) {
    let (seen, stopping) = ctx.state(|w| (w.events, w.state.stats().stopping));
    // The wait has its own token: a cancelled shard still writes what it holds.
    let options = WaitConditionOptions::builder()
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    let mut change =
        std::pin::pin!(ctx.wait_condition_with_options(move |w| w.events != seen, options));
    let mut cancel = std::pin::pin!(ctx.cancelled());
    std::future::poll_fn(|cx| {
        let mut awake = calls.poll(ctx, cx);
        awake |= alarm.poll(cx).is_ready();
        awake |= change.as_mut().poll(cx).is_ready();
        if !stopping && !cancel.is_terminated() && cancel.as_mut().poll(cx).is_ready() {
            ctx.state_mut(|w| w.state.shut_down());
            awake = true;
        }
        match awake {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

/// A shard that a newer version has started or handed over waits for a worker of that version.
async fn refuse_newer(ctx: &WorkflowContext<BatcherWorkflow>) {
    let version = ctx.state(|w| w.input.version);
    if version > protocol::VERSION {
        ctx.force_task_fail(format!(
            "the batcher was written by protocol version {version}; this worker knows up to {}",
            protocol::VERSION
        ));
        std::future::pending::<()>().await;
    }
}

fn time(of_the_workflow: Option<std::time::SystemTime>) -> Timestamp {
    of_the_workflow.map_or(Timestamp(0), Timestamp::from)
}
