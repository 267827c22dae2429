//! The high-water mark: where a batch ends on a table that keeps growing.

use std::time::Duration;

use super::{
    Table,
    inspect::Identity,
    key::Key,
    read::{Reading as _, key_of},
};
use crate::{
    base::error::PageError,
    processor::waiting,
    sql::{Database, connection::pool::on_pool},
};

/// Longest wait for older transactions; then it is said which they are, and the attempt is repeated later.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// # Fix an end
impl Table {
    /// The highest key now, whatever the filter; `None` where there are no rows. Rows whose keys are higher
    /// come later, and a batch that ends at this key ends.
    ///
    /// First it waits until the transactions that have written to the table and are still open have ended.
    /// What they have written may sort anywhere; rows of theirs that appeared after the walk had passed would
    /// be left out. It waits for a minute at most.
    ///
    /// | database | which transactions it waits for |
    /// |---|---|
    /// | PostgreSQL | those that hold a lock for writing on the table or on a partition of it, prepared ones included; on a standby none, which is logged |
    /// | MySQL, MariaDB | those in InnoDB that have changed any row, where the account may see them (`PROCESS`); else none, which is logged |
    /// | SQLite | none: a writer has the database for itself, and nobody sees its rows before it commits |
    ///
    /// # Errors
    /// `OlderTransactions`, retryable, which names those that are still open. Otherwise as
    /// [`keys`](Self::keys).
    pub async fn high_water_mark(&self) -> Result<Option<Key>, PageError> {
        self.high_water_mark_within(LONGEST_WAIT).await
    }

    /// Like [`high_water_mark`](Self::high_water_mark), and waits no longer than this for older transactions.
    ///
    /// # Errors
    /// The same.
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
                    "transactions that wrote to {} before the start are still open after {} s: {}; a row of \
                     theirs could be left out",
                    self.quoted_name(),
                    waited.as_secs(),
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
            let rows = Db::fetch(pool, statements.highest().into()).await?;
            let highest = rows.first().map(|row| key_of::<Db>(row, 0, &statements.key));
            highest.transpose()
        })
    }

    /// The open transactions that may have written to the table.
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
    /// Never used again while the server runs.
    id: String,
    /// For whoever has to end it.
    shown: String,
    /// It was prepared (`PREPARE TRANSACTION`), which in some versions gives it a new id: the old one is not to be
    /// seen then.
    prepared: bool,
}

impl Writer {
    /// Whether it may be the same transaction as one that was seen before.
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

#[cfg(feature = "postgres")]
mod postgres {
    use sqlx::{PgPool, Row as _};

    use super::Writer;
    use crate::sql::connection::proxied::rows_of;

    /// Every role can see locks and process ids. Whoever writes holds `RowExclusiveLock` on the table that
    /// was named and on the partition that is written, until its transaction ends.
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
                "a standby does not know the open transactions of its primary, so none is waited for: rows that \
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
                let age = age.map_or_else(String::new, |age| format!(", open for {age} s"));
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

    use super::Writer;
    use crate::{base::error::PageError, sql::connection::lease::LeasedTransaction};

    /// It shows this transaction itself as well.
    const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

    /// Not by table: which tables a transaction has written is not to be seen.
    const WRITERS: &str = "
CAST(trx_id AS CHAR), CAST(trx_mysql_thread_id AS CHAR),
    CAST(TIMESTAMPDIFF(SECOND, trx_started, NOW()) AS CHAR),
    CAST(IF(trx_mysql_thread_id = CONNECTION_ID(), coalesce(trx_query, ''), NULL) AS CHAR)
FROM information_schema.innodb_trx
WHERE trx_rows_modified > 0 OR trx_mysql_thread_id = CONNECTION_ID() ORDER BY trx_started";

    /// The server shows what it has shown before, unless no session has looked for 100 ms.
    const FRESH: Duration = Duration::from_millis(150);
    /// Others may look all the time.
    const LOOKS: u32 = 60;

    pub async fn writers(pool: &MySqlPool) -> Result<Vec<Writer>, PageError> {
        let mut transaction = LeasedTransaction::on(pool, BEGIN.to_owned()).await?;
        for _ in 0..LOOKS {
            // The query that is running now is in what it reads, if that is not from before.
            let mark = uuid::Uuid::new_v4();
            // Two that look at the same time must not keep each other from seeing.
            let jitter = Duration::from_millis(u64::from(mark.as_bytes()[0]));
            tokio::time::sleep(FRESH + jitter).await;
            let look = sqlx::raw_sql(AssertSqlSafe(format!("SELECT /* {mark} */ {WRITERS}")));
            let rows = match look.fetch_all(&mut *transaction).await {
                Ok(rows) => rows,
                Err(error) if is_denied(&error) => {
                    tracing::warn!(
                        "the account may not see open transactions (privilege PROCESS), so none is waited for: \
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
        let age = age.unwrap_or_default();
        Ok(Writer {
            shown: format!("thread {thread} (transaction {id}, open for {age} s)"),
            id,
            prepared: false,
        })
    }

    fn is_denied(error: &sqlx::Error) -> bool {
        let said = error.as_database_error();
        said.is_some_and(|e| e.message().contains("PROCESS privilege"))
    }
}
