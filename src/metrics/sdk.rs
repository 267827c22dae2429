//! The Temporal SDK's own metrics, kept in the registry of this crate.
//!
//! The SDK records through a [`CoreMeter`]. Its built-in implementation has a private registry and its own HTTP
//! server, which would cost a second port and a scrape within each scrape. This implementation adds the same
//! series to this crate's registry.
//!
//! ```text
//! SDK --> SdkMeter --> Table per metric name --> series per label set
//!                                                     |
//! GET /metrics --> Registry::gather --> SdkMeter as Collector
//! ```

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, IntCounter, IntGauge, Opts};
use temporalio_common::telemetry::metrics::{
    CoreMeter, Counter, CounterBase, Gauge, GaugeBase, GaugeF64, GaugeF64Base, Histogram,
    HistogramBase, HistogramDuration, HistogramDurationBase, HistogramF64, HistogramF64Base,
    MetricAttributable, MetricAttributes, MetricParameters, NewAttributes, OrderedPromLabelSet,
    TemporalMeter, UpDownCounter, UpDownCounterBase, default_buckets_for,
};
use temporalio_common::telemetry::{METRIC_PREFIX, TelemetryOptions, telemetry_init};

use super::Metrics;

impl Metrics {
    /// Returns options for the SDK's runtime that add its metrics (`temporal_...`) to this registry.
    ///
    /// Names follow the Prometheus conventions: counters end in `_total`, and durations in `_seconds`. Logging
    /// is not set, so the SDK logs to the program's own `tracing` subscriber.
    ///
    /// ```no_run
    /// # use temporal_batch::metrics::Metrics;
    /// # use temporalio_sdk::{Runtime, runtime::RuntimeOptions};
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let metrics = Metrics::new();
    /// let options = RuntimeOptions::builder()
    ///     .telemetry_options(metrics.telemetry_options())
    ///     .build()?;
    /// let runtime = Runtime::from_current_tokio(options)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn telemetry_options(&self) -> TelemetryOptions {
        TelemetryOptions::builder()
            .metrics(Arc::new(self.sdk_meter().clone()) as Arc<dyn CoreMeter>)
            // The service name would be the same on every series.
            .attach_service_name(false)
            .build()
    }

    /// Returns the meter for a client's connection, which counts its requests. The SDK takes it separately from the
    /// options of the runtime.
    pub(crate) fn connection_meter(&self) -> Option<TemporalMeter> {
        // Without a logger nothing in these options can fail. If that changes, a connection without metrics is
        // better than none.
        telemetry_init(self.telemetry_options())
            .ok()?
            .get_temporal_metric_meter()
    }
}

/// The SDK's meter, implemented on Prometheus types. Clones share their series.
#[derive(Clone, Default)]
pub(super) struct SdkMeter {
    tables: Arc<Tables>,
}

/// The tables by full metric name. The SDK creates the same instrument many times, once for each worker and
/// each pool of slots, and all of them must share their series.
#[derive(Default)]
struct Tables {
    counters: Mutex<BTreeMap<String, Arc<Table<IntCounter>>>>,
    gauges: Mutex<BTreeMap<String, Arc<Table<IntGauge>>>>,
    float_gauges: Mutex<BTreeMap<String, Arc<Table<prometheus::Gauge>>>>,
    histograms: Mutex<BTreeMap<String, Arc<Table<prometheus::Histogram>>>>,
}

/// The series of one metric. A Prometheus vector has one set of label names, but the SDK records one metric
/// with different sets. Each series therefore carries its labels as constants.
struct Table<M> {
    name: String,
    help: String,
    buckets: &'static [f64],
    series: RwLock<HashMap<Labels, M>>,
}

type Labels = BTreeMap<String, String>;

trait Series: Collector + Clone {
    fn create(opts: Opts, buckets: &[f64]) -> prometheus::Result<Self>;
}

impl Series for IntCounter {
    fn create(opts: Opts, _: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for IntGauge {
    fn create(opts: Opts, _: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for prometheus::Gauge {
    fn create(opts: Opts, _: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for prometheus::Histogram {
    fn create(opts: Opts, buckets: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()))
    }
}

impl<M: Series> Table<M> {
    fn series(&self, attributes: &MetricAttributes) -> Result<M, Box<dyn Error>> {
        let labels = labels(attributes)?;
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&labels) {
            return Ok(series.clone());
        }
        drop(known);

        let opts =
            Opts::new(&self.name, &self.help).const_labels(labels.clone().into_iter().collect());
        let series = M::create(opts, self.buckets)?;
        let mut known = self.series.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have created the series first, and it may already have values.
        Ok(known.entry(labels).or_insert(series).clone())
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        series.values().flat_map(Collector::collect).collect()
    }
}

fn labels(attributes: &MetricAttributes) -> Result<Labels, Box<dyn Error>> {
    match attributes {
        MetricAttributes::Prometheus { labels } => Ok(labels
            .as_prom_labels()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()),
        MetricAttributes::Empty => Ok(Labels::new()),
        other => Err(format!("attributes of another meter: {other:?}").into()),
    }
}

/// Returns the table of `name`, creating it on first use.
fn table<M>(
    tables: &Mutex<BTreeMap<String, Arc<Table<M>>>>,
    name: String,
    params: &MetricParameters,
    buckets: &'static [f64],
) -> Arc<Table<M>> {
    let mut tables = lock(tables);
    let table = tables.entry(name).or_insert_with_key(|name| {
        Arc::new(Table {
            name: name.clone(),
            // Prometheus requires a help text, which the SDK does not always provide.
            help: match params.description.trim() {
                "" => name.clone(),
                help => help.to_owned(),
            },
            buckets,
            series: RwLock::default(),
        })
    });
    Arc::clone(table)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces dashes, which the SDK uses in some names and Prometheus does not allow.
fn valid(name: &str) -> String {
    name.replace('-', "_")
}

fn with_suffix(name: &str, suffix: &str) -> String {
    let name = valid(name);
    if suffix.is_empty() || name.ends_with(&format!("_{suffix}")) {
        name
    } else {
        format!("{name}_{suffix}")
    }
}

impl SdkMeter {
    fn histogram_table(&self, params: &MetricParameters) -> Arc<Table<prometheus::Histogram>> {
        let base = params
            .name
            .strip_prefix(METRIC_PREFIX)
            .unwrap_or(&params.name);
        table(
            &self.tables.histograms,
            with_suffix(&params.name, &valid(&params.unit)),
            params,
            default_buckets_for(base, true),
        )
    }

    fn gauge_table(&self, params: &MetricParameters) -> Arc<Table<IntGauge>> {
        table(&self.tables.gauges, valid(&params.name), params, &[])
    }
}

impl CoreMeter for SdkMeter {
    fn new_attributes(&self, attribs: NewAttributes) -> MetricAttributes {
        MetricAttributes::Prometheus {
            labels: Arc::new(attribs.into()),
        }
    }

    fn extend_attributes(
        &self,
        existing: MetricAttributes,
        attribs: NewAttributes,
    ) -> MetricAttributes {
        let mut labels = match existing {
            MetricAttributes::Prometheus { labels } => Arc::unwrap_or_clone(labels),
            _ => OrderedPromLabelSet::new(),
        };
        for attribute in attribs.attributes {
            labels.add_kv(attribute);
        }
        MetricAttributes::Prometheus {
            labels: Arc::new(labels),
        }
    }

    fn counter(&self, params: MetricParameters) -> Counter {
        let name = with_suffix(&params.name, "total");
        Counter::new(Arc::new(Instrument(table(
            &self.tables.counters,
            name,
            &params,
            &[],
        ))))
    }

    fn histogram(&self, params: MetricParameters) -> Histogram {
        Histogram::new(Arc::new(Instrument(self.histogram_table(&params))))
    }

    fn histogram_f64(&self, params: MetricParameters) -> HistogramF64 {
        HistogramF64::new(Arc::new(Instrument(self.histogram_table(&params))))
    }

    fn histogram_duration(&self, mut params: MetricParameters) -> HistogramDuration {
        params.unit = "seconds".into();
        HistogramDuration::new(Arc::new(Instrument(self.histogram_table(&params))))
    }

    fn gauge(&self, params: MetricParameters) -> Gauge {
        Gauge::new(Arc::new(Instrument(self.gauge_table(&params))))
    }

    fn gauge_f64(&self, params: MetricParameters) -> GaugeF64 {
        let name = valid(&params.name);
        GaugeF64::new(Arc::new(Instrument(table(
            &self.tables.float_gauges,
            name,
            &params,
            &[],
        ))))
    }

    fn up_down_counter(&self, params: MetricParameters) -> UpDownCounter {
        UpDownCounter::new(Arc::new(Instrument(self.gauge_table(&params))))
    }
}

impl Collector for SdkMeter {
    /// Returns no descriptions, because they would have to name all labels in advance. A registry accepts one
    /// such collector.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    /// Returns one family for each series. Gathering merges families of the same name.
    fn collect(&self) -> Vec<MetricFamily> {
        fn all<M: Series>(tables: &Mutex<BTreeMap<String, Arc<Table<M>>>>) -> Vec<MetricFamily> {
            lock(tables)
                .values()
                .flat_map(|table| table.collect())
                .collect()
        }
        let mut families = all(&self.tables.counters);
        families.extend(all(&self.tables.gauges));
        families.extend(all(&self.tables.float_gauges));
        families.extend(all(&self.tables.histograms));
        families
    }
}

impl fmt::Debug for SdkMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdkMeter").finish_non_exhaustive()
    }
}

/// A metric whose labels the SDK has yet to bind.
struct Instrument<M>(Arc<Table<M>>);

/// A series to which the SDK records.
struct Bound<M>(M);

macro_rules! bind {
    ($($series:ty => $base:ident),* $(,)?) => {$(
        impl MetricAttributable<Box<dyn $base>> for Instrument<$series> {
            fn with_attributes(
                &self,
                attributes: &MetricAttributes,
            ) -> Result<Box<dyn $base>, Box<dyn Error>> {
                Ok(Box::new(Bound(self.0.series(attributes)?)))
            }
        }
    )*};
}

bind! {
    IntCounter => CounterBase,
    IntGauge => GaugeBase,
    IntGauge => UpDownCounterBase,
    prometheus::Gauge => GaugeF64Base,
    prometheus::Histogram => HistogramBase,
    prometheus::Histogram => HistogramF64Base,
    prometheus::Histogram => HistogramDurationBase,
}

impl CounterBase for Bound<IntCounter> {
    fn adds(&self, value: u64) {
        self.0.inc_by(value);
    }
}

impl GaugeBase for Bound<IntGauge> {
    fn records(&self, value: u64) {
        self.0.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

impl UpDownCounterBase for Bound<IntGauge> {
    fn adds(&self, value: i64) {
        self.0.add(value);
    }
}

impl GaugeF64Base for Bound<prometheus::Gauge> {
    fn records(&self, value: f64) {
        self.0.set(value);
    }
}

impl HistogramBase for Bound<prometheus::Histogram> {
    fn records(&self, value: u64) {
        // Prometheus stores floats; beyond 2^53 the rounding error is one in 10^16.
        #[allow(clippy::cast_precision_loss)]
        self.0.observe(value as f64);
    }
}

impl HistogramF64Base for Bound<prometheus::Histogram> {
    fn records(&self, value: f64) {
        self.0.observe(value);
    }
}

impl HistogramDurationBase for Bound<prometheus::Histogram> {
    fn records(&self, value: Duration) {
        self.0.observe(value.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use temporalio_common::telemetry::metrics::MetricKeyValue;

    use super::*;

    fn meter_of(metrics: &Metrics) -> TemporalMeter {
        metrics.connection_meter().unwrap()
    }

    fn attributes(meter: &TemporalMeter, labels: &[(&str, &'static str)]) -> MetricAttributes {
        meter.new_attributes(NewAttributes::new(
            labels
                .iter()
                .map(|(name, value)| MetricKeyValue::new(*name, *value))
                .collect(),
        ))
    }

    #[test]
    fn what_the_sdk_records_is_rendered_under_prometheus_names() {
        let metrics = Metrics::new();
        let meter = meter_of(&metrics);
        let labels = attributes(&meter, &[("task-queue", "q")]);
        meter.counter("request".into()).add(2, &labels);
        meter.gauge("num_pollers".into()).record(5, &labels);
        meter.up_down_counter("balance".into()).add(-3, &labels);
        meter
            .histogram_duration("request_latency".into())
            .record(Duration::from_millis(80), &labels);

        let text = metrics.render();
        for line in [
            r#"temporal_request_total{task_queue="q"} 2"#,
            r#"temporal_num_pollers{task_queue="q"} 5"#,
            r#"temporal_balance{task_queue="q"} -3"#,
            r#"temporal_request_latency_seconds_bucket{task_queue="q",le="0.05"} 0"#,
            r#"temporal_request_latency_seconds_bucket{task_queue="q",le="0.1"} 1"#,
            r#"temporal_request_latency_seconds_sum{task_queue="q"} 0.08"#,
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in:\n{text}");
        }
    }

    #[test]
    fn one_metric_may_have_different_labels_and_is_still_one_family() {
        let metrics = Metrics::new();
        let _ = metrics.for_processor("copy");
        let meter = meter_of(&metrics);
        let few = attributes(&meter, &[("namespace", "n")]);
        let more = meter.extend_attributes(
            few.clone(),
            NewAttributes::new(vec![MetricKeyValue::new("operation", "Poll")]),
        );
        // Two instruments with one name, as two workers in one process have.
        meter.counter("request".into()).add(1, &few);
        meter.counter("request".into()).add(1, &few);
        meter.counter("request".into()).add(1, &more);

        let text = metrics.render();
        assert!(
            text.contains(r#"temporal_request_total{namespace="n"} 2"#),
            "{text}"
        );
        assert!(
            text.contains(r#"temporal_request_total{namespace="n",operation="Poll"} 1"#),
            "{text}"
        );
        let mut families = HashSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert!(families.insert(line.split(' ').nth(2)), "twice: {line}");
        }
    }

    #[test]
    fn threads_that_race_for_a_new_series_lose_no_value() {
        let metrics = Metrics::new();
        let meter = meter_of(&metrics);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let labels = attributes(&meter, &[("namespace", "n")]);
                        meter.counter("request".into()).add(1, &labels);
                    }
                });
            }
        });
        let text = metrics.render();
        assert!(
            text.contains(r#"temporal_request_total{namespace="n"} 800"#),
            "{text}"
        );
    }

    #[test]
    fn a_label_that_prometheus_refuses_is_an_error() {
        let metrics = Metrics::new();
        let meter = meter_of(&metrics);
        let labels = attributes(&meter, &[("not a name", "v")]);
        let bound = MetricAttributable::<Box<dyn CounterBase>>::with_attributes(
            &Instrument(table::<IntCounter>(
                &metrics.sdk_meter().tables.counters,
                "c_total".to_owned(),
                &"c".into(),
                &[],
            )),
            &labels,
        );
        assert!(bound.is_err());
    }
}
