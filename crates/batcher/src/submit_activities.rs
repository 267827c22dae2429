//! The activity that submits for a workflow whose batcher does not run.

use std::sync::Arc;

use temporalio_sdk::{
    ApplicationFailure,
    activities::{ActivityContext, ActivityError},
};

use crate::{
    client::{BatcherClient, BatcherError},
    protocol::{NOT_SUBMITTED, SubmitAnswer, SubmitOrder},
    request::Refusal,
    workflow::SubmitForActivity,
};

/// The activity with which [`submit`](crate::submit) starts a batcher that does not run. Register it with the worker of
/// the workflows that submit: `WorkerOptions::new(queue).register_activities(SubmitActivities)`.
pub struct SubmitActivities;

#[temporalio_macros::activities]
impl SubmitActivities {
    /// Submits, and starts the shard if it does not run.
    #[activity(definition = SubmitForActivity)]
    async fn submit_for(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: SubmitOrder,
    ) -> Result<SubmitAnswer, ActivityError> {
        let submitted = async {
            let client = BatcherClient::of(ctx.client(), order.batcher)?;
            client
                .submit_for(order.requests, Some(order.reply_to), order.number)
                .await
        };
        let refused = match submitted.await {
            Ok(()) => Ok(None),
            Err(BatcherError::Refused { reason, .. }) => Ok(Some(reason)),
            Err(BatcherError::OtherShards { running, asked, .. }) => {
                Ok(Some(Refusal::OtherShards {
                    routed_for: asked,
                    running,
                }))
            }
            Err(error) => Err(error),
        };
        refused
            .map(|refused| SubmitAnswer { refused })
            .map_err(|error| {
                let may_pass = matches!(error, BatcherError::Server(_));
                let error_type = match may_pass {
                    true => "SubmitFailed",
                    false => NOT_SUBMITTED,
                };
                let message = with_cause(&error);
                ActivityError::from(
                    ApplicationFailure::builder(message)
                        .type_name(error_type.to_owned())
                        .non_retryable(!may_pass)
                        .build(),
                )
            })
    }
}

// The workflow calls the activity by its definition, so this constant is otherwise unused.
const _: () = {
    let _ = SubmitActivities::submit_for;
};

fn with_cause(error: &BatcherError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
