//! MySQL and MariaDB.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::{Row as _, error::DatabaseError};

use super::{
    dialect::{Cut, Dialect, Index, Timeouts, cell_of, statements, through_sqlx},
    value::{Statement, Value, bound},
};
use crate::{
    base::error::PageError,
    cell::{Cell, Encoding},
    sql::{
        connection::session::{LOCK_TIMEOUT, mysql_lock_timeout},
        syntax::{Syntax, positional},
    },
};

/// The most strides that one statement inserts: each number of them is another statement to prepare.
const STRIDES_AT_ONCE: usize = 20;

impl Dialect for sqlx::MySql {
    const EXPLAIN: &'static str = "EXPLAIN";
    const WAITS: Option<(&'static str, &'static str)> = Some((
        "SELECT CAST(connection_id() AS SIGNED)",
        "SELECT 'another transaction' FROM information_schema.innodb_trx
            WHERE trx_mysql_thread_id = $1 AND trx_state = 'LOCK WAIT'",
    ));
    const SYNTAX: Syntax = Syntax::MySql;
    // The character set of the database may differ. The collation ignores trailing spaces, but no id and no token
    // ends with one.
    const KEY_TEXT: &'static str = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
    // TEXT holds 65,535 bytes.
    const TEXT: &'static str = "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
    const SAME_AS: &'static str = "<=>";
    // MariaDB has RETURNING, MySQL does not.
    const RETURNING: bool = false;
    // The tables of MariaDB; MySQL keeps this information elsewhere. Neither shows which session has locked a whole
    // table, only which sessions wait for it.
    const BLOCKERS: Option<&'static str> = Some(
        "(SELECT CAST(concat('thread ', b.trx_mysql_thread_id) AS CHAR),
            CAST(concat('open for ', TIMESTAMPDIFF(SECOND, b.trx_started, NOW()), ' s') AS CHAR),
            CAST(max(coalesce(b.trx_query, p.info)) AS CHAR)
        FROM information_schema.innodb_lock_waits w
        JOIN information_schema.innodb_locks l ON l.lock_id = w.requested_lock_id
        JOIN information_schema.innodb_trx r ON r.trx_id = w.requesting_trx_id
        JOIN information_schema.processlist rp ON rp.id = r.trx_mysql_thread_id
        JOIN information_schema.innodb_trx b ON b.trx_id = w.blocking_trx_id
        LEFT JOIN information_schema.processlist p ON p.id = b.trx_mysql_thread_id
        WHERE rp.user = SUBSTRING_INDEX(USER(), '@', 1) AND instr(l.lock_table, $1) > 0
            AND b.trx_state <> 'LOCK WAIT'
        GROUP BY b.trx_id, b.trx_mysql_thread_id, b.trx_started
        ORDER BY b.trx_started LIMIT 3)
        UNION ALL
        (SELECT CAST(coalesce(concat('a session that thread ', d.id, ' waits for, too,'),
                'a session with a lock of the whole table') AS CHAR),
            CAST(concat('for ', d.time, ' s') AS CHAR), CAST(d.info AS CHAR)
        FROM (SELECT DISTINCT state, db FROM information_schema.processlist
            WHERE user = SUBSTRING_INDEX(USER(), '@', 1) AND db = DATABASE()
                AND state = 'Waiting for table metadata lock' AND instr(info, $1) > 0) w
        LEFT JOIN information_schema.processlist d ON d.state = w.state AND d.db = w.db
            AND d.info REGEXP '^[[:space:]]*(ALTER|CREATE|DROP|LOCK|OPTIMIZE|RENAME|TRUNCATE)[[:space:]]'
        ORDER BY d.time DESC LIMIT 1)",
    );
    const MESSAGE_LIMIT: Option<(&'static str, &'static str)> = Some((
        "SELECT CAST(@@max_allowed_packet AS SIGNED)",
        "max_allowed_packet",
    ));
    // Each CREATE TABLE is a transaction of its own, and waits for others like it.
    const LOCK_SCHEMA: Option<&'static str> = None;
    // The savepoint that `begin` made disappears only with its transaction. A deadlock rolls that back, and a
    // statement like CREATE TABLE commits it.
    const IN_TRANSACTION: &'static str = "RELEASE SAVEPOINT temporal_batch";

    fn create_table(table: &str, columns: &str, index: Option<Index<'_>>) -> String {
        let index = index.map_or_else(String::new, |Index { name, columns }| {
            format!(",\n    INDEX {name} ({columns})")
        });
        // Named explicitly, since the defaults may differ: other engines have no transactions, and other row formats
        // have no index of this length.
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n{columns}{index}\n) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;\n"
        )
    }

    fn or_update(_key: &str) -> String {
        "ON DUPLICATE KEY UPDATE".to_owned()
    }

    fn given(column: &str) -> String {
        format!("VALUES({column})")
    }

    fn cut(strides: &str, cut: &Cut<'_>) -> Vec<Statement> {
        let id = cut.stride;
        let Some(first) = cut.ends.first() else {
            return Vec::new();
        };
        let update = format!(
            "UPDATE {strides} SET stride_end = $4, updated_at = $5
            WHERE batch_run = $1 AND stride = $2 AND fence = $3 AND stride_end IS NULL"
        );
        let values = vec![
            id.batch_run.as_str().into(),
            id.stride.into(),
            cut.fence.into(),
            Some(first).into(),
            cut.now.into(),
        ];
        let following: Vec<_> = (1..).zip(cut.ends.windows(2)).collect();
        let inserts = following.chunks(STRIDES_AT_ONCE).map(|strides_of| {
            let row = "(?, ?, ?, 0, ?, ?, FALSE, 0, 0, 0, 0, 0, 0, ?)";
            let rows = vec![row; strides_of.len()].join(", ");
            // INSERT IGNORE would ignore more errors than a row that exists.
            let insert = format!(
                "INSERT INTO {strides} (batch_run, stride, batch_id, fence, applied_to, stride_end,
                    ends_data, pages, pages_failed, processed, changed, skipped, failed, updated_at)
                VALUES {rows}
                ON DUPLICATE KEY UPDATE stride = VALUES(stride)"
            );
            let values = strides_of.iter().flat_map(|(n, between)| {
                [
                    id.batch_run.as_str().into(),
                    (id.stride + n).into(),
                    id.batch_id.as_str().into(),
                    between.first().into(),
                    between.last().into(),
                    cut.now.into(),
                ]
            });
            (insert, values.collect())
        });
        std::iter::once((update, values)).chain(inserts).collect()
    }

    fn begin(idle_timeout: Duration) -> String {
        let seconds = idle_timeout.as_millis().div_ceil(1_000);
        let seconds = seconds.clamp(1, 31_536_000);
        // `REPEATABLE READ` also locks the gaps between rows, so that pages without a common row would wait for each
        // other. MySQL takes the part for MariaDB for a comment.
        format!(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
             SET @temporal_batch = 1 /*M!100300 , SESSION idle_transaction_timeout = {seconds} */; \
             START TRANSACTION; SAVEPOINT temporal_batch"
        )
    }

    fn is_missing_table(error: &dyn DatabaseError) -> bool {
        error.code().as_deref() == Some("42S02") && error.message().contains("temporal_batch_")
    }

    fn plan_line(row: &Self::Row) -> Option<String> {
        // The columns of the plan depend on the version.
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

    fn limit(timeouts: Timeouts) -> Option<String> {
        // MySQL limits only the time of a SELECT. MariaDB limits every statement; MySQL takes that part for a
        // comment.
        Some(format!(
            "SET {} /*M!100101 , SESSION max_statement_time = {} */",
            mysql_lock_timeout(timeouts.lock),
            timeouts.statement.as_secs_f64(),
        ))
    }

    fn unlimit() -> Option<String> {
        Some(format!(
            "SET {} /*M!100101 , SESSION max_statement_time = DEFAULT */",
            mysql_lock_timeout(LOCK_TIMEOUT)
        ))
    }

    fn cell(row: &Self::Row, at: usize, encoding: Encoding) -> Result<Cell, sqlx::Error> {
        if encoding == Encoding::Hex {
            let bytes: Option<Vec<u8>> = row.try_get_unchecked(at)?;
            return Ok(bytes.map_or(Cell::Null, Cell::Bytes));
        }
        let number = match sqlx::TypeInfo::name(sqlx::Column::type_info(row.column(at))) {
            "FLOAT" => row.try_get_unchecked::<Option<f32>, _>(at)?.map(float),
            "DOUBLE" => row.try_get_unchecked::<Option<f64>, _>(at)?.map(double),
            _ => return Ok(cell_of(Self::text(row, at)?, encoding)),
        };
        Ok(number.map_or(Cell::Null, Cell::Number))
    }

    through_sqlx!(MySql);
    statements!(positional);
}

/// Returns the fewest digits from which MySQL reads the same number. It reads a double first, and refuses one that is
/// larger than any float, even if only in the last digit.
fn float(number: f32) -> String {
    let short = format!("{number:?}");
    #[allow(clippy::cast_possible_truncation, reason = "that is what MySQL does")]
    let comes_back = short
        .parse::<f64>()
        .is_ok_and(|read| read as f32 == number && read.abs() <= f64::from(f32::MAX));
    match comes_back {
        true => short.strip_suffix(".0").unwrap_or(&short).to_owned(),
        false => double(f64::from(number)),
    }
}

fn double(number: f64) -> String {
    let text = format!("{number:?}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}
