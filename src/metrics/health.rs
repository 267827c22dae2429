//! Whether a worker can be given work, for whoever supervises it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;

/// Longest reason that is told, in characters.
const MAX_REASON_CHARS: usize = 200;

/// Whether the worker of this process polls for work, and why not if it does not. Clones share their state.
///
/// [`MetricsServer`](super::MetricsServer) tells it at `/readyz`, and the metric `temporal_batch_worker_ready`
/// is 1 or 0. A process begins as not ready, because it is `starting`; the worker says the rest. One process
/// has one such state: give workers that are to be watched apart a process or [`Metrics`](super::Metrics) each.
///
/// ```
/// # use temporal_batch::metrics::Metrics;
/// let metrics = Metrics::new();
/// let health = metrics.health();
/// assert_eq!(health.not_ready().as_deref(), Some("starting"));
///
/// health.set_ready();
/// assert_eq!(health.not_ready(), None);
/// ```
#[derive(Clone, Debug)]
pub struct Health {
    not_ready: Arc<Mutex<Option<String>>>,
    gauge: IntGauge,
}

impl Health {
    /// Not ready yet; `gauge` follows it.
    pub(super) fn new(gauge: IntGauge) -> Self {
        gauge.set(0);
        Self {
            not_ready: Arc::new(Mutex::new(Some("starting".to_owned()))),
            gauge,
        }
    }

    /// The worker polls: it can be given work.
    pub fn set_ready(&self) {
        let mut not_ready = self.lock();
        *not_ready = None;
        self.gauge.set(1);
    }

    /// The worker cannot be given work. The reason becomes one line of at most 200 characters; everybody who
    /// reaches the endpoint can read it, so it holds no secrets.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        let reason: String = reason.into();
        let words = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let visible = words.chars().filter(|c| !c.is_control());
        let mut reason: String = visible.take(MAX_REASON_CHARS).collect();
        if reason.is_empty() {
            reason.push_str("not ready");
        }
        let mut not_ready = self.lock();
        *not_ready = Some(reason);
        self.gauge.set(0);
    }

    /// Why the worker cannot be given work; `None` while it can.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.not_ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    #[test]
    fn it_starts_as_not_ready_and_the_metric_follows() {
        let metrics = Metrics::new();
        let ready = |value| {
            let line = format!("\ntemporal_batch_worker_ready {value}\n");
            metrics.render().contains(&line)
        };
        assert_eq!(metrics.health().not_ready().as_deref(), Some("starting"));
        assert!(ready(0));
        metrics.health().set_ready();
        assert_eq!(metrics.health().not_ready(), None);
        assert!(ready(1));
        metrics.clone().health().set_not_ready("draining");
        assert_eq!(metrics.health().not_ready().as_deref(), Some("draining"));
        assert!(ready(0));
    }

    #[test]
    fn a_reason_is_one_short_line_whatever_is_given() {
        let health = Metrics::new().health();
        for (given, told) in [
            (
                "lost the server:\r\n  refused\u{7}",
                "lost the server: refused",
            ),
            (" \n", "not ready"),
            ("\u{0}", "not ready"),
        ] {
            health.set_not_ready(given);
            assert_eq!(health.not_ready().as_deref(), Some(told));
        }
        health.set_not_ready("é".repeat(1_000));
        assert_eq!(health.not_ready().unwrap().chars().count(), 200);
    }
}
