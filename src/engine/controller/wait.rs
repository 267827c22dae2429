//! Waiting for the next event.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::task::{Context, Poll};

use futures::future::FusedFuture;
use temporalio_sdk::{WaitConditionOptions, WorkflowCancellationToken, WorkflowContext};

use super::{
    publish::publish,
    timer::Alarm,
    workflow::{BatchContext, BatchWorkflow, now},
};
use crate::{
    base::time::{Timestamp, earliest},
    decisions::scheduler::Ending,
};

/// Waits until one of the `others` is ready, the state has changed, or the workflow is cancelled. The others are
/// polled each time, before the state and the cancellation.
pub(super) async fn until_awake<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    mut others: impl FnMut(&mut Context<'_>) -> bool,
) {
    let (seen, cancelled) = ctx.batch(|s| (s.version, s.cancelled));
    // The wait has its own token, because a cancelled batch still waits for its last pages.
    let options = WaitConditionOptions::builder()
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    let mut change =
        std::pin::pin!(ctx.wait_condition_with_options(|w| w.state().version != seen, options));
    let mut cancel = std::pin::pin!(ctx.cancelled());
    std::future::poll_fn(|cx| {
        let mut awake = others(cx);
        awake |= change.as_mut().poll(cx).is_ready();
        if !cancelled
            && !cancel.is_terminated()
            && let Poll::Ready(reason) = cancel.as_mut().poll(cx)
        {
            let now = now(ctx);
            ctx.batch_mut(|s| s.cancel(now, reason.as_deref()));
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
pub(super) async fn in_time<T, W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    until: Option<Timestamp>,
    own: WorkflowCancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, Ending> {
    let mut work = std::pin::pin!(work);
    let mut alarm = Alarm::default();
    // A batch that is already ending is bounded only by the deadline.
    let known = ctx.batch(|s| s.told_to_end()).is_some();
    loop {
        let publication = ctx.batch(|s| s.published.due(s.now));
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
        ctx.batch_mut(|s| s.now = now);
        if let Some(done) = done {
            alarm.off();
            return Ok(done);
        }
        if let Some(ending) = ctx.batch(|s| s.ends_early(known, until)) {
            own.cancel();
            return Err(ending);
        }
        if ctx.batch(|s| s.published.is_watched(now)) {
            publish(ctx, ctx.batch(|s| s.look()));
        }
    }
}
