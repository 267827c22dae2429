//! The metrics themselves, behind methods that leave no label to misspell.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Counter, CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

const NAMESPACE: &str = "temporal_batch";

/// A page is a few milliseconds of SQL or minutes of calls to a slow API; both must be told apart.
const PAGE_DURATION_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// The metrics of one process. Clones share their values.
///
/// ```
/// # use temporal_batch::metrics::Metrics;
/// # use std::time::Duration;
/// let metrics = Metrics::new();
/// let processor = metrics.for_processor("hash-emails");
///
/// let in_flight = processor.page_started();
/// processor.page_completed(Duration::from_millis(40), 998, 1, 1);
/// drop(in_flight);
///
/// assert!(metrics.render().contains(
///     r#"temporal_batch_items_total{outcome="processed",processor="hash-emails"} 998"#,
/// ));
/// ```
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Families>,
}

struct Families {
    registry: Registry,
    pages: IntCounterVec,
    items: IntCounterVec,
    page_duration: HistogramVec,
    pages_in_flight: IntGaugeVec,
    page_retries: IntCounterVec,
    rate_wait: CounterVec,
    strides: IntCounterVec,
    announce_signals: IntCounterVec,
    dead_letters: IntCounterVec,
    hook_failures: IntCounterVec,
    #[cfg(feature = "temporal")]
    sdk: super::sdk::SdkMeter,
}

/// Constructors.
impl Metrics {
    /// An empty set of metrics with a registry of its own.
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
                "Attempts at a page that ended, by outcome.",
                &["processor", "outcome"],
            ),
            items: counters(
                &registry,
                "items_total",
                "Items of completed pages, by what became of them.",
                &["processor", "outcome"],
            ),
            page_duration: registered(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "page_duration_seconds",
                        "Time that an attempt at a page took to fetch and to process it, failed attempts included.",
                    )
                    .namespace(NAMESPACE)
                    .buckets(PAGE_DURATION_BUCKETS.to_vec()),
                    &["processor"],
                ),
            ),
            pages_in_flight: registered(
                &registry,
                IntGaugeVec::new(
                    opts("pages_in_flight", "Pages that this process works on right now."),
                    &["processor"],
                ),
            ),
            page_retries: counters(
                &registry,
                "page_retries_total",
                "Attempts at a page after its first one.",
                &["processor"],
            ),
            rate_wait: registered(
                &registry,
                CounterVec::new(
                    opts(
                        "rate_wait_seconds_total",
                        "Time that pages waited for the rate limit to let them start.",
                    ),
                    &["processor"],
                ),
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
                "Dead letters that were kept: records, and pages that could not be split.",
                &["processor"],
            ),
            hook_failures: counters(
                &registry,
                "hook_failures_total",
                "Attempts to call a failure handler, tracker or completion hook that failed.",
                &["hook"],
            ),
            #[cfg(feature = "temporal")]
            sdk,
            registry,
        };
        Self {
            inner: Arc::new(families),
        }
    }
}

/// Recording and reading.
impl Metrics {
    /// The handle through which the work of one processor is counted.
    ///
    /// Every series of that processor exists from here on, with zeros, so that a rate over the first
    /// minutes is right. Asking twice for one name gives two handles to the same values.
    #[must_use]
    pub fn for_processor(&self, name: &str) -> ProcessorMetrics {
        let f = &self.inner;
        let outcome = |family: &IntCounterVec, outcome| family.with_label_values(&[name, outcome]);
        ProcessorMetrics {
            pages_completed: outcome(&f.pages, "completed"),
            pages_failed: outcome(&f.pages, "failed"),
            items_processed: outcome(&f.items, "processed"),
            items_skipped: outcome(&f.items, "skipped"),
            items_failed: outcome(&f.items, "failed"),
            page_duration: f.page_duration.with_label_values(&[name]),
            pages_in_flight: f.pages_in_flight.with_label_values(&[name]),
            page_retries: f.page_retries.with_label_values(&[name]),
            rate_wait: f.rate_wait.with_label_values(&[name]),
            strides_completed: outcome(&f.strides, StrideOutcome::Completed.label()),
            strides_yielded: outcome(&f.strides, StrideOutcome::Yielded.label()),
            strides_failed: outcome(&f.strides, StrideOutcome::Failed.label()),
            announce_signals: f.announce_signals.with_label_values(&[name]),
            dead_letters: f.dead_letters.with_label_values(&[name]),
        }
    }

    /// Makes the series of a hook, with zero, so that its first failure is seen as one.
    pub fn hook_registered(&self, name: &str) {
        let _ = self.inner.hook_failures.with_label_values(&[name]);
    }

    /// Counts a failed attempt to call a hook.
    pub fn hook_failed(&self, name: &str) {
        self.inner.hook_failures.with_label_values(&[name]).inc();
    }

    /// Everything in the registry in the text format that Prometheus scrapes.
    #[must_use]
    pub fn render(&self) -> String {
        let encoder = TextEncoder::new();
        let mut text = String::new();
        for family in self.inner.registry.gather() {
            // One by one: a family that cannot be written, from a collector that a user added, must
            // not take the others with it.
            if let Err(error) = encoder.encode_utf8(&[family], &mut text) {
                tracing::warn!(%error, "left a metric out of the exposition");
            }
        }
        text
    }

    /// The registry behind these metrics, for a user's own collectors: they then appear on the same
    /// endpoint.
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

/// How a stride ended, as far as the worker that ran it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrideOutcome {
    /// All of its pages are finished.
    Completed,
    /// It stopped at a page boundary before its end, because a hand-over, a pause or a new limit asked
    /// for it.
    Yielded,
    /// One of its pages failed.
    Failed,
}

impl StrideOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Yielded => "yielded",
            Self::Failed => "failed",
        }
    }
}

/// Counts the work of one processor. Made by [`Metrics::for_processor`]; clones share their values.
#[derive(Clone)]
pub struct ProcessorMetrics {
    pages_completed: IntCounter,
    pages_failed: IntCounter,
    items_processed: IntCounter,
    items_skipped: IntCounter,
    items_failed: IntCounter,
    page_duration: Histogram,
    pages_in_flight: IntGauge,
    page_retries: IntCounter,
    rate_wait: Counter,
    strides_completed: IntCounter,
    strides_yielded: IntCounter,
    strides_failed: IntCounter,
    announce_signals: IntCounter,
    dead_letters: IntCounter,
}

impl ProcessorMetrics {
    /// A page begins. It is in flight until the returned guard is dropped, also when the work on it
    /// panics or is cancelled.
    #[must_use = "the page counts as in flight only as long as this guard lives"]
    pub fn page_started(&self) -> PageInFlight {
        self.pages_in_flight.inc();
        PageInFlight {
            pages_in_flight: self.pages_in_flight.clone(),
        }
    }

    /// An attempt finished its page; `duration` is the time from the begin of `fetch` to the end of
    /// `process`, and the three counts say what became of the items.
    pub fn page_completed(&self, duration: Duration, processed: u64, skipped: u64, failed: u64) {
        self.pages_completed.inc();
        self.page_duration.observe(duration.as_secs_f64());
        self.items_processed.inc_by(processed);
        self.items_skipped.inc_by(skipped);
        self.items_failed.inc_by(failed);
    }

    /// An attempt at a page failed after `duration`, whether or not another one follows.
    pub fn page_failed(&self, duration: Duration) {
        self.pages_failed.inc();
        self.page_duration.observe(duration.as_secs_f64());
    }

    /// A page is attempted again.
    pub fn page_retried(&self) {
        self.page_retries.inc();
    }

    /// A page waited this long for the rate limit.
    pub fn rate_waited(&self, duration: Duration) {
        self.rate_wait.inc_by(duration.as_secs_f64());
    }

    /// A stride ended.
    pub fn stride_ended(&self, outcome: StrideOutcome) {
        match outcome {
            StrideOutcome::Completed => self.strides_completed.inc(),
            StrideOutcome::Yielded => self.strides_yielded.inc(),
            StrideOutcome::Failed => self.strides_failed.inc(),
        }
    }

    /// A signal announced the starts of next strides, one or several.
    pub fn announced(&self) {
        self.announce_signals.inc();
    }

    /// So many dead letters were kept.
    pub fn dead_letters_kept(&self, letters: u64) {
        self.dead_letters.inc_by(letters);
    }
}

impl fmt::Debug for ProcessorMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorMetrics").finish_non_exhaustive()
    }
}

/// A page in flight; dropping it ends that. Made by [`ProcessorMetrics::page_started`].
#[must_use = "the page counts as in flight only as long as this guard lives"]
pub struct PageInFlight {
    pages_in_flight: IntGauge,
}

impl Drop for PageInFlight {
    fn drop(&mut self) {
        self.pages_in_flight.dec();
    }
}

impl fmt::Debug for PageInFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageInFlight").finish_non_exhaustive()
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(opts(name, help), labels))
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
mod tests {
    use super::*;

    /// As text, because that is what is scraped.
    fn value_of<'a>(text: &'a str, series: &str) -> &'a str {
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
    }

    #[test]
    fn every_documented_metric_is_there_before_the_first_page() {
        let metrics = Metrics::new();
        let _ = metrics.for_processor("copy");
        metrics.hook_registered("mail");
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
    fn a_page_is_counted_once_with_its_items() {
        let metrics = Metrics::new();
        let copy = metrics.for_processor("copy");
        copy.page_completed(Duration::from_millis(20), 7, 2, 1);
        copy.page_failed(Duration::from_secs(400));

        let text = metrics.render();
        let pages = |outcome| {
            let series =
                format!(r#"temporal_batch_pages_total{{outcome="{outcome}",processor="copy"}}"#);
            value_of(&text, &series)
        };
        let items = |outcome| {
            let series =
                format!(r#"temporal_batch_items_total{{outcome="{outcome}",processor="copy"}}"#);
            value_of(&text, &series)
        };
        assert_eq!((pages("completed"), pages("failed")), ("1", "1"));
        assert_eq!(
            (items("processed"), items("skipped"), items("failed")),
            ("7", "2", "1")
        );
        let bucket = |le| {
            let series = format!(
                r#"temporal_batch_page_duration_seconds_bucket{{processor="copy",le="{le}"}}"#
            );
            value_of(&text, &series)
        };
        assert_eq!((bucket("0.01"), bucket("0.025")), ("0", "1"));
        assert_eq!((bucket("300"), bucket("+Inf")), ("1", "2"));
    }

    #[test]
    fn a_page_is_in_flight_until_its_guard_is_dropped_by_a_panic_too() {
        let metrics = Metrics::new();
        let copy = metrics.for_processor("copy");
        let series = r#"temporal_batch_pages_in_flight{processor="copy"}"#;

        let first = copy.page_started();
        let second = copy.page_started();
        assert_eq!(value_of(&metrics.render(), series), "2");
        drop(first);
        assert_eq!(value_of(&metrics.render(), series), "1");
        std::thread::spawn(move || {
            let _second = second;
            panic!("user code");
        })
        .join()
        .unwrap_err();
        assert_eq!(value_of(&metrics.render(), series), "0");
    }

    #[test]
    fn retries_waits_strides_and_signals_are_counted() {
        let metrics = Metrics::new();
        let copy = metrics.for_processor("copy");
        copy.page_retried();
        copy.rate_waited(Duration::from_millis(250));
        copy.rate_waited(Duration::from_millis(500));
        copy.stride_ended(StrideOutcome::Completed);
        copy.stride_ended(StrideOutcome::Yielded);
        copy.stride_ended(StrideOutcome::Yielded);
        copy.stride_ended(StrideOutcome::Failed);
        copy.announced();

        let text = metrics.render();
        for (series, expected) in [
            (
                r#"temporal_batch_page_retries_total{processor="copy"}"#,
                "1",
            ),
            (
                r#"temporal_batch_rate_wait_seconds_total{processor="copy"}"#,
                "0.75",
            ),
            (
                r#"temporal_batch_strides_total{outcome="completed",processor="copy"}"#,
                "1",
            ),
            (
                r#"temporal_batch_strides_total{outcome="yielded",processor="copy"}"#,
                "2",
            ),
            (
                r#"temporal_batch_strides_total{outcome="failed",processor="copy"}"#,
                "1",
            ),
            (
                r#"temporal_batch_announce_signals_total{processor="copy"}"#,
                "1",
            ),
        ] {
            assert_eq!(value_of(&text, series), expected, "{series}");
        }
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
}
