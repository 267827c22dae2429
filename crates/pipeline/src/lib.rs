//! Typed steps per page or per item in one processor of `temporal-batch`.
//!
//! A [`Pipeline`] is the `process` of a [`PageProcessor`](temporal_batch::PageProcessor), written as steps in which
//! the output of each is the input of the next:
//!
//! ```
//! use std::time::Duration;
//! use temporal_batch::{
//!     Page, PageContext, PageError, PageProcessor, PageReport, Reducer, async_trait, settings::ItemRetry,
//! };
//! use temporal_batch_pipeline::{InvalidPipeline, Items, Pipeline, action, counters, step};
//!
//! struct InvoiceOrders {
//!     pipeline: Pipeline<u64, Items<u64>>,
//! }
//!
//! impl InvoiceOrders {
//!     fn new() -> Result<Self, InvalidPipeline> {
//!         let pipeline = Pipeline::new(|orders| {
//!             orders
//!                 .for_each(8, |order: &u64| *order, |order| {
//!                     order
//!                         .skip_if("already invoiced", |order| order % 10 == 0)
//!                         .step(step("amount", async |_, order: u64| Ok(order * 100)).retry(ItemRetry::attempts(3)))
//!                         .action(action("mail", async |_, _cents: u64| Ok(())).best_effort())
//!                 })
//!                 .step(step("write", async |ctx, cents: Items<u64>| {
//!                     ctx.count("cents", cents.iter().sum::<u64>() as i64);
//!                     Ok(cents)
//!                 }))
//!         })?;
//!         Ok(Self { pipeline })
//!     }
//! }
//!
//! #[async_trait]
//! impl PageProcessor for InvoiceOrders {
//!     const NAME: &'static str = "invoice-orders";
//!     type Args = ();
//!     type Cursor = u64;
//!     type Item = u64;
//!
//!     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
//!         let first = ctx.range().start().map_or(1, |last| last + 1);
//!         let last = ctx.range().end().copied().unwrap_or(100);
//!         Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)
//!     }
//!
//!     async fn process(&self, ctx: &PageContext<Self>, orders: Vec<u64>) -> Result<PageReport, PageError> {
//!         self.pipeline.process(ctx, orders).await
//!     }
//!
//!     fn reducer(&self, _: &()) -> Option<Reducer> {
//!         Some(counters())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let orders = InvoiceOrders::new().unwrap();
//! let page = temporal_batch::testing::run_page(&orders, (), None).await.unwrap();
//! assert_eq!((page.counts.processed, page.counts.skipped), (90, 10));
//! assert_eq!(page.output.unwrap()["cents"], 450_000);
//! # }
//! ```
//!
//! | subject | where |
//! |---|---|
//! | the parts of a pipeline | [`Steps`], [`Step`], [`Action`], [`Items`] |
//! | what a step may ask and report | [`StepContext`] |
//! | counters that count each page exactly once | [`counters`], [`StepContext::count`] |
//! | results of steps that outlive a crash | [`Step::kept`], [`StepStore`], [`SqlSteps`] |
//! | one batch after another, whole or page by page | [`Predecessor`] |
//! | the size of a page | [`suggest_page_size`] |

mod action;
mod branch;
mod context;
mod counters;
mod defects;
mod for_each;
mod items;
mod link;
mod outcomes;
mod page_host;
mod page_size;
mod pipeline;
#[cfg(feature = "temporal")]
mod predecessor;
#[cfg(test)]
mod properties;
mod run;
mod skip;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql_steps;
mod step;
mod steps;
mod store;

#[cfg(feature = "temporal")]
pub use crate::predecessor::Predecessor;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use crate::sql_steps::SqlSteps;
pub use crate::{
    action::{Action, action},
    context::StepContext,
    counters::counters,
    defects::InvalidPipeline,
    items::Items,
    page_size::suggest_page_size,
    pipeline::Pipeline,
    step::{Step, step},
    steps::Steps,
    store::{KeptStep, StepStore},
};
