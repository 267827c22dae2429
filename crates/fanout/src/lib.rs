//! One child workflow for each item of a batch.
//!
//! Use it when an item is work of its own: complex, long, worth its own history, its own retries, and to be looked at and
//! cancelled alone. For a simple operation on many rows use pages of [`temporal_batch`]; `docs/fanout.md` compares the two
//! and lists the price.
//!
//! # A tour
//!
//! 1. Implement [`ItemProcessor`]: the id of an item, and the work on it.
//! 2. Add it to a worker: [`FanoutWorker::new(&client, queue).processor(P).run()`](FanoutWorker).
//! 3. Start a [`Fanout`] over a list of items, or over the pages of any
//!    [`PageProcessor`](temporal_batch::PageProcessor): [`Fanout::start`].
//! 4. Observe it with its [`FanoutHandle`]: progress, the status of one child, the report.
//!
//! ```no_run
//! # use temporal_batch::{BatchClient, ConnectOptions, PageError, async_trait};
//! # use temporal_batch_fanout::*;
//! struct Fulfil;
//!
//! #[async_trait]
//! impl ItemProcessor for Fulfil {
//!     const NAME: &'static str = "fulfil";
//!     type Item = u32;
//!     type Output = String;
//!
//!     fn id(order: &u32) -> String {
//!         format!("ORDER-{order}")
//!     }
//!
//!     async fn process(&self, _ctx: &ItemContext, order: u32) -> Result<String, PageError> {
//!         Ok(format!("{order} shipped"))
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = BatchClient::connect(&ConnectOptions::new()).await?;
//! let worker = FanoutWorker::new(&client, "orders").processor(Fulfil).start()?;
//! let fanout = Fanout::over::<Fulfil>("orders-2026-12", 1..=5).task_queue("orders");
//! let handle = fanout.start(&client).await?;
//! let report = handle.result().await?;
//! println!("{} of {} items done", report.progress.completed, report.progress.total);
//! worker.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - **Counted once.** An item counts with its first outcome, whatever signals and results follow.
//! - **No wait without an end.** A child that fails, is terminated or times out ends the wait for it, in both modes and
//!   over a continue-as-new.
//! - **Bounded.** At most a window of children is open; histories and the state are bounded whatever the number of items.
//! - **In order.** Outcomes are aggregated in the order of the input.

mod activities;
mod client;
mod fanout;
mod handle;
mod item;
mod outcome;
mod progress;
mod protocol;
mod registry;
mod replay;
mod retry;
mod state;
mod summary;
mod validate;
mod worker;
mod workflow;

pub use client::StartError;
pub use fanout::{DEFAULT_TASK_QUEUE, Fanout, LIST_BYTES};
pub use handle::{AskError, FanoutHandle, ResultError};
pub use item::{ItemContext, ItemProcessor, ItemSettings};
pub use outcome::{FailedItem, ItemFailure, ItemOutcome, failure_types};
pub use progress::{FanoutOutcome, FanoutReport, Progress};
pub use protocol::{ClosePolicy, Duplicates, ItemPhase, ItemStatus, Mode, OnFailure, Tolerate};
pub use replay::{ReplayError, replay_history};
pub use retry::Retry;
pub use summary::{AggregateContext, SUMMARY_BYTES, Summary, SummaryEntry, add_to_summary};
pub use validate::InvalidFanout;
pub use worker::{FanoutWorker, RunningFanoutWorker, WorkerError};
