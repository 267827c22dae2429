//! Calls of side activities: the calls that are due, and those in progress.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{future::Future, pin::Pin, task::Poll, time::Duration};

use temporalio_common::{ActivityCloseTimeouts, Priority, RetryPolicy as TemporalRetryPolicy};
use temporalio_sdk::{
    ActivityExecutionError, ActivityOptions, WorkflowCancellationToken, WorkflowContext,
};

use super::{
    ActivityDefs,
    dispatch::describe,
    reduce::combine,
    workflow::{BatchContext, BatchWorkflow},
};
use crate::{
    base::time::Timestamp,
    batch::HOOK_TIMEOUT,
    decisions::state::{
        side_calls::{HOOK_ATTEMPTS, HOOK_SLACK},
        work::Work,
    },
    processor::settings::HEARTBEAT_TIMEOUT,
    protocol::{self, HookOrder, ThrottleOrder, WindowsOrder},
};

/// The longest time for which one activity polls the throttles before another takes over.
const THROTTLES_ARE_ASKED_FOR: Duration = Duration::from_secs(24 * 3_600);

pub(super) type Call<'a> = Pin<Box<dyn Future<Output = Result<(), ActivityExecutionError>> + 'a>>;

/// Begins a call that only one kind of workflow makes, if it is due.
pub(super) type OwnCall<W> = for<'a> fn(&'a WorkflowContext<W>) -> Option<Call<'a>>;

/// The calls in progress, at most one of each kind. They take no slots of the batch.
#[derive(Default)]
pub(super) struct SideCalls<'a> {
    pub(super) handler: Option<Call<'a>>,
    pub(super) tracker: Option<Call<'a>>,
    /// The poll of the throttles. It is not awaited at the end of a run, because the next run starts it again.
    throttle: Option<Call<'a>>,
    windows: Option<Call<'a>>,
    pub(super) combine: Option<Call<'a>>,
    /// The calls that only this kind of workflow makes.
    own: Vec<Option<Call<'a>>>,
}

impl<'a> SideCalls<'a> {
    /// Begins the calls that are due. A run that is about to end begins no call that would delay its end.
    pub(super) fn begin<W: BatchWorkflow>(&mut self, ctx: &'a WorkflowContext<W>) {
        if self.throttle.is_none() {
            let order = ctx.batch(|s| s.throttles_to_ask());
            self.throttle = order.map(|order| throttle(ctx, order));
        }
        if self.windows.is_none() {
            let order = ctx.batch(|s| s.windows_to_work_out());
            self.windows = order.map(|order| windows(ctx, order));
        }
        if self.combine.is_none() {
            // Outputs are combined during a drain too, which keeps the input of the next run short.
            self.combine = combine(ctx, false);
        }
        self.own.resize_with(W::OWN_CALLS.len(), || None);
        for (call, begin) in self.own.iter_mut().zip(W::OWN_CALLS) {
            if call.is_none() {
                *call = begin(ctx);
            }
        }
        if ctx.batch(W::Work::makes_way) {
            self.tell_running(ctx);
            return;
        }
        if self.handler.is_none() {
            let order = ctx.batch_mut(|s| s.next_notice());
            self.handler = order.map(|order| call(ctx, order));
        }
        if self.tracker.is_none() {
            let order = ctx.batch_mut(|s| s.next_progress());
            self.tracker = order.map(|order| call(ctx, order));
        }
        self.tell_running(ctx);
    }

    /// Returns the earlier of `until` and the time at which the tracker is due.
    pub(super) fn until<W: BatchWorkflow>(
        &self,
        ctx: &WorkflowContext<W>,
        until: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let due = ctx.batch(|s| {
            let tracked = s.tracked_at().filter(|_| self.tracker.is_none());
            tracked.filter(|_| !W::Work::makes_way(s))
        });
        crate::base::time::earliest(until, due)
    }

    /// Returns whether a call has returned.
    pub(super) fn poll<W: BatchWorkflow>(
        &mut self,
        ctx: &WorkflowContext<W>,
        cx: &mut std::task::Context<'_>,
    ) -> bool {
        let mut awake = false;
        for call in [&mut self.handler, &mut self.tracker] {
            if let Some(running) = call
                && let Poll::Ready(result) = running.as_mut().poll(cx)
            {
                *call = None;
                count_failure(ctx, result);
                awake = true;
            }
        }
        let standing = [&mut self.throttle, &mut self.windows].into_iter();
        for call in standing.chain(&mut self.own).chain([&mut self.combine]) {
            if let Some(running) = call
                && running.as_mut().poll(cx).is_ready()
            {
                *call = None;
                awake = true;
            }
        }
        self.tell_running(ctx);
        awake
    }

    fn tell_running<W: BatchWorkflow>(&self, ctx: &WorkflowContext<W>) {
        let told = self.handler.is_some() || self.tracker.is_some();
        let running = told || ctx.batch(|s| s.combining);
        if ctx.batch(|s| s.hooks_running != running) {
            ctx.batch_mut(|s| s.hooks_running = running);
        }
    }
}

/// Has the throttles polled for as long as this run lasts. The activity also returns when its worker stops, and
/// another worker then continues.
fn throttle<'a, W: BatchWorkflow>(ctx: &'a WorkflowContext<W>, order: ThrottleOrder) -> Call<'a> {
    let options = standing(ctx, THROTTLES_ARE_ASKED_FOR, "ask the throttles".to_owned());
    Box::pin(ctx.execute_activity(ActivityDefs::throttle, order, options))
}

/// Has the operating windows computed by an activity, because the time zone data may change with each deployment.
fn windows<'a, W: BatchWorkflow>(ctx: &'a WorkflowContext<W>, order: WindowsOrder) -> Call<'a> {
    let options = standing(
        ctx,
        HOOK_TIMEOUT,
        "work out the operating windows".to_owned(),
    );
    Box::pin(async move {
        let openings = ctx
            .execute_activity(ActivityDefs::windows, order, options)
            .await?;
        ctx.batch_mut(|s| s.pacing.opened(openings, s.now));
        Ok(())
    })
}

/// Returns the options of an activity that the batch cannot do without. It is attempted until it succeeds.
pub(super) fn standing<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    start_to_close: Duration,
    summary: String,
) -> ActivityOptions {
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_secs(1))
        .maximum_interval(Duration::from_secs(10))
        .build();
    ActivityOptions::with_start_to_close_timeout(start_to_close)
        .heartbeat_timeout(HEARTBEAT_TIMEOUT)
        .retry_policy(retry)
        .cancellation_token(WorkflowCancellationToken::new())
        .task_queue(protocol::aside_queue(ctx.task_queue()))
        .summary(summary)
        .build()
}

/// Schedules the activity that calls a hook.
pub(super) fn call<'a, W: BatchWorkflow>(
    ctx: &'a WorkflowContext<W>,
    order: HookOrder,
) -> Call<'a> {
    let options = aside(ctx, order.timeout, format!("tell {}", order.name));
    Box::pin(ctx.execute_activity(ActivityDefs::hook, order, options))
}

/// Returns the options of a side activity. Such an activity has its own cancellation: the notice about the end of a
/// cancelled batch must not be cancelled too.
pub(super) fn aside<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    timeout: Duration,
    summary: String,
) -> ActivityOptions {
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_secs(1))
        .maximum_attempts(HOOK_ATTEMPTS)
        .build();
    let mut priority = Priority::default();
    // Ahead of the pages in the queue.
    priority.priority_key = Some(1);
    priority.fairness_key = Some(ctx.batch(|s| s.input.batch_run.clone()));
    // If all slots of the workers have pages, one becomes free at the latest when a page is over.
    let for_a_worker = ctx.batch(|s| {
        s.prepared
            .as_ref()
            .map_or(Duration::ZERO, |p| p.page_timeout)
    });
    ActivityOptions::with_close_timeouts(ActivityCloseTimeouts::ScheduleAndStartToClose {
        // The worker ends the attempt itself and reports the timeout.
        start_to_close: timeout + Duration::from_secs(5),
        schedule_to_close: timeout * HOOK_ATTEMPTS + HOOK_SLACK + for_a_worker,
    })
    .retry_policy(retry)
    .task_queue(protocol::aside_queue(ctx.task_queue()))
    .cancellation_token(WorkflowCancellationToken::new())
    .priority(priority)
    .summary(summary)
    .build()
}

pub(super) fn count_failure<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    result: Result<(), ActivityExecutionError>,
) {
    let Err(error) = result else {
        return;
    };
    ctx.batch_mut(|s| s.notices.hooks_failed += 1);
    if !ctx.is_replaying() {
        let (error_type, error) = describe(&error);
        tracing::warn!(
            error_type,
            error,
            "given up telling; the batch is not harmed"
        );
    }
}
