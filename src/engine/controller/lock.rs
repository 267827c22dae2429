//! The named lock of a batch: taken before its first page, held over continue-as-new, given back at the end.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_common::RetryPolicy as TemporalRetryPolicy;
use temporalio_sdk::{ActivityOptions, WorkflowCancellationToken, WorkflowContext, WorkflowResult};

use super::{
    ActivityDefs,
    dispatch::describe,
    prepare::{before_a_page, refused},
    side_calls::aside,
    wait::in_time,
    workflow::{BatchContext, BatchWorkflow},
};
use crate::{
    decisions::scheduler::Ending, processor::settings::HEARTBEAT_TIMEOUT, progress::phase::Outcome,
    protocol::aside_queue,
};

/// The longest time that a batch waits for a lock.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 366 * 86_400);
/// The timeout of one attempt to give a lock back. The next batch can take the lock even without this.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes the lock of the batch, if it has one. Every run of the controller does so. A batch that already holds the
/// lock is unaffected, and one that was terminated and reset finds out whether it still holds it. Returns the end of
/// the batch, if it ended meanwhile.
pub(super) async fn take<W: BatchWorkflow>(
    ctx: &WorkflowContext<W>,
) -> WorkflowResult<Option<Ending>> {
    let Some(order) = ctx.batch(|s| s.lock_order()) else {
        return Ok(None);
    };
    ctx.batch_mut(|s| s.taking_lock = true);
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_millis(200))
        .maximum_interval(Duration::from_secs(10))
        .build();
    let own = WorkflowCancellationToken::new();
    let options = ActivityOptions::with_start_to_close_timeout(LONGEST_WAIT)
        .task_queue(aside_queue(ctx.task_queue()))
        .heartbeat_timeout(HEARTBEAT_TIMEOUT)
        .retry_policy(retry)
        .cancellation_token(own.clone())
        .summary(format!("take the lock {}", order.name))
        .build();
    let deadline = ctx.batch(|s| s.deadline);
    let taking = ctx.execute_activity(ActivityDefs::lock, order, options);
    let taken = in_time(ctx, deadline, own, taking).await;
    ctx.batch_mut(|s| {
        s.taking_lock = false;
        s.lock_held_by = None;
    });
    match taken {
        Ok(Ok(())) => Ok(None),
        Ok(Err(error)) => {
            let (_, message) = describe(&error);
            // Only a batch without a page can be refused; others can be continued.
            if ctx.batch(|s| s.runs == 0) {
                return Err(refused(message));
            }
            ctx.batch_mut(|s| s.stop_itself(message.clone()));
            Ok(Some(Ending {
                outcome: Outcome::Stopped,
                reason: Some(message),
            }))
        }
        Err(early) => Ok(Some(before_a_page(ctx, early))),
    }
}

/// Gives the lock back, if the batch has one. A failure does no harm, because the next batch sees that this one has
/// ended.
pub(super) async fn give_back<W: BatchWorkflow>(ctx: &WorkflowContext<W>) {
    let Some(order) = ctx.batch(|s| s.lock_order()) else {
        return;
    };
    let options = aside(
        ctx,
        GIVE_BACK_TIMEOUT,
        format!("give the lock {} back", order.name),
    );
    let given = ctx
        .execute_activity(ActivityDefs::unlock, order, options)
        .await;
    if let Err(error) = given
        && !ctx.is_replaying()
    {
        let (error_type, error) = describe(&error);
        tracing::warn!(error_type, error, "the lock was not given back");
    }
}
