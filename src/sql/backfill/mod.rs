//! Changing the rows of a table, page by page, with the database's own statements.
//!
//! ```text
//!   BackfillArgs ---> tokens: assignment, statement ---> Work ---> SqlBackfill
//!                                                          |            |
//!                                             Table, set (UPDATE)   session (timeouts)
//! ```

mod args;
mod assignment;
mod error;
mod passed_over;
mod processor;
mod session;
mod set;
mod statement;
pub(super) mod tokens;
mod work;

pub use args::{Assignment, BackfillArgs, HighWaterMark};
pub use error::InvalidBackfill;
pub use processor::SqlBackfill;
pub(super) use session::Session;
pub(crate) use work::{Rows, Work};
#[cfg(feature = "cli")]
pub(crate) use {
    assignment::parse as parse_assignments, statement::split as split_statements, tokens::Syntax,
};
