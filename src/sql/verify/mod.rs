//! Whether the rows of a table are as they should be, range by range.
//!
//! ```text
//!   of_backfill ---> RangeCheck ---> query       what is asked, as SQL
//!        |               |-------> narrow      from a range with wrong rows to small ones
//!        |-----------> LedgerCheck             the strides that were applied, against the table
//!        '-----------> letters                 rows that are known to be undone
//! ```

mod ledger_check;
mod letters;
mod narrow;
mod of_backfill;
mod query;
mod range_check;

use std::time::Duration;

pub(crate) use of_backfill::{Checked, check_backfill};
pub use query::InvalidVerify;
pub use range_check::{RangeCheck, RangeCheckError};

/// For one range, unless told otherwise.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
