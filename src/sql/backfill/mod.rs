//! A processor that changes the rows of a table, page by page, with the database's own statements.
//!
//! | file | contents |
//! |---|---|
//! | `args.rs`, `error.rs` | the arguments, and the reasons to refuse them |
//! | `assignment.rs`, `statement.rs` | `column = expression`, and statements with `{range}` |
//! | `set_columns.rs` | the UPDATE of assignments |
//! | `work.rs`, `passed_over.rs` | the statements of a page, and rows that they should have changed |
//! | `processor.rs` | [`SqlBackfill`] |

mod args;
mod assignment;
mod error;
mod passed_over;
mod processor;
mod set_columns;
mod statement;
mod work;

pub use args::{Assignment, BackfillArgs, HighWaterMark};
pub use error::InvalidBackfill;
pub use processor::SqlBackfill;
pub(crate) use work::{Rows, Work};
#[cfg(feature = "cli")]
pub(crate) use {assignment::parse as parse_assignments, statement::split as split_statements};
#[cfg(all(feature = "files", feature = "http"))]
pub(in crate::sql) use {
    set_columns::{TypedColumn, update},
    statement::Statement,
    work::column_types,
};
