//! How often and after which waits a page is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::text::exactly;

/// What a failed or lost attempt may have left behind decides whether another one is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryMode {
    /// A page may run again after a failure or a lost worker: processing must be idempotent. The default.
    #[default]
    AtLeastOnce,
    /// A page runs once. An attempt that fails or whose worker is lost leaves the page failed, whatever it
    /// had done. Once `process` has begun, that holds for every error, also for those that otherwise use up no
    /// attempt ([`PageError`](crate::PageError)). Needs `max_attempts` 1 and no extended retries.
    AtMostOnce,
}

/// The retries of a page.
///
/// | field | default |
/// |---|---|
/// | `max_attempts` | 10 |
/// | `initial_interval` | 1 s |
/// | `backoff` | 2.0 |
/// | `max_interval` | 60 s |
/// | `extended` | every 5 min, 2,016 times, which takes seven days |
///
/// The wait before attempt n+1 is `initial_interval * backoff^(n-1)`, at most `max_interval`, and is
/// shortened by up to a fifth at random, so that pages that failed together do not come back together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in quick succession, the first included.
    pub max_attempts: u32,
    /// Wait after the first failure.
    pub initial_interval: Duration,
    /// Factor from one wait to the next.
    pub backoff: f64,
    /// Longest wait.
    pub max_interval: Duration,
    /// The slow lane that follows; `None` gives the page up once the quick attempts are spent.
    pub extended: Option<ExtendedRetries>,
}

/// The slow lane for a stuck page: it waits without holding a slot while other pages go on, so that a
/// repaired database or a redeployed worker finishes the batch without anybody's help.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExtendedRetries {
    /// Wait between two attempts. At least one second.
    pub interval: Duration,
    /// Attempts in this lane; `None` is without limit. After the last of them the page is given up. Time in which the
    /// batch is paused makes none.
    pub max_attempts: Option<u32>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            initial_interval: Duration::from_secs(1),
            backoff: 2.0,
            max_interval: Duration::from_secs(60),
            extended: Some(ExtendedRetries::default()),
        }
    }
}

impl Default for ExtendedRetries {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(300),
            max_attempts: Some(2_016),
        }
    }
}

/// How long a batch waits at most for a repair of what is not the fault of a page, such as a missing table.
const LONGEST_BLOCKED: Duration = Duration::from_secs(7 * 86_400);

/// # Construct
impl RetryPolicy {
    /// One attempt and nothing more; what [`RetryMode::AtMostOnce`] needs.
    pub fn never() -> Self {
        Self {
            max_attempts: 1,
            extended: None,
            ..Self::default()
        }
    }

    /// Sets [`max_attempts`](Self::max_attempts).
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets [`initial_interval`](Self::initial_interval).
    #[must_use]
    pub fn initial_interval(mut self, interval: Duration) -> Self {
        self.initial_interval = interval;
        self
    }

    /// Sets [`max_interval`](Self::max_interval).
    #[must_use]
    pub fn max_interval(mut self, interval: Duration) -> Self {
        self.max_interval = interval;
        self
    }

    /// Sets [`extended`](Self::extended).
    #[must_use]
    pub fn extended(mut self, extended: Option<ExtendedRetries>) -> Self {
        self.extended = extended;
        self
    }
}

/// A retry policy that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RetryPolicyError {
    /// There must be a first attempt.
    #[error("max_attempts is 0; the first attempt counts, so it must be at least 1")]
    NoAttempts,
    /// Retrying without waiting hammers whatever is ill.
    #[error("initial_interval is {}; it must be at least 1ms", exactly(*given))]
    NoInterval {
        /// The interval that was given.
        given: Duration,
    },
    /// Waits must not shrink.
    #[error("backoff is {given}; it must be a number from 1.0 to 100.0")]
    Backoff {
        /// The factor that was given.
        given: f64,
    },
    /// The extended lane is the slow one.
    #[error("the interval of the extended retries is {}; it must be at least 1s", exactly(*given))]
    ExtendedInterval {
        /// The interval that was given.
        given: Duration,
    },
    /// At most once means exactly that.
    #[error(
        "retry mode AtMostOnce needs max_attempts 1 and no extended retries, but max_attempts is \
         {max_attempts} and extended retries are {}", if *extended { "on" } else { "off" }
    )]
    AtMostOnce {
        /// The attempts that were given.
        max_attempts: u32,
        /// Whether extended retries were on.
        extended: bool,
    },
}

impl RetryPolicy {
    /// Checks the policy for a mode.
    ///
    /// # Errors
    /// Says which field is wrong and what is allowed.
    pub fn validate(&self, mode: RetryMode) -> Result<(), RetryPolicyError> {
        if self.max_attempts == 0 {
            return Err(RetryPolicyError::NoAttempts);
        }
        if self.initial_interval < Duration::from_millis(1) {
            return Err(RetryPolicyError::NoInterval {
                given: self.initial_interval,
            });
        }
        if !(1.0..=100.0).contains(&self.backoff) {
            return Err(RetryPolicyError::Backoff {
                given: self.backoff,
            });
        }
        if let Some(extended) = &self.extended
            && extended.interval < Duration::from_secs(1)
        {
            return Err(RetryPolicyError::ExtendedInterval {
                given: extended.interval,
            });
        }
        if mode == RetryMode::AtMostOnce && (self.max_attempts != 1 || self.extended.is_some()) {
            return Err(RetryPolicyError::AtMostOnce {
                max_attempts: self.max_attempts,
                extended: self.extended.is_some(),
            });
        }
        Ok(())
    }

    /// Attempts in all; `None` is without limit.
    pub(crate) fn attempts_allowed(&self) -> Option<u32> {
        match &self.extended {
            None => Some(self.max_attempts),
            Some(extended) => extended
                .max_attempts
                .map(|max| self.max_attempts.saturating_add(max)),
        }
    }

    /// Tries, none of which counts as an attempt at the page, after which a batch that is blocked ends: at the longest
    /// wait they take about [`LONGEST_BLOCKED`]. `None` is without limit, as extended retries without one are.
    pub(crate) fn tries_allowed(&self) -> Option<u32> {
        let endless = self.extended.as_ref();
        if endless.is_some_and(|extended| extended.max_attempts.is_none()) {
            return None;
        }
        let wait = self.max_interval.max(Duration::from_secs(1));
        let tries = LONGEST_BLOCKED.as_secs_f64() / wait.as_secs_f64();
        Some(tries.ceil() as u32)
    }

    /// How long the extended retries still take after so many attempts, if they have an end.
    pub(crate) fn time_of_attempts_left(&self, attempts: u32) -> Option<Duration> {
        let extended = self.extended.as_ref()?;
        let left = self.attempts_allowed()?.saturating_sub(attempts);
        Some(extended.interval.saturating_mul(left))
    }

    /// The same for tries that count as no attempt.
    pub(crate) fn time_of_tries_left(&self, tries: u32) -> Option<Duration> {
        let left = self.tries_allowed()?.saturating_sub(tries);
        Some(self.max_interval.saturating_mul(left))
    }

    /// The wait after failed attempt number `attempt` (the first is 1). `seed` spreads the waits; the same
    /// seed always gives the same wait, which workflow code relies on.
    pub(crate) fn wait_after(&self, attempt: u32, seed: u64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial_interval.as_secs_f64() * self.backoff.powi(exponent);
        let capped = grown.min(self.max_interval.as_secs_f64());
        let spread = (mix(seed ^ u64::from(attempt)) % 1_000) as f64 / 1_000.0;
        Duration::from_secs_f64(capped * (1.0 - 0.2 * spread))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014): spreads neighbouring numbers evenly.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_once_refuses_further_attempts() {
        let never = RetryPolicy::never();
        assert_eq!(never.validate(RetryMode::AtMostOnce), Ok(()));
        let twice = never.clone().max_attempts(2);
        let error = twice.validate(RetryMode::AtMostOnce).unwrap_err();
        assert!(error.to_string().contains("max_attempts is 2"), "{error}");
        let extended = never.extended(Some(ExtendedRetries::default()));
        let error = extended.validate(RetryMode::AtMostOnce).unwrap_err();
        assert!(
            error.to_string().contains("extended retries are on"),
            "{error}"
        );
    }

    #[test]
    fn policies_that_would_hammer_are_refused() {
        let mode = RetryMode::AtLeastOnce;
        let policy = RetryPolicy::default;
        assert!(policy().max_attempts(0).validate(mode).is_err());
        assert!(
            policy()
                .initial_interval(Duration::ZERO)
                .validate(mode)
                .is_err()
        );
        let fast = ExtendedRetries {
            interval: Duration::from_millis(10),
            max_attempts: None,
        };
        assert!(policy().extended(Some(fast)).validate(mode).is_err());
        for backoff in [0.5, f64::NAN, f64::INFINITY] {
            let bad = RetryPolicy {
                backoff,
                ..policy()
            };
            assert!(bad.validate(mode).is_err(), "{backoff}");
        }
    }

    #[test]
    fn waits_grow_to_their_limit_and_never_exceed_it() {
        let policy = RetryPolicy::default();
        for seed in 0..200 {
            for attempt in 1..=60 {
                let nominal = 2f64.powi(attempt as i32 - 1).min(60.0);
                let wait = policy.wait_after(attempt, seed).as_secs_f64();
                assert!(wait <= nominal && wait >= nominal * 0.8 - 1e-9);
            }
        }
    }
}
