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
//! 2. Add it to a worker: [`Worker::new(client, queue).processor(P).run()`](Worker).
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
//!   idempotent. [`RetryMode::AtMostOnce`] runs it once. With a [`PageLedger`] the effects of a page are
//!   committed **exactly once**, whatever is repeated.
//! - **Isolated failures.** With [`DeadLetters`] a page that fails is split until the failing records are
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
//! | `sqlite` | yes | tables and a [`PageLedger`] in SQLite; the database of the `demo` command and of its sample |
//! | `postgres` | yes | tables and a [`PageLedger`] in PostgreSQL |
//! | `mysql` | yes | tables and a [`PageLedger`] in MySQL and MariaDB |
//! | `tls` | yes | database connections over TLS |
//! | `files` | yes | CSV and JSON Lines files |
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
mod jsonl_store;
pub mod metrics;
mod page;
mod processor;
mod progress;
mod protocol;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;
mod stride;
pub mod testing;

/// The attribute for implementations of [`PageProcessor`] and the other traits, in the version they use.
pub use async_trait::async_trait;
/// The version of `sqlx` used by the tables, the ledger and [`PageContext::transaction`].
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use sqlx;

pub use crate::{
    base::{error::PageError, time::Timestamp},
    batch::{
        Batch, IfRunning, default_task_queue,
        letter_filter::LetterFilter,
        lock_name::InvalidLockName,
        pace_settings::{
            page_size::{AutoPageSize, InvalidAutoPageSize},
            parallelism::{AutoParallelism, InvalidAutoParallelism},
            ramp::{InvalidRamp, Ramp},
            stride::{AutoStride, InvalidAutoStride, Stride},
            window::{InvalidWindow, Opening, Window},
        },
        partition_spec::{InvalidPartitions, Partition},
        retry::{ExtendedRetries, RetryMode, RetryPolicy, RetryPolicyError},
        stage::{InvalidStages, Stage},
        tolerance::{Limit, OnExceeded, Tolerance},
        validate::InvalidBatch,
    },
    jsonl_store::JsonlDeadLetters,
    page::{
        Next, PAGE_BYTES, Page,
        range::PageRange,
        size::{Certainty, Size},
        token::PageToken,
    },
    processor::{
        PageProcessor, SkipAhead,
        check_context::CheckContext,
        context::PageContext,
        hooks::{
            CompletionHook, Failure, FailureHandler, FailureNotice, HookResult, RegisterHookError,
            Tracker,
        },
        item::{InvalidItemRetry, ItemRetry, Permits},
        reducer::{InvalidReducer, MAX_OUTPUT_BYTES, Reduce, Reducer},
        report::PageReport,
        settings::{InvalidSettings, ProcessorSettings},
        store::{
            dead_letter::{DeadLetter, DeadLetters},
            page_ledger::{
                OpenStride, PageClaim, PageLedger, PageTransaction, StrideId, StrideTotals,
            },
        },
        throttle::{RegisterThrottleError, Throttle, Verdict},
    },
    progress::{
        ItemCounts, PauseNote, Progress, Throttled, TimeLeft,
        audit::AuditEntry,
        check::{Check, Checked, FailedRange},
        failures::{FailedItem, FailureState, PageFailure},
        parts::{PartitionCounts, PartitionProgress, PartitionState, StageProgress, StageState},
        phase::{HeldBy, Outcome, Phase},
        report::BatchReport,
    },
    stride::registry::{Refused, RegisterError, Registry},
};

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use crate::sql::{Assignment, BackfillArgs, HighWaterMark, InvalidBackfill, SqlBackfill};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use crate::sql::{
    Backend, Column, Connections, DEFAULT_CONNECTION, Database, DatabaseError, DatabaseOptions,
    InvalidConnectionName, Key, KeyPart, PageConnection, SqlLedger, Table, TableError, TableSpec,
    Value as SqlValue, check_connection_name,
};
#[cfg(all(
    feature = "files",
    any(feature = "sqlite", feature = "postgres", feature = "mysql")
))]
pub use crate::sql::{
    BytesForm, ImportArgs, ImportFile, InvalidImport, ManifestChoice, OnConflict, SqlImport,
};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use crate::sql::{
    ChangeKind, ColumnChange, DryRun, DryRunReport, Estimate, InvalidVerify, KeptStride, PageTrial,
    Plan, RangeCheck, RangeCheckError, RowChange,
};
#[cfg(all(
    feature = "files",
    any(feature = "sqlite", feature = "postgres", feature = "mysql")
))]
pub use crate::sql::{ExportArgs, ExportFormat, ExportRow, SqlExport};
#[cfg(feature = "postgres")]
pub use crate::sql::{
    InvalidSchema, InvalidThrottle, PostgresThrottle, PostgresThrottleBuilder, Threshold,
};

#[cfg(feature = "temporal")]
pub use crate::engine::{
    client::{
        AcceptError, BatchClient, BatchHandle, BatchState, Continuation, ControlError, ListError,
        ListedBatch, Observation, PauseOptions, PauseWaitError, ProgressError, ProgressSource,
        RecoverError, RedriveError, Remedy, ResultError, RunningPage, RunningStride, Settings,
        StartError, Steered, WorkerSeen, Workers,
    },
    connect::{ConnectError, ConnectOptions, connect},
    worker::{RunningWorker, Worker, WorkerError},
};
