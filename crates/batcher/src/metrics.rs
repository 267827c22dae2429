//! Metrics of the workers of batchers.
//!
//! | metric | type | labels |
//! |---|---|---|
//! | `temporal_batch_batcher_batch_requests` | histogram | `batcher` |
//! | `temporal_batch_batcher_wait_seconds` | histogram | `batcher` |
//! | `temporal_batch_batcher_write_duration_seconds` | histogram | `batcher` |
//! | `temporal_batch_batcher_flushes_total` | counter | `batcher`, `reason`: `size`, `bytes`, `time`, `shutdown` |
//! | `temporal_batch_batcher_requests_total` | counter | `batcher`, `outcome`: `written`, `already_done`, `failed` |
//! | `temporal_batch_batcher_pending` | gauge | `batcher`, `shard` |
//! | `temporal_batch_batcher_dead_letters_total` | counter | `batcher` |
//! | `temporal_batch_batcher_write_retries_total` | counter | `batcher` |
//! | `temporal_batch_batcher_confirmations_total` | counter | `batcher`, `outcome`: `confirmed`, `gone`, `retried` |

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector,
};
use temporal_batch::metrics::Metrics;

use crate::{
    protocol::{ConfirmReport, WriteOrder},
    request::Outcome,
};

const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 300.0,
];
const REQUESTS: [f64; 10] = [
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0,
];

/// See the [module documentation](self).
#[derive(Clone)]
pub(crate) struct BatcherMetrics {
    batch_requests: HistogramVec,
    wait: HistogramVec,
    write_duration: HistogramVec,
    flushes: IntCounterVec,
    requests: IntCounterVec,
    pending: IntGaugeVec,
    dead_letters: IntCounterVec,
    write_retries: IntCounterVec,
    confirmations: IntCounterVec,
}

impl BatcherMetrics {
    /// Registers the metrics. Each registry has them once: a second worker that records into the same registry must use
    /// a clone.
    pub fn new(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let registry = metrics.registry();
        Ok(Self {
            batch_requests: histogram(
                registry,
                "batch_requests",
                "Requests in a batch",
                &REQUESTS,
            )?,
            wait: histogram(
                registry,
                "wait_seconds",
                "Time from the receipt of a request to the end of its write",
                &SECONDS,
            )?,
            write_duration: histogram(
                registry,
                "write_duration_seconds",
                "Duration of an attempt at a batch",
                &SECONDS,
            )?,
            flushes: counter(
                registry,
                "flushes_total",
                "Batches by the reason of their flush",
                &["batcher", "reason"],
            )?,
            requests: counter(
                registry,
                "requests_total",
                "Requests by outcome",
                &["batcher", "outcome"],
            )?,
            pending: registered(
                registry,
                IntGaugeVec::new(
                    opts(
                        "pending",
                        "Requests that waited when the last batch was flushed",
                    ),
                    &["batcher", "shard"],
                )?,
            )?,
            dead_letters: counter(
                registry,
                "dead_letters_total",
                "Requests that became dead letters",
                &["batcher"],
            )?,
            write_retries: counter(
                registry,
                "write_retries_total",
                "Attempts at a batch that failed and are repeated",
                &["batcher"],
            )?,
            confirmations: counter(
                registry,
                "confirmations_total",
                "Confirmations by outcome",
                &["batcher", "outcome"],
            )?,
        })
    }

    /// Records a batch that was written. `waits` are the seconds that its requests have waited.
    pub fn written(&self, order: &WriteOrder, outcomes: &[Outcome], waits: &[f64]) {
        let batcher = [order.batcher.as_str()];
        self.batch_requests
            .with_label_values(&batcher)
            .observe(count(order.requests.len()));
        for wait in waits {
            self.wait.with_label_values(&batcher).observe(*wait);
        }
        self.flushes
            .with_label_values(&[batcher[0], order.reason.as_str()])
            .inc();
        self.pending
            .with_label_values(&[batcher[0], &order.shard.to_string()])
            .set(order.pending.into());
        for outcome in outcomes {
            let outcome = match outcome {
                Outcome::Written => "written",
                Outcome::AlreadyDone => "already_done",
                Outcome::Failed { .. } => "failed",
                Outcome::Pending | Outcome::Refused { .. } => continue,
            };
            self.requests
                .with_label_values(&[batcher[0], outcome])
                .inc();
            if outcome == "failed" {
                self.dead_letters.with_label_values(&batcher).inc();
            }
        }
    }

    /// Records how long an attempt took.
    pub fn attempted(&self, batcher: &str, seconds: f64, failed: bool) {
        self.write_duration
            .with_label_values(&[batcher])
            .observe(seconds);
        if failed {
            self.write_retries.with_label_values(&[batcher]).inc();
        }
    }

    /// Records what became of confirmations.
    pub fn confirmed(&self, batcher: &str, report: &ConfirmReport) {
        for (outcome, count) in [
            ("confirmed", report.confirmed),
            ("gone", report.gone),
            ("retried", report.unreached.len() as u64),
        ] {
            self.confirmations
                .with_label_values(&[batcher, outcome])
                .inc_by(count);
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a batch has at most 1,000 requests"
)]
fn count(requests: usize) -> f64 {
    requests as f64
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("temporal_batch_batcher_{name}"), help)
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    registered(registry, IntCounterVec::new(opts(name, help), labels)?)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(options, &["batcher"])?)
}
