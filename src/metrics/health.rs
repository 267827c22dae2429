//! Readiness of a worker, for an orchestrator or a load balancer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;

/// Maximum length of a reason, in characters.
const MAX_REASON_CHARS: usize = 200;

/// The readiness of the worker of this process: whether it polls for work, and the reason if not. Clones share it.
///
/// [`MetricsServer`](super::MetricsServer) reports it at `/readyz`, and the metric
/// `temporal_batch_worker_ready` is 1 or 0. A process begins as not ready, with the reason `starting`, and its
/// worker updates the state. There is one state for each [`Metrics`](super::Metrics): workers that are to be
/// monitored separately need a process or a `Metrics` each.
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
    /// Creates a state that is not ready. `gauge` follows it.
    pub(super) fn new(gauge: IntGauge) -> Self {
        gauge.set(0);
        Self {
            not_ready: Arc::new(Mutex::new(Some("starting".to_owned()))),
            gauge,
        }
    }

    /// Marks the worker as ready: it polls for work.
    pub fn set_ready(&self) {
        let mut not_ready = self.lock();
        *not_ready = None;
        self.gauge.set(1);
    }

    /// Marks the worker as not ready. The reason is shortened to one line of at most 200 characters. Every
    /// client of the endpoint can read it, so it must not contain secrets.
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

    /// Returns the reason why the worker is not ready. `None` if it is ready.
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
