//! Many requests, one write: a batcher for Temporal workflows and clients.
//!
//! Many workflows each have one thing to write. Written one by one, they are as many transactions as workflows. A
//! [`Batcher`] collects their requests, writes up to 100 of them at once, and tells each requester what became of its
//! request.
//!
//! ```text
//!   workflow ── submit ──┐                                   ┌── confirmation ──> workflow
//!   workflow ── submit ──┼──> shard of the batcher ── write ─┼── confirmation ──> workflow
//!   program ─── submit ──┘    (a workflow)          (a worker)  outcome ────────> program that asks
//! ```
//!
//! # A tour
//!
//! 1. Write a [`SqlRequests`] for a table, or a [`BatchWriter`] for any other sink.
//! 2. Run a [`BatcherWorker`] with it.
//! 3. Submit: from a workflow with [`submit`], from a program or an activity with a [`BatcherClient`], from a queue with
//!    [`feed`].
//!
//! # Guarantees
//!
//! - **No request is lost.** A request that the server has stored is written, or is a dead letter, or is refused and its
//!   requester told so, whatever continue-as-new, lost workers and failed writes come between.
//!   A shard needs a worker for that: while none runs, clients refuse to submit more than its history can hold.
//! - **Written once.** With a [`SqlWriter`] each request id is written exactly once, however often it is submitted or
//!   its write is repeated.
//! - **One bad request harms no other.** A batch that fails is split until the bad requests are alone.
//! - **No requester waits for ever**, and each error says whether the request may still be written.
//! - **Bounded.** A batch has at most `max_batch` requests and `max_batch_bytes`; a shard holds at most `max_pending`
//!   requests and `max_pending_bytes`, and refuses more.
//! - **Idle costs nothing.** A shard without requests adds no events to its history.
//!
//! # Features
//!
//! `sqlite`, `postgres` and `mysql` (all by default): the [`SqlWriter`] in that database.

mod activities;
mod batcher;
mod bisect;
mod client;
mod letters;
mod metrics;
mod protocol;
mod replay;
mod request;
mod requester;
mod source;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;
mod state;
mod submit_activities;
mod worker;
mod workflow;
mod writer;

pub use batcher::{Batcher, InvalidBatcher, MAX_SHARDS};
pub use client::{BatcherClient, BatcherError, Started};
pub use letters::DeadRequests;
pub use protocol::{CONFIRMED, FlushReason, Known};
pub use replay::{ReplayError, replay_history};
pub use request::{Confirmation, MAX_ID_BYTES, Outcome, Refusal, Request};
pub use requester::{Confirmations, Requester, SubmitError, submit};
pub use source::{
    Fed, FeedError, MemorySource, RequestSource, Settlement, Taken, Unreadable, feed,
};
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub use source::{QueueDatabase, TableSource};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use sql::{RequestDatabase, SqlRequests, SqlWriter};
pub use state::Stats;
pub use submit_activities::SubmitActivities;
pub use worker::{BatcherWorker, BatcherWorkerError, RunningBatcherWorker};
pub use writer::{BatchWriter, WriteContext, Written};
