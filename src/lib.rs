//! Paginated batch work on Temporal.
#![cfg_attr(not(feature = "temporal"), allow(dead_code))]
#[cfg(feature = "temporal")]
mod activity;
mod batch;
#[cfg(feature = "temporal")]
mod client;
#[cfg(feature = "temporal")]
pub mod connect;
#[cfg(feature = "temporal")]
mod controller;
#[cfg(feature = "dev-server")]
pub mod dev_server;
mod error;
mod ledger;
pub mod metrics;
mod page;
mod processor;
mod progress;
mod protocol;
mod rate;
mod registry;
#[cfg(feature = "temporal")]
mod replay;
mod retry;
mod scheduler;
mod stride;
pub mod testing;
#[cfg(feature = "temporal")]
mod worker;

pub use crate::{
    batch::{Batch, DEFAULT_TASK_QUEUE, InvalidBatch},
    error::PageError,
    page::{Next, Page, PageRange, PageToken},
    processor::{
        InvalidSettings, PageContext, PageProcessor, PageReport, ProcessorSettings, SkipAhead,
    },
    progress::{
        BatchReport, FailedItem, ItemCounts, Outcome, PageFailure, Phase, Progress, Timestamp,
    },
    registry::{Refused, RegisterError, Registry},
    retry::{ExtendedRetries, RetryMode, RetryPolicy, RetryPolicyError},
};

#[cfg(feature = "temporal")]
pub use crate::{
    client::*,
    connect::{ConnectError, ConnectOptions, connect},
    worker::{RunningWorker, Worker, WorkerError},
};
