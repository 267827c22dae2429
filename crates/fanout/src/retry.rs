//! The attempts at an item, and the waits between them.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most failures of the environment that are waited out: a week of waits of 60 s.
const MOST_ENVIRONMENT_FAILURES: u32 = 10_080;

/// The attempts at an item.
///
/// The wait before attempt n+1 is `initial_interval * backoff^(n-1)`, at most `max_interval`.
///
/// | field | default | allowed |
/// |---|---|---|
/// | `max_attempts` | 10 | 1 to 1,000 |
/// | `initial_interval` | 1 s | 1 ms to `max_interval` |
/// | `backoff` | 2.0 | 1.0 to 100.0 |
/// | `max_interval` | 60 s | up to 24 h |
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts, including the first.
    pub max_attempts: u32,
    /// The wait after the first failure.
    pub initial_interval: Duration,
    /// The factor from one wait to the next.
    pub backoff: f64,
    /// The longest wait.
    pub max_interval: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            initial_interval: Duration::from_secs(1),
            backoff: 2.0,
            max_interval: Duration::from_secs(60),
        }
    }
}

/// A failed attempt, as far as the retries need to know it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempted {
    /// False if no further attempt can help.
    pub retryable: bool,
    /// True if the attempt is not counted.
    pub environment: bool,
    /// The wait that the failure asks for.
    pub delay: Option<Duration>,
}

/// The failures so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failures {
    /// Attempts that count.
    pub counted: u32,
    /// Attempts that failed because of the environment.
    pub environment: u32,
}

impl Retry {
    /// Creates a policy with a single attempt.
    pub fn never() -> Self {
        Self {
            max_attempts: 1,
            ..Self::default()
        }
    }

    /// Records a failure, and returns the wait before the next attempt. `None` means that the item has failed.
    pub(crate) fn after(&self, failures: &mut Failures, failed: Attempted) -> Option<Duration> {
        let (count, most) = match failed.environment {
            true => (&mut failures.environment, MOST_ENVIRONMENT_FAILURES),
            false => (&mut failures.counted, self.max_attempts),
        };
        *count += 1;
        if !failed.retryable || *count >= most {
            return None;
        }
        Some(failed.delay.unwrap_or_else(|| self.wait(*count)))
    }

    fn wait(&self, failures: u32) -> Duration {
        let exponent = i32::try_from(failures - 1).unwrap_or(i32::MAX);
        let seconds = self.initial_interval.as_secs_f64() * self.backoff.powi(exponent);
        Duration::try_from_secs_f64(seconds).map_or(self.max_interval, |w| w.min(self.max_interval))
    }

    /// Returns what is not allowed, if anything.
    pub(crate) fn defect(&self) -> Option<String> {
        const DAY: Duration = Duration::from_secs(86_400);
        if !(1..=1_000).contains(&self.max_attempts) {
            return Some(format!(
                "retry max attempts is {}; it must be from 1 to 1000",
                self.max_attempts
            ));
        }
        if !(1.0..=100.0).contains(&self.backoff) {
            return Some(format!(
                "retry backoff is {}; it must be from 1.0 to 100.0",
                self.backoff
            ));
        }
        if self.max_interval > DAY {
            return Some("retry max interval is longer than 24 h".to_owned());
        }
        if self.initial_interval < Duration::from_millis(1)
            || self.initial_interval > self.max_interval
        {
            return Some("retry initial interval must be from 1 ms to the max interval".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retryable() -> Attempted {
        Attempted {
            retryable: true,
            ..Attempted::default()
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_with_the_attempts() {
        let retry = Retry {
            max_attempts: 5,
            max_interval: Duration::from_secs(3),
            ..Retry::default()
        };
        let mut failures = Failures::default();
        let mut next = || retry.after(&mut failures, retryable()).map(|w| w.as_secs());
        let waits = [next(), next(), next(), next(), next()];
        assert_eq!(waits, [Some(1), Some(2), Some(3), Some(3), None]);
    }

    #[test]
    fn a_final_failure_has_no_wait_and_the_environment_uses_no_attempt() {
        let retry = Retry::never();
        let mut failures = Failures::default();
        let environment = Attempted {
            environment: true,
            ..retryable()
        };
        assert!(retry.after(&mut failures, environment).is_some());
        assert!(retry.after(&mut failures, environment).is_some());
        assert_eq!(failures.counted, 0);
        assert_eq!(retry.after(&mut failures, retryable()), None);
        let many = Retry::default();
        assert_eq!(
            many.after(&mut Failures::default(), Attempted::default()),
            None
        );
    }

    #[test]
    fn a_failure_chooses_its_own_wait() {
        let delay = Some(Duration::from_secs(77));
        let failed = Attempted {
            delay,
            ..retryable()
        };
        let mut failures = Failures::default();
        assert_eq!(Retry::default().after(&mut failures, failed), delay);
    }

    #[test]
    fn a_wait_that_overflows_is_the_longest() {
        let retry = Retry {
            max_attempts: 1_000,
            backoff: 100.0,
            ..Retry::default()
        };
        assert_eq!(retry.wait(999), retry.max_interval);
    }
}
