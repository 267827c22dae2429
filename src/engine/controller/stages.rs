//! Checks between stages and after the last page.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_common::RetryPolicy as TemporalRetryPolicy;
use temporalio_sdk::{
    ActivityExecutionError, ActivityOptions, WorkflowCancellationToken, WorkflowContext,
};

use super::{
    ActivityDefs, Controller,
    dispatch::{cancelled_with_workflow, describe},
    publish::publish,
    side_calls::Call,
    wait::in_time,
    workflow::{BatchContext, BatchWorkflow, log, now},
};
use crate::{
    decisions::{scheduler::Ending, state::view::details},
    processor::settings::HEARTBEAT_TIMEOUT,
    progress::check::Checked,
    protocol::{self, CheckAnswer, CheckOrder},
};

/// The timeout of one attempt at a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3_600);

fn options<W: BatchWorkflow>(ctx: &WorkflowContext<W>, summary: &str) -> ActivityOptions {
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_secs(1))
        .maximum_interval(Duration::from_secs(60))
        .build();
    ActivityOptions::with_start_to_close_timeout(CHECK_TIMEOUT)
        .heartbeat_timeout(HEARTBEAT_TIMEOUT)
        .retry_policy(retry)
        .task_queue(protocol::aside_queue(ctx.task_queue()))
        .summary(summary.to_owned())
        .build()
}

/// Converts the answer to the result of the check. Returns `None` if the batch was cancelled meanwhile.
fn outcome<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    order: &CheckOrder,
    at_end: bool,
    answer: Result<CheckAnswer, ActivityExecutionError>,
) -> Option<Checked> {
    let (found, error) = match answer {
        Ok(answer) => (answer.found, None),
        Err(ActivityExecutionError::Cancelled(_)) => return None,
        Err(error) => {
            let (error_type, message) = describe(&error);
            (None, Some(format!("{error_type}: {message}")))
        }
    };
    Some(Checked {
        covered_to: order.covered_to.clone(),
        found,
        error,
        at: now(ctx),
        at_end,
    })
}

/// Has a finished stage checked. The next run of the controller repeats the check if this run ends first.
pub(super) fn check_stage(ctx: &WorkflowContext<Controller>) -> Option<Call<'_>> {
    let order = ctx.batch(|s| s.stage_to_check())?;
    let nothing = ctx.batch(|s| s.covers_nothing());
    Some(Box::pin(async move {
        let answer = if nothing {
            Ok(CheckAnswer::default())
        } else {
            let schedule =
                |options| ctx.execute_activity(ActivityDefs::check, order.clone(), options);
            cancelled_with_workflow(ctx, options(ctx, "check the stage"), schedule).await
        };
        if let Some(checked) = outcome(ctx, &order, false, answer) {
            ctx.batch_mut(|s| s.checked(checked));
        }
        Ok(())
    }))
}

/// Has all of the batch checked after the last page, if the batch was started with such a check.
pub(super) async fn check_at_end<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    ending: Ending,
) -> Ending {
    let Some(order) = ctx.batch_mut(|s| s.begin_check_at_end(&ending)) else {
        return ending;
    };
    log(ctx, "checking what was done");
    let progress = ctx.batch(|s| s.look());
    ctx.set_current_details(details(&progress));
    publish(ctx, progress);
    let own = WorkflowCancellationToken::new();
    let mut options = options(ctx, "check everything");
    options.cancellation_token = Some(own.clone());
    let deadline = ctx.batch(|s| s.deadline);
    let checking = ctx.execute_activity(ActivityDefs::check, order.clone(), options);
    let answer = in_time(ctx, deadline, own, checking).await;
    let now = now(ctx);
    let checked = answer.map(|answer| outcome(ctx, &order, true, answer));
    ctx.batch_mut(|s| s.checked_at_end(now, checked, ending))
}
