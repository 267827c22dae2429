//! PostgreSQL.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::{Pool, Row as _, error::DatabaseError};

use super::{
    dialect::{Cut, Dialect, Timeouts, cell_of, through_sqlx},
    value::{Statement, Value, bound},
};
use crate::{
    base::error::PageError,
    cell::{Cell, Encoding},
    sql::{
        connection::{lease::LeasedTransaction, pgbouncer},
        syntax::Syntax,
    },
};

/// Fixes the form in which PostgreSQL writes and reads texts, until the transaction ends.
pub(in crate::sql) const TEXT_FORMS: &str = "SET LOCAL DateStyle = ISO; \
    SET LOCAL IntervalStyle = postgres; SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = hex; \
    SET LOCAL lc_monetary = 'C'; SET LOCAL xmloption = content";

impl Dialect for sqlx::Postgres {
    const EXPLAIN: &'static str = "EXPLAIN (COSTS OFF)";
    const LIMIT_AT_BEGIN: bool = true;
    const CHECK_DEFERRED: Option<&'static str> = Some("SET CONSTRAINTS ALL IMMEDIATE");
    const TEXT_FORMS: Option<&'static str> = Some(TEXT_FORMS);
    // The ids of subtransactions come after that of their transaction, so a row that either wrote is not older.
    const UNTOUCHED: Option<&'static str> =
        Some("age(xmin) > age((txid_current() % 4294967296)::text::xid)");
    const WAITS: Option<(&'static str, &'static str)> = Some((
        "SELECT pg_backend_pid()::bigint",
        "SELECT coalesce(string_agg(
                format('process %s (%s)', blocker.pid,
                    concat_ws(', ', nullif(blocker.application_name, ''), blocker.state)), '; '),
                'an unknown process')
            FROM pg_stat_activity waiting
            LEFT JOIN pg_stat_activity blocker ON blocker.pid = ANY (pg_blocking_pids(waiting.pid))
            WHERE waiting.pid = $1::bigint::int AND waiting.wait_event_type = 'Lock'
            HAVING count(waiting.pid) > 0",
    ));
    const SYNTAX: Syntax = Syntax::Postgres;
    const KEY_TEXT: &'static str = "TEXT COLLATE \"C\"";
    // `CREATE TABLE IF NOT EXISTS` fails when two of them run at once. The number is arbitrary.
    const LOCK_SCHEMA: Option<&'static str> = Some("SELECT pg_advisory_xact_lock(7309448826142)");
    const IN_TRANSACTION: &'static str = "SAVEPOINT temporal_batch";
    // Pages that wait for the same rows also wait for each other. The cause is the session that none of them is.
    const BLOCKERS: Option<&'static str> = Some(
        "WITH waiting AS (
            SELECT w.pid FROM pg_catalog.pg_stat_activity w
            JOIN pg_catalog.pg_stat_activity own ON own.pid = pg_backend_pid()
            WHERE w.pid <> own.pid AND w.datname = own.datname AND w.usename = own.usename
                AND w.application_name = own.application_name AND w.wait_event_type = 'Lock'
                AND EXISTS (SELECT 1 FROM pg_catalog.pg_locks l
                    WHERE l.pid = w.pid AND l.relation = $1::text::regclass)
        ), blocking AS (
            SELECT DISTINCT unnest(pg_blocking_pids(pid)) AS pid FROM waiting
        )
        SELECT CASE blocking.pid WHEN 0 THEN 'a prepared transaction' ELSE 'pid ' || blocking.pid END,
            concat_ws(' ', b.state, 'for ' || ceil(extract(epoch FROM clock_timestamp()
                - coalesce(b.xact_start, b.query_start)))::bigint || ' s'),
            b.query
        FROM blocking LEFT JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking.pid
        WHERE blocking.pid NOT IN (SELECT pid FROM waiting)
        ORDER BY b.xact_start NULLS LAST LIMIT 3",
    );

    fn cut(strides: &str, cut: &Cut<'_>) -> Vec<Statement> {
        let statement = format!(
            "WITH cut AS (
                UPDATE {strides} SET stride_end = $4::json ->> 0, updated_at = $5
                WHERE batch_run = $1 AND stride = $2 AND fence = $3 AND stride_end IS NULL
                RETURNING batch_run, stride, batch_id
            ), following AS (
                INSERT INTO {strides} (batch_run, stride, batch_id, fence, applied_to, stride_end,
                    ends_data, pages, pages_failed, processed, changed, skipped, failed, updated_at)
                SELECT cut.batch_run, cut.stride + n, cut.batch_id, 0,
                    $4::json ->> (n - 1), $4::json ->> n,
                    FALSE, 0, 0, 0, 0, 0, 0, $5
                FROM cut, generate_series(1, json_array_length($4::json) - 1) AS n
                ON CONFLICT (batch_run, stride) DO NOTHING
            )
            SELECT 1 FROM cut"
        );
        vec![(statement, cut.values())]
    }

    fn begin(idle_timeout: Duration) -> String {
        let millis = idle_timeout.as_millis().clamp(1, i32::MAX as u128);
        format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = {millis}")
    }

    fn is_missing_table(error: &dyn DatabaseError) -> bool {
        error.code().as_deref() == Some("42P01")
    }

    fn execute(
        connection: &mut Self::Connection,
        statement: String,
        values: Vec<Value>,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
        pgbouncer::execute(connection, statement, values)
    }

    fn rows(
        connection: &mut Self::Connection,
        statement: String,
        values: Vec<Value>,
    ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>> {
        pgbouncer::rows(connection, statement, values)
    }

    fn plan_line(row: &Self::Row) -> Option<String> {
        Self::text(row, 0).ok()?
    }

    fn limit(timeouts: Timeouts) -> Option<String> {
        let millis = |timeout: Duration| timeout.as_millis().clamp(1, i32::MAX as u128);
        Some(format!(
            "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}",
            millis(timeouts.statement),
            millis(timeouts.lock)
        ))
    }

    fn each_text<'p>(
        pool: &'p Pool<Self>,
        statement: Statement,
        each: impl FnMut(&Self::Row) -> Result<bool, PageError> + Send + 'p,
    ) -> BoxFuture<'p, Result<(), PageError>> {
        Box::pin(async move {
            let begin = format!("BEGIN; {TEXT_FORMS}");
            let mut transaction = LeasedTransaction::on(pool, begin).await?;
            Self::each(&mut transaction, statement, each).await?;
            transaction.commit().await?;
            Ok(())
        })
    }

    fn cell(row: &Self::Row, at: usize, encoding: Encoding) -> Result<Cell, sqlx::Error> {
        if encoding == Encoding::Hex {
            let bytes: Option<Vec<u8>> = row.try_get(at)?;
            return Ok(bytes.map_or(Cell::Null, Cell::Bytes));
        }
        Ok(cell_of(Self::text(row, at)?, encoding))
    }

    through_sqlx!(Postgres);
}
