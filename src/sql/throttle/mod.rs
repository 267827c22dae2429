//! A throttle that looks at a PostgreSQL server.
//!
//! ```text
//!   PostgresThrottle ---> Checks      the built-in ones: one statement, one row of Figures, verdicts
//!          |         ---> OwnQuery    the user's: one number
//!          v
//!      Threshold                      from a figure to a verdict
//! ```

mod builder;
mod checks;
mod own_query;
#[cfg(test)]
mod tests;
mod threshold;

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, pool::PoolConnection};

pub use builder::{InvalidThrottle, PostgresThrottleBuilder};
pub use threshold::Threshold;

use crate::processor::throttle::{Throttle, Verdict};
use checks::{Checks, Figures, WalSample};
use own_query::{NotOneNumber, OwnQuery};

/// Holds a batch, or slows it down, while a PostgreSQL server has too much to do: replicas lag, transactions
/// grow old, sessions wait for locks, or whatever a query of yours measures.
///
/// Every check is optional. Each has the limit above which it holds, and may have a lower one above which
/// it slows down: from all to a tenth of the batch's limits, in proportion to how far the figure is between
/// the two. See [`Threshold`]. Where several checks object, the hardest verdict counts.
///
/// ```
/// use std::time::Duration;
/// use temporal_batch::PostgresThrottle;
///
/// # fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let throttle = PostgresThrottle::builder(pool)
///     .max_replica_lag(Duration::from_secs(1)..Duration::from_secs(5)) // slows from 1 s, holds from 5 s
///     .expected_replicas(2)
///     .max_waiting(4)
///     .query("SELECT count(*) FROM jobs WHERE state = 'failed'", 100.0)
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # The pool
///
/// Give it a pool of its own with one or two connections, so that it is not kept waiting by the batch, and an
/// `application_name` that begins with `temporal-batch`. Its role must be a member of
/// `pg_monitor`, unless only [`max_wal_rate`](PostgresThrottleBuilder::max_wal_rate) and
/// [`query`](PostgresThrottleBuilder::query) are used; without it PostgreSQL hides the sessions of
/// others, and each ask fails with an error that says so.
///
/// # What an ask costs
///
/// One round trip for all the built-in checks together, two more for the query (four, its first time on
/// a connection). Statements are ended by the server after four fifths of the
/// [timeout](PostgresThrottleBuilder::timeout), and run in a read-only transaction. All
/// figures are those of the whole server, all its databases.
pub struct PostgresThrottle {
    pool: PgPool,
    name: String,
    interval: Duration,
    timeout: Duration,
    hold_on_failure: Duration,
    checks: Checks,
    query: Option<OwnQuery>,
    wal: Mutex<Option<WalSample>>,
}

/// Why an ask has no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no connection to the database within {0:?}")]
    NoConnection(Duration),
    #[error("no connection to the database")]
    Connect(#[source] sqlx::Error),
    #[error("cannot look at the database")]
    Checks(#[source] sqlx::Error),
    #[error(
        "role \"{role}\" does not see the sessions of others; it needs pg_monitor: GRANT pg_monitor TO \"{role}\""
    )]
    MissingRole { role: String },
    #[error("the query failed")]
    Query(#[source] sqlx::Error),
    #[error(transparent)]
    NotOneNumber(#[from] NotOneNumber),
}

#[async_trait]
impl Throttle for PostgresThrottle {
    fn name(&self) -> &str {
        &self.name
    }

    async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.look().await?)
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn hold_on_failure(&self) -> Duration {
        self.hold_on_failure
    }
}

impl PostgresThrottle {
    /// A throttle on the server of this pool.
    pub fn builder(pool: PgPool) -> PostgresThrottleBuilder {
        PostgresThrottleBuilder::new(pool)
    }

    async fn look(&self) -> Result<Verdict, AskError> {
        // Less than the whole, so that it is the database which says that it takes too long.
        let limit = self.timeout * 4 / 5;
        let connection = tokio::time::timeout(limit, self.pool.acquire()).await;
        let connection = connection.map_err(|_| AskError::NoConnection(limit))?;
        let mut connection = Connection(connection.map_err(AskError::Connect)?, false);

        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {};",
            limit.as_millis().max(1)
        );
        let mut verdict = Verdict::Go;
        if let Some(select) = self.checks.select() {
            // One message, one round trip.
            let end = if self.query.is_none() { "; COMMIT" } else { "" };
            let statements = sqlx::raw_sql(AssertSqlSafe(format!("{begin} {select}{end}")));
            let rows = statements.fetch_all(&mut *connection).await;
            let figures = rows.and_then(|rows| {
                let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
                Figures::of(row)
            });
            verdict = self.judge(&figures.map_err(AskError::Checks)?)?;
        } else {
            let begin = sqlx::raw_sql(AssertSqlSafe(begin));
            begin
                .execute(&mut *connection)
                .await
                .map_err(AskError::Query)?;
        }
        if let Some(query) = &self.query {
            let own = query.ask(&mut connection).await?;
            let commit = sqlx::raw_sql("COMMIT").execute(&mut *connection);
            commit.await.map_err(AskError::Query)?;
            verdict = hardest([verdict, own]);
        }
        connection.1 = true;
        Ok(verdict)
    }

    fn judge(&self, figures: &Figures) -> Result<Verdict, AskError> {
        if self.checks.need_role() && !figures.sees_others {
            let role = figures.role.clone();
            return Err(AskError::MissingRole { role });
        }
        let wal_rate = {
            let mut last = self.wal.lock().unwrap_or_else(PoisonError::into_inner);
            let patience = self.interval * 3 + self.timeout;
            let sample = WalSample::next(*last, figures.wal_at, patience);
            *last = sample;
            sample.and_then(|sample| sample.rate)
        };
        Ok(hardest(self.checks.verdicts(figures, wal_rate)))
    }
}

/// The first of the hardest ones.
fn hardest(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts.into_iter().fold(Verdict::Go, |hardest, verdict| {
        if verdict.factor() < hardest.factor() {
            verdict
        } else {
            hardest
        }
    })
}

/// Goes back to its pool only from an ask that was done. Any other may have left it in a transaction, or
/// waiting for a server that is silent.
struct Connection(PoolConnection<Postgres>, bool);

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.1 {
            self.0.close_on_drop();
        }
    }
}

impl std::fmt::Debug for PostgresThrottle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresThrottle")
            .field("name", &self.name)
            .field("checks", &self.checks)
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}
