//! A throttle by the state of a PostgreSQL server.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs`, `builder.rs` | [`PostgresThrottle`], and its settings |
//! | `checks.rs` | the built-in checks, in one statement |
//! | `user_query.rs` | the user's query |
//! | `threshold.rs` | [`Threshold`]: from a figure to a verdict |

mod builder;
mod checks;
#[cfg(test)]
mod tests;
mod threshold;
mod user_query;

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
use user_query::{NotOneNumber, UserQuery};

/// Holds a batch, or slows it down, while a PostgreSQL server is overloaded: while replicas lag, transactions are
/// old, sessions wait for locks, or a query of your own says so.
///
/// Every check is optional. Each has a limit above which it holds the batch, and may have a lower limit above which it
/// slows the batch down: from all to a tenth of the batch's limits, in proportion to the position of the figure between
/// the two. See [`Threshold`]. If several checks object, the hardest verdict counts.
///
/// ```
/// use std::time::Duration;
/// use temporal_batch::sql::PostgresThrottle;
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
/// Give the throttle a pool of its own with one or two connections, so that it does not wait for the batch, and an
/// `application_name` that begins with `temporal-batch`. The role must be a member of `pg_monitor`, unless only
/// [`max_wal_rate`](PostgresThrottleBuilder::max_wal_rate) and [`query`](PostgresThrottleBuilder::query) are used.
/// PostgreSQL hides the sessions of other users from a role that is not a member. Each call of the throttle then fails
/// with an error that names the missing membership.
///
/// # Cost
///
/// Each call costs one round trip for all the built-in checks together, and two more for the query (four, the first
/// time on a connection). The server ends statements after four fifths of the
/// [timeout](PostgresThrottleBuilder::timeout), and they run in a read-only transaction. All figures are those of the
/// whole server, with all its databases.
pub struct PostgresThrottle {
    pool: PgPool,
    name: String,
    interval: Duration,
    timeout: Duration,
    hold_on_failure: Duration,
    checks: Checks,
    query: Option<UserQuery>,
    wal: Mutex<Option<WalSample>>,
}

/// The reason why a call has no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no connection to the database within {0:?}")]
    NoConnection(Duration),
    #[error("no connection to the database")]
    Connect(#[source] sqlx::Error),
    #[error("cannot look at the database")]
    Checks(#[source] sqlx::Error),
    #[error(
        "role \"{role}\" cannot see the sessions of other users; it needs pg_monitor: GRANT pg_monitor TO \"{role}\""
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
    /// Returns a builder for a throttle on the server of this pool.
    pub fn builder(pool: PgPool) -> PostgresThrottleBuilder {
        PostgresThrottleBuilder::new(pool)
    }

    async fn look(&self) -> Result<Verdict, AskError> {
        // Shorter than the timeout itself, so that the database reports that the statement takes too long.
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

/// Returns the hardest verdict; the first one of several.
fn hardest(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts.into_iter().fold(Verdict::Go, |hardest, verdict| {
        if verdict.factor() < hardest.factor() {
            verdict
        } else {
            hardest
        }
    })
}

/// A connection that returns to its pool only after a complete call. After an incomplete one, it may be in a
/// transaction, or waiting for a silent server.
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
