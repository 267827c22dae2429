//! The page ledger in SQLite and PostgreSQL, and a throttle that looks at a PostgreSQL server.
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
mod database;
mod dialect;
mod ledger;
mod letter_table;
mod report_table;
mod stride_table;
// Once only: two copies in a process would name their folders alike.
#[cfg(all(test, feature = "postgres"))]
#[path = "../../tests/fixtures/postgres.rs"]
pub(crate) mod test_server;
#[cfg(feature = "postgres")]
mod throttle;
mod transaction;

pub use connection::PageConnection;
pub use database::Database;
pub use dialect::LedgerDatabase;
#[cfg(feature = "postgres")]
pub use ledger::InvalidSchema;
pub use ledger::SqlLedger;
#[cfg(feature = "postgres")]
pub use throttle::{InvalidThrottle, PostgresThrottle, PostgresThrottleBuilder, Threshold};
