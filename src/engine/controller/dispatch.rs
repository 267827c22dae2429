//! Dispatch of strides: a decision becomes an activity, and its result becomes a recorded report.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{future::Future, pin::Pin, time::Duration};

use temporalio_common::{
    Priority, RetryPolicy as TemporalRetryPolicy,
    error::{IncomingError, TimeoutType},
};
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, WorkflowContext,
};

use super::{ActivityDefs, Controller, workflow::BatchContext};
use crate::{
    decisions::{
        scheduler::Dispatch,
        state::dispatching::{WORKER_LOST, failed},
    },
    protocol::{Checkpoint, StrideOrder, StrideReport, StrideTerms},
};

pub(super) type StrideResult = Result<StrideReport, ActivityExecutionError>;
pub(super) type Activity<'a> = Pin<Box<dyn Future<Output = StrideResult> + 'a>>;

/// Records the dispatch and schedules the activity.
pub(super) fn start<'a>(
    ctx: &'a WorkflowContext<Controller>,
    dispatch: &Dispatch,
) -> Option<Activity<'a>> {
    let (order, options) = ctx.batch_mut(|s| {
        let order = s.dispatched(dispatch)?;
        let options = activity_options(&s.terms()?, &order);
        Some((order, options))
    })?;
    let schedule = |options| ctx.execute_activity(ActivityDefs::stride, order, options);
    Some(Box::pin(cancelled_with_workflow(ctx, options, schedule)))
}

/// Makes an activity that is cancelled with its workflow. The activity waits with a token of its own. A future
/// registered with the context's token would keep the context alive, and the context keeps the token, so a run that
/// ends first would never be freed.
pub(super) fn cancelled_with_workflow<W, F: Future>(
    ctx: &WorkflowContext<W>,
    mut options: ActivityOptions,
    schedule: impl FnOnce(ActivityOptions) -> F,
) -> impl Future<Output = F::Output> {
    let token = ctx.cancellation_token().child_token();
    options.cancellation_token = Some(token.clone());
    let activity = schedule(options);
    async move {
        let _kept = token;
        activity.await
    }
}

pub(super) fn activity_options(terms: &StrideTerms, order: &StrideOrder) -> ActivityOptions {
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_millis(200))
        .maximum_interval(Duration::from_secs(10))
        .maximum_attempts(order.attempts_at_lost_workers(terms.retry_mode))
        .build();
    // The activity limits its pages itself and reports which one took too long. This limit, twice the time that the
    // pages may take, is for a worker that is alive but stuck in code that never yields.
    let per_page = order.page_timeout.as_secs_f64()
        + order
            .rate_share
            .map_or(0.0, |share| f64::from(order.page_size) / share)
        + order.page_share.map_or(0.0, |share| 1.0 / share)
        + order.page_pause.map_or(0.0, |pause| pause.as_secs_f64());
    let limit = (per_page * f64::from(order.pages) * 2.0 + 60.0).min(30.0 * 86_400.0);
    let mut priority = Priority::default();
    priority.fairness_key = Some(order.batch_run.clone());
    priority.fairness_weight = terms.weight;
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs_f64(limit))
        // A replay compares ids, so it detects a different choice of stride.
        .activity_id(format!("stride-{}", order.stride))
        .heartbeat_timeout(terms.heartbeat_timeout)
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .retry_policy(retry)
        .summary(format!("stride {} attempt {}", order.stride, order.attempt))
        .priority(priority)
        .build()
}

/// Converts the result of an activity to a report.
pub(super) fn report_of(result: StrideResult) -> StrideReport {
    match result {
        Ok(report) => report,
        // The activity was still waiting for a worker when the batch was cancelled.
        Err(ActivityExecutionError::Cancelled(_)) => StrideReport::default(),
        Err(error) => lost(&error),
    }
}

/// Returns the work that a stride is known to have done although its activity never reported.
fn lost(error: &ActivityExecutionError) -> StrideReport {
    let checkpoint = error
        .as_timeout()
        .and_then(|t| t.last_heartbeat_details::<Checkpoint>().ok().flatten());
    let mut report = checkpoint.unwrap_or_default().done;
    let (error_type, message) = describe(error);
    report.failure = Some(failed(error_type, &message));
    report
}

pub(super) fn describe(error: &ActivityExecutionError) -> (String, String) {
    if let Some(timeout) = error.as_timeout() {
        return match timeout.timeout_type() {
            TimeoutType::Heartbeat => (
                WORKER_LOST.to_owned(),
                "no heartbeat from its worker for longer than the timeout".to_owned(),
            ),
            _ => (
                "StrideTimeout".to_owned(),
                "the worker was alive but the stride never came back".to_owned(),
            ),
        };
    }
    match error.reason() {
        Some(IncomingError::Application(failure)) => (
            failure.type_name().unwrap_or("ActivityFailed").to_owned(),
            failure.source_error().to_string(),
        ),
        _ => ("ActivityFailed".to_owned(), error.to_string()),
    }
}
