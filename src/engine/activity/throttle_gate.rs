//! The gate that may hold a page before it starts.

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::processor::throttle::{ThrottleMonitor, Throttles, UnknownThrottle, Verdict};

/// The throttles of a batch, as a page sees them.
#[async_trait]
pub(crate) trait Gate: Send + Sync {
    /// Returns the throttle that holds. `None` if a page may start. It is called often, so it never calls a
    /// throttle itself.
    fn held(&self) -> Option<Held>;
    /// Resolves when the answer may have changed. The caller also checks periodically.
    async fn changed(&self);
}

/// The reason why no page may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The name of the throttle.
    pub by: String,
    pub reason: String,
}

/// The gate of a batch without throttles.
pub(crate) struct AlwaysOpen;

#[async_trait]
impl Gate for AlwaysOpen {
    fn held(&self) -> Option<Held> {
        None
    }

    async fn changed(&self) {
        std::future::pending::<()>().await;
    }
}

/// The gate of a batch with throttles, which are polled in this process while it exists.
pub(crate) struct Throttled {
    now: ThrottleMonitor,
    /// A second monitor for waiting, which needs exclusive access.
    changes: Mutex<ThrottleMonitor>,
}

impl Throttled {
    pub fn by(throttles: &Throttles, names: &[String]) -> Result<Self, UnknownThrottle> {
        Ok(Self {
            now: throttles.monitor(names)?,
            changes: Mutex::new(throttles.monitor(names)?),
        })
    }
}

#[async_trait]
impl Gate for Throttled {
    fn held(&self) -> Option<Held> {
        let reading = self.now.current();
        match reading.verdict {
            Verdict::Hold { reason } => Some(Held {
                by: reading.by,
                reason,
            }),
            // A slowed batch has smaller limits instead.
            Verdict::Go | Verdict::Slow { .. } => None,
        }
    }

    async fn changed(&self) {
        self.changes.lock().await.changed().await;
    }
}
