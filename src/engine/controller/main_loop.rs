//! The main loop: prepare, decide, act, wait.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::future::FusedFuture;
use temporalio_common::{MemoValue, MemoValues, RetryPolicy as TemporalRetryPolicy};
use temporalio_sdk::{
    ActivityOptions, ApplicationFailure, ContinueAsNewOptions, WaitConditionOptions,
    WorkflowCancellationToken, WorkflowContext, WorkflowResult, WorkflowTermination,
};

use super::{
    ActivityDefs, Controller,
    bridge::outbox::{self, Bridges},
    dispatch::{Activity, StrideResult, describe, report_of, start},
    ending::end,
    log, now,
    publish::publish,
    reduce::combine_rest,
    side_calls::SideCalls,
    stages::check_at_end,
    timer::Alarm,
};
use crate::{
    base::time::{Timestamp, earliest},
    decisions::{
        chain::Broken,
        partitions::Partitions,
        scheduler::{Decision, Ending},
        state::view::details,
    },
    processor::settings::HEARTBEAT_TIMEOUT,
    progress::{phase::Outcome, report::BatchReport},
    protocol::{self, PrepareInput, Prepared, large_args::carried},
};

/// The longest time for a processor to complete its arguments in one attempt, which may have to wait for older
/// transactions.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// Asks a worker about the processor, once per batch run. Returns the end of the batch, if it ended meanwhile.
pub(super) async fn prepare(ctx: &WorkflowContext<Controller>) -> WorkflowResult<Option<Ending>> {
    if ctx.state(|Controller(s)| s.prepared.is_some()) {
        return Ok(None);
    }
    let input = ctx.state(|Controller(s)| PrepareInput {
        processor: s.input.spec.processor.clone(),
        args: s.input.spec.args.clone(),
        first_cursor: s.input.spec.first_cursor.clone(),
        redrive: s.input.spec.redrive_of.is_some(),
        hooks: s.input.spec.hooks.clone(),
        throttles: s.input.spec.pace.throttles.clone(),
        batch_id: s.input.spec.batch_id.clone(),
        batch_run: s.input.batch_run.clone(),
        partitioned: s.input.spec.partitioned,
    });
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_secs(1))
        .maximum_interval(Duration::from_secs(60))
        .build();
    let own = WorkflowCancellationToken::new();
    let options = ActivityOptions::with_start_to_close_timeout(PREPARE_TIMEOUT)
        .heartbeat_timeout(HEARTBEAT_TIMEOUT)
        .retry_policy(retry)
        .cancellation_token(own.clone())
        .task_queue(protocol::aside_queue(ctx.task_queue()))
        .summary("look up the processor")
        .build();
    let deadline = ctx.state(|Controller(s)| s.deadline);
    let preparing = ctx.execute_activity(ActivityDefs::prepare, input, options);
    match in_time(ctx, deadline, own, preparing).await {
        Ok(Ok(mut prepared)) => {
            let partitions = take_partitions(&mut prepared);
            let batch_id = ctx.state(|Controller(s)| s.input.spec.batch_id.clone());
            if let Some(args) = &mut prepared.args
                && tell_args(ctx, args.clone())
            {
                *args = carried(args, &batch_id, protocol::MEMO_PREPARED_ARGS);
            }
            let begun = ctx.state_mut(|Controller(s)| {
                s.partitions = partitions;
                s.begin_prepared(prepared)
            });
            begun.map_err(|unknown| refused(unknown.to_string()))?;
            Ok(None)
        }
        Ok(Err(error)) => Err(refused(describe(&error).1)),
        Err(early) => Ok(Some(before_a_page(ctx, early))),
    }
}

/// Takes the partitions that the processor named. The sum of their items is used as the items of the batch if no
/// other number is known.
fn take_partitions(prepared: &mut Prepared) -> Option<Partitions> {
    let named = std::mem::take(&mut prepared.partitions);
    if named.is_empty() {
        return None;
    }
    let items: Option<u64> = named.iter().map(|partition| partition.items).sum();
    if prepared.items_expected.is_none() {
        prepared.items_expected = items;
        prepared.items_exact = false;
    }
    Some(Partitions::new(named))
}

/// Writes completed arguments to the memo, where a later redrive finds them, and from where orders read them if they
/// are large. Returns whether the memo was written.
fn tell_args(ctx: &WorkflowContext<Controller>, args: serde_json::Value) -> bool {
    let memo = [(protocol::MEMO_PREPARED_ARGS, Some(MemoValue::new(args)))];
    let told = ctx.upsert_memo(memo);
    if let Err(error) = &told {
        tracing::warn!(%error, "the memo was not written");
    }
    told.is_ok()
}

/// Returns the end of a batch whose run has not reached its pages.
pub(super) fn before_a_page(ctx: &WorkflowContext<Controller>, mut early: Ending) -> Ending {
    if early.outcome == Outcome::Cancelled && ctx.state(|Controller(s)| s.runs == 0) {
        early.reason = Some("cancelled before the first page".to_owned());
    }
    early
}

pub(super) fn refused(message: String) -> WorkflowTermination {
    ApplicationFailure::builder(message)
        .type_name(protocol::BATCH_REFUSED.to_owned())
        .non_retryable(true)
        .build()
        .into()
}

/// Decides and acts until the batch is over.
pub(super) async fn run_batch(ctx: &WorkflowContext<Controller>) -> WorkflowResult<BatchReport> {
    // The activities are kept in the order of their dispatch. A set that is polled in the order of wake-ups would not
    // replay.
    let mut running: Vec<(u64, Activity<'_>)> = Vec::new();
    let mut alarm = Alarm::default();
    let mut calls = SideCalls::default();
    let mut bridges = Bridges::default();
    loop {
        let (suggested, events) = (ctx.continue_as_new_suggested(), ctx.history_length());
        let now = now(ctx);
        ctx.state_mut(|Controller(s)| s.refresh(now, suggested, events));
        calls.begin(ctx);
        match ctx.state(|Controller(s)| s.decide()) {
            Decision::Dispatch(dispatch) => {
                let stride = dispatch.stride;
                let dispatched = if dispatch.by_bridge {
                    outbox::order(ctx, &dispatch)
                } else {
                    let activity = start(ctx, &dispatch);
                    activity.map(|a| running.push((stride, a))).is_some()
                };
                if !dispatched {
                    ctx.state_mut(|Controller(s)| {
                        s.chain.break_off(Broken::Impossible {
                            what: format!("stride {stride} cannot be dispatched"),
                        });
                    });
                }
            }
            Decision::WaitUntil(until) => {
                let progress = ctx.state(|Controller(s)| s.look());
                ctx.set_current_details(details(&progress));
                publish(ctx, progress);
                // Orders are sent after the memo is written, because a stride ends if its bridge is not in the memo.
                bridges.send(ctx);
                bridges.cancel(ctx);
                let until = earliest(until, ctx.state(|Controller(s)| s.next_change()));
                alarm.set(ctx, calls.until(ctx, until), now);
                let under_way = (&mut calls, &mut bridges, &mut alarm);
                for (stride, result) in something_happens(ctx, &mut running, under_way).await {
                    ctx.state_mut(|Controller(s)| s.reported(stride, report_of(result)));
                }
            }
            Decision::HandOver => hand_over(ctx)?,
            Decision::Finish(ending) => {
                bridges.close(ctx).await;
                let ending = combine_rest(ctx, &mut calls, ending).await;
                let ending = check_at_end(ctx, ending).await;
                return end(ctx, ending, calls).await;
            }
        }
    }
}

/// Waits for results, or for another event that calls for a decision.
async fn something_happens<'a>(
    ctx: &'a WorkflowContext<Controller>,
    running: &mut Vec<(u64, Activity<'a>)>,
    (calls, bridges, alarm): (&mut SideCalls<'a>, &mut Bridges<'a>, &mut Alarm<'a>),
) -> Vec<(u64, StrideResult)> {
    let mut results = Vec::new();
    until_awake(ctx, |cx| {
        let mut i = 0;
        while i < running.len() {
            match running[i].1.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    let (stride, _) = running.remove(i);
                    results.push((stride, result));
                }
                Poll::Pending => i += 1,
            }
        }
        let mut awake = !results.is_empty();
        awake |= calls.poll(ctx, cx);
        awake |= bridges.poll(ctx, cx);
        awake |= alarm.poll(cx).is_ready();
        awake
    })
    .await;
    results
}

/// Waits until one of the `others` is ready, the state has changed, or the workflow is cancelled. The others are
/// polled each time, before the state and the cancellation.
pub(super) async fn until_awake(
    ctx: &WorkflowContext<Controller>,
    mut others: impl FnMut(&mut Context<'_>) -> bool,
) {
    let (seen, cancelled) = ctx.state(|Controller(s)| (s.version, s.cancelled));
    // The wait has its own token, because a cancelled batch still waits for its last pages.
    let options = WaitConditionOptions::builder()
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    let mut change =
        std::pin::pin!(ctx.wait_condition_with_options(|Controller(s)| s.version != seen, options));
    let mut cancel = std::pin::pin!(ctx.cancelled());
    std::future::poll_fn(|cx| {
        let mut awake = others(cx);
        awake |= change.as_mut().poll(cx).is_ready();
        if !cancelled
            && !cancel.is_terminated()
            && let Poll::Ready(reason) = cancel.as_mut().poll(cx)
        {
            let now = now(ctx);
            ctx.state_mut(|Controller(s)| s.cancel(now, reason.as_deref()));
            awake = true;
        }
        match awake {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// Waits for side work until the batch is cancelled or told to stop, or until the deadline `until`. Then the work is
/// cancelled by its token `own`, and the end of the batch is returned.
pub(super) async fn in_time<T>(
    ctx: &WorkflowContext<Controller>,
    until: Option<Timestamp>,
    own: WorkflowCancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, Ending> {
    let mut work = std::pin::pin!(work);
    let mut alarm = Alarm::default();
    // A batch that is already ending is bounded only by the deadline.
    let known = ctx.state(|Controller(s)| s.told_to_end()).is_some();
    loop {
        let publication = ctx.state(|Controller(s)| s.published.due(s.now));
        alarm.set(ctx, earliest(until, publication), now(ctx));
        let mut done = None;
        until_awake(ctx, |cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                done = Some(value);
            }
            alarm.poll(cx).is_ready() || done.is_some()
        })
        .await;
        let now = now(ctx);
        ctx.state_mut(|Controller(s)| s.now = now);
        if let Some(done) = done {
            alarm.off();
            return Ok(done);
        }
        let late = until.filter(|until| *until <= now).map(|_| Ending {
            outcome: Outcome::Stopped,
            reason: Some("the deadline is over".to_owned()),
        });
        let told = ctx
            .state(|Controller(s)| s.told_to_end())
            .filter(|_| !known);
        if let Some(ending) = told.or(late) {
            own.cancel();
            return Err(ending);
        }
        if ctx.state(|Controller(s)| s.published.is_watched(now)) {
            publish(ctx, ctx.state(|Controller(s)| s.look()));
        }
    }
}

/// Ends this run of the controller and begins the next one of the same batch run.
pub(super) fn hand_over(ctx: &WorkflowContext<Controller>) -> WorkflowResult<()> {
    let input = ctx.state(|Controller(s)| s.fitting_input());
    log(ctx, "continuing as new");
    let mut options = ContinueAsNewOptions::default();
    options.memo = Some(lasting_memo(ctx));
    ctx.continue_as_new(input, options)?;
    Ok(())
}

/// Returns the memo for the next run. By default the SDK passes on the memo of the start, without the arguments that
/// the processor completed. The next run publishes the progress and the control state itself.
fn lasting_memo(ctx: &WorkflowContext<Controller>) -> MemoValues {
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
