//! Gauges of the batches whose pages this process runs.
//!
//! ```text
//! about once a second: Progress --> Table: the latest progress of at most 50 batches
//!                                     |
//! GET /metrics --> Registry::gather --> Batches as Collector: forgets, then fills the gauges
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{
    GaugeVec, IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::recorder::opts;
use crate::{
    base::time::Timestamp,
    progress::{
        Progress,
        phase::{HeldBy, Phase},
    },
};

/// Maximum number of batches with series. Each has about 50 series, and batch ids come from users.
const MAX_BATCHES: usize = 50;
/// Maximum number of further batches whose ids are kept in order to count them.
const MAX_OTHERS: usize = 1_000;
/// Time after which a batch that was not seen is dropped: it has ended, or has moved to other workers.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The collector of the gauges of all batches. Clones share them.
#[derive(Clone)]
pub(super) struct Batches {
    table: Arc<Mutex<Table>>,
    gauges: Gauges,
}

impl Batches {
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self {
            table: Arc::default(),
            gauges: Gauges::new()?,
        })
    }

    pub fn seen(&self, progress: &Progress) {
        self.table().seen(progress, Instant::now());
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Batches {
    fn desc(&self) -> Vec<&Desc> {
        let mut desc: Vec<_> = self
            .gauges
            .all()
            .into_iter()
            .flat_map(|g| g.desc())
            .collect();
        desc.extend(self.gauges.not_exported.desc());
        desc
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The lock is held to the end: two concurrent scrapes would clear each other's gauges.
        let mut table = self.table();
        table.forget(Instant::now());
        self.gauges.fill(&table);
        let gauges = self.gauges.all().into_iter();
        let mut families: Vec<_> = gauges.flat_map(Collector::collect).collect();
        // A family without series is not written, and the encoder would report it as an error.
        families.retain(|family| !family.get_metric().is_empty());
        families.extend(self.gauges.not_exported.collect());
        families
    }
}

/// The latest progress of each batch. It does not read the clock.
#[derive(Default)]
struct Table {
    batches: BTreeMap<String, Seen>,
    others: BTreeMap<String, Instant>,
}

struct Seen {
    progress: Progress,
    at: Instant,
    /// The time at which the low-water mark was first seen at its current place.
    mark_since: Instant,
}

impl Table {
    fn seen(&mut self, progress: &Progress, now: Instant) {
        let id = &progress.batch_id;
        if !self.batches.contains_key(id) && self.batches.len() >= MAX_BATCHES {
            self.forget(now);
        }
        if !self.batches.contains_key(id) && self.batches.len() >= MAX_BATCHES {
            if self.others.contains_key(id) || self.others.len() < MAX_OTHERS {
                self.others.insert(id.clone(), now);
            }
            return;
        }
        self.others.remove(id);
        let earlier = self.batches.get(id);
        let stands = earlier.filter(|earlier| {
            earlier.progress.batch_run == progress.batch_run
                && earlier.progress.low_water_mark == progress.low_water_mark
        });
        let seen = Seen {
            progress: without_lists(progress),
            at: now,
            mark_since: stands.map_or(now, |earlier| earlier.mark_since),
        };
        self.batches.insert(id.clone(), seen);
    }

    fn forget(&mut self, now: Instant) {
        let fresh = |at: Instant| now.saturating_duration_since(at) < FORGOTTEN_AFTER;
        self.batches.retain(|_, seen| fresh(seen.at));
        self.others.retain(|_, at| fresh(*at));
    }
}

/// Removes the lists that no gauge shows.
fn without_lists(progress: &Progress) -> Progress {
    let mut progress = progress.clone();
    progress.failing = Vec::new();
    progress.failed = Vec::new();
    progress.failed_items = Vec::new();
    progress.audit = Vec::new();
    progress.skip_reasons = BTreeMap::new();
    progress
}

/// The gauges. All of them have the labels `batch` and `processor`, and some have a third one.
#[derive(Clone)]
struct Gauges {
    phase: GaugeVec,
    held: GaugeVec,
    items: GaugeVec,
    items_expected: GaugeVec,
    pages: GaugeVec,
    in_flight: GaugeVec,
    in_flight_by_age: GaugeVec,
    oldest_in_flight: GaugeVec,
    stuck: GaugeVec,
    strides_waiting: GaugeVec,
    max_parallelism: GaugeVec,
    parallelism_now: GaugeVec,
    page_size: GaugeVec,
    rate_limit: GaugeVec,
    throttle_factor: GaugeVec,
    retries: GaugeVec,
    consecutive_failures: GaugeVec,
    dead_letters: GaugeVec,
    items_per_second: GaugeVec,
    time_left: GaugeVec,
    mark_age: GaugeVec,
    runs: GaugeVec,
    started: GaugeVec,
    deadline: GaugeVec,
    not_exported: IntGauge,
}

const PHASES: [Phase; 11] = [
    Phase::Preparing,
    Phase::Running,
    Phase::Pausing,
    Phase::Paused,
    Phase::Held,
    Phase::Blocked,
    Phase::WaitingForStuckPages,
    Phase::Cancelling,
    Phase::Stopping,
    Phase::Finishing,
    Phase::Ended,
];

fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "preparing",
        Phase::Running => "running",
        Phase::Pausing => "pausing",
        Phase::Paused => "paused",
        Phase::Held => "held",
        Phase::Blocked => "blocked",
        Phase::WaitingForStuckPages => "waiting_for_stuck_pages",
        Phase::Cancelling => "cancelling",
        Phase::Stopping => "stopping",
        Phase::Finishing => "finishing",
        Phase::Ended => "ended",
    }
}

/// All values that a controller reports. Only clients report `NoWorker`, `Workers` and `Pages`.
const HELD_BY: [HeldBy; 13] = [
    HeldBy::Preparing,
    HeldBy::Lock,
    HeldBy::Stage,
    HeldBy::Pause,
    HeldBy::Window,
    HeldBy::Throttle,
    HeldBy::Rate,
    HeldBy::Ramp,
    HeldBy::Tuning,
    HeldBy::Parallelism,
    HeldBy::Discovery,
    HeldBy::Retries,
    HeldBy::ContinueAsNew,
];

const AGES: [&str; 4] = ["under_10s", "under_1m", "under_10m", "longer"];

impl Gauges {
    fn new() -> prometheus::Result<Self> {
        let with = |name: &str, help: &str, label: &str| {
            let opts = opts(&format!("batch_{name}"), help);
            GaugeVec::new(opts, &["batch", "processor", label])
        };
        let plain = |name: &str, help: &str| {
            let opts = opts(&format!("batch_{name}"), help);
            GaugeVec::new(opts, &["batch", "processor"])
        };
        Ok(Self {
            phase: with(
                "phase",
                "1 for the current phase of the batch, 0 for the others.",
                "phase",
            )?,
            held: with(
                "held",
                "1 for the cause that limits the speed of the batch, 0 for the others.",
                "by",
            )?,
            items: with("items", "Items done, by outcome.", "outcome")?,
            items_expected: plain(
                "items_expected",
                "Items in the whole data set, if the processor provides it.",
            )?,
            pages: with("pages", "Pages finished and given up.", "outcome")?,
            in_flight: plain("pages_in_flight", "Pages in flight on all workers.")?,
            in_flight_by_age: with(
                "pages_in_flight_by_age",
                "Pages in flight by time since dispatch.",
                "age",
            )?,
            oldest_in_flight: plain(
                "oldest_in_flight_timestamp_seconds",
                "Dispatch time of the page that has been in flight longest.",
            )?,
            stuck: plain("pages_stuck", "Pages in extended retries.")?,
            strides_waiting: plain(
                "strides_waiting",
                "Strides whose start is known and that are not dispatched yet.",
            )?,
            max_parallelism: plain("max_parallelism", "Configured limit on pages in flight.")?,
            parallelism_now: plain(
                "parallelism_now",
                "Pages in flight currently allowed by limit, ramp, tuning and throttles together.",
            )?,
            page_size: plain("page_size", "Current items per page.")?,
            rate_limit: with(
                "rate_limit",
                "Limit on items or pages per second, if there is one.",
                "of",
            )?,
            throttle_factor: plain(
                "throttle_factor",
                "Fraction of the limits that the throttles leave: 1 is all, 0 holds the batch.",
            )?,
            retries: plain(
                "retries",
                "Failed attempts that were or will be followed by another.",
            )?,
            consecutive_failures: plain(
                "consecutive_failures",
                "Attempts that have failed in a row since a page last finished.",
            )?,
            dead_letters: plain("dead_letters", "Dead letters that were stored.")?,
            items_per_second: plain(
                "items_per_second",
                "Throughput over the last minute, as computed by the controller.",
            )?,
            time_left: with(
                "time_left_seconds",
                "Estimate of the remaining time, if the number of items is known.",
                "bound",
            )?,
            mark_age: plain(
                "low_water_mark_age_seconds",
                "Time since the low-water mark last moved, as seen by this process.",
            )?,
            runs: plain(
                "runs",
                "Temporal runs of the batch run: 1 plus the continue-as-new.",
            )?,
            started: plain("started_timestamp_seconds", "Start time of the batch run.")?,
            deadline: plain(
                "deadline_timestamp_seconds",
                "Time at which the batch stops itself, if it has a deadline.",
            )?,
            not_exported: IntGauge::with_opts(opts(
                "batches_not_exported",
                "Batches without series, because 50 others have series.",
            ))?,
        })
    }

    fn all(&self) -> [&GaugeVec; 24] {
        [
            &self.phase,
            &self.held,
            &self.items,
            &self.items_expected,
            &self.pages,
            &self.in_flight,
            &self.in_flight_by_age,
            &self.oldest_in_flight,
            &self.stuck,
            &self.strides_waiting,
            &self.max_parallelism,
            &self.parallelism_now,
            &self.page_size,
            &self.rate_limit,
            &self.throttle_factor,
            &self.retries,
            &self.consecutive_failures,
            &self.dead_letters,
            &self.items_per_second,
            &self.time_left,
            &self.mark_age,
            &self.runs,
            &self.started,
            &self.deadline,
        ]
    }

    fn fill(&self, table: &Table) {
        for gauge in self.all() {
            gauge.reset();
        }
        for seen in table.batches.values() {
            self.fill_batch(seen);
        }
        // The number is at most 1,000.
        self.not_exported.set(table.others.len() as i64);
    }

    fn fill_batch(&self, seen: &Seen) {
        let p = &seen.progress;
        let (batch, processor) = (p.batch_id.as_str(), p.processor.as_str());
        let plain = |gauge: &GaugeVec, value: f64| {
            gauge.with_label_values(&[batch, processor]).set(value);
        };
        let with = |gauge: &GaugeVec, label: &str, value: f64| {
            let gauge = gauge.with_label_values(&[batch, processor, label]);
            gauge.set(value);
        };
        let known = |gauge: &GaugeVec, value: Option<f64>| {
            if let Some(value) = value {
                plain(gauge, value);
            }
        };

        for phase in PHASES {
            with(&self.phase, phase_label(phase), one_if(p.phase == phase));
        }
        for by in HELD_BY {
            with(&self.held, by.as_str(), one_if(p.held_by == Some(by)));
        }
        for (outcome, items) in [
            ("processed", p.items.processed),
            ("skipped", p.items.skipped),
            ("failed", p.items.failed),
        ] {
            with(&self.items, outcome, items as f64);
        }
        known(&self.items_expected, p.items_expected.map(|n| n as f64));
        with(&self.pages, "completed", p.pages_completed as f64);
        with(&self.pages, "failed", p.pages_failed as f64);
        plain(&self.in_flight, p.pages_in_flight.into());
        for (age, pages) in AGES.into_iter().zip(p.in_flight_by_age) {
            with(&self.in_flight_by_age, age, pages.into());
        }
        known(&self.oldest_in_flight, p.oldest_in_flight.map(seconds));
        plain(&self.stuck, p.pages_stuck.into());
        plain(&self.strides_waiting, p.strides_waiting.into());
        plain(&self.max_parallelism, p.max_parallelism.into());
        plain(&self.parallelism_now, p.parallelism_now.into());
        plain(&self.page_size, p.page_size.into());
        for (of, limit) in [("items", p.rate), ("pages", p.page_rate)] {
            if let Some(limit) = limit {
                with(&self.rate_limit, of, limit);
            }
        }
        let factor = p.throttled.as_ref().map_or(1.0, |t| t.factor);
        plain(&self.throttle_factor, factor);
        plain(&self.retries, p.retries as f64);
        plain(&self.consecutive_failures, p.consecutive_failures as f64);
        plain(&self.dead_letters, p.dead_letters as f64);
        known(&self.items_per_second, p.items_per_second);
        if let Some(left) = p.time_left {
            with(&self.time_left, "at_least", left.at_least);
            with(&self.time_left, "at_most", left.at_most);
        }
        let stood = seen.at.saturating_duration_since(seen.mark_since);
        plain(&self.mark_age, stood.as_secs_f64());
        plain(&self.runs, p.runs.into());
        plain(&self.started, seconds(p.started_at));
        known(&self.deadline, p.deadline.map(seconds));
    }
}

fn one_if(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

/// Converts to seconds since the Unix epoch, the unit of times in Prometheus.
fn seconds(time: Timestamp) -> f64 {
    time.0 as f64 / 1_000.0
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        metrics::{Metrics, recorder::tests::value_of},
        page::token::PageToken,
        progress::{ItemCounts, Throttled, TimeLeft},
    };

    /// Returns a progress with a value in every optional field.
    pub fn full_progress(batch_id: &str) -> Progress {
        let mut progress: Progress = serde_json::from_value(json!({
            "batch_id": batch_id,
            "batch_run": "run-1",
            "processor": "copy",
            "phase": "running",
            "pages_completed": 12,
            "pages_failed": 1,
            "pages_in_flight": 4,
            "pages_stuck": 2,
            "strides_waiting": 3,
            "items": { "processed": 900, "skipped": 50, "failed": 50 },
            "retries": 7,
            "max_parallelism": 8,
            "max_parallelism_achieved": 8,
            "end_of_data": false,
            "started_at": 1_700_000_000_500_u64,
            "as_of": 1_700_000_100_000_u64,
            "runs": 2,
            "announcements_dropped": 0,
        }))
        .unwrap();
        progress.items_expected = Some(10_000);
        progress.rate = Some(500.0);
        progress.page_rate = Some(2.5);
        progress.parallelism_now = 6;
        progress.page_size = 1_000;
        progress.held_by = Some(HeldBy::Throttle);
        progress.throttled = Some(Throttled {
            by: "replica".to_owned(),
            factor: 0.75,
            reason: "replica lag 1.4s > 1s".to_owned(),
            since: Timestamp(1_700_000_090_000),
        });
        progress.items_per_second = Some(480.5);
        progress.time_left = Some(TimeLeft {
            at_least: 60.0,
            at_most: 90.5,
        });
        progress.deadline = Some(Timestamp(1_700_003_600_000));
        progress.oldest_in_flight = Some(Timestamp(1_700_000_095_250));
        progress.in_flight_by_age = [1, 2, 1, 0];
        progress.consecutive_failures = 3;
        progress.dead_letters = 51;
        progress
    }

    fn at(table: &Table, id: &str) -> Duration {
        let seen = &table.batches[id];
        seen.at.duration_since(seen.mark_since)
    }

    #[test]
    fn everything_a_batch_says_is_a_gauge_of_its_own() {
        let metrics = Metrics::new();
        metrics.batch_seen(&full_progress("b-1"));
        let text = metrics.render();
        for (name, label, value) in [
            ("phase", r#",phase="running""#, "1"),
            ("phase", r#",phase="paused""#, "0"),
            ("phase", r#",phase="waiting_for_stuck_pages""#, "0"),
            ("items", r#"outcome="processed","#, "900"),
            ("items", r#"outcome="skipped","#, "50"),
            ("items", r#"outcome="failed","#, "50"),
            ("items_expected", "", "10000"),
            ("pages", r#"outcome="completed","#, "12"),
            ("pages", r#"outcome="failed","#, "1"),
            ("pages_in_flight", "", "4"),
            ("oldest_in_flight_timestamp_seconds", "", "1700000095.25"),
            ("pages_stuck", "", "2"),
            ("strides_waiting", "", "3"),
            ("max_parallelism", "", "8"),
            ("parallelism_now", "", "6"),
            ("page_size", "", "1000"),
            ("rate_limit", r#"of="items","#, "500"),
            ("rate_limit", r#"of="pages","#, "2.5"),
            ("throttle_factor", "", "0.75"),
            ("retries", "", "7"),
            ("consecutive_failures", "", "3"),
            ("dead_letters", "", "51"),
            ("items_per_second", "", "480.5"),
            ("time_left_seconds", r#",bound="at_least""#, "60"),
            ("time_left_seconds", r#",bound="at_most""#, "90.5"),
            ("runs", "", "2"),
            ("started_timestamp_seconds", "", "1700000000.5"),
            ("deadline_timestamp_seconds", "", "1700003600"),
            ("held", r#",by="throttle""#, "1"),
            ("held", r#",by="continue_as_new""#, "0"),
            ("pages_in_flight_by_age", r#"age="under_1m","#, "2"),
        ] {
            let name = format!("temporal_batch_batch_{name}");
            // Labels are sorted by name.
            let line = text.lines().find(|line| {
                let labels = line.strip_prefix(&name).and_then(|l| l.strip_prefix('{'));
                labels.is_some_and(|l| {
                    let label = label.trim_matches(',');
                    l.contains(r#"batch="b-1""#)
                        && l.contains(r#"processor="copy""#)
                        && l.contains(label)
                })
            });
            let line = line.unwrap_or_else(|| panic!("no {name} {label} in:\n{text}"));
            assert_eq!(line.rsplit(' ').next(), Some(value), "{line}");
        }
    }

    #[test]
    fn one_phase_and_at_most_one_holder_is_1() {
        let metrics = Metrics::new();
        let sum = |family: &str| {
            let text = metrics.render();
            let family = format!("temporal_batch_batch_{family}{{");
            let lines = text.lines().filter(|line| line.starts_with(&family));
            let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap());
            values.fold((0, 0), |(n, sum), value| (n + 1, sum + value))
        };
        let mut progress = full_progress("b");
        for phase in PHASES {
            progress.phase = phase;
            metrics.batch_seen(&progress);
            assert_eq!(sum("phase"), (PHASES.len(), 1), "{phase}");
            let word = serde_json::to_value(phase).unwrap();
            assert_eq!(word, phase_label(phase), "as it is stored");
        }
        for by in HELD_BY {
            progress.held_by = Some(by);
            metrics.batch_seen(&progress);
            assert_eq!(sum("held"), (HELD_BY.len(), 1), "{by:?}");
        }
        progress.held_by = None;
        metrics.batch_seen(&progress);
        assert_eq!(sum("held"), (HELD_BY.len(), 0));
    }

    #[test]
    fn what_is_not_known_has_no_series() {
        let metrics = Metrics::new();
        let mut progress = full_progress("b");
        metrics.batch_seen(&progress);
        progress.items_expected = None;
        progress.rate = None;
        progress.page_rate = None;
        progress.throttled = None;
        progress.items_per_second = None;
        progress.time_left = None;
        progress.deadline = None;
        progress.oldest_in_flight = None;
        metrics.batch_seen(&progress);
        let text = metrics.render();
        for name in [
            "items_expected",
            "rate_limit",
            "items_per_second",
            "time_left_seconds",
            "deadline_timestamp_seconds",
            "oldest_in_flight_timestamp_seconds",
        ] {
            let name = format!("temporal_batch_batch_{name}");
            assert!(!text.contains(&name), "{name} in:\n{text}");
        }
        let factor = r#"temporal_batch_batch_throttle_factor{batch="b",processor="copy"}"#;
        assert_eq!(value_of(&text, factor), "1");
    }

    #[test]
    fn the_age_of_the_low_water_mark_counts_from_its_last_move() {
        let mut table = Table::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut progress = full_progress("b");
        table.seen(&progress, after(0));
        assert_eq!(at(&table, "b"), Duration::ZERO);
        table.seen(&progress, after(30));
        assert_eq!(at(&table, "b"), Duration::from_secs(30));

        progress.low_water_mark = Some(PageToken::encode(&7).unwrap());
        table.seen(&progress, after(40));
        assert_eq!(at(&table, "b"), Duration::ZERO);
        table.seen(&progress, after(45));
        assert_eq!(at(&table, "b"), Duration::from_secs(5));

        // Another batch run with the same id starts over.
        progress.batch_run = "run-2".to_owned();
        table.seen(&progress, after(50));
        assert_eq!(at(&table, "b"), Duration::ZERO);
    }

    #[test]
    fn a_batch_that_was_not_seen_for_a_minute_is_forgotten() {
        let mut table = Table::default();
        let start = Instant::now();
        table.seen(&full_progress("a"), start);
        table.seen(&full_progress("b"), start + Duration::from_secs(1));
        table.forget(start + Duration::from_millis(59_999));
        assert_eq!(table.batches.len(), 2);
        table.forget(start + Duration::from_secs(60));
        assert_eq!(table.batches.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn there_are_never_more_than_fifty_batches_and_the_others_are_counted() {
        let mut table = Table::default();
        let start = Instant::now();
        let second = |seconds| start + Duration::from_secs(seconds);
        for n in 0..53 {
            table.seen(&full_progress(&format!("b-{n}")), second(0));
        }
        assert_eq!((table.batches.len(), table.others.len()), (50, 3));
        // A batch with series keeps them; one of the others moves up when there is room.
        table.seen(&full_progress("b-0"), second(1));
        assert_eq!((table.batches.len(), table.others.len()), (50, 3));
        table.batches.remove("b-1");
        table.seen(&full_progress("b-52"), second(1));
        assert_eq!((table.batches.len(), table.others.len()), (50, 2));
        assert!(table.batches.contains_key("b-52"));
        // Places become free without a scrape.
        table.seen(&full_progress("late"), second(60));
        assert!(table.batches.contains_key("late"));
        assert_eq!((table.batches.len(), table.others.len()), (3, 0));

        for n in 0..3_000 {
            table.seen(&full_progress(&format!("c-{n}")), second(60));
        }
        assert_eq!((table.batches.len(), table.others.len()), (50, 1_000));
    }

    #[test]
    fn the_others_are_told() {
        let metrics = Metrics::new();
        let not_exported = "temporal_batch_batches_not_exported";
        assert_eq!(value_of(&metrics.render(), not_exported), "0");
        for n in 0..52 {
            metrics.batch_seen(&full_progress(&format!("b-{n}")));
        }
        let text = metrics.render();
        assert_eq!(value_of(&text, not_exported), "2");
        let series = text.matches("\ntemporal_batch_batch_runs{").count();
        assert_eq!(series, 50);
    }

    #[test]
    fn an_id_with_quotes_and_line_breaks_stays_one_label() {
        let metrics = Metrics::new();
        metrics.batch_seen(&full_progress("a\"b\\c\nd"));
        let series = r#"temporal_batch_batch_runs{batch="a\"b\\c\nd",processor="copy"}"#;
        assert_eq!(value_of(&metrics.render(), series), "2");
    }

    #[test]
    fn a_look_keeps_no_lists_of_failures() {
        let mut progress = full_progress("b");
        progress.skip_reasons.insert("a free sample".to_owned(), 3);
        progress.items = ItemCounts::default();
        let kept = without_lists(&progress);
        assert!(kept.skip_reasons.is_empty());
        assert_eq!(kept.batch_id, "b");
    }
}
