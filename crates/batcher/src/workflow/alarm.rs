//! The one timer of a shard.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use temporal_batch::Timestamp;
use temporalio_sdk::{
    CancellableFuture, TimerOptions, TimerResult, WorkflowCancellationToken, WorkflowContext,
};

type Timer<'a> = Pin<Box<dyn CancellableFuture<Output = TimerResult> + 'a>>;

/// A timer that is set only while a request waits. A timer that fires too early is kept, because setting another one
/// would add two events to the history and the early one adds none until it fires.
#[derive(Default)]
pub(super) struct Alarm<'a> {
    timer: Option<(Timestamp, Timer<'a>)>,
}

impl<'a> Alarm<'a> {
    pub(super) fn set<W>(
        &mut self,
        ctx: &'a WorkflowContext<W>,
        until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let Some(until) = until else {
            if let Some((_, timer)) = self.timer.take() {
                timer.cancel();
            }
            return;
        };
        match &self.timer {
            Some((at, _)) if *at <= until => return,
            Some((_, timer)) => timer.cancel(),
            None => {}
        }
        let wait = until.since(now).max(Duration::from_millis(1));
        // The timer has its own token, because in a cancelled workflow every timer with the context's token fires at
        // once.
        let options = TimerOptions::builder(wait)
            .cancellation_token(WorkflowCancellationToken::new())
            .build();
        self.timer = Some((until, Box::pin(ctx.timer(options))));
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((_, timer)) = &mut self.timer else {
            return Poll::Pending;
        };
        match timer.as_mut().poll(cx) {
            Poll::Ready(_) => {
                self.timer = None;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
