//! The activities of a shard that are running.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use temporalio_common::RetryPolicy;
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, WorkflowCancellationToken,
    WorkflowContext, activities::ActivityError,
};

use super::BatcherWorkflow;
use crate::{
    protocol::{
        self, ConfirmOrder, ConfirmReport, HEARTBEAT_TIMEOUT, SubmitAnswer, SubmitOrder,
        WriteOrder, WriteReport,
    },
    request::Outcome,
};

/// Returns options of an activity that is not cancelled with its workflow: a cancelled shard still writes what it holds.
macro_rules! own_options {
    ($limit:expr) => {
        ActivityOptions::with_start_to_close_timeout($limit)
            .cancellation_token(WorkflowCancellationToken::new())
            .cancellation_type(ActivityCancellationType::Abandon)
    };
}

/// How often a call that tells requesters is repeated whose worker was lost. Then they count as not told.
const CONFIRM_ATTEMPTS: u32 = 40;
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(120);

/// The activities of the batcher.
pub(crate) struct ActivityDefs;

#[temporalio_macros::activity_definitions]
impl ActivityDefs {
    #[activity(name = protocol::WRITE)]
    pub(crate) fn write(_order: WriteOrder) -> Result<WriteReport, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::CONFIRM)]
    pub(crate) fn confirm(_order: ConfirmOrder) -> Result<ConfirmReport, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::SUBMIT_FOR)]
    pub(crate) fn submit_for(_order: SubmitOrder) -> Result<SubmitAnswer, ActivityError> {
        unimplemented!()
    }
}

// The definitions that the activities of a worker have to match.
pub(crate) use activity_defs::{
    Confirm as ConfirmActivity, SubmitFor as SubmitForActivity, Write as WriteActivity,
};

type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, ActivityExecutionError>> + 'a>>;

/// The calls in the order in which they were scheduled. A set that is polled in the order of wake-ups would not replay.
#[derive(Default)]
pub(super) struct Calls<'a> {
    writes: Vec<(u64, Call<'a, WriteReport>)>,
    confirms: Vec<(u64, Call<'a, ConfirmReport>)>,
}

impl<'a> Calls<'a> {
    /// Schedules the write of a batch.
    pub fn write(&mut self, ctx: &'a WorkflowContext<BatcherWorkflow>, number: u64) {
        let order = ctx.state(|w| {
            let (requests, received_at, reason) = w.state.batch(number)?;
            let batcher = &w.input.batcher;
            Some(WriteOrder {
                batcher: batcher.name.clone(),
                writer: batcher.writer.clone(),
                shard: w.input.shard,
                batch_key: format!("{}/{}/{number}", w.input.instance, w.input.shard),
                requests,
                reason,
                received_at,
                pending: w.state.pending(),
                max_attempts: w.state.attempts_left(number, batcher.limits.max_attempts),
                write_timeout: batcher.limits.write_timeout,
            })
        });
        let Some(order) = order else {
            return;
        };
        // A batch of which every request fails is split down to its last request, so each of them costs up to two
        // calls. The activity limits each call itself; a lost worker is noticed by its heartbeats.
        let calls = 4 * u32::try_from(order.requests.len()).unwrap_or(u32::MAX) + 4;
        let limit = order.write_timeout.saturating_mul(calls);
        let options = own_options!(limit)
            .activity_id(format!("write-{number}"))
            .heartbeat_timeout(HEARTBEAT_TIMEOUT)
            .summary(format!("{} requests", order.requests.len()))
            .retry_policy(retry(0))
            .build();
        let call = ctx.execute_activity(ActivityDefs::write, order, options);
        self.writes.push((number, Box::pin(call)));
    }

    /// Schedules a call that tells requesters.
    pub fn confirm(&mut self, ctx: &'a WorkflowContext<BatcherWorkflow>, number: u64) {
        let order = ctx.state(|w| ConfirmOrder {
            batcher: w.input.batcher.name.clone(),
            confirmations: w.state.confirmations(number),
        });
        let options = own_options!(CONFIRM_TIMEOUT)
            .activity_id(format!("confirm-{number}"))
            .heartbeat_timeout(HEARTBEAT_TIMEOUT)
            .summary(format!("{} confirmations", order.confirmations.len()))
            .retry_policy(retry(CONFIRM_ATTEMPTS))
            .build();
        let call = ctx.execute_activity(ActivityDefs::confirm, order, options);
        self.confirms.push((number, Box::pin(call)));
    }

    /// Records the calls that have ended. Returns whether there were any.
    pub fn poll(&mut self, ctx: &WorkflowContext<BatcherWorkflow>, cx: &mut Context<'_>) -> bool {
        let before = self.writes.len() + self.confirms.len();
        self.writes.retain_mut(|(number, call)| {
            let Poll::Ready(result) = call.as_mut().poll(cx) else {
                return true;
            };
            ctx.state_mut(|w| {
                let report = result.unwrap_or_else(|error| {
                    let requests = w.state.batch(*number).map_or(0, |(r, ..)| r.len());
                    lost(requests, &error)
                });
                w.state.written(*number, report);
            });
            false
        });
        self.confirms.retain_mut(|(number, call)| {
            let Poll::Ready(result) = call.as_mut().poll(cx) else {
                return true;
            };
            ctx.state_mut(|w| w.state.confirmed(*number, result.ok()));
            false
        });
        before != self.writes.len() + self.confirms.len()
    }
}

/// The report of a write that Temporal has ended for good, although it is retried for ever: an operator failed or
/// cancelled the activity by hand. The sink may have the requests, but they have no dead letters.
fn lost(requests: usize, error: &ActivityExecutionError) -> WriteReport {
    let outcome = Outcome::failed("WriteEnded", &error.to_string());
    WriteReport {
        outcomes: vec![outcome; requests],
    }
}

fn retry(attempts: u32) -> RetryPolicy {
    RetryPolicy::builder()
        .initial_interval(Duration::from_millis(200))
        .maximum_interval(Duration::from_secs(10))
        .maximum_attempts(attempts)
        .build()
}
