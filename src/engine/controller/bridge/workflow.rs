//! The workflow that runs strides over a continue-as-new of their controller.
//!
//! An activity does not outlive the run that scheduled it. While a run of the controller is about to end, new strides
//! are therefore given to a bridge. The bridge schedules their activities and sends their results to the controller,
//! by its workflow id. A bridge knows nothing of the batch and decides nothing. It ends when it is told that no more
//! strides follow, when its controller no longer exists, or when it has been idle for a while. See
//! `docs/internals/hand-over.md`.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{future::Future, pin::Pin, task::Poll, time::Duration};

use futures::future::FusedFuture as _;
use temporalio_sdk::{
    SignalWorkflowOptions, SyncWorkflowContext, TimerOptions, TimerResult, WaitConditionOptions,
    WorkflowCancellationToken, WorkflowContext, WorkflowContextView, WorkflowResult,
    WorkflowSignalError,
};

use crate::{
    engine::{
        controller::{
            ActivityDefs, Controller,
            dispatch::{Activity, activity_options, cancelled_with_workflow, report_of},
        },
        query_safety::in_step,
    },
    protocol::{
        self, BridgeInput, BridgeOrders, DispatchReport, RESULTS_AT_ONCE, StrideOrder,
        StrideResults, StrideTerms,
    },
};

/// The time that a bridge without strides waits for more.
const IDLE: Duration = Duration::from_secs(10);
/// The wait before a refused signal is sent again.
const SEND_AGAIN: Duration = Duration::from_secs(2);

/// See the [module documentation](self).
#[temporalio_macros::workflow]
pub(crate) struct Bridge {
    batch_run: String,
    controller: String,
    terms: StrideTerms,
    /// Strides that were ordered and have no activity yet.
    orders: Vec<StrideOrder>,
    /// True if no more strides follow.
    last: bool,
}

#[temporalio_macros::workflow_methods]
impl Bridge {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: BridgeInput) -> Self {
        Self {
            batch_run: input.batch_run,
            controller: input.controller,
            terms: input.terms,
            orders: input.orders,
            last: false,
        }
    }

    #[run(name = protocol::BRIDGE)]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        let ctx = &*ctx;
        let working = async {
            let mut work = Work::default();
            loop {
                work.begin(ctx);
                work.tell(ctx);
                if !work.stop_when_idle(ctx) {
                    return Ok(());
                }
                work.something_happens(ctx).await;
            }
        };
        in_step(ctx, working).await
    }

    /// Adds strides.
    #[signal(name = protocol::BRIDGE_ORDERS)]
    pub(crate) fn orders(&mut self, _ctx: &mut SyncWorkflowContext<Self>, more: BridgeOrders) {
        self.orders.extend(more.orders);
        self.last |= more.last;
    }
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), WorkflowSignalError>> + 'a>>;
type Timer<'a> = Pin<Box<dyn Future<Output = TimerResult> + 'a>>;

/// The work in progress.
#[derive(Default)]
struct Work<'a> {
    /// The activities in the order in which they were scheduled.
    running: Vec<(u64, u64, Activity<'a>)>,
    /// Results that have not been sent to the controller.
    results: Vec<DispatchReport>,
    sending: Vec<(Vec<DispatchReport>, Sending<'a>)>,
    /// The wait before a refused signal is sent again.
    pause: Option<Timer<'a>>,
    idle: Option<Timer<'a>>,
    /// True if there was work since the timer began.
    was_busy: bool,
    idle_for_long: bool,
}

impl<'a> Work<'a> {
    /// Schedules the activities of ordered strides.
    fn begin(&mut self, ctx: &'a WorkflowContext<Bridge>) {
        if ctx.state(|s| s.orders.is_empty()) {
            return;
        }
        let (orders, terms) = ctx.state_mut(|s| (std::mem::take(&mut s.orders), s.terms));
        for order in orders {
            let options = activity_options(&terms, &order);
            let (stride, dispatch) = (order.stride, order.dispatch);
            let schedule = |options| ctx.execute_activity(ActivityDefs::stride, order, options);
            let activity = cancelled_with_workflow(ctx, options, schedule);
            self.running.push((stride, dispatch, Box::pin(activity)));
        }
    }

    /// Sends the results of strides to the controller.
    fn tell(&mut self, ctx: &'a WorkflowContext<Bridge>) {
        while !self.results.is_empty() && self.pause.is_none() {
            let some = self.results.len().min(RESULTS_AT_ONCE);
            let results: Vec<_> = self.results.drain(..some).collect();
            let news = ctx.state(|s| StrideResults {
                batch_run: s.batch_run.clone(),
                owner: ctx.workflow_id().to_owned(),
                results: results.clone(),
            });
            let controller = ctx.external_workflow(ctx.state(|s| s.controller.clone()), None);
            let sending = controller.signal(Controller::stride_results, news, own_signal());
            self.sending.push((results, Box::pin(sending)));
        }
    }

    /// Returns false once the bridge is no longer needed.
    fn stop_when_idle(&mut self, ctx: &'a WorkflowContext<Bridge>) -> bool {
        let busy = !(self.running.is_empty() && self.results.is_empty() && self.sending.is_empty());
        if !busy && ctx.state(|s| s.last) {
            return false;
        }
        if busy {
            (self.was_busy, self.idle_for_long) = (true, false);
            return true;
        }
        if self.idle.is_none() && !self.idle_for_long {
            self.idle = Some(timer(ctx, IDLE));
            self.was_busy = false;
        }
        !self.idle_for_long
    }

    async fn something_happens(&mut self, ctx: &'a WorkflowContext<Bridge>) {
        let options = WaitConditionOptions::builder()
            .cancellation_token(WorkflowCancellationToken::new())
            .build();
        let before = ctx.state(|s| s.last);
        let ordered = ctx.wait_condition_with_options(
            move |s| !s.orders.is_empty() || s.last != before,
            options,
        );
        let mut ordered = std::pin::pin!(ordered);
        std::future::poll_fn(|cx| {
            let mut awake = self.poll_strides(cx);
            awake |= self.poll_signals(ctx, cx);
            awake |= over(&mut self.pause, cx);
            if over(&mut self.idle, cx) {
                self.idle_for_long = !self.was_busy;
                awake = true;
            }
            awake |= !ordered.is_terminated() && ordered.as_mut().poll(cx).is_ready();
            if awake {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn poll_strides(&mut self, cx: &mut std::task::Context<'_>) -> bool {
        let results = &mut self.results;
        let before = results.len();
        self.running.retain_mut(|(stride, dispatch, activity)| {
            let Poll::Ready(result) = activity.as_mut().poll(cx) else {
                return true;
            };
            results.push(DispatchReport {
                stride: *stride,
                dispatch: *dispatch,
                report: report_of(result),
            });
            false
        });
        results.len() > before
    }

    fn poll_signals(
        &mut self,
        ctx: &'a WorkflowContext<Bridge>,
        cx: &mut std::task::Context<'_>,
    ) -> bool {
        let (mut awake, mut refused) = (false, Vec::new());
        self.sending.retain_mut(|(results, sending)| {
            let Poll::Ready(sent) = sending.as_mut().poll(cx) else {
                return true;
            };
            awake = true;
            match sent {
                Ok(()) => {}
                // Without a controller, the bridge has no receiver for results.
                Err(WorkflowSignalError::NotFound(_)) => ctx.state_mut(|s| s.last = true),
                // The controller has received too many signals, and its next run will begin soon.
                Err(_) => refused.append(results),
            }
            false
        });
        if !refused.is_empty() {
            self.results.append(&mut refused);
            self.pause.get_or_insert_with(|| timer(ctx, SEND_AGAIN));
        }
        awake
    }
}

/// Returns whether the timer has fired, and removes it if so.
fn over(timer: &mut Option<Timer<'_>>, cx: &mut std::task::Context<'_>) -> bool {
    let over = timer
        .as_mut()
        .is_some_and(|t| t.as_mut().poll(cx).is_ready());
    if over {
        *timer = None;
    }
    over
}

/// Creates a timer with its own token, because other timers fire at once in a cancelled workflow.
fn timer<'a>(ctx: &'a WorkflowContext<Bridge>, duration: Duration) -> Timer<'a> {
    let options = TimerOptions::builder(duration)
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    Box::pin(ctx.timer(options))
}

/// Returns the options of a signal that is sent even if the workflow is cancelled.
pub(crate) fn own_signal() -> SignalWorkflowOptions {
    SignalWorkflowOptions::builder()
        .cancellation_token(WorkflowCancellationToken::new())
        .build()
}
