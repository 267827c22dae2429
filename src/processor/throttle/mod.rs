//! Throttles: what slows a batch down, or holds it, because something downstream is ill.
//!
//! ```text
//!   Throttles ---> Asked (one for each throttle)        asks every interval while somebody listens
//!       |             |
//!       |          Standing                             pure: what its answers and failures mean
//!       v             v
//!   ThrottleMonitor ---> Reading                        pure: what all of them say together
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

pub use registry::RegisterThrottleError;

/// What a throttle says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing is in the way.
    Go,
    /// Go on with this part of the limits.
    Slow {
        /// More than 0 and less than 1; anything else counts as a failure of the throttle.
        factor: f64,
        /// Why, with the figures: `replica lag 1.4 s > 1 s`. The first 200 characters are kept.
        reason: String,
    },
    /// Start nothing.
    Hold {
        /// Why, with the figures. The first 200 characters are kept.
        reason: String,
    },
}

impl Verdict {
    /// The part of the limits that is left: 1 for `Go`, 0 for `Hold`.
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

/// Says whether a batch may go on.
///
/// # In the order of the calls
///
/// 1. When it is registered, [`name`](Self::name), [`interval`](Self::interval), [`timeout`](Self::timeout)
///    and [`hold_on_failure`](Self::hold_on_failure) are read, once.
/// 2. With the first page of a batch that names it, a process calls [`ask`](Self::ask), and again one
///    interval after each answer. However many batches and pages listen, there is one ask at a time in a
///    process. Until the first answer the batch is held.
/// 3. When nobody in the process listens any more, an ask that runs is dropped at its next `.await`. The
///    next page that names the throttle starts the asking again.
///
/// Where a batch has several throttles, the hardest verdict counts: `Hold` before `Slow`, and the lowest factor.
///
/// # When it fails
///
/// An error, a panic, an ask that takes longer than the [timeout](Self::timeout) and a factor that is not
/// between 0 and 1 are one and the same: nobody knows whether the batch does harm. It is held with the reason
/// `throttle NAME fails: ...`, for [`hold_on_failure`](Self::hold_on_failure) in a row at most. Then the throttle
/// lets go: the batch goes on as if it were not there, a warning is logged, and repeated while it fails. The
/// asking goes on, and the first good answer counts at once.
///
/// Code that blocks its thread cannot be stopped. It keeps that one thread; the next ask starts when it
/// has returned, and until then the throttle fails.
///
/// ```
/// use temporal_batch::{Throttle, Verdict};
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
    /// The name by which batches ask for it: 1 to 100 letters, digits and `. _ / : -`. Stored in histories.
    fn name(&self) -> &str;

    /// Takes one look. Must be cheap, must not change anything, and must not depend on how often it is called.
    ///
    /// # Errors
    /// When it cannot tell; the batch is held then, for a bounded time.
    async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>>;

    /// How long after an answer it is asked again: 10 ms to 1 h.
    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// How long an ask may take: 10 ms to 1 h.
    fn timeout(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// How long in a row the batch is held because the throttle fails. With zero it is not held at all.
    fn hold_on_failure(&self) -> Duration {
        Duration::from_secs(60)
    }
}
