//! The timer of a workflow.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{pin::Pin, task::Poll, time::Duration};

use temporalio_sdk::{
    CancellableFuture, TimerOptions, TimerResult, WorkflowCancellationToken, WorkflowContext,
};

use crate::base::time::Timestamp;

type Timer<'a> = Pin<Box<dyn CancellableFuture<Output = TimerResult> + 'a>>;

/// A single timer, so that decisions that differ only in the next wake-up add no events to the history.
#[derive(Default)]
pub struct Alarm<'a> {
    timer: Option<(Timestamp, Timer<'a>)>,
}

impl<'a> Alarm<'a> {
    /// Sets the timer, unless it fires earlier already. Without a time it stays as it is.
    pub fn set<W>(
        &mut self,
        ctx: &'a WorkflowContext<W>,
        until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let Some(until) = until else {
            return;
        };
        match &self.timer {
            // Waking up too early only leads to another decision.
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

    /// Cancels the timer.
    pub fn off(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            timer.cancel();
        }
    }

    /// Resolves when the timer fires. Without a timer it stays pending.
    pub fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
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
