//! What the tables of the ledger need of a database, and where SQLite, PostgreSQL and MySQL differ.

use std::{path::PathBuf, time::Duration};

use futures::future::BoxFuture;
use serde::{Deserialize, de::IntoDeserializer};
use sqlx::{
    AssertSqlSafe, Database, Encode, Pool, Row as _, Type, database::HasStatementCache,
    error::DatabaseError, query::Query,
};

use crate::{
    base::time::Timestamp, page::token::PageToken, processor::store::page_ledger::StrideId,
    sql::backfill::tokens::Syntax,
};

/// A database that a [`SqlLedger`](crate::SqlLedger) can be in: `sqlx::Sqlite`, `sqlx::Postgres` or
/// `sqlx::MySql` (MariaDB too), each with the feature of its name. Nothing else can implement it.
pub trait LedgerDatabase: Dialect {}

#[cfg(feature = "sqlite")]
impl LedgerDatabase for sqlx::Sqlite {}
#[cfg(feature = "postgres")]
impl LedgerDatabase for sqlx::Postgres {}
#[cfg(feature = "mysql")]
impl LedgerDatabase for sqlx::MySql {}

/// A value for a placeholder of a statement, such as those of [`Table::condition`](crate::Table::condition).
/// Bind what it holds. It has no `Debug`, since it may be a person's.
#[derive(Clone)]
pub enum Value {
    /// A text, or NULL.
    Text(Option<String>),
    /// An integer, or NULL.
    Int(Option<i64>),
    /// A truth value.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<Option<&PageToken>> for Value {
    fn from(token: Option<&PageToken>) -> Self {
        Self::from(token.map(PageToken::as_str))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::from(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(Some(number))
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::from(time.0)
    }
}

impl From<Option<Timestamp>> for Value {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::Int(None), Self::from)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// The fields of a row, read from left to right.
pub struct Fields<'r, DB: Database> {
    row: &'r DB::Row,
    next: usize,
}

impl<'r, DB: Dialect> Fields<'r, DB> {
    pub fn of(row: &'r DB::Row) -> Self {
        Self { row, next: 0 }
    }

    fn step(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    pub fn optional_text(&mut self) -> Result<Option<String>, sqlx::Error> {
        DB::text(self.row, self.step())
    }

    pub fn text(&mut self) -> Result<String, sqlx::Error> {
        self.optional_text().map(Option::unwrap_or_default)
    }

    pub fn token(&mut self) -> Result<Option<PageToken>, sqlx::Error> {
        let Some(text) = self.optional_text()? else {
            return Ok(None);
        };
        let text: serde::de::value::StringDeserializer<serde::de::value::Error> =
            text.into_deserializer();
        let token = PageToken::deserialize(text).map_err(|e| sqlx::Error::Decode(e.into()))?;
        Ok(Some(token))
    }

    pub fn number(&mut self) -> Result<i64, sqlx::Error> {
        DB::number(self.row, self.step())
    }

    /// A number that was never negative.
    pub fn count(&mut self) -> Result<u64, sqlx::Error> {
        self.number().map(|n| u64::try_from(n).unwrap_or_default())
    }

    pub fn time(&mut self) -> Result<Timestamp, sqlx::Error> {
        self.count().map(Timestamp)
    }

    pub fn flag(&mut self) -> Result<bool, sqlx::Error> {
        DB::flag(self.row, self.step())
    }
}

/// A statement and its values.
pub type Statement = (String, Vec<Value>);

/// Where a stride and those after it are to end.
pub struct Cut<'a> {
    pub stride: &'a StrideId,
    pub fence: i64,
    pub ends: &'a [PageToken],
    pub now: Timestamp,
}

/// Statements are written once, with `$1`, which every [`execute`](Self::execute) here knows; this is the
/// rest. Public only because the marker [`LedgerDatabase`] needs it.
pub trait Dialect: Database<Connection: 'static> {
    /// The type of a text of at most 255 characters that is compared and sorted by its bytes.
    const KEY_TEXT: &'static str;

    /// The type of a text of any length.
    const TEXT: &'static str = "TEXT";

    /// Compares two values of which both may be NULL.
    const SAME_AS: &'static str = "IS NOT DISTINCT FROM";

    /// Whether a statement that inserts can give back the row.
    const RETURNING: bool = true;

    /// Asks how many bytes a statement may have with its values, where there is such a limit, and what it is called.
    const MESSAGE_LIMIT: Option<(&'static str, &'static str)> = None;

    /// Asks who has a lock on the table `$1` that sessions like the one that asks wait for, as far as its account may
    /// see it: who it is, what it does and for how long, and the statement that it runs or ran last. `None`: the database cannot be asked.
    const BLOCKERS: Option<&'static str> = None;

    /// How its statements are taken apart.
    const SYNTAX: Syntax;

    /// The only file of the database, where it is one. A session that writes locks all of it.
    fn file(_pool: &Pool<Self>) -> Option<PathBuf> {
        None
    }

    /// Keeps two `apply_schema` from meeting; runs in its transaction.
    const LOCK_SCHEMA: Option<&'static str>;

    /// Fails where the transaction has been ended, or can only be rolled back, and a commit would not.
    const IN_TRANSACTION: &'static str;

    /// Makes a table with an index, where they are not there.
    fn create_table(table: &str, columns: &str, index: Option<Index<'_>>) -> String {
        let index = index.map_or_else(String::new, |Index { name, columns }| {
            format!("CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns});\n")
        });
        format!("CREATE TABLE IF NOT EXISTS {table} (\n{columns}\n);\n{index}")
    }

    /// Between the values of an INSERT and the assignments, for a row whose primary key is there.
    fn or_update(key: &str) -> String {
        format!("ON CONFLICT ({key}) DO UPDATE SET")
    }

    /// What an INSERT gave for a column, in the assignments after [`or_update`](Self::or_update).
    fn given(column: &str) -> String {
        format!("excluded.{column}")
    }

    /// Sets the end of a stride that has none and inserts those that follow. The first statement affects
    /// one row, or, when the stride has an end or another fence, none; the others run only if it did, in
    /// its transaction.
    fn cut(strides: &str, cut: &Cut<'_>) -> Vec<Statement>;

    /// Begins a transaction that will write, in one round trip. It ends by itself when its owner is silent for
    /// `idle_timeout`, where the database can do that.
    fn begin(idle_timeout: Duration) -> String;

    /// Whether the error says that a table of the ledger is not there.
    fn is_missing_table(error: &dyn DatabaseError) -> bool;

    /// Runs a statement and tells how many rows it affected.
    fn execute(
        connection: &mut Self::Connection,
        statement: String,
        values: Vec<Value>,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>>;

    /// Runs a statement to its end and gives all its rows.
    fn rows(
        connection: &mut Self::Connection,
        statement: String,
        values: Vec<Value>,
    ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>>;

    /// Runs statements that take no values.
    fn script(
        connection: &mut Self::Connection,
        statements: String,
    ) -> BoxFuture<'_, Result<(), sqlx::Error>>;

    fn text(row: &Self::Row, column: usize) -> Result<Option<String>, sqlx::Error>;
    fn number(row: &Self::Row, column: usize) -> Result<i64, sqlx::Error>;
    fn flag(row: &Self::Row, column: usize) -> Result<bool, sqlx::Error>;
}

/// An index of a table of the ledger.
pub struct Index<'a> {
    pub name: &'a str,
    pub columns: &'a str,
}

impl Cut<'_> {
    /// Batch run, stride, fence, the ends as a JSON array, time.
    fn values(&self) -> Vec<Value> {
        let ends = self.ends.iter().map(PageToken::as_str);
        let ends = serde_json::Value::from_iter(ends).to_string();
        vec![
            self.stride.batch_run.as_str().into(),
            self.stride.stride.into(),
            self.fence.into(),
            ends.as_str().into(),
            self.now.into(),
        ]
    }
}

/// A statement with its values.
pub(crate) fn bound<DB: Database + HasStatementCache>(
    statement: String,
    values: Vec<Value>,
) -> Query<'static, DB, DB::Arguments>
where
    Option<String>: Encode<'static, DB> + Type<DB>,
    Option<i64>: Encode<'static, DB> + Type<DB>,
    bool: Encode<'static, DB> + Type<DB>,
{
    // Made of constants and of a checked and quoted schema.
    let query = sqlx::query(AssertSqlSafe(statement));
    #[cfg(feature = "postgres")]
    let query = match DB::NAME == sqlx::Postgres::NAME {
        true => query.persistent(crate::sql::connection::proxied::may_be_named()),
        false => query,
    };
    values.into_iter().fold(query, |query, value| match value {
        Value::Text(text) => query.bind(text),
        Value::Int(number) => query.bind(number),
        Value::Flag(flag) => query.bind(flag),
    })
}

/// How fields are read, and statements without values run.
macro_rules! fields {
    () => {
        fn script(
            connection: &mut Self::Connection,
            statements: String,
        ) -> BoxFuture<'_, Result<(), sqlx::Error>> {
            let script = sqlx::raw_sql(AssertSqlSafe(statements));
            Box::pin(async move { script.execute(connection).await.map(|_| ()) })
        }

        fn text(row: &Self::Row, column: usize) -> Result<Option<String>, sqlx::Error> {
            row.try_get(column)
        }

        fn number(row: &Self::Row, column: usize) -> Result<i64, sqlx::Error> {
            row.try_get(column)
        }

        fn flag(row: &Self::Row, column: usize) -> Result<bool, sqlx::Error> {
            row.try_get(column)
        }
    };
}

/// What reads the same for every database; for all at once the bounds would be longer than this.
#[cfg(any(feature = "sqlite", feature = "mysql"))]
macro_rules! statements {
    () => {
        statements!(|statement, values| (statement, values));
    };
    ($placed:expr) => {
        fn execute(
            connection: &mut Self::Connection,
            statement: String,
            values: Vec<Value>,
        ) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
            let (statement, values) = $placed(statement, values);
            let query = bound::<Self>(statement, values);
            Box::pin(async move { Ok(query.execute(connection).await?.rows_affected()) })
        }

        fn rows(
            connection: &mut Self::Connection,
            statement: String,
            values: Vec<Value>,
        ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>> {
            let (statement, values) = $placed(statement, values);
            let query = bound::<Self>(statement, values);
            Box::pin(query.fetch_all(connection))
        }

        fields!();
    };
}

#[cfg(feature = "sqlite")]
impl Dialect for sqlx::Sqlite {
    const SYNTAX: Syntax = Syntax::Sqlite;
    const KEY_TEXT: &'static str = "TEXT";
    // Its writers never meet.
    const LOCK_SCHEMA: Option<&'static str> = None;
    // A commit fails there.
    const IN_TRANSACTION: &'static str = "SELECT 1";

    fn file(pool: &Pool<Self>) -> Option<PathBuf> {
        Some(pool.connect_options().get_filename().to_owned())
    }

    fn cut(strides: &str, cut: &Cut<'_>) -> Vec<Statement> {
        let statements = [
            format!(
                "UPDATE {strides} SET stride_end = json_extract($4, '$[0]'), updated_at = $5
                WHERE batch_run = $1 AND stride = $2 AND fence = $3 AND stride_end IS NULL"
            ),
            format!(
                "INSERT INTO {strides} (batch_run, stride, batch_id, fence, applied_to, stride_end,
                    ends_data, pages, pages_failed, processed, changed, skipped, failed, updated_at)
                SELECT first.batch_run, first.stride + ends.key, first.batch_id, 0,
                    json_extract($4, '$[' || (ends.key - 1) || ']'), ends.value,
                    FALSE, 0, 0, 0, 0, 0, 0, $5
                FROM {strides} AS first, json_each($4) AS ends
                WHERE first.batch_run = $1 AND first.stride = $2 AND first.fence = $3 AND ends.key > 0
                ON CONFLICT (batch_run, stride) DO NOTHING"
            ),
        ];
        statements
            .into_iter()
            .take(cut.ends.len().min(2))
            .map(|statement| (statement, cut.values()))
            .collect()
    }

    fn begin(_idle_timeout: Duration) -> String {
        // A transaction that begins by reading could not become the writer while there is another.
        "BEGIN IMMEDIATE".to_owned()
    }

    fn is_missing_table(error: &dyn DatabaseError) -> bool {
        error.message().contains("no such table: temporal_batch_")
    }

    statements!();
}

#[cfg(feature = "postgres")]
impl Dialect for sqlx::Postgres {
    const SYNTAX: Syntax = Syntax::Postgres;
    const KEY_TEXT: &'static str = "TEXT COLLATE \"C\"";
    /// `CREATE TABLE IF NOT EXISTS` fails when two of them meet. The number means nothing.
    const LOCK_SCHEMA: Option<&'static str> = Some("SELECT pg_advisory_xact_lock(7309448826142)");
    const IN_TRANSACTION: &'static str = "SAVEPOINT temporal_batch";
    // Pages that wait for the same rows wait for each other too; the cause is the session that they all wait for.
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
        crate::sql::connection::proxied::execute(connection, statement, values)
    }

    fn rows(
        connection: &mut Self::Connection,
        statement: String,
        values: Vec<Value>,
    ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>> {
        crate::sql::connection::proxied::rows(connection, statement, values)
    }

    fields!();
}

/// Most strides that one statement inserts: each number of them is a statement to prepare.
#[cfg(feature = "mysql")]
const STRIDES_AT_ONCE: usize = 20;

#[cfg(feature = "mysql")]
impl Dialect for sqlx::MySql {
    const SYNTAX: Syntax = Syntax::MySql;
    // The character set of the database may be another. Spaces at the end would not count, but no id and
    // no token ends with one.
    const KEY_TEXT: &'static str = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
    // Its TEXT holds 65,535 bytes.
    const TEXT: &'static str = "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
    const SAME_AS: &'static str = "<=>";
    // MariaDB could.
    const RETURNING: bool = false;
    // MariaDB's; MySQL has other tables for it. Neither shows who has the lock of a whole table, only who waits for it, too.
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
    // Each statement that makes a table is a transaction of its own, and waits for others like it.
    const LOCK_SCHEMA: Option<&'static str> = None;
    // The savepoint that `begin` made is gone only with its transaction, which a deadlock rolls back, and
    // which a statement like CREATE TABLE commits.
    const IN_TRANSACTION: &'static str = "RELEASE SAVEPOINT temporal_batch";

    fn create_table(table: &str, columns: &str, index: Option<Index<'_>>) -> String {
        let index = index.map_or_else(String::new, |Index { name, columns }| {
            format!(",\n    INDEX {name} ({columns})")
        });
        // Whatever the default is: other engines know no transactions, other formats no index this long.
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
            // Not INSERT IGNORE, which ignores more than a row that is there.
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
        // What `REPEATABLE READ` locks besides the rows themselves, the gaps between them, lets pages wait for
        // each other that share no row. MySQL takes for a comment what only MariaDB has.
        format!(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
             SET @temporal_batch = 1 /*M!100300 , SESSION idle_transaction_timeout = {seconds} */; \
             START TRANSACTION; SAVEPOINT temporal_batch"
        )
    }

    fn is_missing_table(error: &dyn DatabaseError) -> bool {
        error.code().as_deref() == Some("42S02") && error.message().contains("temporal_batch_")
    }

    statements!(crate::sql::backend::placeholders::positional);
}
