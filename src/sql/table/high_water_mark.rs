//! The high-water mark: the end of a batch on a growing table.

use std::time::Duration;

use super::{Table, inspect::Identity, key::Key};
use crate::{
    base::{error::PageError, text::exactly},
    processor::waiting,
    sql::{Database, backend::dialect::Dialect as _, connection::pool::on_pool},
};

/// The longest wait for older transactions. After it, the error names them, and the attempt is repeated later.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// # Fix an end
impl Table {
    /// Returns the highest key now, regardless of the filter; `None` for an empty table. Rows with higher keys come
    /// later, and a batch that ends at this key does end.
    ///
    /// The call first waits until the transactions that have written to the table and are still open have ended. Their
    /// rows may have any key; rows that appeared after the walk had passed would be left out. The wait takes at most a
    /// minute.
    ///
    /// | database | which transactions it waits for |
    /// |---|---|
    /// | PostgreSQL | those that hold a lock for writing on the table or on a partition of it, prepared ones included; on a standby none, which is logged |
    /// | MySQL, MariaDB | those in InnoDB that have changed any row, where the account may see them (`PROCESS`); else none, which is logged |
    /// | SQLite | none: a writer has the database for itself, and its rows are invisible before it commits |
    ///
    /// # Errors
    /// `OlderTransactions`, retryable, which names the open transactions. Otherwise those of [`keys`](Self::keys).
    pub async fn high_water_mark(&self) -> Result<Option<Key>, PageError> {
        self.high_water_mark_within(LONGEST_WAIT).await
    }

    /// Like [`high_water_mark`](Self::high_water_mark), with another limit for the wait.
    ///
    /// # Errors
    /// Those of [`high_water_mark`](Self::high_water_mark).
    pub async fn high_water_mark_within(
        &self,
        longest: Duration,
    ) -> Result<Option<Key>, PageError> {
        let mut waited = Duration::ZERO;
        let mut older = self.writers().await?;
        if !older.is_empty() {
            tracing::info!(
                table = self.quoted_name(),
                transactions = %listed(&older),
                "waiting for older transactions to end"
            );
        }
        while !older.is_empty() {
            if waited >= longest {
                waiting::tell(None);
                return Err(PageError::retryable(format_args!(
                    "transactions that wrote to {} before the start are still open after {}: {}; a row of \
                     theirs could be left out",
                    self.quoted_name(),
                    exactly(waited),
                    listed(&older)
                ))
                .with_type("OlderTransactions"));
            }
            waiting::tell(Some(format!(
                "waiting for transactions that are older than the batch: {}; commit or end them",
                listed(&older)
            )));
            tokio::time::sleep(BETWEEN_LOOKS).await;
            waited += BETWEEN_LOOKS;
            let now = self.writers().await?;
            older = now
                .into_iter()
                .filter(|writer| older.iter().any(|other| writer.may_be(other)))
                .collect();
        }
        waiting::tell(None);
        let statements = &self.inner.statements;
        on_pool!(&self.inner.database, pool: Db => {
            let rows = Db::fetch(pool, statements.highest()).await?;
            let highest = rows.first().map(|row| Db::key(row, 0, &statements.key));
            highest.transpose()
        })
    }

    /// Returns the open transactions that may have written to the table.
    async fn writers(&self) -> Result<Vec<Writer>, PageError> {
        match (&self.inner.database, &self.inner.identity) {
            #[cfg(feature = "postgres")]
            (Database::Postgres(pool), Identity::Postgres { oid }) => {
                Ok(postgres::writers(pool, *oid).await?)
            }
            #[cfg(feature = "mysql")]
            (Database::MySql(pool), _) => mysql::writers(pool).await,
            #[allow(unreachable_patterns, reason = "depends on the features")]
            _ => Ok(Vec::new()),
        }
    }
}

/// An open transaction.
#[derive(Debug)]
struct Writer {
    /// The id of the transaction, which the server does not use again while it runs.
    id: String,
    /// The description for the person who has to end it.
    shown: String,
    /// True if it was prepared (`PREPARE TRANSACTION`). In some versions that gives it a new id, and hides the
    /// old one.
    prepared: bool,
}

impl Writer {
    /// Returns whether this may be the same transaction as an earlier one.
    fn may_be(&self, earlier: &Self) -> bool {
        self.id == earlier.id || (self.prepared && !earlier.prepared)
    }
}

fn listed(writers: &[Writer]) -> String {
    const SHOWN: usize = 3;
    let mut shown: Vec<_> = writers
        .iter()
        .take(SHOWN)
        .map(|w| w.shown.clone())
        .collect();
    if writers.len() > SHOWN {
        shown.push(format!("and {} more", writers.len() - SHOWN));
    }
    shown.join(", ")
}

/// Shows an age in seconds.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn seconds(age: i64) -> String {
    exactly(Duration::from_secs(age.unsigned_abs()))
}

#[cfg(feature = "postgres")]
mod postgres {
    use sqlx::{PgPool, Row as _};

    use super::{Writer, seconds};
    use crate::sql::connection::pgbouncer::rows_of;

    /// Every role can see locks and process ids. A writer holds `RowExclusiveLock` on the table that the statement
    /// names and on the partition that it writes, until its transaction ends.
    const WRITERS: &str = "
SELECT DISTINCT l.virtualtransaction, l.pid,
    (SELECT extract(epoch FROM clock_timestamp() - a.xact_start)::bigint
     FROM pg_catalog.pg_stat_activity a WHERE a.pid = l.pid),
    (SELECT a.state FROM pg_catalog.pg_stat_activity a WHERE a.pid = l.pid),
    (SELECT p.gid FROM pg_catalog.pg_prepared_xacts p
     JOIN pg_catalog.pg_locks own ON own.locktype = 'transactionid' AND own.transactionid = p.transaction
     WHERE own.virtualtransaction = l.virtualtransaction AND own.granted LIMIT 1)
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'RowExclusiveLock'
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    AND (l.relation = $1::oid
        OR l.relation IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass)))
ORDER BY 1";

    pub async fn writers(pool: &PgPool, oid: i64) -> Result<Vec<Writer>, sqlx::Error> {
        let standby = rows_of(pool, "SELECT pg_is_in_recovery()", Vec::new()).await?;
        if standby.first().is_some_and(|row| row.get(0)) {
            tracing::warn!(
                "a standby does not know the open transactions of its primary, so the batch does not wait for them: rows that \
                 are being inserted now can be left out"
            );
            return Ok(Vec::new());
        }
        let rows = rows_of(pool, WRITERS, vec![oid.into()]).await?;
        rows.iter()
            .map(|row| {
                let id: String = row.try_get(0)?;
                let pid: Option<i32> = row.try_get(1)?;
                let age: Option<i64> = row.try_get(2)?;
                let state: Option<String> = row.try_get(3)?;
                let prepared: Option<String> = row.try_get(4)?;
                let age =
                    age.map_or_else(String::new, |age| format!(", open for {}", seconds(age)));
                let state = state.map_or_else(String::new, |state| format!(", {state}"));
                let is_prepared = prepared.is_some();
                let shown = match (pid, prepared) {
                    (_, Some(gid)) => format!("prepared transaction `{gid}`"),
                    (Some(pid), None) => format!("pid {pid} ({id}{age}{state})"),
                    (None, None) => format!("transaction {id}"),
                };
                Ok(Writer {
                    id,
                    shown,
                    prepared: is_prepared,
                })
            })
            .collect()
    }
}

#[cfg(feature = "mysql")]
mod mysql {
    use std::time::Duration;

    use sqlx::{AssertSqlSafe, MySqlPool, Row as _, mysql::MySqlRow};

    use super::{Writer, seconds};
    use crate::{base::error::PageError, sql::connection::lease::LeasedTransaction};

    /// Opens a transaction that the query for open transactions shows, too.
    const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

    /// The query does not select by table: the server does not show which tables a transaction has written.
    const WRITERS: &str = "
CAST(trx_id AS CHAR), CAST(trx_mysql_thread_id AS CHAR),
    CAST(TIMESTAMPDIFF(SECOND, trx_started, NOW()) AS CHAR),
    CAST(IF(trx_mysql_thread_id = CONNECTION_ID(), coalesce(trx_query, ''), NULL) AS CHAR)
FROM information_schema.innodb_trx
WHERE trx_rows_modified > 0 OR trx_mysql_thread_id = CONNECTION_ID() ORDER BY trx_started";

    /// The server repeats its last answer unless no session has asked for 100 ms.
    const FRESH: Duration = Duration::from_millis(150);
    /// The number of attempts, since other sessions may ask all the time.
    const LOOKS: u32 = 60;

    pub async fn writers(pool: &MySqlPool) -> Result<Vec<Writer>, PageError> {
        let mut transaction = LeasedTransaction::on(pool, BEGIN.to_owned()).await?;
        for _ in 0..LOOKS {
            // A fresh answer shows the query that is running now.
            let mark = uuid::Uuid::new_v4();
            // Keeps two sessions that ask at the same time from repeating that forever.
            let jitter = Duration::from_millis(u64::from(mark.as_bytes()[0]));
            tokio::time::sleep(FRESH + jitter).await;
            let look = sqlx::raw_sql(AssertSqlSafe(format!("SELECT /* {mark} */ {WRITERS}")));
            let rows = match look.fetch_all(&mut *transaction).await {
                Ok(rows) => rows,
                Err(error) if is_denied(&error) => {
                    tracing::warn!(
                        "the account may not see open transactions (privilege PROCESS), so the batch does not wait for them: \
                         rows that are being inserted now can be left out"
                    );
                    return Ok(Vec::new());
                }
                Err(error) => return Err(error.into()),
            };
            let own = |row: &MySqlRow| row.try_get_unchecked::<Option<String>, _>(3);
            let mut queries = rows.iter().filter_map(|row| own(row).ok().flatten());
            if queries.any(|query| query.contains(&mark.to_string())) {
                transaction.rollback().await?;
                let others = rows.iter().filter(|row| matches!(own(row), Ok(None)));
                return others.map(writer).collect();
            }
        }
        Err(PageError::retryable(
            "open transactions cannot be seen: other sessions read information_schema.INNODB_TRX all the time, and \
             the server renews it only when it was not read for 100 ms",
        )
        .with_type("OlderTransactions"))
    }

    fn writer(row: &MySqlRow) -> Result<Writer, PageError> {
        let text = |at: usize| row.try_get_unchecked::<Option<String>, _>(at);
        let (id, thread, age) = (text(0)?, text(1)?, text(2)?);
        let (id, thread) = (id.unwrap_or_default(), thread.unwrap_or_default());
        let age = seconds(age.and_then(|age| age.parse().ok()).unwrap_or_default());
        Ok(Writer {
            shown: format!("thread {thread} (transaction {id}, open for {age})"),
            id,
            prepared: false,
        })
    }

    fn is_denied(error: &sqlx::Error) -> bool {
        let said = error.as_database_error();
        said.is_some_and(|e| e.message().contains("PROCESS privilege"))
    }
}
