//! What a throttle looks at, and whether that makes sense.

use std::{sync::Mutex, time::Duration};

use sqlx::PgPool;

use super::{PostgresThrottle, checks::Checks, own_query::OwnQuery, threshold::Threshold};

/// Makes a [`PostgresThrottle`].
#[derive(Debug)]
pub struct PostgresThrottleBuilder {
    pool: PgPool,
    name: String,
    interval: Duration,
    timeout: Duration,
    hold_on_failure: Duration,
    checks: Checks,
    query: Option<OwnQuery>,
}

/// A [`PostgresThrottle`] that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidThrottle {
    /// It would look at nothing.
    #[error("the throttle has no check; add one such as `max_replica_lag`")]
    NoCheck,
    /// A limit must be a number, and some more than 0.
    #[error("{check} is {given}; it must be {allowed}")]
    Limit {
        /// The check.
        check: &'static str,
        /// What was given.
        given: f64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// It would hold before it slows down.
    #[error("{check} slows down above {slow} but holds above {hold}; the first must be lower")]
    SlowAboveHold {
        /// The check.
        check: &'static str,
        /// From where it slows down.
        slow: f64,
        /// From where it holds.
        hold: f64,
    },
    /// There is no SQL.
    #[error("the query is empty")]
    EmptyQuery,
}

impl PostgresThrottleBuilder {
    pub(super) fn new(pool: PgPool) -> Self {
        crate::sql::connection::proxied::note(&pool);
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

    /// The name by which batches ask for it. Default: `database`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long after an answer it is asked again. Default: 1 s.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long an ask may take. Default: 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long in a row batches are held because the server cannot be asked. Default: 60 s.
    #[must_use]
    pub fn hold_on_failure(mut self, time: Duration) -> Self {
        self.hold_on_failure = time;
        self
    }

    /// The lag of the replica that lags most.
    ///
    /// On a primary: `replay_lag` of `pg_stat_replication`, 0 for a replica that has replayed all there is. Where
    /// PostgreSQL has no `replay_lag` for a replica that is behind, more than 16 MB behind holds. Logical
    /// subscribers, and clients that only store WAL, do not count. A replica that is gone does not lag: see
    /// [`expected_replicas`](Self::expected_replicas). A replica reports at least every
    /// `wal_receiver_status_interval` (10 s), and when it has caught up.
    ///
    /// With the pool of a replica: its own lag, the time since the last commit that it has replayed (since its start, if none), if it has
    /// received WAL that it has not replayed or its connection to the primary is lost; and the lag of replicas of
    /// its own. After a quiet time the first bit of WAL can look like a long lag for the moment of its replay.
    #[must_use]
    pub fn max_replica_lag(mut self, lag: impl Into<Threshold<Duration>>) -> Self {
        self.checks.replica_lag = Some(lag.into().map(|lag| lag.as_secs_f64()));
        self
    }

    /// How many replicas must stream from this server. It holds while there are fewer.
    #[must_use]
    pub fn expected_replicas(mut self, replicas: u32) -> Self {
        self.checks.replicas = Some(replicas);
        self
    }

    /// The age of the oldest transaction. Not those of autovacuum, of replication, of the throttle itself, and
    /// of sessions whose `application_name` begins with `temporal-batch`: name the connections of your
    /// processors so, or a batch may wait for itself.
    #[must_use]
    pub fn max_transaction_age(mut self, age: impl Into<Threshold<Duration>>) -> Self {
        self.checks.transaction_age = Some(age.into().map(|age| age.as_secs_f64()));
        self
    }

    /// How many sessions wait for locks, those of the batch included.
    #[must_use]
    pub fn max_waiting(mut self, sessions: impl Into<Threshold<u32>>) -> Self {
        self.checks.waiting = Some(sessions.into().map(f64::from));
        self
    }

    /// How many sessions execute a statement, those of the batch included, the throttle's own not.
    #[must_use]
    pub fn max_active_connections(mut self, sessions: impl Into<Threshold<u32>>) -> Self {
        self.checks.active = Some(sessions.into().map(f64::from));
        self
    }

    /// How many bytes of WAL are written in a second, between one ask and the next by the clock of the
    /// server. The first ask knows no rate, and lets go. A batch that is held writes nothing, so a limit for
    /// what the batch itself writes is better given with a lower one from where it slows down.
    #[must_use]
    pub fn max_wal_rate(mut self, bytes_per_second: impl Into<Threshold<u64>>) -> Self {
        self.checks.wal_rate = Some(bytes_per_second.into().map(|bytes| bytes as f64));
        self
    }

    /// A query of your own. It returns one row with one number (any type of number) and objects if that is
    /// above the limit; NULL is no objection. Anything else fails. It runs in a read-only transaction,
    /// and cannot be several statements.
    #[must_use]
    pub fn query(mut self, sql: impl Into<String>, above: impl Into<Threshold<f64>>) -> Self {
        self.query = Some(OwnQuery {
            sql: sql.into(),
            above: above.into(),
        });
        self
    }

    /// Checks the settings. Connects to nothing.
    ///
    /// # Errors
    /// [`InvalidThrottle`], if there is no check or a limit makes no sense.
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
