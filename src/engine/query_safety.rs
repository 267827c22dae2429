//! Keeps queries from running a workflow ahead of its history.
//!
//! While a workflow task is pending, the server holds queries back. If that task times out because its worker was
//! killed, the server hands the queries to another worker. Each query is then a task of its own with the whole
//! history, including events that belong to the next workflow task. SDK core 0.10 applies those events as if that
//! task had begun, at the time of the task before, and keeps the resulting commands until the task does begin. A
//! replay sees the right time and produces other commands, so every later task of the run fails.
//!
//! The events of a task that has begun come with the time of its beginning. New events at the old time are
//! therefore ahead of their task, and the activation is made to fail. Core then drops its cached state, the query
//! gets an error and can be repeated, and the following task starts from the history.
//!
//! The test `core_runs_ahead_of_its_history` shows the defect. When that test fails, core is fixed and this file
//! can be removed.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

#[cfg(all(test, feature = "dev-server"))]
mod tests;

use std::{future::Future, pin::pin, task::Poll};

use temporalio_sdk::WorkflowContext;

/// Runs a workflow and fails any activation that is ahead of its history.
pub async fn in_step<W, T>(ctx: &WorkflowContext<W>, run: impl Future<Output = T>) -> T {
    let mut run = pin!(run);
    let mut last = None;
    std::future::poll_fn(|cx| {
        let seen = (ctx.workflow_time(), ctx.history_length());
        // A replay of old tasks has no new events. If the server's clock is set back, a new task may have the time
        // of an old one; it then fails until the clock has caught up.
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
