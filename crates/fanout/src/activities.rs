//! The activities of a worker.
//!
//! | file | content |
//! |---|---|
//! | here | the attempts at items, reading items, and aggregating |
//! | `ended_children` | the ends of children of earlier runs |
//! | `id_owner` | the workflows whose ids are taken |

mod ended_children;
mod id_owner;

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use temporal_batch::{PageError, of_crates::Heartbeats};
use temporalio_common::error::ApplicationErrorCategory;
use temporalio_sdk::{
    ApplicationFailure,
    activities::{ActivityContext, ActivityError},
};

use crate::{
    item::ItemContext,
    outcome::{ItemFailure, failure_types as types},
    protocol::{
        AggregateOrder, AskOrder, AttemptDetails, EndedChild, IdOwner, ItemsRead, LookUpOrder,
        ProcessOrder, ReadOrder, WatchOrder,
    },
    registry::Registry,
    summary::AggregateContext,
    workflow::{
        AggregateActivity, AskActivity, LookUpActivity, ProcessActivity, ReadActivity,
        WatchActivity,
    },
};

/// The activity of items.
pub(crate) struct ItemActivities(pub Registry);

/// All other activities, which have a task queue and slots of their own.
pub(crate) struct AsideActivities(pub Registry);

/// The most bytes of an aggregated result.
pub(crate) const RESULT_BYTES: usize = 256 * 1024;

#[temporalio_macros::activities]
impl ItemActivities {
    /// Makes one attempt at an item.
    #[activity(definition = ProcessActivity)]
    async fn process(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: ProcessOrder,
    ) -> Result<Value, ActivityError> {
        let processor = self.0.get(&order.processor).map_err(failed)?;
        let _alive = Heartbeats::of(&ctx);
        let item = ItemContext {
            fanout: order.fanout,
            fanout_run: order.fanout_run,
            item_id: order.item_id,
            attempt: order.attempt,
        };
        let output = tokio::select! {
            biased;
            output = processor.process(&item, order.item) => output.map_err(failed)?,
            () = ctx.cancelled() => return Err(ActivityError::cancelled()),
        };
        match output.to_string().len() {
            bytes if bytes > order.output_limit => {
                let message = format!(
                    "the output is {bytes} bytes of JSON; at most {} are allowed with this window. \
                     Keep it elsewhere and return a reference",
                    order.output_limit
                );
                Err(failed(PageError::non_retryable(
                    types::OUTPUT_TOO_LARGE,
                    message,
                )))
            }
            _ => Ok(output),
        }
    }
}

#[temporalio_macros::activities]
impl AsideActivities {
    /// Reads a page of items.
    #[activity(definition = ReadActivity)]
    async fn read(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: ReadOrder,
    ) -> Result<ItemsRead, ActivityError> {
        let _alive = Heartbeats::of(&ctx);
        self.0.read(&order).await.map_err(failed)
    }

    /// Adds outcomes to the result.
    #[activity(definition = AggregateActivity)]
    async fn aggregate(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: AggregateOrder,
    ) -> Result<Value, ActivityError> {
        let _alive = Heartbeats::of(&ctx);
        let processor = self.0.get(&order.processor).map_err(failed)?;
        let ctx = AggregateContext {
            fanout_id: order.fanout,
            last: order.last,
        };
        let (outcomes, last) = (order.outcomes.len(), order.last);
        tracing::info!(fanout = ctx.fanout_id, outcomes, last, "aggregating");
        let result = processor
            .aggregate(&ctx, order.so_far, order.outcomes)
            .await
            .map_err(failed)?;
        match result.to_string().len() {
            bytes if bytes > RESULT_BYTES => Err(failed(PageError::non_retryable(
                "ResultTooLarge",
                format_args!(
                    "the aggregated result is {bytes} bytes of JSON; at most {RESULT_BYTES} are allowed. \
                     Keep it elsewhere and return a reference"
                ),
            ))),
            _ => Ok(result),
        }
    }

    /// Asks children of earlier runs to report by signal.
    #[activity(definition = AskActivity)]
    async fn ask(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: AskOrder,
    ) -> Result<(), ActivityError> {
        let _alive = Heartbeats::of(&ctx);
        ended_children::ask(&ctx.client(), order).await;
        Ok(())
    }

    /// Looks once at children of earlier runs. An attempt without news fails, and the next one looks again.
    #[activity(definition = WatchActivity)]
    async fn watch(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: WatchOrder,
    ) -> Result<Vec<EndedChild>, ActivityError> {
        let _alive = Heartbeats::of(&ctx);
        let children = order.children.len();
        let news = ended_children::look(&ctx.client(), order).await;
        news.ok_or_else(|| {
            let why = format!("no news: most of {children} children are running");
            let failure = ApplicationFailure::builder(why)
                .type_name("NoNews".to_owned())
                .category(ApplicationErrorCategory::Benign);
            failure.build().into()
        })
    }

    /// Finds out whose workflow has the id of a child.
    #[activity(definition = LookUpActivity)]
    async fn look_up(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: LookUpOrder,
    ) -> Result<IdOwner, ActivityError> {
        let _alive = Heartbeats::of(&ctx);
        id_owner::look_up(&ctx.client(), order)
            .await
            .map_err(failed)
    }
}

// The workflows call the activities by their definitions, so these constants are otherwise unused.
const _: () = {
    let _ = ItemActivities::process;
    let _ = AsideActivities::read;
    let _ = AsideActivities::aggregate;
    let _ = AsideActivities::ask;
    let _ = AsideActivities::watch;
    let _ = AsideActivities::look_up;
};

/// Returns the failure of an attempt.
fn failed(error: PageError) -> ActivityError {
    let ItemFailure {
        error_type,
        message,
    } = ItemFailure::new(error.error_type(), error.message());
    let details = AttemptDetails {
        environment: error.is_environment(),
        delay: error.delay(),
    };
    let failure = ApplicationFailure::builder(message)
        .type_name(error_type)
        .non_retryable(!error.is_retryable())
        .maybe_next_retry_delay(
            details
                .delay
                .map(|delay| delay.max(Duration::from_millis(1))),
        )
        .details(details);
    failure.build().into()
}
