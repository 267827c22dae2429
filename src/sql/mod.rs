//! Databases: tables to page through, processors for them, the page ledger, and a throttle.
//!
//! | folder | contents |
//! |---|---|
//! | `connection/` | connections and pools |
//! | `backend/` | the differences between the databases |
//! | `syntax/` | the lexer |
//! | `ledger/` | the page ledger in a database |
//! | `table/` | tables to page through |
//! | `backfill/`, `dry_run/`, `verify/` | changes to a table, their trial, and their verification |
//! | `export/`, `import/` | files from a table, and a table from files |
//! | `row_update/` | columns of single rows, set to values from outside |
//! | `throttle/` | a throttle by the state of a PostgreSQL server |

pub(crate) mod backfill;
mod dry_run;
#[cfg(feature = "files")]
mod export;
#[cfg(feature = "files")]
mod import;
mod ledger;
#[cfg(all(feature = "files", feature = "http"))]
mod row_update;
mod table;
// Included once: two copies in a process would choose the same folder names.
pub(crate) mod backend;
pub(crate) mod connection;
pub(crate) mod syntax;
#[cfg(all(test, feature = "postgres"))]
#[path = "../../tests/support/servers/mod.rs"]
pub(crate) mod test_server;
#[cfg(feature = "postgres")]
mod throttle;
mod verify;

pub use backend::{Backend, value::Value};
pub use backfill::{Assignment, BackfillArgs, HighWaterMark, InvalidBackfill, SqlBackfill};
pub use connection::{
    error::DatabaseError,
    named::{Connections, DEFAULT_CONNECTION, InvalidConnectionName},
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
pub(crate) use ledger::LEDGER_TABLES_MISSING;
pub use ledger::SqlLedger;
pub use ledger::coverage::KeptStride;
#[cfg(all(feature = "files", feature = "http"))]
pub(crate) use ledger::late::LateLedger;
#[cfg(feature = "cli")]
pub(crate) use ledger::{
    same_work::applied_batches,
    schema::{LedgerSchema, TABLES},
};
#[cfg(all(feature = "files", feature = "http"))]
pub(crate) use row_update::{NewValues, RowUpdate, Written};
pub use table::{Column, Key, KeyPart, Table, TableError, TableSpec};
#[cfg(feature = "postgres")]
pub use throttle::{InvalidThrottle, PostgresThrottle, PostgresThrottleBuilder, Threshold};
#[cfg(all(feature = "files", feature = "http"))]
pub(crate) use verify::backfill_coverage;
pub use verify::{InvalidVerify, RangeCheck, RangeCheckError};
