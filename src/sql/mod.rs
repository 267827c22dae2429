//! Tables to page through, the page ledger in PostgreSQL, MySQL and SQLite, and a throttle that looks at a
//! PostgreSQL server.
//!
//! ```text
//!   SqlLedger ---> StrideTable, LetterTable, ReportTable      the statements, one type a table
//!       |                          |
//!       v                          v
//!   SqlTransaction            Dialect                         what differs between the databases
//!       |
//!       v
//!   PageConnection                                            what `process` writes with
//! ```

pub(crate) mod backfill;
mod blockers;
mod classify;
mod connection;
mod connections;
mod coverage;
mod database;
mod database_error;
mod database_options;
mod dialect;
mod dry_run;
mod engine;
#[cfg(feature = "files")]
mod export;
#[cfg(feature = "files")]
mod import;
mod lease;
mod ledger;
#[cfg(feature = "cli")]
mod ledger_schema;
mod letter_table;
mod no_ledger;
mod output_table;
#[cfg(feature = "mysql")]
mod placeholders;
mod pool_size;
#[cfg(feature = "postgres")]
mod pooled;
mod reading;
mod report_table;
mod settled_table;
mod stride_table;
mod table;
// Once only: two copies in a process would name their folders alike.
#[cfg(all(test, feature = "postgres"))]
#[path = "../../tests/fixtures/postgres.rs"]
pub(crate) mod test_server;
#[cfg(feature = "postgres")]
mod throttle;
mod transaction;
mod verify;

pub use backfill::{Assignment, BackfillArgs, HighWaterMark, InvalidBackfill, SqlBackfill};
pub(crate) use classify::page_error;
pub use connection::PageConnection;
pub use connections::{
    Connections, DEFAULT_CONNECTION, InvalidConnectionName, check_connection_name,
};
pub use coverage::KeptStride;
pub use database::Database;
pub use database_error::DatabaseError;
pub use database_options::DatabaseOptions;
pub use dialect::{LedgerDatabase, Value};
pub use dry_run::{
    ChangeKind, ColumnChange, DryRun, DryRunReport, Estimate, PageTrial, Plan, RowChange,
};
#[cfg(feature = "files")]
pub use export::{ExportArgs, ExportFormat, ExportRow, SqlExport};
#[cfg(feature = "files")]
pub use import::{
    BytesForm, ImportArgs, ImportFile, InvalidImport, ManifestChoice, OnConflict, SqlImport,
};
#[cfg(feature = "postgres")]
pub use ledger::InvalidSchema;
pub use ledger::SqlLedger;
#[cfg(feature = "cli")]
pub(crate) use ledger_schema::{LedgerSchema, TABLES};
pub use table::{Column, Key, KeyPart, Table, TableDatabase, TableError, TableSpec};
#[cfg(feature = "postgres")]
pub use throttle::{InvalidThrottle, PostgresThrottle, PostgresThrottleBuilder, Threshold};
pub use verify::{InvalidVerify, RangeCheck, RangeCheckError};
