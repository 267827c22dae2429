//! Preparation: a worker looks the processor up and has it complete the arguments of the batch.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_common::{MemoValue, RetryPolicy as TemporalRetryPolicy};
use temporalio_sdk::{
    ActivityOptions, ApplicationFailure, WorkflowCancellationToken, WorkflowContext,
    WorkflowResult, WorkflowTermination,
};

use super::{
    ActivityDefs,
    dispatch::describe,
    wait::in_time,
    workflow::{BatchContext, BatchWorkflow},
};
use crate::{
    decisions::scheduler::Ending,
    processor::settings::HEARTBEAT_TIMEOUT,
    progress::phase::Outcome,
    protocol::{self, large_args::carried},
};

/// The longest time for a processor to complete its arguments in one attempt, which may have to wait for older
/// transactions.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// Asks a worker about the processor, once per batch run. Returns the end of the batch, if it ended meanwhile.
pub(super) async fn prepare<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
) -> WorkflowResult<Option<Ending>> {
    if ctx.batch(|s| s.prepared.is_some()) {
        return Ok(None);
    }
    let input = ctx.batch(|s| s.prepare_input());
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_secs(1))
        .maximum_interval(Duration::from_secs(60))
        .build();
    let own = WorkflowCancellationToken::new();
    let options = ActivityOptions::with_start_to_close_timeout(PREPARE_TIMEOUT)
        .heartbeat_timeout(HEARTBEAT_TIMEOUT)
        .retry_policy(retry)
        .cancellation_token(own.clone())
        .task_queue(protocol::aside_queue(ctx.task_queue()))
        .summary("look up the processor")
        .build();
    let deadline = ctx.batch(|s| s.deadline);
    let preparing = ctx.execute_activity(ActivityDefs::prepare, input, options);
    match in_time(ctx, deadline, own, preparing).await {
        Ok(Ok(mut prepared)) => {
            if let Some(args) = &mut prepared.args
                && tell_args(ctx, args.clone())
            {
                let batch_id = ctx.batch(|s| s.input.spec.batch_id.clone());
                *args = carried(args, &batch_id, protocol::MEMO_PREPARED_ARGS);
            }
            let accepted = ctx.batch_mut(|s| s.accept(prepared));
            accepted.map_err(|unknown| refused(unknown.to_string()))?;
            Ok(None)
        }
        Ok(Err(error)) => Err(refused(describe(&error).1)),
        Err(early) => Ok(Some(before_a_page(ctx, early))),
    }
}

/// Writes completed arguments to the memo, where a later redrive finds them, and from where orders read them if they
/// are large. Returns whether the memo was written.
fn tell_args<W: BatchWorkflow>(ctx: &WorkflowContext<W>, args: serde_json::Value) -> bool {
    let memo = [(protocol::MEMO_PREPARED_ARGS, Some(MemoValue::new(args)))];
    let told = ctx.upsert_memo(memo);
    if let Err(error) = &told {
        tracing::warn!(%error, "the memo was not written");
    }
    told.is_ok()
}

/// Returns the end of a batch whose run has not reached its pages.
pub(super) fn before_a_page<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
    mut early: Ending,
) -> Ending {
    if early.outcome == Outcome::Cancelled && ctx.batch(|s| s.runs == 0) {
        early.reason = Some("cancelled before the first page".to_owned());
    }
    early
}

pub(super) fn refused(message: String) -> WorkflowTermination {
    ApplicationFailure::builder(message)
        .type_name(protocol::BATCH_REFUSED.to_owned())
        .non_retryable(true)
        .build()
        .into()
}
