//! How long statements take and wait, in the words of each database.

use std::time::Duration;

#[cfg(feature = "mysql")]
use sqlx::Row as _;

use super::args::BackfillArgs;
use crate::sql::backend::dialect::Dialect;
#[cfg(feature = "sqlite")]
use crate::sql::connection::pool::sqlite_lock_timeout;
#[cfg(feature = "mysql")]
use crate::sql::connection::pool::{LOCK_TIMEOUT, mysql_lock_timeout};

/// A database in which pages of a backfill run.
pub trait Session: Dialect {
    /// What goes before a statement to be told how it would run.
    const EXPLAIN: &'static str;

    /// A step of the plan, for people.
    fn plan_line(row: &Self::Row) -> Option<String>;

    /// Holds for a row that the transaction has not written, where the database can tell.
    const UNTOUCHED: Option<&'static str> = None;

    /// A limit for the wait of the statement that begins the transaction, where that one takes the lock. The
    /// connection keeps it; the pool of [`Database::connect`](crate::sql::Database::connect) undoes it when the connection is taken again.
    fn limit_beginning(args: &BackfillArgs) -> Option<String> {
        let _ = args;
        None
    }

    /// What limits the statements that follow in the transaction.
    fn limit(args: &BackfillArgs) -> Option<String>;

    /// Whether what limits them can be part of what begins the transaction, which saves a round trip, and ends
    /// with it.
    const LIMIT_AT_BEGIN: bool = false;

    /// What has to be undone before the connection serves somebody else.
    fn unlimit() -> Option<String> {
        None
    }
}

#[cfg(feature = "postgres")]
impl Session for sqlx::Postgres {
    const EXPLAIN: &'static str = "EXPLAIN (COSTS OFF)";
    const LIMIT_AT_BEGIN: bool = true;
    // Subtransactions come after their transaction, so what either wrote is not older than it.
    const UNTOUCHED: Option<&'static str> =
        Some("age(xmin) > age((txid_current() % 4294967296)::text::xid)");

    fn plan_line(row: &Self::Row) -> Option<String> {
        Self::text(row, 0).ok()?
    }

    fn limit(args: &BackfillArgs) -> Option<String> {
        let millis = |timeout: Duration| timeout.as_millis().clamp(1, i32::MAX as u128);
        Some(format!(
            "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}",
            millis(args.statement_timeout),
            millis(args.lock_timeout)
        ))
    }
}

#[cfg(feature = "mysql")]
impl Session for sqlx::MySql {
    const EXPLAIN: &'static str = "EXPLAIN";

    fn plan_line(row: &Self::Row) -> Option<String> {
        // Which columns there are depends on the version.
        let text = |name: &str| {
            row.try_get_unchecked::<Option<String>, _>(name)
                .ok()
                .flatten()
        };
        let (table, access) = (text("table")?, text("type")?);
        Some(match text("key") {
            Some(key) => format!("{access} on {table} using {key}"),
            None => format!("{access} on {table}"),
        })
    }

    fn limit(args: &BackfillArgs) -> Option<String> {
        // MySQL limits only how long a SELECT takes, and takes for a comment what only MariaDB has.
        Some(format!(
            "SET {} /*M!100101 , SESSION max_statement_time = {} */",
            mysql_lock_timeout(args.lock_timeout),
            args.statement_timeout.as_secs_f64(),
        ))
    }

    fn unlimit() -> Option<String> {
        Some(format!(
            "SET {} /*M!100101 , SESSION max_statement_time = DEFAULT */",
            mysql_lock_timeout(LOCK_TIMEOUT)
        ))
    }
}

#[cfg(feature = "sqlite")]
impl Session for sqlx::Sqlite {
    const EXPLAIN: &'static str = "EXPLAIN QUERY PLAN";

    fn plan_line(row: &Self::Row) -> Option<String> {
        Self::text(row, 3).ok()?
    }

    fn limit(args: &BackfillArgs) -> Option<String> {
        // It has no limit for statements, and locks the whole file when the transaction begins.
        let _ = args;
        None
    }

    fn limit_beginning(args: &BackfillArgs) -> Option<String> {
        Some(sqlite_lock_timeout(args.lock_timeout))
    }
}
