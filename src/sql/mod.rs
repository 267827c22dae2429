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
mod dry_run;
#[cfg(feature = "files")]
mod export;
#[cfg(feature = "files")]
mod import;
mod ledger;
mod table;
// Once only: two copies in a process would name their folders alike.
pub(crate) mod backend;
pub(crate) mod connection;
#[cfg(all(test, feature = "postgres"))]
#[path = "../../tests/support/servers/mod.rs"]
pub(crate) mod test_server;
#[cfg(feature = "postgres")]
mod throttle;
mod verify;

pub use backend::dialect::{LedgerDatabase, Value};
pub use backfill::{Assignment, BackfillArgs, HighWaterMark, InvalidBackfill, SqlBackfill};
pub use connection::{
    error::DatabaseError,
    named::{Connections, DEFAULT_CONNECTION, InvalidConnectionName, check_connection_name},
    options::DatabaseOptions,
    page_connection::PageConnection,
    pool::Database,
};
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
pub use ledger::coverage::KeptStride;
#[cfg(feature = "cli")]
pub(crate) use ledger::{
    lacks_tables,
    schema::{LedgerSchema, TABLES},
};
pub use table::{Column, Key, KeyPart, Table, TableDatabase, TableError, TableSpec};
#[cfg(feature = "postgres")]
pub use throttle::{InvalidThrottle, PostgresThrottle, PostgresThrottleBuilder, Threshold};
pub use verify::{InvalidVerify, RangeCheck, RangeCheckError};
