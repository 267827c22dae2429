//! Outputs of pages that only the processor can combine: partial results are gathered, and an activity combines
//! several into one.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_common::{RetryPolicy as TemporalRetryPolicy, error::IncomingError};
use temporalio_sdk::{
    ActivityExecutionError, TimerOptions, WorkflowCancellationToken, WorkflowContext,
};

use super::{
    ActivityDefs,
    dispatch::describe,
    side_calls::{Call, SideCalls, standing},
    wait::in_time,
    workflow::{BatchContext, BatchWorkflow, now},
};
use crate::{decisions::scheduler::Ending, protocol::COMBINE_TIMED_OUT};

/// The timeout of one attempt to combine. A worker ends its attempt earlier, unless the worker is lost.
const COMBINE_TIMEOUT: Duration = Duration::from_secs(14);
/// The number of attempts without an answer from the processor's code after which there is no result.
const COMBINE_ATTEMPTS: u32 = 5;
/// The time after which workers that have other code, or cannot run it, are asked again.
const COMBINE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Has the oldest partial results combined, if there are enough.
pub(super) fn combine<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    at_end: bool,
) -> Option<Call<'_>> {
    let order = ctx.batch(|s| s.parts_to_combine(at_end))?;
    let parts = order.parts.len();
    ctx.batch_mut(|s| s.combining = true);
    let mut options = standing(ctx, COMBINE_TIMEOUT, format!("combine {parts} outputs"));
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_secs(1))
        .maximum_attempts(COMBINE_ATTEMPTS)
        .build();
    options.retry_policy = Some(retry);
    Some(Box::pin(async move {
        let combined = ctx
            .execute_activity(ActivityDefs::combine, order, options)
            .await;
        ctx.batch_mut(|s| {
            s.combining = false;
            s.version += 1;
        });
        if let Err(error) = &combined
            && is_of_the_worker(error)
        {
            let own = WorkflowCancellationToken::new();
            let wait = TimerOptions::builder(COMBINE_AGAIN_AFTER);
            ctx.timer(wait.cancellation_token(own).build()).await;
            return Ok(());
        }
        let combined = combined.map(|combined| combined.part).map_err(|error| {
            if error.as_timeout().is_some() {
                return format!("{COMBINE_TIMED_OUT}: every worker that combined was lost");
            }
            let (error_type, message) = describe(&error);
            format!("{error_type}: {message}")
        });
        ctx.batch_mut(|s| s.combined(parts, combined));
        Ok(())
    }))
}

/// Returns whether the code of the processor was not even called, so that a new deployment or another worker may
/// help.
fn is_of_the_worker(error: &ActivityExecutionError) -> bool {
    match error.reason() {
        Some(IncomingError::Application(failure)) => {
            !failure.is_non_retryable() && failure.type_name() != Some(COMBINE_TIMED_OUT)
        }
        _ => false,
    }
}

/// Has all remaining outputs combined before the batch ends. Outputs that cannot be combined are noted, without
/// further effect. A batch that ends early has only the time of one attempt. Returns the end of the batch.
pub(super) async fn combine_rest<'a, W: BatchWorkflow>(
    ctx: &'a WorkflowContext<W>,
    calls: &mut SideCalls<'a>,
    ending: Ending,
) -> Ending {
    let enough = now(ctx).plus(COMBINE_TIMEOUT);
    let until = match ending.is_of_all() {
        true => ctx.batch(|s| s.deadline).map(|late| late.max(enough)),
        false => Some(enough),
    };
    while let Some(call) = calls.combine.take().or_else(|| combine(ctx, true)) {
        // The call is not cancelled with the batch, because its attempts are few and short.
        let own = WorkflowCancellationToken::new();
        if let Err(early) = in_time(ctx, until, own, call).await {
            return match ending.is_of_all() {
                true => early.after_the_last_page("while its result was combined"),
                false => ending,
            };
        }
    }
    ending
}
