//! The page ledger in SQLite and PostgreSQL.
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

mod connection;
mod dialect;
mod ledger;
mod letter_table;
mod report_table;
mod stride_table;
mod transaction;

pub use connection::PageConnection;
pub use dialect::LedgerDatabase;
#[cfg(feature = "postgres")]
pub use ledger::InvalidSchema;
pub use ledger::SqlLedger;
