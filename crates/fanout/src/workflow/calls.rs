//! The calls of a run of a fan-out that are in progress.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{future::FusedFuture as _, task::AtomicWaker};
use serde_json::Value;
use temporal_batch::of_crates::words;
use temporalio_common::{RetryPolicy, error::IncomingError};
use temporalio_sdk::{
    ActivityExecutionError, ActivityOptions, TimerOptions, WaitConditionOptions,
    WorkflowCancellationToken, WorkflowContext,
};

use super::{
    activity_defs::ActivityDefs,
    children::{Child, Outcome, child},
    parent::FanoutWorkflow,
    woken::Woken,
};
use crate::{
    protocol::{ChildEnd, EndedChild, ItemsRead, WatchOrder, aside_queue, child_id},
    state::Step,
};

/// The time limit of one attempt to read a page or to aggregate.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// The time after which the worker of such an attempt is taken for lost.
const ASIDE_HEARTBEAT: Duration = Duration::from_secs(15);
/// The attempts to read a page or to aggregate: with waits of up to 60 s, a quarter of an hour.
const ASIDE_ATTEMPTS: u32 = 20;
/// The wait after a watch that failed, before the next.
const WATCH_AGAIN: Duration = Duration::from_secs(30);

type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
type Activity<'a, T> = Pending<'a, Result<T, ActivityExecutionError>>;

/// A child in progress.
struct Running<'a> {
    position: u64,
    child: Child<'a>,
    woken: Woken,
}

/// The calls in progress. The children are held in the order of their start: a set that is polled in the order of
/// wake-ups would not replay.
#[derive(Default)]
pub(super) struct Calls<'a> {
    children: Vec<Running<'a>>,
    /// The waker of the workflow, for the wakers of the children.
    waker: Arc<AtomicWaker>,
    /// The tokens that cancel children.
    tokens: BTreeMap<u64, WorkflowCancellationToken>,
    cancelling: Vec<Pending<'a, ()>>,
    read: Option<Activity<'a, ItemsRead>>,
    fold: Option<Activity<'a, Value>>,
    ask: Option<Activity<'a, ()>>,
    watch: Option<Activity<'a, Vec<EndedChild>>>,
}

impl<'a> Calls<'a> {
    /// Takes the decided steps.
    pub fn begin(&mut self, ctx: &'a WorkflowContext<FanoutWorkflow>, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Start { position, id, item } => {
                    // A child is cancelled by decision only, even if the workflow is cancelled.
                    let cancel = WorkflowCancellationToken::new();
                    self.tokens.insert(position, cancel.clone());
                    let child = child(ctx, position, id, item, cancel);
                    self.children.push(Running {
                        position,
                        child,
                        woken: Woken::of(&self.waker),
                    });
                }
                Step::Cancel {
                    position,
                    id,
                    adopted: false,
                } => match self.tokens.get(&position) {
                    Some(token) => token.cancel(),
                    None => tracing::error!(item = id, "a running child has no token"),
                },
                Step::Cancel { id, .. } => self.cancel_adopted(ctx, &id),
                Step::Read(order) => {
                    let what = format!("read items of {}", order.source);
                    let options = aside(ctx, what);
                    self.read = Some(Box::pin(ctx.execute_activity(
                        ActivityDefs::read,
                        order,
                        options,
                    )));
                }
                Step::Fold(order) => {
                    let what = format!("aggregate {} outcomes", order.outcomes.len());
                    let options = aside(ctx, what);
                    self.fold = Some(Box::pin(ctx.execute_activity(
                        ActivityDefs::aggregate,
                        order,
                        options,
                    )));
                }
                Step::Ask(order) => {
                    let what = format!("ask {} children to report", order.children.len());
                    let options = aside(ctx, what);
                    self.ask = Some(Box::pin(ctx.execute_activity(
                        ActivityDefs::ask,
                        order,
                        options,
                    )));
                }
                Step::Watch(order) => self.watch = Some(watch(ctx, order)),
            }
        }
    }

    fn cancel_adopted(&mut self, ctx: &'a WorkflowContext<FanoutWorkflow>, id: &str) {
        let workflow = ctx.state(|w| child_id(&w.0.spec.id, id));
        let handle = ctx.external_workflow(workflow, None);
        let reason = "its fan-out is being stopped".to_owned();
        self.cancelling.push(Box::pin(async move {
            // A failure is ignored: a child that has ended is found by the watch.
            let _ = handle.cancel(Some(reason)).await;
            ctx.state_mut(|w| w.0.cancel_answered());
        }));
    }

    /// Waits until a call returns, the state changes, or the fan-out is cancelled.
    pub async fn something_happens(&mut self, ctx: &'a WorkflowContext<FanoutWorkflow>) {
        let (seen, cancelled) = ctx.state(|w| (w.0.version, w.0.is_cancelled()));
        let options = WaitConditionOptions::builder()
            .cancellation_token(WorkflowCancellationToken::new())
            .build();
        let change = ctx.wait_condition_with_options(move |w| w.0.version != seen, options);
        let mut change = std::pin::pin!(change);
        let mut cancel = std::pin::pin!(ctx.cancelled());
        std::future::poll_fn(|cx| {
            self.poll(ctx, cx);
            if !cancelled
                && !cancel.is_terminated()
                && let Poll::Ready(reason) = cancel.as_mut().poll(cx)
            {
                let reason = reason.filter(|r| !r.is_empty());
                let reason = reason.as_deref().unwrap_or("it was cancelled");
                ctx.state_mut(|w| w.0.cancel(reason));
            }
            let changed = !change.is_terminated() && change.as_mut().poll(cx).is_ready();
            match changed || ctx.state(|w| w.0.version != seen) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Records the results of calls that have returned.
    fn poll(&mut self, ctx: &WorkflowContext<FanoutWorkflow>, cx: &mut Context<'_>) {
        let tokens = &mut self.tokens;
        self.waker.register(cx.waker());
        self.children.retain_mut(|running| {
            let Some(Poll::Ready(outcome)) = running.woken.poll(running.child.as_mut()) else {
                return true;
            };
            let position = &running.position;
            tokens.remove(position);
            match outcome {
                Outcome::Ended(end) => {
                    log_end(ctx, *position, &end);
                    ctx.state_mut(|w| w.0.child_ended(*position, end));
                }
                Outcome::Duplicate => ctx.state_mut(|w| w.0.is_duplicate(*position)),
                Outcome::WasThere => ctx.state_mut(|w| w.0.was_there(*position)),
            }
            false
        });
        self.cancelling
            .retain_mut(|cancel| cancel.as_mut().poll(cx).is_pending());
        if let Some(read) = ready(&mut self.read, cx) {
            ctx.state_mut(|w| match read {
                Ok(read) => w.0.items_read(read),
                Err(error) => w.0.not_read(&told(&error)),
            });
        }
        if let Some(fold) = ready(&mut self.fold, cx) {
            ctx.state_mut(|w| w.0.was_folded(fold.map_err(|error| told(&error))));
        }
        if ready(&mut self.ask, cx).is_some() {
            ctx.state_mut(|w| w.0.were_asked());
        }
        if let Some(ended) = ready(&mut self.watch, cx) {
            // A watch that failed begins again.
            let ended = ended.unwrap_or_default().into_iter();
            let ended: Vec<_> = ended.map(|child| (child.position, child.end)).collect();
            for (position, end) in &ended {
                log_end(ctx, *position, end);
            }
            ctx.state_mut(|w| w.0.watched(ended));
        }
    }
}

fn ready<T>(
    call: &mut Option<Activity<'_, T>>,
    cx: &mut Context<'_>,
) -> Option<Result<T, ActivityExecutionError>> {
    let Poll::Ready(result) = call.as_mut()?.as_mut().poll(cx) else {
        return None;
    };
    *call = None;
    Some(result)
}

/// Logs the end of a child, unless it was logged when its signal came.
fn log_end(ctx: &WorkflowContext<FanoutWorkflow>, position: u64, end: &ChildEnd) {
    if ctx.is_replaying() {
        return;
    }
    let item = ctx.state(|w| {
        let tracked = w.0.carry.tracked.get(&position);
        let unknown = tracked.filter(|tracked| tracked.outcome.is_none());
        unknown.map(|tracked| (w.0.spec.id.clone(), tracked.id.clone()))
    });
    let Some((fanout, item)) = item else {
        return;
    };
    match end {
        ChildEnd::Failed(failure) => {
            let (error_type, error) = (&failure.error_type, &failure.message);
            tracing::warn!(fanout, item, error_type, error, "item failed");
        }
        ChildEnd::Done(_) | ChildEnd::Reported => tracing::info!(fanout, item, "item completed"),
    }
}

fn told(error: &ActivityExecutionError) -> String {
    match error.reason() {
        Some(IncomingError::Application(failure)) => format!(
            "{}: {}",
            failure.type_name().unwrap_or("ActivityFailed"),
            failure.source_error()
        ),
        _ => words(error),
    }
}

/// Starts to watch children of earlier runs. Each attempt of the activity looks once and fails until there is news, so a
/// watch neither holds a slot of a worker between its looks nor adds to the history.
fn watch(
    ctx: &WorkflowContext<FanoutWorkflow>,
    order: WatchOrder,
) -> Activity<'_, Vec<EndedChild>> {
    // Ten looks at all children in a second, and later one in 20 s, are what a shared server can bear.
    let children = u32::try_from(order.children.len()).unwrap_or(u32::MAX);
    let first = Duration::from_millis(500).max(Duration::from_millis(10) * children);
    let longest = Duration::from_secs(15).max(Duration::from_millis(50) * children);
    let retry = RetryPolicy::builder()
        .initial_interval(first)
        .backoff_coefficient(1.5)
        .maximum_interval(longest)
        .build();
    let options = ActivityOptions::with_start_to_close_timeout(ASIDE_TIMEOUT)
        .heartbeat_timeout(ASIDE_HEARTBEAT)
        .task_queue(aside_queue(ctx.task_queue()))
        .cancellation_token(WorkflowCancellationToken::new())
        .retry_policy(retry)
        .summary(format!("watch {children} children of earlier runs"))
        .build();
    let watch = ctx.execute_activity(ActivityDefs::watch, order, options);
    Box::pin(async move {
        let watched = watch.await;
        if watched.is_err() {
            let own = WorkflowCancellationToken::new();
            let wait = TimerOptions::builder(WATCH_AGAIN);
            ctx.timer(wait.cancellation_token(own).build()).await;
        }
        watched
    })
}

/// Returns the options of an activity that is no attempt at an item.
pub(super) fn aside(ctx: &WorkflowContext<FanoutWorkflow>, what: String) -> ActivityOptions {
    let retry = RetryPolicy::builder()
        .initial_interval(Duration::from_millis(200))
        .maximum_interval(Duration::from_secs(60))
        .maximum_attempts(ASIDE_ATTEMPTS)
        .build();
    ActivityOptions::with_start_to_close_timeout(ASIDE_TIMEOUT)
        .heartbeat_timeout(ASIDE_HEARTBEAT)
        .task_queue(aside_queue(ctx.task_queue()))
        // The state decides when to stop, even if the workflow is cancelled.
        .cancellation_token(WorkflowCancellationToken::new())
        .retry_policy(retry)
        .summary(what)
        .build()
}
