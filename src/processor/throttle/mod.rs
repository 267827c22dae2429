//! Throttles: they slow down or hold a batch when a system behind it is overloaded.
//!
//! ```text
//!   Throttles ---> Asked (one for each throttle)        polls every interval while it has listeners
//!       |             |
//!       |          ThrottleState                             pure: the meaning of answers and failures
//!       v             v
//!   ThrottleMonitor ---> Reading                        pure: the combined verdict
//! ```

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

mod change_filter;
mod combined;
mod listener;
mod poller;
mod registry;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use combined::Reading;
pub(crate) use listener::ThrottleMonitor;
pub(crate) use registry::{Throttles, UnknownThrottle};
pub(crate) use state::{Said, ThrottleState};

pub use registry::RegisterThrottleError;

/// The verdict of a throttle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
#[non_exhaustive]
pub enum Verdict {
    /// The batch may run at full speed.
    Go,
    /// The batch may use this fraction of its limits.
    Slow {
        /// The fraction, more than 0 and less than 1. Any other value counts as a failure of the throttle.
        factor: f64,
        /// The reason, with figures: `replica lag 1.4s > 1s`. The first 200 characters are kept.
        reason: String,
    },
    /// The batch must not start anything.
    Hold {
        /// The reason, with figures. The first 200 characters are kept.
        reason: String,
    },
}

impl Verdict {
    /// Returns the fraction of the limits that remains: 1 for `Go`, 0 for `Hold`.
    pub(crate) fn factor(&self) -> f64 {
        match self {
            Self::Go => 1.0,
            Self::Slow { factor, .. } => *factor,
            Self::Hold { .. } => 0.0,
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Go => None,
            Self::Slow { reason, .. } | Self::Hold { reason } => Some(reason),
        }
    }
}

/// Decides whether a batch may run.
///
/// # Order of calls
///
/// 1. At registration, [`name`](Self::name), [`interval`](Self::interval), [`timeout`](Self::timeout) and
///    [`hold_on_failure`](Self::hold_on_failure) are read once.
/// 2. With the first page of a batch that names the throttle, a process calls [`ask`](Self::ask), and calls it
///    again one interval after each answer. However many batches and pages listen, a process makes only one
///    call at a time. The batch is held until the first answer.
/// 3. When the last listener in the process is gone, a running call is dropped at its next `.await`. The next
///    page that names the throttle starts the calls again.
///
/// If a batch has several throttles, the strictest verdict applies: `Hold` before `Slow`, then the lowest
/// factor.
///
/// # Failures
///
/// A call fails if it returns an error, panics, exceeds the [timeout](Self::timeout) or returns a factor that
/// is not between 0 and 1. It is then unknown whether the batch does harm, so the batch is held with the reason
/// `throttle NAME fails: ...`, for at most [`hold_on_failure`](Self::hold_on_failure) in a row. After that the
/// throttle lets go: the batch continues without it, and a warning is logged and repeated while the failure
/// lasts. The calls continue, and the first good answer applies at once.
///
/// Code that blocks its thread cannot be stopped and keeps that thread. The next call starts after it has
/// returned; until then the throttle fails.
///
/// ```
/// use temporal_batch::throttle::{Throttle, Verdict};
///
/// struct Queue;
///
/// impl Queue {
///     async fn length(&self) -> std::io::Result<u64> {
///         Ok(0)
///     }
/// }
///
/// #[async_trait::async_trait]
/// impl Throttle for Queue {
///     fn name(&self) -> &str {
///         "mail-queue"
///     }
///
///     async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
///         Ok(match self.length().await? {
///             0..1_000 => Verdict::Go,
///             n @ 1_000..5_000 => Verdict::Slow { factor: 0.5, reason: format!("{n} mails wait > 1000") },
///             n => Verdict::Hold { reason: format!("{n} mails wait > 5000") },
///         })
///     }
/// }
/// ```
#[async_trait]
pub trait Throttle: Send + Sync + 'static {
    /// Returns the name that batches use: 1 to 100 letters, digits and `. _ / : -`. The name is stored in histories.
    fn name(&self) -> &str;

    /// Takes one measurement. It must be cheap, have no side effects, and not depend on how often it is called.
    ///
    /// # Errors
    /// The measurement failed. The batch is then held for a limited time.
    async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>>;

    /// Returns the wait between an answer and the next call: 10 ms to 1 h.
    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Returns the time limit of a call: 10 ms to 1 h.
    fn timeout(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Returns the longest time in a row for which the batch is held because the throttle fails. With zero the batch is
    /// not held.
    fn hold_on_failure(&self) -> Duration {
        Duration::from_secs(60)
    }
}
