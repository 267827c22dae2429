//! The pages that this process is working on: their number and the age of the oldest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use prometheus::{
    Gauge, GaugeVec, IntGauge, IntGaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::recorder::opts;

/// The gauges of all processors. The age of the oldest page is computed when metrics are collected.
#[derive(Clone)]
pub(super) struct PagesInFlight {
    pages: IntGaugeVec,
    oldest: GaugeVec,
    processors: Arc<Mutex<BTreeMap<String, Arc<Pages>>>>,
}

/// The pages of one processor.
pub(super) struct Pages {
    count: IntGauge,
    oldest: Gauge,
    started: Mutex<Started>,
}

#[derive(Default)]
struct Started {
    /// The start times. The number distinguishes pages that started at the same moment.
    pages: BTreeSet<(Instant, u64)>,
    next: u64,
}

impl PagesInFlight {
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self {
            pages: IntGaugeVec::new(
                opts(
                    "pages_in_flight",
                    "Pages that this process is currently working on.",
                ),
                &["processor"],
            )?,
            oldest: GaugeVec::new(
                opts(
                    "oldest_page_in_flight_seconds",
                    "Age of the oldest page that this process is working on; 0 if there is none.",
                ),
                &["processor"],
            )?,
            processors: Arc::default(),
        })
    }

    pub fn of(&self, processor: &str) -> Arc<Pages> {
        let mut processors = lock(&self.processors);
        if let Some(pages) = processors.get(processor) {
            return Arc::clone(pages);
        }
        let pages = Arc::new(Pages {
            count: self.pages.with_label_values(&[processor]),
            oldest: self.oldest.with_label_values(&[processor]),
            started: Mutex::default(),
        });
        processors.insert(processor.to_owned(), Arc::clone(&pages));
        pages
    }
}

impl Collector for PagesInFlight {
    fn desc(&self) -> Vec<&Desc> {
        let mut desc = self.pages.desc();
        desc.extend(self.oldest.desc());
        desc
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for pages in lock(&self.processors).values() {
            let oldest = lock(&pages.started).pages.first().copied();
            let age = oldest.map_or(0.0, |(started, _)| started.elapsed().as_secs_f64());
            pages.oldest.set(age);
        }
        let mut families = self.pages.collect();
        families.extend(self.oldest.collect());
        families
    }
}

/// A page that is in flight until this value is dropped.
/// [`ProcessorMetrics::page_started`](super::ProcessorMetrics::page_started) creates it.
#[must_use = "the page counts as in flight only as long as this guard lives"]
pub(crate) struct PageInFlight {
    pages: Arc<Pages>,
    page: (Instant, u64),
}

impl PageInFlight {
    pub(super) fn of(pages: &Arc<Pages>) -> Self {
        let mut started = lock(&pages.started);
        let page = (Instant::now(), started.next);
        started.next += 1;
        started.pages.insert(page);
        drop(started);
        pages.count.inc();
        Self {
            pages: Arc::clone(pages),
            page,
        }
    }
}

impl Drop for PageInFlight {
    fn drop(&mut self) {
        lock(&self.pages.started).pages.remove(&self.page);
        self.pages.count.dec();
    }
}

impl fmt::Debug for PageInFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageInFlight").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Metrics, recorder::tests::value_of};

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
    fn the_oldest_page_is_the_one_whose_age_is_told() {
        let in_flight = PagesInFlight::new().unwrap();
        let age = || {
            let families = in_flight.collect();
            families[1].get_metric()[0].get_gauge().get_value()
        };
        let pages = in_flight.of("copy");
        assert_eq!(age(), 0.0);

        let old = PageInFlight::of(&pages);
        let mut older = PageInFlight::of(&in_flight.of("copy"));
        // The page is made to look an hour old. A clock that started less than an hour ago has no such time.
        let Some(hour_ago) = Instant::now().checked_sub(Duration::from_secs(3_600)) else {
            return;
        };
        let moved = (hour_ago, older.page.1);
        let mut started = lock(&pages.started);
        started.pages.remove(&older.page);
        started.pages.insert(moved);
        drop(started);
        older.page = moved;

        assert!(age() >= 3_600.0);
        drop(older);
        assert!(age() < 3_600.0);
        drop(old);
        assert_eq!(age(), 0.0);
    }
}
