//! The metrics, behind methods so that callers cannot misspell a label.

use std::fmt;
use std::sync::Arc;

use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder, core::Collector,
};

use super::{
    Health,
    batches::Batches,
    pages_in_flight::PagesInFlight,
    processor::{ProcessorMetrics, Recovery, StrideOutcome},
};
use crate::{page::claim::ClaimOutcome, progress::Progress};

const NAMESPACE: &str = "temporal_batch";

/// Buckets for pages that take a few milliseconds of SQL as well as minutes of calls to a slow API.
const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0,
];

/// Buckets for pages of 1 to 1,000,000 items, most of which have hundreds or thousands.
const ITEMS_BUCKETS: &[f64] = &[
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    50_000.0,
    100_000.0,
    1_000_000.0,
];

/// The metrics of one process. Clones share their values.
///
/// ```
/// use temporal_batch::metrics::Metrics;
///
/// let metrics = Metrics::new();
/// assert!(metrics.render().contains("# TYPE temporal_batch_batches_not_exported gauge"));
/// ```
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Families>,
}

struct Families {
    registry: Registry,
    pages: IntCounterVec,
    items: IntCounterVec,
    page_items: HistogramVec,
    page_duration: HistogramVec,
    fetch_duration: HistogramVec,
    process_duration: HistogramVec,
    pages_in_flight: PagesInFlight,
    page_retries: IntCounterVec,
    rate_wait: CounterVec,
    throttle_wait: CounterVec,
    ledger_claims: IntCounterVec,
    strides: IntCounterVec,
    announce_signals: IntCounterVec,
    dead_letters: IntCounterVec,
    hook_failures: IntCounterVec,
    recoveries: IntCounterVec,
    throttle_factor: GaugeVec,
    throttle_failures: IntCounterVec,
    batches: Batches,
    health: Health,
    #[cfg(feature = "temporal")]
    sdk: super::sdk::SdkMeter,
}

/// Constructors.
impl Metrics {
    /// Creates an empty set of metrics with its own registry.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        #[cfg(feature = "temporal")]
        let sdk = {
            let sdk = super::sdk::SdkMeter::default();
            registered(&registry, Ok(sdk.clone()));
            sdk
        };
        let families = Families {
            pages: counters(
                &registry,
                "pages_total",
                "Attempts at pages that have ended, by outcome.",
                &["processor", "outcome"],
            ),
            items: counters(
                &registry,
                "items_total",
                "Items of completed pages, by outcome.",
                &["processor", "outcome"],
            ),
            page_items: histograms(
                &registry,
                "page_items",
                "Items of a finished page.",
                ITEMS_BUCKETS,
            ),
            page_duration: histograms(
                &registry,
                "page_duration_seconds",
                "Duration of an attempt at a page, from fetch to process, including failed attempts.",
                DURATION_BUCKETS,
            ),
            fetch_duration: histograms(
                &registry,
                "fetch_duration_seconds",
                "Duration of a call of fetch, including failed calls.",
                DURATION_BUCKETS,
            ),
            process_duration: histograms(
                &registry,
                "process_duration_seconds",
                "Duration of a call of process, including failed calls.",
                DURATION_BUCKETS,
            ),
            pages_in_flight: registered(&registry, PagesInFlight::new()),
            page_retries: counters(
                &registry,
                "page_retries_total",
                "Attempts at a page after its first one.",
                &["processor"],
            ),
            rate_wait: seconds(
                &registry,
                "rate_wait_seconds_total",
                "Time that pages waited for the rate limit to let them start.",
            ),
            throttle_wait: seconds(
                &registry,
                "throttle_wait_seconds_total",
                "Time that pages waited for a throttle to let them start.",
            ),
            ledger_claims: counters(
                &registry,
                "ledger_claims_total",
                "Claims of a page in a page ledger, by outcome; a fenced page belongs to another attempt.",
                &["processor", "outcome"],
            ),
            strides: counters(
                &registry,
                "strides_total",
                "Strides that ended, by outcome.",
                &["processor", "outcome"],
            ),
            announce_signals: counters(
                &registry,
                "announce_signals_total",
                "Signals sent to a controller to announce the starts of next strides.",
                &["processor"],
            ),
            dead_letters: counters(
                &registry,
                "dead_letters_total",
                "Dead letters that were stored: records, and pages that could not be split.",
                &["processor"],
            ),
            hook_failures: counters(
                &registry,
                "hook_failures_total",
                "Failed attempts to call a failure handler, tracker or completion hook.",
                &["hook"],
            ),
            recoveries: counters(
                &registry,
                "recoveries_total",
                "Batches and partitions whose workflow task failed permanently, by the worker's reaction.",
                &["outcome"],
            ),
            throttle_factor: registered(
                &registry,
                GaugeVec::new(
                    opts(
                        "throttle_factor",
                        "Latest verdict of a throttle: 1 is go, 0 is hold, in between is slow.",
                    ),
                    &["throttle"],
                ),
            ),
            throttle_failures: counters(
                &registry,
                "throttle_failures_total",
                "Failed calls of a throttle.",
                &["throttle"],
            ),
            batches: registered(&registry, Batches::new()),
            health: Health::new(registered(
                &registry,
                IntGauge::with_opts(opts(
                    "worker_ready",
                    "1 if the worker of this process polls for work, else 0.",
                )),
            )),
            #[cfg(feature = "temporal")]
            sdk,
            registry,
        };
        for outcome in [Recovery::Done, Recovery::Left] {
            let _ = families.recoveries.with_label_values(&[outcome.label()]);
        }
        Self {
            inner: Arc::new(families),
        }
    }
}

/// Recording and reading.
impl Metrics {
    /// Returns the handle for the metrics of one processor.
    ///
    /// All series of that processor exist from this call on, with the value zero, so that rates are right from
    /// the first minute. Two calls with the same name return handles to the same values.
    #[must_use]
    pub(crate) fn for_processor(&self, name: &str) -> ProcessorMetrics {
        let f = &self.inner;
        let outcome = |family: &IntCounterVec, outcome| family.with_label_values(&[name, outcome]);
        ProcessorMetrics {
            pages_completed: outcome(&f.pages, "completed"),
            pages_failed: outcome(&f.pages, "failed"),
            items_processed: outcome(&f.items, "processed"),
            items_skipped: outcome(&f.items, "skipped"),
            items_failed: outcome(&f.items, "failed"),
            page_items: f.page_items.with_label_values(&[name]),
            page_duration: f.page_duration.with_label_values(&[name]),
            fetch_duration: f.fetch_duration.with_label_values(&[name]),
            process_duration: f.process_duration.with_label_values(&[name]),
            pages_in_flight: f.pages_in_flight.of(name),
            page_retries: f.page_retries.with_label_values(&[name]),
            rate_wait: f.rate_wait.with_label_values(&[name]),
            throttle_wait: f.throttle_wait.with_label_values(&[name]),
            claims_committed: outcome(&f.ledger_claims, ClaimOutcome::Committed.label()),
            claims_fenced: outcome(&f.ledger_claims, ClaimOutcome::Fenced.label()),
            claims_failed: outcome(&f.ledger_claims, ClaimOutcome::Failed.label()),
            strides_completed: outcome(&f.strides, StrideOutcome::Completed.label()),
            strides_yielded: outcome(&f.strides, StrideOutcome::Yielded.label()),
            strides_failed: outcome(&f.strides, StrideOutcome::Failed.label()),
            announce_signals: f.announce_signals.with_label_values(&[name]),
            dead_letters: f.dead_letters.with_label_values(&[name]),
        }
    }

    /// Creates the series of a hook with the value zero, so that its first failure shows as an increase.
    pub(crate) fn hook_registered(&self, name: &str) {
        let _ = self.inner.hook_failures.with_label_values(&[name]);
    }

    /// Counts a failed attempt to call a hook.
    pub(crate) fn hook_failed(&self, name: &str) {
        self.inner.hook_failures.with_label_values(&[name]).inc();
    }

    /// Counts a reaction to a batch whose workflow task fails permanently.
    pub(crate) fn recovery(&self, outcome: Recovery) {
        let outcome = outcome.label();
        self.inner.recoveries.with_label_values(&[outcome]).inc();
    }

    /// Creates the series of a throttle's failures with the value zero, so that the first one shows as an
    /// increase. The verdict has no series until the throttle has been called.
    pub(crate) fn throttle_registered(&self, name: &str) {
        let _ = self.inner.throttle_failures.with_label_values(&[name]);
    }

    /// Records the verdict of a throttle: 1 is go, 0 is hold, and values in between are the fraction of the
    /// limits that remains. Values outside this range are clamped, and NaN counts as hold.
    pub(crate) fn throttle_reading(&self, name: &str, factor: f64) {
        let factor = if factor.is_nan() { 0.0 } else { factor };
        let gauge = self.inner.throttle_factor.with_label_values(&[name]);
        gauge.set(factor.clamp(0.0, 1.0));
    }

    /// Records a failed call of a throttle.
    pub(crate) fn throttle_failed(&self, name: &str) {
        self.inner
            .throttle_failures
            .with_label_values(&[name])
            .inc();
    }

    /// Updates the series `temporal_batch_batch_...` from the progress of a batch.
    ///
    /// Call it about once a second while this process runs pages of the batch. The series of a batch that was
    /// not seen for 60 s disappear. At most 50 batches have series. Up to 1,000 further batches are counted in
    /// `temporal_batch_batches_not_exported` and get series when there is room.
    pub(crate) fn batch_seen(&self, progress: &Progress) {
        self.inner.batches.seen(progress);
    }

    /// Returns the readiness of the worker of this process. The worker that records into these metrics updates the
    /// readiness.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.health.clone()
    }

    /// Renders all metrics of the registry in the text format that Prometheus scrapes.
    #[must_use]
    pub fn render(&self) -> String {
        let encoder = TextEncoder::new();
        let mut text = String::new();
        for family in self.inner.registry.gather() {
            // Families are encoded one by one, so that an invalid family of a user's own collector does not
            // affect the others.
            if let Err(error) = encoder.encode_utf8(&[family], &mut text) {
                tracing::warn!(%error, "left a metric out of the exposition");
            }
        }
        text
    }

    /// Returns the registry behind these metrics. Collectors that a user registers here appear on the same endpoint.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    #[cfg(feature = "temporal")]
    pub(super) fn sdk_meter(&self) -> &super::sdk::SdkMeter {
        &self.inner.sdk
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

pub(super) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(opts(name, help), labels))
}

fn seconds(registry: &Registry, name: &str, help: &str) -> CounterVec {
    registered(registry, CounterVec::new(opts(name, help), &["processor"]))
}

fn histograms(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, &["processor"]))
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("the names above are valid names of metrics and labels");
    registry
        .register(Box::new(collector.clone()))
        .expect("the names above differ, and the registry is new");
    collector
}

#[cfg(test)]
pub(super) mod tests {
    use prometheus::IntCounter;

    use super::*;
    use crate::metrics::batches::tests::full_progress;

    /// Reads a value from the rendered text, because that is what Prometheus scrapes.
    pub fn value_of<'a>(text: &'a str, series: &str) -> &'a str {
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
    }

    #[test]
    fn every_documented_metric_is_there_before_the_first_page() {
        let metrics = Metrics::new();
        let _ = metrics.for_processor("copy");
        metrics.hook_registered("mail");
        metrics.throttle_registered("replica");
        metrics.throttle_reading("replica", 1.0);
        metrics.batch_seen(&full_progress("b"));
        let text = metrics.render();
        let table = include_str!("mod.rs");
        let mut documented = 0;
        for line in table.lines().filter(|line| line.starts_with("//! | `")) {
            let name = line.split('`').nth(1).unwrap();
            assert!(
                text.contains(&format!("# HELP {name} ")),
                "no {name} in:\n{text}"
            );
            documented += 1;
        }
        assert_eq!(documented, text.matches("# TYPE ").count());
    }

    #[test]
    fn handles_and_clones_share_their_values() {
        let metrics = Metrics::new();
        metrics.for_processor("copy").announced();
        metrics.clone().for_processor("copy").announced();
        metrics.for_processor("other").announced();
        let series = r#"temporal_batch_announce_signals_total{processor="copy"}"#;
        assert_eq!(value_of(&metrics.render(), series), "2");
    }

    #[test]
    fn a_users_own_collector_is_rendered_too() {
        let metrics = Metrics::new();
        let mine = IntCounter::new("emails_total", "Emails hashed.").unwrap();
        metrics.registry().register(Box::new(mine.clone())).unwrap();
        mine.inc_by(3);
        assert_eq!(value_of(&metrics.render(), "emails_total"), "3");
    }

    #[test]
    fn a_throttle_is_go_or_hold_or_something_between() {
        let metrics = Metrics::new();
        metrics.throttle_registered("replica");
        let failures = r#"temporal_batch_throttle_failures_total{throttle="replica"}"#;
        let factor = r#"temporal_batch_throttle_factor{throttle="replica"}"#;
        let text = metrics.render();
        assert_eq!(value_of(&text, failures), "0");
        assert!(!text.contains(factor), "nothing was said yet: {text}");

        for (said, told) in [
            (1.0, "1"),
            (0.25, "0.25"),
            (0.0, "0"),
            (7.0, "1"),
            (-1.0, "0"),
            (f64::INFINITY, "1"),
            (f64::NAN, "0"),
        ] {
            metrics.throttle_reading("replica", said);
            assert_eq!(value_of(&metrics.render(), factor), told, "{said}");
        }
        metrics.throttle_failed("replica");
        assert_eq!(value_of(&metrics.render(), failures), "1");
    }
}
