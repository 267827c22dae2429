//! What holds a page back before it begins.

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::processor::throttle::{ThrottleMonitor, Throttles, UnknownThrottle, Verdict};

/// The throttles of a batch, as a page sees them.
#[async_trait]
pub(crate) trait Gate: Send + Sync {
    /// What holds now. `None`: a page may begin. Called often, so it does not ask anybody itself.
    fn held(&self) -> Option<Held>;
    /// Resolves when the answer may have changed. The one who waits looks again now and then all the same.
    async fn changed(&self);
}

/// Why no page may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The throttle.
    pub by: String,
    pub reason: String,
}

/// Without throttles.
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

/// With throttles, which are asked in this process as long as this lives.
pub(crate) struct Throttled {
    now: ThrottleMonitor,
    /// One of its own, as whoever waits has to have it alone.
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
            // The batch has smaller limits then.
            Verdict::Go | Verdict::Slow { .. } => None,
        }
    }

    async fn changed(&self) {
        self.changes.lock().await.changed().await;
    }
}
