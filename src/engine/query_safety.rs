//! Keeps queries from running a workflow ahead of its history.
//!
//! While a workflow task is pending, the server keeps queries back. When that task times out, because the worker that
//! should have had it was killed, the server hands the queries to any other worker, each as a task of its own with the
//! whole history: also with the events that only the next workflow task will bring. SDK core 0.10 applies those events
//! as if that task had begun, at the time of the task before, and keeps the commands that come of it until the task
//! does begin. A replay sees the right time, comes to other commands, and every later task of the run fails.
//!
//! The events of a task that has begun come with the time of its beginning. So new events at the old time are ahead of
//! their task: the activation fails then. Core drops what it has in memory, the query gets an error and can be
//! repeated, and the task that follows starts from the history.
//!
//! The test `core_runs_ahead_of_its_history` shows the defect. When it fails, core is mended, and this file can go.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

#[cfg(all(test, feature = "dev-server"))]
mod tests;

use std::{future::Future, pin::pin, task::Poll};

use temporalio_sdk::WorkflowContext;

/// Runs a workflow, but never ahead of its history.
pub(crate) async fn in_step<W, T>(ctx: &WorkflowContext<W>, run: impl Future<Output = T>) -> T {
    let mut run = pin!(run);
    let mut last = None;
    std::future::poll_fn(|cx| {
        let seen = (ctx.workflow_time(), ctx.history_length());
        // While old tasks are replayed, nothing is new. A server whose clock goes back may give a new task the
        // time of an old one, too: it then fails until the clock has caught up.
        let ahead = last.is_some_and(|(time, events)| time == seen.0 && events < seen.1);
        if ahead && !ctx.is_replaying() {
            ctx.force_task_fail("a query came between two workflow tasks and can be repeated");
            return Poll::Pending;
        }
        last = Some(seen);
        run.as_mut().poll(cx)
    })
    .await
}
