//! The watch over the bridges of earlier runs, whose ends nothing else reports.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_sdk::WorkflowContext;

use crate::engine::controller::{
    ActivityDefs, Controller,
    side_calls::{Call, standing},
    workflow::BatchContext,
};

/// The time for which one activity watches before another takes over.
const WATCHED_FOR: Duration = Duration::from_secs(24 * 3_600);

/// Has the bridges of earlier runs watched, until one is gone.
pub(crate) fn watch_owners(ctx: &WorkflowContext<Controller>) -> Option<Call<'_>> {
    let order = ctx.batch(|s| s.bridges_to_watch())?;
    let options = standing(ctx, WATCHED_FOR, "watch bridges".to_owned());
    Some(Box::pin(async move {
        let gone = ctx.execute_activity(ActivityDefs::watch_workflows, order, options);
        let gone = gone.await?;
        ctx.batch_mut(|s| s.bridges_are_gone(&gone));
        Ok(())
    }))
}
