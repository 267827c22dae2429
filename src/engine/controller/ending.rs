//! The end of a batch: hooks are called, then the workflow ends.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_common::MemoValue;
use temporalio_sdk::{ApplicationFailure, WorkflowContext, WorkflowResult, WorkflowTermination};

use super::{
    ActivityDefs, lock,
    partition_child::not_done,
    publish,
    side_calls::{SideCalls, aside, call, count_failure},
    workflow::{BatchContext, BatchWorkflow, log, now},
};
use crate::{
    batch::HOOK_TIMEOUT,
    decisions::{scheduler::Ending, state::view::details},
    progress::{
        phase::{Outcome, Phase},
        report::BatchReport,
    },
    protocol::{self, EndNote, HookOrder},
};

/// The time that the end of a batch allows for sending the remaining notices to the failure handler.
const TELL_AT_THE_END: Duration = Duration::from_secs(300);

/// Calls the hooks and ends the workflow. A hook cannot change the outcome. The attempts and time limits of hooks
/// bound the duration of this call.
pub(super) async fn end<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    ending: Ending,
    calls: SideCalls<'_>,
) -> WorkflowResult<BatchReport> {
    log(ctx, &format!("batch {}", ending.outcome));
    let report = ctx.batch_mut(|s| s.begin_to_end(&ending));
    ctx.set_current_details(details(&ctx.batch(|s| s.look())));
    let tell = async |order: Option<HookOrder>| {
        if let Some(order) = order {
            count_failure(ctx, call(ctx, order).await);
        }
    };
    let failures = async {
        if let Some(running) = calls.handler {
            count_failure(ctx, running.await);
        }
        let long_enough = now(ctx).plus(TELL_AT_THE_END);
        while ctx.batch(|s| s.notices.is_waiting()) {
            tell(ctx.batch_mut(|s| s.next_notice())).await;
            if now(ctx) >= long_enough {
                ctx.batch_mut(|s| s.notices.drop_waiting());
            }
        }
        tell(ctx.batch_mut(|s| s.last_notice(&report))).await;
    };
    let progress = async {
        if let Some(running) = calls.tracker {
            count_failure(ctx, running.await);
        }
        tell(ctx.batch(|s| s.last_progress(&report))).await;
    };
    let completion = tell(ctx.batch(|s| s.completion(&report)));
    let kept = async {
        if let Some(order) = ctx.batch(|s| s.report_to_keep(&report)) {
            let options = aside(ctx, HOOK_TIMEOUT, "keep the report".to_owned());
            let kept = ctx.execute_activity(ActivityDefs::keep_report, order, options);
            count_failure(ctx, kept.await);
        }
    };
    // The futures are polled in this order at every turn, so that a replay is identical.
    futures::join!(failures, progress, completion, kept);
    // The lock also protects the hooks, so it is given back after them.
    lock::give_back(ctx).await;
    finish(ctx, ending)
}

/// Writes the outcome to the memo for listings, since Temporal's own workflow status does not show that pages were
/// abandoned.
fn tell_end<W: BatchWorkflow>(ctx: &WorkflowContext<W>, outcome: Outcome) {
    if !ctx.batch(|s| s.is_part()) {
        let started_at = ctx.batch(|s| s.started_at);
        let end = EndNote {
            outcome,
            started_at,
        };
        publish::write(ctx, vec![(protocol::MEMO_ENDED, Some(MemoValue::new(end)))]);
    }
}

fn finish<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    ending: Ending,
) -> WorkflowResult<BatchReport> {
    ctx.batch_mut(|s| s.closing = Some(Phase::Ended));
    let report = || ctx.batch(|s| s.report(&ending));
    ctx.set_current_details(details(&report().progress));
    tell_end(ctx, ending.outcome);
    let end_details = || ctx.batch(|s| s.fitting_details(&ending));
    let reason = || ending.reason.clone().unwrap_or_default();
    match ending.outcome {
        Outcome::Completed | Outcome::CompletedWithFailures => Ok(report()),
        outcome if ctx.batch(|s| s.is_part()) => Err(not_done(outcome, reason(), end_details())),
        Outcome::Cancelled => Err(WorkflowTermination::cancelled_with_details(end_details())),
        Outcome::Failed | Outcome::Stopped => Err(ApplicationFailure::builder(reason())
            .type_name(protocol::BATCH_FAILED.to_owned())
            .non_retryable(true)
            .details(end_details())
            .build()
            .into()),
    }
}
