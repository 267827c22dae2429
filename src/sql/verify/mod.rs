//! The verification of the rows of a table, range by range.
//!
//! | file | contents |
//! |---|---|
//! | `range_check.rs`, `query.rs`, `narrow.rs` | [`RangeCheck`]: the check, the user's query, and the search for small ranges |
//! | `ledger_check.rs` | the applied strides, compared with the table |
//! | `known_letters.rs` | rows that are known to be unfinished |
//! | `backfill_check.rs` | all of these for a backfill |

mod backfill_check;
mod known_letters;
mod ledger_check;
mod narrow;
mod query;
mod range_check;

use std::time::Duration;

#[cfg(all(feature = "files", feature = "http"))]
pub(crate) use backfill_check::backfill_coverage;
pub(crate) use backfill_check::{Checked, check_backfill};
pub use query::InvalidVerify;
pub use range_check::{RangeCheck, RangeCheckError};

/// The longest time for one range by default.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
