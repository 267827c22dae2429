//! Paginated batch work on Temporal: change every row of a live table, or call an API for each record of a
//! file, over hours and on many machines, without losing a record.
//!
//! Implement one trait, [`PageProcessor`]: it reads a page of the data and processes its items. A controller
//! workflow learns where the next page starts before each page is processed, dispatches pages to activities in
//! parallel, counts failures and retries, and continues as new to stay within Temporal's limits.
//!
//! # A tour
//!
//! 1. Write a [`PageProcessor`] and try it without a server: [`testing::run_page`], [`testing::Simulator`].
//! 2. Add it to a worker: [`Worker::new(&client, queue).processor(P).run()`](Worker).
//! 3. Start a [`Batch`] with a [`BatchClient`]; observe and control it with its [`BatchHandle`].
//! 4. Or use [`cli::App`] to give your own binary the whole command line.
//!
//! # Guarantees
//!
//! - **No silent end.** A batch ends as [`Completed`](Outcome::Completed) only after an unbroken chain of
//!   finished pages from its first cursor to an explicit end of the data. Everything that was given up is
//!   listed. If coverage stops, the report names the place.
//! - **Token first.** The start of the next page reaches the controller before the items of the current page
//!   are processed.
//! - **Closed ranges.** A range is closed once the start of the next stride is accepted: later attempts stay
//!   inside it.
//! - **At least once** by default: a page may run again after a failure or a lost worker, so `process` must be
//!   idempotent. [`RetryMode::AtMostOnce`](settings::RetryMode::AtMostOnce) runs it once. With a [`PageLedger`](store::PageLedger) the effects of a page are
//!   committed **exactly once**, whatever is repeated.
//! - **Isolated failures.** With [`DeadLetters`](store::DeadLetters) a page that fails is split until the failing records are
//!   isolated; they can be listed and redriven.
//! - **Bounded state**, whatever the number of pages.
//!
//! # Features
//!
//! | feature | default | contents |
//! |---|---|---|
//! | `temporal` | yes | the engine: [`Worker`], [`BatchClient`], [`connect`] |
//! | `metrics-server` | yes | [`metrics::MetricsServer`]: the endpoint that Prometheus reads |
//! | `dev-server` | yes | [`dev_server`]: finds, fetches and runs the local Temporal dev server |
//! | `cli` | yes | [`cli`]: the command line, for the `temporal-batch` binary and for yours |
//! | `sqlite` | yes | tables and a [`PageLedger`](store::PageLedger) in SQLite; the database of the `demo` command and of its sample |
//! | `postgres` | yes | tables and a [`PageLedger`](store::PageLedger) in PostgreSQL |
//! | `mysql` | yes | tables and a [`PageLedger`](store::PageLedger) in MySQL and MariaDB |
//! | `tls` | yes | database connections over TLS |
//! | `files` | yes | CSV and JSON Lines files |
//! | `http` | yes | [`http`]: calls of an API for each record, and an API as a source |
//! | `time-zones` | with `temporal` | time zones of [operating windows](settings::Window) |
//!
//! Without any features, the data types, the decisions, the page loop and [`testing`] build in seconds.

// Without the engine, many internal items are unused.
#![cfg_attr(not(feature = "temporal"), allow(dead_code, unused_imports))]

#[cfg(all(doctest, feature = "cli", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct ExamplesOfTheReadme;

pub(crate) mod base;
mod batch;
#[cfg(any(
    feature = "files",
    feature = "http",
    feature = "sqlite",
    feature = "postgres",
    feature = "mysql"
))]
mod cell;
#[cfg(feature = "cli")]
pub mod cli;
pub(crate) mod decisions;
#[cfg(feature = "dev-server")]
pub mod dev_server;
#[cfg(feature = "temporal")]
pub(crate) mod engine;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "http")]
pub mod http;
mod jsonl_store;
#[cfg(any(feature = "temporal", feature = "metrics-server"))]
pub mod metrics;
mod page;
mod processor;
pub mod progress;
mod protocol;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub mod sql;
mod stride;
pub mod testing;

/// The attribute for implementations of [`PageProcessor`] and the other traits, in the version they use.
pub use async_trait::async_trait;
/// The version of `sqlx` used by the tables, the ledger and [`PageContext::transaction`].
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use sqlx;

#[cfg(feature = "temporal")]
pub use crate::engine::{
    client::{BatchClient, BatchHandle},
    connect::{ConnectOptions, connect},
    worker::{RunningWorker, Worker},
};
pub use crate::{
    base::{error::PageError, time::Timestamp},
    batch::{Batch, default_task_queue, partition_spec::Partition},
    page::{Next, Page, range::PageRange, size::Size, token::PageToken},
    processor::{
        PageProcessor, SkipAhead,
        check_context::CheckContext,
        context::PageContext,
        item::Permits,
        reducer::{Reduce, Reducer},
        report::PageReport,
        settings::ProcessorSettings,
    },
    progress::{phase::Outcome, report::BatchReport},
    stride::registry::Registry,
};

/// Settings of batches and processors.
pub mod settings {
    pub use crate::{
        batch::{
            IfRunning,
            pace_settings::{
                page_size::AutoPageSize,
                parallelism::AutoParallelism,
                ramp::Ramp,
                stride::{AutoStride, Stride},
                window::{Opening, Window},
            },
            retry::{ExtendedRetries, RetryMode, RetryPolicy},
            stage::Stage,
            tolerance::{Limit, OnExceeded, Tolerance},
        },
        page::PAGE_BYTES,
        processor::item::ItemRetry,
        protocol::settings::Settings,
    };
}

/// The places where a processor keeps its progress and the items that it gave up.
pub mod store {
    pub use crate::{
        batch::letter_filter::LetterFilter,
        jsonl_store::JsonlDeadLetters,
        processor::store::{
            dead_letter::{DeadLetter, DeadLetters},
            page_ledger::{
                OpenStride, PageClaim, PageLedger, PageTransaction, StrideId, StrideTotals,
            },
        },
    };
}

/// Code of yours that is called at failures, for progress and at the end of a batch.
pub mod hooks {
    pub use crate::processor::hooks::{
        CompletionHook, Failure, FailureHandler, FailureNotice, HookResult, Tracker,
    };
}

/// Signals from outside that slow a batch down or hold it.
pub mod throttle {
    pub use crate::processor::throttle::{Throttle, Verdict};
}

/// The answers of [`BatchClient`] and [`BatchHandle`].
#[cfg(feature = "temporal")]
pub mod client {
    pub use crate::engine::client::{
        BatchStatus, Continuation, ListedBatch, Observation, PauseOptions, ProgressSource, Remedy,
        RunningPage, RunningStride, Steered, WorkerSeen, Workers,
    };
}

/// Errors of settings, registrations and requests. Modules with one subject ([`sql`], [`files`], [`testing`] and the
/// servers) have their own.
pub mod errors {
    #[cfg(feature = "temporal")]
    pub use crate::engine::{
        client::{
            AcceptError, ControlError, ListError, PauseWaitError, ProgressError, RecoverError,
            RedriveError, ResultError, StartError,
        },
        connect::ConnectError,
        worker::WorkerError,
    };
    pub use crate::{
        batch::{
            lock_name::InvalidLockName,
            pace_settings::{
                page_size::InvalidAutoPageSize, parallelism::InvalidAutoParallelism,
                ramp::InvalidRamp, stride::InvalidAutoStride, window::InvalidWindow,
            },
            partition_spec::InvalidPartitions,
            retry::RetryPolicyError,
            stage::InvalidStages,
            validate::InvalidBatch,
        },
        processor::{
            hooks::RegisterHookError, item::InvalidItemRetry, reducer::InvalidReducer,
            settings::InvalidSettings, throttle::RegisterThrottleError,
        },
        stride::registry::{Refused, RegisterError},
    };
}

/// Parts that the other crates of this repository share with the engine. They may change with every version.
#[cfg(feature = "temporal")]
#[doc(hidden)]
pub mod of_crates {
    pub use crate::{
        base::error::{is_of_the_moment, text::words},
        engine::{
            activity::heartbeats::Heartbeats,
            controller::timer::Alarm,
            query_safety::in_step,
            replay::replay_with,
            worker::{background::Background, shutdown_signal, slots},
        },
        processor::read_page::read_page,
    };
}
