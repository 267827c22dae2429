//! The built-in checks: one statement for all of them, and the meaning of its figures.

use sqlx::{Row as _, postgres::PgRow};

use super::threshold::Threshold;
use crate::processor::throttle::Verdict;

/// The largest distance of a replica without a known lag: one segment of WAL.
const MAX_BYTES_BEHIND: f64 = 16.0 * 1024.0 * 1024.0;

/// The shortest time between two samples that gives a rate.
const MIN_SECONDS: f64 = 0.1;

/// The position of this server in its WAL. A replica counts the WAL that it receives.
const HERE: &str = "here AS (
    SELECT pg_is_in_recovery() AS is_replica,
        CASE WHEN pg_is_in_recovery()
            THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_lsn()
        END AS lsn
)";

/// The lag of the replicas that replay, among all readers of the WAL. A replica that has replayed everything keeps
/// its last lag for a while.
const REPLICAS: &str = "replicas AS (
    SELECT here.lsn - standby.replay_lsn AS bytes,
        CASE WHEN standby.replay_lsn >= here.lsn THEN 0
            ELSE extract(epoch FROM standby.replay_lag)
        END AS lag
    FROM here, pg_stat_replication AS standby
    WHERE standby.replay_lsn IS NOT NULL
        AND NOT EXISTS (SELECT FROM pg_replication_slots AS slot
            WHERE slot.active_pid = standby.pid AND slot.slot_type = 'logical')
    UNION ALL
    SELECT pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn(),
        extract(epoch FROM clock_timestamp()
            - coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time()))
    FROM here
    WHERE is_replica AND pg_last_wal_receive_lsn() IS NOT NULL
        AND (pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()
            OR NOT EXISTS (SELECT FROM pg_stat_wal_receiver))
)";

const STANDBYS: &str = "(SELECT count(*) FROM pg_stat_replication AS standby
    WHERE standby.replay_lsn IS NOT NULL
        AND NOT EXISTS (SELECT FROM pg_replication_slots AS slot
            WHERE slot.active_pid = standby.pid AND slot.slot_type = 'logical'))";

const LAG: &str = "(SELECT max(lag) FROM replicas)";
const BYTES_BEHIND: &str = "(SELECT max(bytes) FROM replicas WHERE lag IS NULL)";

const TRANSACTION_AGE: &str = "(SELECT extract(epoch FROM max(clock_timestamp() - xact_start))
    FROM pg_stat_activity
    WHERE backend_type IN ('client backend', 'background worker')
        AND pid <> pg_backend_pid() AND application_name NOT LIKE 'temporal-batch%')";

const WAITING: &str = "(SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid())";

const ACTIVE: &str = "(SELECT count(*) FROM pg_stat_activity
    WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid())";

/// The enabled checks, with their limits. Times are in seconds.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub replica_lag: Option<Threshold<f64>>,
    pub replicas: Option<u32>,
    pub transaction_age: Option<Threshold<f64>>,
    pub waiting: Option<Threshold<f64>>,
    pub active: Option<Threshold<f64>>,
    pub wal_rate: Option<Threshold<f64>>,
}

/// The figures that the statement returns. `None` for figures that were not requested.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub role: String,
    pub sees_others: bool,
    pub lag: Option<f64>,
    pub bytes_behind: Option<f64>,
    pub replicas: Option<f64>,
    pub transaction_age: Option<f64>,
    pub waiting: Option<f64>,
    pub active: Option<f64>,
    /// The position in the WAL in bytes, and the clock of the server in seconds.
    pub wal_at: Option<(f64, f64)>,
}

impl Figures {
    pub fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let wal: Option<f64> = row.try_get("wal")?;
        let clock: f64 = row.try_get("clock")?;
        Ok(Self {
            role: row.try_get("role")?,
            sees_others: row.try_get("sees_others")?,
            lag: row.try_get("lag")?,
            bytes_behind: row.try_get("bytes_behind")?,
            replicas: row.try_get("replicas")?,
            transaction_age: row.try_get("transaction_age")?,
            waiting: row.try_get("waiting")?,
            active: row.try_get("active")?,
            wal_at: wal.map(|wal| (wal, clock)),
        })
    }
}

impl Checks {
    /// Returns the statement, without the parts that no check needs.
    pub fn select(&self) -> Option<String> {
        let lag = self.replica_lag.is_some();
        let columns = [
            ("lag", lag, LAG),
            ("bytes_behind", lag, BYTES_BEHIND),
            ("replicas", self.replicas.is_some(), STANDBYS),
            (
                "transaction_age",
                self.transaction_age.is_some(),
                TRANSACTION_AGE,
            ),
            ("waiting", self.waiting.is_some(), WAITING),
            ("active", self.active.is_some(), ACTIVE),
            (
                "wal",
                self.wal_rate.is_some(),
                "(SELECT lsn - '0/0' FROM here)",
            ),
        ];
        if !columns.iter().any(|(_, wanted, _)| *wanted) {
            return None;
        }
        let columns: Vec<_> = columns
            .iter()
            .map(|(name, wanted, value)| {
                let value = if *wanted { value } else { "NULL" };
                format!("{value}::float8 AS {name}")
            })
            .collect();
        let columns = columns.join(",\n");
        Some(format!(
            "WITH {HERE}, {REPLICAS}
            SELECT current_user::text AS role,
                pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_others,
                extract(epoch FROM clock_timestamp())::float8 AS clock,
                {columns}"
        ))
    }

    /// Returns whether the checks need figures that PostgreSQL shows only to members of `pg_monitor`.
    pub fn need_role(&self) -> bool {
        self.replica_lag.is_some()
            || self.replicas.is_some()
            || self.transaction_age.is_some()
            || self.waiting.is_some()
            || self.active.is_some()
    }

    /// Returns one verdict for each check, in a fixed order.
    pub fn verdicts(&self, figures: &Figures, wal_rate: Option<f64>) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let (Some(expected), Some(there)) = (self.replicas, figures.replicas)
            && there < f64::from(expected)
        {
            let reason = format!("{} of {expected} replicas stream", figure(there));
            verdicts.push(Verdict::Hold { reason });
        }
        let mut judge = |threshold: Option<Threshold<f64>>,
                         value: Option<f64>,
                         reason: &dyn Fn(f64, f64) -> String| {
            if let (Some(threshold), Some(value)) = (threshold, value) {
                verdicts.push(threshold.judge(value, |limit| reason(value, limit)));
            }
        };
        judge(self.replica_lag, figures.lag, &|lag, limit| {
            format!("replica lag {}", seconds(lag, limit))
        });
        let behind = self.replica_lag.map(|_| MAX_BYTES_BEHIND.into());
        judge(behind, figures.bytes_behind, &|bytes, limit| {
            format!(
                "a replica is {} behind > {}",
                megabytes(bytes),
                megabytes(limit)
            )
        });
        judge(
            self.transaction_age,
            figures.transaction_age,
            &|age, limit| format!("oldest transaction {}", seconds(age, limit)),
        );
        judge(self.waiting, figures.waiting, &|sessions, limit| {
            let (what, verb) = if sessions == 1.0 {
                ("transaction", "waits")
            } else {
                ("transactions", "wait")
            };
            format!(
                "{} {what} {verb} for locks > {}",
                figure(sessions),
                figure(limit)
            )
        });
        judge(self.active, figures.active, &|sessions, limit| {
            let what = if sessions == 1.0 {
                "connection"
            } else {
                "connections"
            };
            format!("{} active {what} > {}", figure(sessions), figure(limit))
        });
        judge(self.wal_rate, wal_rate, &|rate, limit| {
            format!("WAL {}/s > {}/s", megabytes(rate), megabytes(limit))
        });
        verdicts
    }
}

/// A position in the WAL, and the rate at which it was reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WalSample {
    bytes: f64,
    clock: f64,
    /// Bytes per second; `None` without an earlier sample.
    pub rate: Option<f64>,
}

impl WalSample {
    /// Returns the next sample. One that is older than `patience`, or of another server, gives no rate.
    pub fn next(
        last: Option<Self>,
        at: Option<(f64, f64)>,
        patience: std::time::Duration,
    ) -> Option<Self> {
        let (bytes, clock) = at?;
        let rate = match last {
            Some(last) if bytes >= last.bytes && clock >= last.clock => {
                let seconds = clock - last.clock;
                if seconds < MIN_SECONDS {
                    return Some(last);
                }
                (seconds <= patience.as_secs_f64()).then(|| (bytes - last.bytes) / seconds)
            }
            _ => None,
        };
        Some(Self { bytes, clock, rate })
    }
}

/// Returns a number with as few digits as possible: `12`, `0.25`.
pub(super) fn figure(number: f64) -> String {
    if number.abs() < 0.01 {
        return number.to_string();
    }
    let text = format!("{number:.3}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    text.to_owned()
}

/// Shows `3.2s > 2s`, with more digits if both sides would look the same.
fn seconds(value: f64, limit: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    let shown = if rounded > limit { rounded } else { value };
    format!("{}s > {}s", figure(shown), figure(limit))
}

fn megabytes(bytes: f64) -> String {
    if bytes < 100_000.0 {
        format!("{} kB", figure((bytes / 100.0).round() / 10.0))
    } else {
        format!("{} MB", figure((bytes / 100_000.0).round() / 10.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reasons_have_the_figures() {
        let all = Checks {
            replica_lag: Some(2.0.into()),
            replicas: Some(2),
            transaction_age: Some((60.0..300.0).into()),
            waiting: Some(4.0.into()),
            active: Some(0.0.into()),
            wal_rate: Some(50e6.into()),
        };
        let figures = Figures {
            lag: Some(3.21),
            bytes_behind: Some(34e6),
            replicas: Some(1.0),
            transaction_age: Some(60.04),
            waiting: Some(5.0),
            active: Some(1.0),
            ..Figures::default()
        };
        let verdicts = all.verdicts(&figures, Some(62.13e6));
        let reasons: Vec<_> = verdicts.iter().map(|v| v.reason().unwrap()).collect();
        assert_eq!(
            reasons,
            [
                "1 of 2 replicas stream",
                "replica lag 3.2s > 2s",
                "a replica is 34 MB behind > 16.8 MB",
                "oldest transaction 60.04s > 60s",
                "5 transactions wait for locks > 4",
                "1 active connection > 0",
                "WAL 62.1 MB/s > 50 MB/s",
            ]
        );
        let none = all.verdicts(&Figures::default(), None);
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn figures_are_short() {
        for (number, text) in [
            (12.0, "12"),
            (100.0, "100"),
            (0.25, "0.25"),
            (1.0 / 3.0, "0.333"),
            (0.0, "0"),
            (-0.00012, "-0.00012"),
        ] {
            assert_eq!(figure(number), text);
        }
        assert_eq!(figure(f64::INFINITY), "inf");
    }

    #[test]
    fn a_rate_needs_two_looks_that_belong_together() {
        let patience = Duration::from_secs(8);
        let next = |last, bytes, clock| WalSample::next(last, Some((bytes, clock)), patience);
        let first = next(None, 1000.0, 100.0);
        assert_eq!(first.unwrap().rate, None);
        let second = next(first, 3000.0, 102.0);
        assert_eq!(second.unwrap().rate, Some(1000.0));
        assert_eq!(next(second, 9000.0, 102.05), second, "too close");
        assert_eq!(next(second, 9000.0, 202.0).unwrap().rate, None, "too old");
        assert_eq!(
            next(second, 2000.0, 103.0).unwrap().rate,
            None,
            "another server"
        );
        assert_eq!(
            next(second, 3000.0, 101.0).unwrap().rate,
            None,
            "another clock"
        );
        assert_eq!(WalSample::next(second, None, patience), None);
    }
}
