//! The recipes: a pipeline and the settings of a batch for each.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use temporal_batch::PageError;
use temporal_batch_pipeline::{
    InvalidPipeline, Items, Pipeline, Step, StepContext, Steps, action, step,
};
use tokio::sync::Barrier;

use crate::{orders::Order, sink::Sink};

/// A question that the sample answers.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Subcommand,
    ValueEnum,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// Pages of 100 orders, a short last one, no orders, one order
    Basic,
    /// The progress while the batch runs
    Progress,
    /// A page that fails, and the next ones
    Errors,
    /// Five pages at once
    Parallel,
    /// Pages that are processed or skipped
    Conditional,
    /// Counters of pages that are tried twice
    State,
    /// Steps of single orders
    Foreach,
    /// Orders that fail, and the others of their page
    ForeachErrors,
    /// Orders that are processed or skipped
    ForeachConditional,
    /// A call that fails, its retries and its fallback
    Retry,
    /// Ten orders a second
    RateLimit,
    /// The memory of a large batch
    Memory,
    /// A worker that is killed, and one that continues
    Persist,
    /// Page sizes by the bytes of an item
    Sizes,
    /// The time that pages take
    Perf,
}

pub type Shop = Pipeline<Order, ()>;

/// An order whose call fails as often as it is tried.
pub const UNREACHABLE: u64 = 7;
/// An order whose call fails once.
pub const ONCE: u64 = 8;
/// An order that makes its page invalid.
pub const INVALID: u64 = 350;
/// The pages that run at once.
pub const AT_ONCE: usize = 5;

/// The upper bounds of the buckets of page times, in milliseconds.
pub const BUCKETS: [u64; 9] = [1, 2, 5, 10, 20, 50, 100, 200, 500];

impl Recipe {
    /// Returns the pipeline of the recipe. `None` for recipes without orders of the shop.
    pub fn pipeline(self, sink: &Sink) -> Result<Option<Shop>, InvalidPipeline> {
        let pipeline = match self {
            Self::Basic | Self::Progress | Self::Memory => {
                Pipeline::new(|page| page.step(add_up()))
            }
            Self::RateLimit => Pipeline::new(|page| {
                page.for_each(
                    5,
                    |order: &Order| order.id,
                    |order| order.step(paced_call(sink)),
                )
                .step(end())
            }),
            Self::Errors => Pipeline::new(|page| page.step(validate_page()).step(add_up())),
            Self::Parallel => Pipeline::new(|page| page.step(together()).step(add_up())),
            Self::Conditional => Pipeline::new(conditional),
            Self::State => Pipeline::new(|page| page.step(add_up_at_second_attempt())),
            Self::Foreach => Pipeline::new(|page| {
                page.for_each(
                    8,
                    |order: &Order| order.id,
                    |order| order.step(validate()).step(invoice()).action(notify()),
                )
                .step(end())
            }),
            Self::ForeachErrors => Pipeline::new(|page| {
                page.for_each(
                    8,
                    |order: &Order| order.id,
                    |order| {
                        order
                            .step(validate_strictly())
                            .step(invoice())
                            .action(notify())
                    },
                )
                .step(end())
            }),
            Self::ForeachConditional => Pipeline::new(|page| {
                page.for_each(8, |order: &Order| order.id, each_conditional)
                    .step(end())
            }),
            Self::Retry => Pipeline::new(|page| {
                page.for_each(
                    8,
                    |order: &Order| order.id,
                    |order| order.step(failing_call(sink)),
                )
                .step(end())
            }),
            Self::Perf => Pipeline::new(|page| page.step(timed())),
            Self::Persist | Self::Sizes => return Ok(None),
        };
        pipeline.map(Some)
    }
}

fn add_up() -> Step<Items<Order>, ()> {
    step("add up", async |ctx: StepContext, orders: Items<Order>| {
        count(&ctx, &orders);
        Ok(())
    })
}

fn count(ctx: &StepContext, orders: &[Order]) {
    ctx.count("pages", 1);
    ctx.count("orders", orders.len() as i64);
    ctx.count("cents", orders.iter().map(|order| order.cents as i64).sum());
}

fn validate_page() -> Step<Items<Order>, Items<Order>> {
    step("validate", async |_, orders: Items<Order>| {
        match orders.iter().any(|order| order.id == INVALID) {
            true => Err(PageError::non_retryable(
                "Invalid",
                format!("order {INVALID} has no address"),
            )),
            false => Ok(orders),
        }
    })
}

fn together() -> Step<Items<Order>, Items<Order>> {
    let all = Arc::new(Barrier::new(AT_ONCE));
    step("together", move |_, orders: Items<Order>| {
        let all = Arc::clone(&all);
        async move {
            // Nothing gets through unless five pages are in flight.
            tokio::time::timeout(Duration::from_secs(60), all.wait()).await?;
            Ok(orders)
        }
    })
}

fn conditional(page: Steps<Items<Order>>) -> Steps<Items<Order>, ()> {
    page.branch(
        "has large ids",
        |orders| orders.iter().any(|order| order.id > 400),
        |page| page.step(add_up()),
        |page| page.skip("No processing needed"),
    )
}

fn add_up_at_second_attempt() -> Step<Items<Order>, ()> {
    step("add up", async |ctx: StepContext, orders: Items<Order>| {
        count(&ctx, &orders);
        match ctx.page_attempt() {
            1 => Err(PageError::retryable(
                "the first attempt fails after it has counted",
            )),
            _ => Ok(()),
        }
    })
}

fn validate() -> Step<Order, Order> {
    step("validate", async |_, order: Order| Ok(order))
}

fn validate_strictly() -> Step<Order, Order> {
    step("validate", async |_, order: Order| match order.id % 50 {
        0 => Err(PageError::non_retryable("Invalid", "no address")),
        _ => Ok(order),
    })
}

fn invoice() -> Step<Order, u64> {
    step("invoice", async |ctx: StepContext, order: Order| {
        ctx.count("cents", order.cents as i64);
        Ok(order.cents)
    })
}

fn notify() -> temporal_batch_pipeline::Action<u64> {
    let notify = action("notify", async |ctx: StepContext, _cents: u64| {
        ctx.count("notified", 1);
        Ok(())
    });
    notify.best_effort()
}

fn each_conditional(order: Steps<Order>) -> Steps<Order, u64> {
    order.branch(
        "shipped",
        |order| order.shipped,
        |order| order.skip("already shipped"),
        |order| order.step(invoice()).action(notify()),
    )
}

fn paced_call(sink: &Sink) -> Step<Order, Order> {
    let sink = sink.clone();
    let call = step("call", move |ctx: StepContext, order: Order| {
        let sink = sink.clone();
        async move {
            sink.call(ctx.batch_run(), order.id).await?;
            Ok(order)
        }
    });
    call.paced()
}

fn failing_call(sink: &Sink) -> Step<Order, Order> {
    let sink = sink.clone();
    let call = step("call", move |ctx: StepContext, order: Order| {
        let sink = sink.clone();
        async move {
            sink.call(ctx.batch_run(), order.id).await?;
            let fails = order.id == UNREACHABLE || order.id == ONCE && ctx.page_attempt() == 1;
            match fails {
                true => Err(PageError::retryable("503").with_type("Unavailable")),
                false => Ok(order),
            }
        }
    });
    // The first wait is a second, the next one two. Both are timers of the controller.
    call.retry_page(3, Duration::from_secs(1))
        .fallback(|order, _| order)
}

fn timed() -> Step<Items<Order>, ()> {
    step("timed", async |ctx: StepContext, orders: Items<Order>| {
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(10)).await;
        count(&ctx, &orders);
        let took = begun.elapsed().as_millis() as u64;
        let bucket = BUCKETS.iter().find(|bound| took <= **bound);
        match bucket {
            Some(bound) => ctx.count(&format!("up to {bound} ms"), 1),
            None => ctx.count("longer", 1),
        }
        Ok(())
    })
}

fn end<T: Clone + Send + Sync + 'static>() -> Step<Items<T>, ()> {
    step("end", async |ctx: StepContext, items: Items<T>| {
        ctx.count("pages", 1);
        ctx.count("orders", items.len() as i64);
        Ok(())
    })
}
