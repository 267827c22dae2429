//! Differences of a controller that runs one partition of a batch: it keeps to a share of the limits, and returns its
//! remaining work to its parent.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporalio_sdk::{
    ApplicationFailure, SignalWorkflowOptions, WorkflowCancellationToken, WorkflowContext,
    WorkflowTermination,
};

use super::{Controller, PartitionParent, side_calls::Call, workflow::BatchContext};
use crate::{
    decisions::{carry::EndDetails, state::work::Work},
    progress::phase::Outcome,
    protocol::{self},
};

/// Tells the parent that this partition now keeps to a smaller share, so that the rest can go to other partitions.
pub(super) fn say_when_settled(ctx: &WorkflowContext<Controller>) -> Option<Call<'_>> {
    let settled = ctx.batch(|s| s.settled_now())?;
    let seq = settled.seq;
    let parent = ctx.batch(|s| s.input.spec.batch_id.clone());
    let told = ctx.external_workflow(parent, None).signal(
        PartitionParent::settled,
        settled,
        own_cancellation(),
    );
    Some(Box::pin(async move {
        // A parent that has ended has nothing to reassign.
        let _ = told.await;
        ctx.batch_mut(|s| s.said_settled(seq));
        Ok(())
    }))
}

/// Returns the options of a signal that is sent even if the batch is cancelled: its partitions still need orders.
pub(super) fn own_cancellation() -> SignalWorkflowOptions {
    SignalWorkflowOptions::builder()
        .cancellation_token(WorkflowCancellationToken::new())
        .build()
}

/// Returns the failure with which the workflow of an unfinished partition ends. Only its parent reads it.
pub(super) fn not_done<W: Work>(
    outcome: Outcome,
    reason: String,
    details: EndDetails<W>,
) -> WorkflowTermination {
    let error_type = match outcome {
        Outcome::Stopped => protocol::PARTITION_STOPPED,
        _ => protocol::BATCH_FAILED,
    };
    ApplicationFailure::builder(reason)
        .type_name(error_type.to_owned())
        .non_retryable(true)
        .details(details)
        .build()
        .into()
}
