//! The retries of a page: how many, and the waits between them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::text::exactly;

/// The guarantee of a processor after an attempt failed or was lost: whether another attempt is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryMode {
    /// A page may run again after a failure or a lost worker, so processing must be idempotent. This is the default.
    #[default]
    AtLeastOnce,
    /// A page runs once. If an attempt fails or its worker is lost, the page has failed, whatever the attempt
    /// had done. From the moment `process` begins, that applies to every error, including those that otherwise
    /// use up no attempt (see [`PageError`](crate::PageError)). This mode requires `max_attempts` 1 and no extended
    /// retries.
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
/// The wait before attempt n+1 is `initial_interval * backoff^(n-1)`, at most `max_interval`. A random amount
/// of up to a fifth is subtracted, so that pages that failed together do not retry together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Quick attempts, including the first.
    pub max_attempts: u32,
    /// The wait after the first failure.
    pub initial_interval: Duration,
    /// The factor from one wait to the next.
    pub backoff: f64,
    /// The longest wait.
    pub max_interval: Duration,
    /// The slow retries that follow. With `None` the page is given up once the quick attempts are used up.
    pub extended: Option<ExtendedRetries>,
}

/// Slow retries of a stuck page. The page waits without occupying a slot while other pages continue. The batch
/// therefore finishes by itself once a database is repaired or a worker is redeployed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExtendedRetries {
    /// The wait between two attempts, at least one second.
    pub interval: Duration,
    /// The maximum number of slow attempts, after which the page is given up. `None` means without limit. No
    /// attempts are made while the batch is paused.
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

/// Maximum time for which a batch waits for a repair of something that is not the fault of a page, such as a
/// missing table.
const LONGEST_BLOCKED: Duration = Duration::from_secs(7 * 86_400);

/// # Construct
impl RetryPolicy {
    /// Creates a policy with a single attempt, as [`RetryMode::AtMostOnce`] requires.
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

/// A retry policy that is not allowed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RetryPolicyError {
    /// The number of attempts is 0.
    #[error("max_attempts is 0; the first attempt counts, so it must be at least 1")]
    NoAttempts,
    /// The wait is too short: immediate retries would overload a system in trouble.
    #[error("initial_interval is {}; it must be at least 1ms", exactly(*given))]
    NoInterval {
        /// The interval that was given.
        given: Duration,
    },
    /// Waits would shrink or grow too fast.
    #[error("backoff is {given}; it must be a number from 1.0 to 100.0")]
    Backoff {
        /// The factor that was given.
        given: f64,
    },
    /// The interval of the extended retries is too short.
    #[error("the interval of the extended retries is {}; it must be at least 1s", exactly(*given))]
    ExtendedInterval {
        /// The interval that was given.
        given: Duration,
    },
    /// [`RetryMode::AtMostOnce`] is combined with retries.
    #[error(
        "retry mode AtMostOnce needs max_attempts 1 and no extended retries, but max_attempts is \
         {max_attempts} and extended retries are {}", if *extended { "on" } else { "off" }
    )]
    AtMostOnce {
        /// The attempts that were given.
        max_attempts: u32,
        /// True if extended retries were on.
        extended: bool,
    },
}

impl RetryPolicy {
    /// Checks the policy for a mode.
    ///
    /// # Errors
    /// The first field that is wrong, with the allowed values.
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

    /// Returns the total number of attempts. `None` means without limit.
    pub(crate) fn attempts_allowed(&self) -> Option<u32> {
        match &self.extended {
            None => Some(self.max_attempts),
            Some(extended) => extended
                .max_attempts
                .map(|max| self.max_attempts.saturating_add(max)),
        }
    }

    /// Returns the number of tries, none of which counts as an attempt, after which a blocked batch ends. At the
    /// longest wait they take about [`LONGEST_BLOCKED`]. `None` means without limit, which is the case when extended
    /// retries have no limit.
    pub(crate) fn tries_allowed(&self) -> Option<u32> {
        let endless = self.extended.as_ref();
        if endless.is_some_and(|extended| extended.max_attempts.is_none()) {
            return None;
        }
        let wait = self.max_interval.max(Duration::from_secs(1));
        let tries = LONGEST_BLOCKED.as_secs_f64() / wait.as_secs_f64();
        Some(tries.ceil() as u32)
    }

    /// Returns the time that the extended retries still take after a number of attempts. `None` if there are no
    /// extended retries, or if they have no limit.
    pub(crate) fn time_of_attempts_left(&self, attempts: u32) -> Option<Duration> {
        let extended = self.extended.as_ref()?;
        let left = self.attempts_allowed()?.saturating_sub(attempts);
        Some(extended.interval.saturating_mul(left))
    }

    /// Returns the time that the tries which count as no attempt still take after a number of tries.
    pub(crate) fn time_of_tries_left(&self, tries: u32) -> Option<Duration> {
        let left = self.tries_allowed()?.saturating_sub(tries);
        Some(self.max_interval.saturating_mul(left))
    }

    /// Returns the wait after failed attempt number `attempt` (the first is 1). `seed` varies the waits. The same seed
    /// always gives the same wait, which workflow code requires.
    pub(crate) fn wait_after(&self, attempt: u32, seed: u64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial_interval.as_secs_f64() * self.backoff.powi(exponent);
        let capped = grown.min(self.max_interval.as_secs_f64());
        let spread = (mix(seed ^ u64::from(attempt)) % 1_000) as f64 / 1_000.0;
        Duration::from_secs_f64(capped * (1.0 - 0.2 * spread))
    }
}

/// Spreads neighbouring numbers evenly, with the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
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
