//! The settings of a throttle, and their validation.

use std::{sync::Mutex, time::Duration};

use sqlx::PgPool;

use super::{PostgresThrottle, checks::Checks, threshold::Threshold, user_query::UserQuery};

/// A builder for a [`PostgresThrottle`].
#[derive(Debug)]
pub struct PostgresThrottleBuilder {
    pool: PgPool,
    name: String,
    interval: Duration,
    timeout: Duration,
    hold_on_failure: Duration,
    checks: Checks,
    query: Option<UserQuery>,
}

/// The settings of a [`PostgresThrottle`] are invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidThrottle {
    /// The throttle has no check.
    #[error("the throttle has no check; add one such as `max_replica_lag`")]
    NoCheck,
    /// A limit is not a number, or not large enough.
    #[error("{check} is {given}; it must be {allowed}")]
    Limit {
        /// The check.
        check: &'static str,
        /// The given limit.
        given: f64,
        /// The allowed values.
        allowed: &'static str,
    },
    /// The throttle would hold before it slows down.
    #[error("{check} slows down above {slow} but holds above {hold}; the first must be lower")]
    SlowAboveHold {
        /// The check.
        check: &'static str,
        /// The limit for slowing down.
        slow: f64,
        /// The limit for holding.
        hold: f64,
    },
    /// The query is empty.
    #[error("the query is empty")]
    EmptyQuery,
}

impl PostgresThrottleBuilder {
    pub(super) fn new(pool: PgPool) -> Self {
        crate::sql::connection::pgbouncer::note(&pool);
        Self {
            pool,
            name: "database".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            hold_on_failure: Duration::from_secs(60),
            checks: Checks::default(),
            query: None,
        }
    }

    /// Sets the name by which batches refer to the throttle. Default: `database`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the wait between an answer and the next call. Default: 1 s.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the time limit of a call. Default: 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the longest time that batches are held because the server does not answer. Default: 60 s.
    #[must_use]
    pub fn hold_on_failure(mut self, time: Duration) -> Self {
        self.hold_on_failure = time;
        self
    }

    /// Limits the lag of the replica that lags most.
    ///
    /// On a primary, the lag is `replay_lag` of `pg_stat_replication`, and 0 for a replica that has replayed
    /// everything. If PostgreSQL has no `replay_lag` for a replica that is behind, the throttle holds above 16 MB.
    /// Logical subscribers, and clients that only store WAL, do not count. A disconnected replica does not lag: see
    /// [`expected_replicas`](Self::expected_replicas). A replica reports at least every
    /// `wal_receiver_status_interval` (10 s), and when it has caught up.
    ///
    /// On a replica, the lag is the time since the last commit that it has replayed (since its start, if there is
    /// none), if it has received WAL that it has not replayed or its connection to the primary is lost. The lag of
    /// its own replicas counts, too. After a quiet time, the first WAL can look like a long lag while it is being
    /// replayed.
    #[must_use]
    pub fn max_replica_lag(mut self, lag: impl Into<Threshold<Duration>>) -> Self {
        self.checks.replica_lag = Some(lag.into().map(|lag| lag.as_secs_f64()));
        self
    }

    /// Sets the number of replicas that must stream from this server. The throttle holds while there are fewer.
    #[must_use]
    pub fn expected_replicas(mut self, replicas: u32) -> Self {
        self.checks.replicas = Some(replicas);
        self
    }

    /// Limits the age of the oldest transaction. Transactions of autovacuum, of replication, of the throttle itself,
    /// and of sessions whose `application_name` begins with `temporal-batch` do not count: name the connections of
    /// your processors like that, or a batch may wait for itself.
    #[must_use]
    pub fn max_transaction_age(mut self, age: impl Into<Threshold<Duration>>) -> Self {
        self.checks.transaction_age = Some(age.into().map(|age| age.as_secs_f64()));
        self
    }

    /// Limits the number of sessions that wait for locks, including those of the batch.
    #[must_use]
    pub fn max_waiting(mut self, sessions: impl Into<Threshold<u32>>) -> Self {
        self.checks.waiting = Some(sessions.into().map(f64::from));
        self
    }

    /// Limits the number of sessions that execute a statement, including those of the batch, but not that of the
    /// throttle.
    #[must_use]
    pub fn max_active_connections(mut self, sessions: impl Into<Threshold<u32>>) -> Self {
        self.checks.active = Some(sessions.into().map(f64::from));
        self
    }

    /// Limits the bytes of WAL that are written per second, measured between two calls by the clock of the server. The
    /// first call has no rate, and does not hold the batch. A held batch writes no WAL, so a limit for the batch's own
    /// WAL is better combined with a lower limit that slows the batch down.
    #[must_use]
    pub fn max_wal_rate(mut self, bytes_per_second: impl Into<Threshold<u64>>) -> Self {
        self.checks.wal_rate = Some(bytes_per_second.into().map(|bytes| bytes as f64));
        self
    }

    /// Adds a query of your own. It must return one row with one number of any type. A number above the limit slows
    /// down or holds the batch; NULL does not. Any other result is an error. The query runs in a read-only transaction,
    /// and must be a single statement.
    #[must_use]
    pub fn query(mut self, sql: impl Into<String>, above: impl Into<Threshold<f64>>) -> Self {
        self.query = Some(UserQuery {
            sql: sql.into(),
            above: above.into(),
        });
        self
    }

    /// Checks the settings, without connecting.
    ///
    /// # Errors
    /// [`InvalidThrottle`], if there is no check or a limit is invalid.
    pub fn build(self) -> Result<PostgresThrottle, InvalidThrottle> {
        const POSITIVE: &str = "more than 0";
        const COUNT: &str = "0 or more";
        let checks = &self.checks;
        if checks.select().is_none() && self.query.is_none() {
            return Err(InvalidThrottle::NoCheck);
        }
        if checks.replicas == Some(0) {
            return Err(InvalidThrottle::Limit {
                check: "expected_replicas",
                given: 0.0,
                allowed: POSITIVE,
            });
        }
        let own = self.query.as_ref();
        if own.is_some_and(|own| own.sql.trim().is_empty()) {
            return Err(InvalidThrottle::EmptyQuery);
        }
        let thresholds = [
            ("max_replica_lag", checks.replica_lag, POSITIVE),
            ("max_transaction_age", checks.transaction_age, POSITIVE),
            ("max_waiting", checks.waiting, COUNT),
            ("max_active_connections", checks.active, COUNT),
            ("max_wal_rate", checks.wal_rate, POSITIVE),
            ("query", own.map(|own| own.above), "a number"),
        ];
        for (check, threshold, allowed) in thresholds {
            let Some(Threshold { slow, hold }) = threshold else {
                continue;
            };
            for given in [Some(hold), slow].into_iter().flatten() {
                let fits = given.is_finite() && (allowed != POSITIVE || given > 0.0);
                if !fits {
                    return Err(InvalidThrottle::Limit {
                        check,
                        given,
                        allowed,
                    });
                }
            }
            if let Some(slow) = slow.filter(|slow| *slow >= hold) {
                return Err(InvalidThrottle::SlowAboveHold { check, slow, hold });
            }
        }
        Ok(PostgresThrottle {
            pool: self.pool,
            name: self.name,
            interval: self.interval,
            timeout: self.timeout,
            hold_on_failure: self.hold_on_failure,
            checks: self.checks,
            query: self.query,
            wal: Mutex::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> PostgresThrottleBuilder {
        PostgresThrottle::builder(PgPool::connect_lazy("postgres://127.0.0.1:1/none").unwrap())
    }

    fn error(builder: PostgresThrottleBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused() {
        let second = Duration::from_secs(1);
        assert!(error(builder()).contains("no check"));
        assert!(error(builder().query(" ", 1.0)).contains("empty"));
        assert_eq!(
            error(builder().max_replica_lag(Duration::ZERO)),
            "max_replica_lag is 0; it must be more than 0"
        );
        assert!(error(builder().expected_replicas(0)).contains("more than 0"));
        assert!(error(builder().max_wal_rate(0..100)).contains("more than 0"));
        assert!(error(builder().query("SELECT 1", f64::NAN)).contains("a number"));
        assert_eq!(
            error(builder().max_transaction_age(second * 2..second)),
            "max_transaction_age slows down above 2 but holds above 1; the first must be lower"
        );
        assert!(error(builder().max_waiting(4..4)).contains("must be lower"));
        let zero = builder().max_waiting(0).max_active_connections(0..9);
        assert!(zero.build().is_ok());
        assert!(builder().query("SELECT 1", -4.0).build().is_ok());
    }
}
