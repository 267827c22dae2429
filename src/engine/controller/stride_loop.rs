//! The loop of a controller: decide, act, wait.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::task::Poll;

use temporalio_sdk::{WorkflowContext, WorkflowResult};

use super::{
    Controller,
    bridge::{self, Deliveries, watch_owners},
    dispatch::{Activity, StrideResult, report_of, start},
    ending::end,
    partition_child::say_when_settled,
    publish::publish,
    reduce::combine_rest,
    side_calls::{OwnCall, SideCalls},
    stages::{check_at_end, check_stage},
    timer::Alarm,
    wait::until_awake,
    workflow::{BatchContext, BatchWorkflow, hand_over, now},
};
use crate::{
    base::time::earliest,
    decisions::{
        scheduler::Decision,
        state::{BatchState, stride_work::StrideWork, view::details},
    },
    progress::report::BatchReport,
};

impl BatchWorkflow for Controller {
    type Work = StrideWork;

    const OWN_CALLS: &'static [OwnCall<Self>] = &[say_when_settled, watch_owners, check_stage];

    fn state(&self) -> &BatchState {
        &self.0
    }

    fn state_mut(&mut self) -> &mut BatchState {
        &mut self.0
    }

    async fn work(ctx: &WorkflowContext<Self>) -> WorkflowResult<BatchReport> {
        // The activities are kept in the order of their dispatch. A set that is polled in the order of wake-ups would not
        // replay.
        let mut running: Vec<(u64, Activity<'_>)> = Vec::new();
        let mut alarm = Alarm::default();
        let mut calls = SideCalls::default();
        let mut deliveries = Deliveries::default();
        loop {
            let (suggested, events) = (ctx.continue_as_new_suggested(), ctx.history_length());
            let now = now(ctx);
            ctx.batch_mut(|s| s.refresh(now, suggested, events));
            calls.begin(ctx);
            match ctx.batch(|s| s.decide()) {
                Decision::Dispatch(dispatch) => {
                    let stride = dispatch.stride;
                    let dispatched = if dispatch.outlives_run {
                        bridge::order(ctx, &dispatch)
                    } else {
                        let activity = start(ctx, &dispatch);
                        activity.map(|a| running.push((stride, a))).is_some()
                    };
                    if !dispatched {
                        let what = format!("stride {stride} cannot be dispatched");
                        ctx.batch_mut(|s| s.is_impossible(what));
                    }
                }
                Decision::WaitUntil(until) => {
                    let progress = ctx.batch(|s| s.look());
                    ctx.set_current_details(details(&progress));
                    publish(ctx, progress);
                    // Orders are sent after the memo is written, because a stride ends if its owner is not in the memo.
                    deliveries.send(ctx);
                    deliveries.cancel(ctx);
                    let until = earliest(until, ctx.batch(|s| s.next_change()));
                    alarm.set(ctx, calls.until(ctx, until), now);
                    let under_way = (&mut calls, &mut deliveries, &mut alarm);
                    for (stride, result) in something_happens(ctx, &mut running, under_way).await {
                        ctx.batch_mut(|s| s.reported(stride, report_of(result)));
                    }
                }
                Decision::HandOver => hand_over(ctx)?,
                Decision::Finish(ending) => {
                    deliveries.close(ctx).await;
                    let ending = combine_rest(ctx, &mut calls, ending).await;
                    let ending = check_at_end(ctx, ending).await;
                    return end(ctx, ending, calls).await;
                }
            }
        }
    }
}

/// Waits for results, or for another event that calls for a decision.
async fn something_happens<'a>(
    ctx: &'a WorkflowContext<Controller>,
    running: &mut Vec<(u64, Activity<'a>)>,
    (calls, deliveries, alarm): (&mut SideCalls<'a>, &mut Deliveries<'a>, &mut Alarm<'a>),
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
        awake |= deliveries.poll(ctx, cx);
        awake |= alarm.poll(cx).is_ready();
        awake
    })
    .await;
    results
}
