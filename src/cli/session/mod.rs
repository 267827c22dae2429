//! A batch and a worker for it in one process: `backfill`, `import`, `export` and `redrive`.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod args;
mod attended;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod batch_id;
mod begin;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod database;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod detached;
pub(crate) mod launch;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod ledger_tables;
pub(crate) mod limit_warnings;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod work_ledger;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    batch::Batch,
    cli::{
        args::{metrics::MetricsArgs, pacing::PacingArgs, temporal_server::ConnectionArgs},
        shell::Program,
    },
    processor::{hooks::Hooks, store::dead_letter::DeadLetters, throttle::Throttles},
    progress::ItemCounts,
    stride::registry::Registry,
};

/// The program around a command: its server, and the parts that the program adds to every worker.
#[derive(Clone, Copy)]
pub(crate) struct CommandContext<'a> {
    pub connection: &'a ConnectionArgs,
    pub hooks: &'a Hooks,
    pub throttles: &'a Throttles,
    pub program: &'a Program,
}

/// A batch that this process starts, works on and reports.
pub(crate) struct Session<'a> {
    pub batch: Batch,
    pub program: &'a Program,
    /// The limits that were given.
    pub pacing: &'a PacingArgs,
    pub json: bool,
    pub drain_timeout: Duration,
    /// The batch run whose end has been printed, and its items.
    pub ended_run: OnceLock<(String, ItemCounts)>,
    /// True for a batch that this program started before and no other worker works on, which the session continues.
    pub joins: bool,
    /// The ledger of a batch that applies each page exactly once.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub ledger: Option<work_ledger::WorkLedger>,
    /// The hint at the flag that runs an ended batch again, with what it would do to the data.
    pub rerun: String,
    /// The dead letters of the batch, if it keeps any.
    pub letters: Option<Arc<dyn DeadLetters>>,
}

/// The worker of a session.
pub(crate) struct SessionWorker {
    /// The processor of the batch.
    pub registry: Registry,
    pub hooks: Hooks,
    pub throttles: Throttles,
    pub metrics: MetricsArgs,
    pub max_pages: u32,
}
