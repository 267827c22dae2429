//! The trait that users implement: the work on one item.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use temporal_batch::PageError;

use crate::{
    outcome::ItemOutcome,
    retry::Retry,
    summary::{AggregateContext, add_to_summary},
};

/// The work of a fan-out: one call for each item, in a child workflow of its own.
///
/// # Order of calls
///
/// 1. [`id`](Self::id) names an item. It must give the same name each time: it becomes part of the id of the child
///    workflow, `<fan-out>/item/<id>`.
/// 2. [`process`](Self::process) does the work, on any worker of the child's task queue. Different items are processed at
///    the same time and in any order. An item whose attempt failed, or whose worker was lost, is processed again, so
///    `process` must be idempotent; [`ItemContext::key`] is an idempotency key for its effects.
/// 3. [`aggregate`](Self::aggregate) adds the outcomes to the result, in the order of the input.
///
/// # Outcomes of an attempt
///
/// | `process` returns | the item |
/// |---|---|
/// | an output | is done |
/// | `?` on an error, [`PageError::retryable`] | is tried again after the wait of its [`Retry`], and fails after the last attempt |
/// | [`PageError::retry_after`] | is tried again after exactly that wait |
/// | [`PageError::environment`] | is tried again after the wait, without using up an attempt |
/// | [`PageError::non_retryable`] | fails at once |
/// | a panic, or nothing in time ([`ItemSettings::attempt_timeout`]) | as after a retryable error |
///
/// # Being cancelled
///
/// A cancelled child drops the future of `process` at the `await` where it is.
///
/// # Example
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use temporal_batch::{PageError, async_trait};
/// use temporal_batch_fanout::{ItemContext, ItemProcessor};
///
/// #[derive(Serialize, Deserialize)]
/// struct Order {
///     number: u32,
/// }
///
/// struct Fulfil;
///
/// #[async_trait]
/// impl ItemProcessor for Fulfil {
///     const NAME: &'static str = "fulfil";
///     type Item = Order;
///     type Output = String;
///
///     fn id(order: &Order) -> String {
///         format!("ORDER-{}", order.number)
///     }
///
///     async fn process(&self, ctx: &ItemContext, order: Order) -> Result<String, PageError> {
///         Ok(format!("order {} shipped at attempt {}", order.number, ctx.attempt()))
///     }
/// }
/// ```
#[async_trait]
pub trait ItemProcessor: Send + Sync + Sized + 'static {
    /// The name of the processor in histories. It must not change while fan-outs of it run.
    const NAME: &'static str;

    /// One item. It is stored in the histories of the fan-out and of the child, so it must not contain secrets; large
    /// data belongs elsewhere, and the item refers to it.
    type Item: Serialize + DeserializeOwned + Send + 'static;

    /// The output of one item, stored like the item. See [`Fanout::output_limit`](crate::Fanout::output_limit).
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Returns the id of an item: 1 to 200 bytes, different for different items.
    fn id(item: &Self::Item) -> String;

    /// Does the work on one item.
    async fn process(&self, ctx: &ItemContext, item: Self::Item)
    -> Result<Self::Output, PageError>;

    /// Returns the retries and time limits of an item, which a [`Fanout`](crate::Fanout) can change.
    fn settings() -> ItemSettings {
        ItemSettings::default()
    }

    /// Adds outcomes to the result so far, which is `None` at first. The calls get all outcomes in the order of the
    /// input, some hundred at a time. A call may be repeated, with the same arguments.
    ///
    /// The result travels through the history with every call, so it should stay small: count, or write the outcomes
    /// elsewhere and keep a reference. The default makes `{batch_id, total_items, summary, completed_at}`; see
    /// [`add_to_summary`].
    async fn aggregate(
        &self,
        ctx: &AggregateContext,
        so_far: Option<Value>,
        outcomes: Vec<ItemOutcome<Self::Output>>,
    ) -> Result<Value, PageError> {
        add_to_summary(ctx, so_far, &outcomes)
    }
}

/// The retries and time limits of an item.
///
/// | field | default |
/// |---|---|
/// | `retry` | 10 attempts, 1 s before the second, doubling up to 60 s |
/// | `attempt_timeout` | 10 min for one attempt |
/// | `heartbeat_timeout` | 15 s without a sign of life from the worker, after which the attempt is lost |
/// | `execution_timeout` | none: a child may run for as long as its attempts take |
///
/// The worker sends signs of life by itself. An attempt waits for a worker without a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemSettings {
    /// The attempts and the waits between them.
    pub retry: Retry,
    /// The time limit of one attempt, from 1 ms to 365 days.
    pub attempt_timeout: Duration,
    /// The time without a sign of life after which an attempt counts as lost, from 1 s to `attempt_timeout` or more.
    pub heartbeat_timeout: Duration,
    /// The time limit of the whole child, if any.
    pub execution_timeout: Option<Duration>,
}

impl Default for ItemSettings {
    fn default() -> Self {
        Self {
            retry: Retry::default(),
            attempt_timeout: Duration::from_secs(600),
            heartbeat_timeout: Duration::from_secs(15),
            execution_timeout: None,
        }
    }
}

/// The attempt at an item.
#[derive(Clone, Debug)]
pub struct ItemContext {
    pub(crate) fanout: String,
    pub(crate) fanout_run: String,
    pub(crate) item_id: String,
    pub(crate) attempt: u32,
}

impl ItemContext {
    /// The id of the fan-out.
    pub fn fanout_id(&self) -> &str {
        &self.fanout
    }

    /// The id of the item.
    pub fn item_id(&self) -> &str {
        &self.item_id
    }

    /// The number of this attempt, from 1. Attempts that failed with [`PageError::environment`] are not counted.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns an idempotency key for the effects of the item: the same in every attempt, and another one when the
    /// fan-out is run again.
    pub fn key(&self) -> String {
        format!("{}/{}", self.fanout_run, self.item_id)
    }
}
