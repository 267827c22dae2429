//! Page sizes that follow the time that pages take.
//!
//! Short pages say nothing about size, so only full ones are measured. They make pages larger slowly, on
//! much evidence, and smaller at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Timestamp,
    batch::{MAX_PAGE_SIZE, pace_settings::page_size::AutoPageSize},
};

/// Time between a change and the next growth.
const GROWTH_INTERVAL: Duration = Duration::from_secs(10);
/// Full pages of a size before a larger one is tried.
const GROWTH_PAGES: u64 = 8;
/// Largest growth at once.
const GROWTH_MOST: f64 = 1.5;
/// Pages grow while slow ones stay below this part of the target.
const GROWTH_BELOW: f64 = 0.8;
/// The part of the target that growth aims at for slow pages. Above `GROWTH_BELOW`, so that growth reaches that
/// bound.
const GROWTH_AIM: f64 = 0.9;
/// One page in this many counts as slow.
const SLOW_END: u64 = 5;
/// Pages shrink when they take more than this part of the target.
const SHRINK_ABOVE: f64 = 1.25;
/// The number of pages that are measured before pages shrink.
const SHRINK_PAGES: u64 = 3;
/// One page alone makes pages shrink when it takes more than this many targets.
const SHRINK_ALONE: f64 = 4.0;
/// The time for which a size that timed out is remembered.
const CEILING_FOR: Duration = Duration::from_secs(600);
/// Reports that are remembered of the current size.
const REPORTS: usize = 10;

/// One stride's measurement of its full pages, those with as many items as requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageSample {
    /// Items that each page was asked for.
    pub page_size: u32,
    /// Full pages.
    pub pages: u32,
    /// Fetch and process time of these pages together, without waits for rate or throttles.
    pub busy: Duration,
    /// The slowest of them.
    pub slowest: Duration,
}

/// Decides how large the next pages are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PageSizer {
    settings: AutoPageSize,
    size: u32,
    changed_at: Option<Timestamp>,
    /// The reports on pages of the current size, newest last.
    reports: Vec<Report>,
    ceiling: Option<Ceiling>,
}

/// One [`PageSample`]: pages, microseconds of all of them, microseconds of the slowest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Report(u32, u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Ceiling {
    size: u32,
    /// The size that timed out.
    timed_out: u32,
    until: Timestamp,
}

impl Report {
    fn of(sample: &PageSample) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let busy = micros(sample.busy);
        let mean = busy / u64::from(sample.pages.max(1));
        Self(sample.pages, busy, micros(sample.slowest).clamp(mean, busy))
    }

    /// Estimates the time that four of five pages stay below.
    ///
    /// Only the mean and the slowest page are known. The slowest of many pages is an outlier, so the estimate moves
    /// towards the mean as the number of pages grows.
    fn slow(&self) -> f64 {
        let Self(pages, busy, slowest) = *self;
        let mean = busy as f64 / f64::from(pages);
        let far = f64::from(pages.max(1).ilog2()) * 0.75;
        // One page that hung must not stand for a fifth of many.
        let slowest = if pages >= 8 {
            (slowest as f64).min(mean * 3.0)
        } else {
            slowest as f64
        };
        mean + (slowest - mean) / far.max(1.0)
    }
}

impl PageSizer {
    /// Begins with `initial`, or with the bound that is nearest to it.
    pub fn new(settings: AutoPageSize, initial: u32) -> Self {
        Self {
            settings,
            size: bounded(initial, &settings),
            changed_at: None,
            reports: Vec::new(),
            ceiling: None,
        }
    }

    /// Items to ask for.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Bounds and target.
    pub fn settings(&self) -> &AutoPageSize {
        &self.settings
    }

    /// Records one stride's measurement of its full pages.
    pub fn observe(&mut self, sample: &PageSample, now: Timestamp) {
        if sample.pages == 0 || !self.is_current(sample.page_size) {
            return;
        }
        if self.reports.len() >= REPORTS {
            self.reports.remove(0);
        }
        self.reports.push(Report::of(sample));
        let next = match self.shrunk() {
            Some(smaller) => smaller,
            None => self.grown(now).unwrap_or(self.size),
        };
        self.change(next, now);
    }

    /// Learns that a page of this size took longer than a page may take.
    pub fn timed_out(&mut self, page_size: u32, now: Timestamp) {
        let current = self.is_current(page_size);
        let before = self.ceiling_at(now).copied();
        if !current && page_size < self.size && before.is_some_and(|c| c.timed_out == page_size) {
            // The first page of this size has halved the pages, which were larger by then.
            return;
        }
        let three_quarters = readable_below(f64::from(page_size) * 0.75);
        let (size, ceiling) = if current || page_size < self.size {
            let half = bounded(smaller(self.size, 0.5), &self.settings);
            // The timeout of a much smaller page must not set a ceiling far below the current size.
            (half, three_quarters.max(half))
        } else {
            (self.size.min(three_quarters), three_quarters)
        };
        self.ceiling = Some(Ceiling {
            size: before.map_or(ceiling, |c| c.size.min(ceiling)),
            timed_out: page_size,
            until: now.plus(CEILING_FOR),
        });
        self.change(size, now);
    }

    /// Returns whether pages of this size belong to the last decision.
    fn is_current(&self, page_size: u32) -> bool {
        u64::from(page_size.abs_diff(self.size)) * 10 <= u64::from(self.size)
    }

    fn ceiling_at(&self, now: Timestamp) -> Option<&Ceiling> {
        self.ceiling.as_ref().filter(|ceiling| now < ceiling.until)
    }

    fn target_micros(&self) -> f64 {
        self.settings.target.as_micros() as f64
    }

    /// The size after pages that were too slow.
    fn shrunk(&self) -> Option<u32> {
        let (mut pages, mut busy, mut slowest) = (0u64, 0f64, 0f64);
        for Report(p, b, s) in self.reports.iter().rev() {
            pages += u64::from(*p);
            busy += *b as f64;
            slowest = slowest.max(*s as f64);
            if pages >= SHRINK_PAGES {
                break;
            }
        }
        let limit = self.target_micros() * SHRINK_ABOVE;
        let mean = busy / pages as f64;
        if mean <= limit {
            return None;
        }
        // One slow page is noise: the others have to be slow too, or it has to be very slow.
        let others = (busy - slowest) / (pages.max(2) - 1) as f64;
        let all_slow = pages >= SHRINK_PAGES && others > limit;
        let one_hung = slowest > self.target_micros() * SHRINK_ALONE;
        let time = match (all_slow, one_hung) {
            (true, _) => others,
            (false, true) => mean,
            (false, false) => return None,
        };
        Some(smaller(self.size, self.target_micros() / time))
    }

    /// The size after pages that were fast for long enough.
    fn grown(&self, now: Timestamp) -> Option<u32> {
        let pages: u64 = self.reports.iter().map(|Report(p, ..)| u64::from(*p)).sum();
        let waited = self
            .changed_at
            .is_none_or(|at| now.since(at) >= GROWTH_INTERVAL);
        if pages < GROWTH_PAGES || !waited {
            return None;
        }
        let slow = self.slow_end(pages);
        if slow >= self.target_micros() * GROWTH_BELOW {
            return None;
        }
        let room = self.target_micros() * GROWTH_AIM / slow.max(1.0);
        let size = f64::from(self.size);
        let mut larger = readable_below(size * room.min(GROWTH_MOST));
        // From one item to two is more than a half, and the only way up.
        if larger <= self.size && size * room >= size + 1.0 && self.size < 10 {
            larger = self.size + 1;
        }
        let ceiling = self.ceiling_at(now).map_or(u32::MAX, |c| c.size);
        Some(larger.min(ceiling).max(self.size))
    }

    /// The time that four of five of these pages stay below.
    fn slow_end(&self, pages: u64) -> f64 {
        let mut slow: Vec<(f64, u32)> = self.reports.iter().map(|r| (r.slow(), r.0)).collect();
        slow.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut seen = 0;
        for (time, pages_so_slow) in &slow {
            seen += u64::from(*pages_so_slow);
            if seen * SLOW_END >= pages {
                return *time;
            }
        }
        slow.last().map_or(f64::MAX, |(time, _)| *time)
    }

    fn change(&mut self, size: u32, now: Timestamp) {
        let size = bounded(size, &self.settings);
        if size != self.size {
            self.size = size;
            self.changed_at = Some(now);
            self.reports.clear();
        }
    }
}

fn bounded(size: u32, settings: &AutoPageSize) -> u32 {
    // Not `clamp`, which panics when `min` exceeds `max`, as in settings that were never validated.
    size.min(settings.max).max(settings.min).max(1)
}

/// The part of a size, but at least a half, in two digits.
fn smaller(size: u32, part: f64) -> u32 {
    let exact = f64::from(size) * part.clamp(0.5, 1.0);
    let below = readable_below(exact);
    let above = if f64::from(below) < exact {
        below + digit(below)
    } else {
        below
    };
    if above < size {
        above
    } else {
        below.min(size.saturating_sub(1)).max(1)
    }
}

/// The next number below that has no more than two digits before its zeros; at least 1.
fn readable_below(size: f64) -> u32 {
    let whole = size.clamp(1.0, f64::from(MAX_PAGE_SIZE)) as u32;
    whole - whole % digit(whole)
}

/// Returns the place value of a number's second digit.
fn digit(number: u32) -> u32 {
    10u32.pow(number.max(1).ilog10().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds() -> AutoPageSize {
        AutoPageSize::new(1, MAX_PAGE_SIZE)
    }

    fn sample(page_size: u32, pages: u32, each: Duration) -> PageSample {
        PageSample {
            page_size,
            pages,
            busy: each * pages,
            slowest: each,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + seconds * 1_000)
    }

    #[test]
    fn the_first_size_is_brought_within_the_bounds() {
        let settings = AutoPageSize::new(100, 5_000);
        for (initial, size) in [(0, 100), (100, 100), (1_234, 1_234), (9_999, 5_000)] {
            assert_eq!(PageSizer::new(settings, initial).size(), size);
        }
    }

    #[test]
    fn pages_of_an_older_size_count_for_nothing() {
        let mut sizer = PageSizer::new(bounds(), 1_000);
        let before = sizer.clone();
        for size in [1, 899, 1_101, 5_000] {
            sizer.observe(&sample(size, 1_000, Duration::ZERO), at(100));
            sizer.observe(&sample(size, 1_000, Duration::from_secs(100)), at(100));
        }
        sizer.observe(&sample(1_000, 0, Duration::ZERO), at(100));
        assert_eq!(sizer, before);
    }

    #[test]
    fn growth_needs_eight_pages_and_is_a_half_at_most() {
        let mut sizer = PageSizer::new(bounds(), 1_000);
        let fast = Duration::from_millis(1);
        sizer.observe(&sample(1_000, 7, fast), at(0));
        assert_eq!(sizer.size(), 1_000);
        sizer.observe(&sample(1_000, 1, fast), at(0));
        assert_eq!(sizer.size(), 1_500);
        sizer.observe(&sample(1_500, 1_000, fast), at(9));
        assert_eq!(sizer.size(), 1_500);
        sizer.observe(&sample(1_500, 1, fast), at(10));
        assert_eq!(sizer.size(), 2_200, "two digits, rounded down");
    }

    #[test]
    fn slow_pages_among_fast_ones_hold_the_size() {
        let mut sizer = PageSizer::new(bounds(), 1_000);
        for n in 0..40 {
            let slow = n % 4 == 0;
            let each = Duration::from_millis(if slow { 850 } else { 100 });
            sizer.observe(&sample(1_000, 1, each), at(n));
        }
        assert_eq!(sizer.size(), 1_000);
    }

    #[test]
    fn one_slow_page_is_noise_and_a_very_slow_one_is_not() {
        let good = Duration::from_millis(900);
        let mut sizer = PageSizer::new(bounds(), 1_000);
        sizer.observe(&sample(1_000, 2, good), at(0));
        sizer.observe(&sample(1_000, 1, Duration::from_millis(3_900)), at(1));
        assert_eq!(sizer.size(), 1_000);
        sizer.observe(&sample(1_000, 1, good), at(2));
        assert_eq!(sizer.size(), 1_000);
        sizer.observe(&sample(1_000, 1, Duration::from_millis(4_100)), at(3));
        assert_eq!(sizer.size(), 500);
        // Of a hundred pages, one that hangs is noise whatever it takes.
        let mut sizer = PageSizer::new(bounds(), 1_000);
        let hundred = PageSample {
            page_size: 1_000,
            pages: 100,
            busy: good * 99 + Duration::from_secs(10),
            slowest: Duration::from_secs(10),
        };
        sizer.observe(&hundred, at(0));
        assert_eq!(sizer.size(), 1_000);
    }

    #[test]
    fn slow_pages_shrink_in_proportion_after_three() {
        let mut sizer = PageSizer::new(bounds(), 1_000);
        let slow = Duration::from_millis(1_600);
        sizer.observe(&sample(1_000, 2, slow), at(0));
        assert_eq!(sizer.size(), 1_000);
        sizer.observe(&sample(1_000, 1, slow), at(0));
        assert_eq!(sizer.size(), 630);
    }

    #[test]
    fn a_burst_of_timeouts_halves_once_and_leaves_a_ceiling() {
        let mut sizer = PageSizer::new(bounds(), 1_000);
        for _ in 0..5 {
            sizer.timed_out(1_000, at(0));
            assert_eq!(sizer.size(), 500);
        }
        let fast = Duration::from_millis(1);
        for second in (10..600).step_by(10) {
            sizer.observe(&sample(sizer.size(), 100, fast), at(second));
            assert!(sizer.size() <= 750);
        }
        assert_eq!(sizer.size(), 750);
        sizer.observe(&sample(750, 100, fast), at(600));
        assert_eq!(sizer.size(), 1_100);
        sizer.timed_out(1_100, at(700));
        assert_eq!(sizer.size(), 550);
        sizer.timed_out(550, at(700));
        assert_eq!(sizer.size(), 280);
    }

    #[test]
    fn a_burst_of_smaller_pages_than_now_halves_once() {
        let mut sizer = PageSizer::new(bounds(), 1_000);
        for _ in 0..5 {
            sizer.timed_out(10, at(0));
            assert_eq!(sizer.size(), 500);
        }
    }

    #[test]
    fn a_timeout_holds_pages_that_have_shrunk_since_below_three_quarters() {
        let mut sizer = PageSizer::new(bounds(), 1_000);
        sizer.observe(&sample(1_000, 3, Duration::from_millis(1_260)), at(0));
        assert_eq!(sizer.size(), 800);
        sizer.timed_out(1_000, at(1));
        sizer.timed_out(1_000, at(2));
        assert_eq!(sizer.size(), 750);
    }

    #[test]
    fn settings_may_be_left_out() {
        let settings: AutoPageSize = serde_json::from_str(r#"{"max":500}"#).unwrap();
        assert_eq!(settings, AutoPageSize::new(100, 500));
    }

    /// Pages that take a fixed time and a time per item, give or take some noise, in a few strides side by
    /// side.
    #[derive(Clone, Debug)]
    struct Source {
        fixed: f64,
        per_item: f64,
        noise: f64,
        strides: usize,
        pages: u32,
        random: fastrand::Rng,
        /// The end of each stride in seconds, and what it will say.
        running: Vec<(f64, PageSample)>,
        pages_done: u64,
    }

    impl Source {
        fn new(
            fixed: f64,
            per_item: f64,
            noise: f64,
            strides: usize,
            pages: u32,
            seed: u64,
        ) -> Self {
            Self {
                fixed,
                per_item,
                noise,
                strides,
                pages,
                random: fastrand::Rng::with_seed(seed),
                running: Vec::new(),
                pages_done: 0,
            }
        }

        fn mean(&self, size: u32) -> f64 {
            self.fixed + self.per_item * f64::from(size)
        }

        fn begin(&mut self, now: f64, size: u32) {
            let (mut busy, mut slowest) = (0f64, 0f64);
            for _ in 0..self.pages {
                let noise = 1.0 + self.noise * (self.random.f64() * 2.0 - 1.0);
                let time = self.mean(size) * noise;
                busy += time;
                slowest = slowest.max(time);
            }
            let sample = PageSample {
                page_size: size,
                pages: self.pages,
                busy: Duration::from_secs_f64(busy),
                slowest: Duration::from_secs_f64(slowest),
            };
            self.running.push((now + busy, sample));
        }

        /// Runs the next stride to its end. Answers when that was.
        fn step(&mut self, sizer: &mut PageSizer, now: f64) -> f64 {
            while self.running.len() < self.strides {
                self.begin(now, sizer.size());
            }
            let ends = self.running.iter().map(|(end, _)| *end);
            let first = ends
                .enumerate()
                .min_by(|a, b| a.1.total_cmp(&b.1))
                .unwrap()
                .0;
            let (end, sample) = self.running.swap_remove(first);
            self.pages_done += u64::from(sample.pages);
            sizer.observe(&sample, Timestamp((end * 1e3) as u64));
            end
        }
    }

    fn source(fixed: std::ops::Range<f64>) -> impl Strategy<Value = (Source, f64)> {
        let target = prop::sample::select(vec![0.1, 1.0, 5.0]);
        let ideal = (1.5f64..4.5).prop_map(|digits| 10f64.powf(digits));
        (
            fixed,
            ideal,
            0.0..0.25,
            1usize..6,
            1u32..12,
            any::<u64>(),
            target,
        )
            .prop_map(|(fixed, ideal, noise, strides, pages, seed, target)| {
                let per_item = target * (1.0 - fixed) / ideal;
                (
                    Source::new(target * fixed, per_item, noise, strides, pages, seed),
                    target,
                )
            })
    }

    /// Time in which any size comes to rest, once pages are not far too large any more.
    fn settling(source: &Source, target: f64) -> f64 {
        40.0 * f64::max(10.0, f64::from(8 + source.pages) * target * 1.3)
    }

    /// Lets the size settle. Answers the time.
    fn settle(source: &mut Source, sizer: &mut PageSizer, target: f64) -> f64 {
        let settling = settling(source, target);
        let (mut now, mut too_large) = (0f64, 0f64);
        while now < too_large + settling {
            now = source.step(sizer, now);
            if source.mean(sizer.size()) > target * 2.0 {
                too_large = now;
            }
        }
        now
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn pages_come_to_take_about_the_target(
            (mut source, target) in source(0.02..0.5), initial in 1u32..100_000,
        ) {
            let settings = bounds().target(Duration::from_secs_f64(target));
            let mut sizer = PageSizer::new(settings, initial);
            let mut now = settle(&mut source, &mut sizer, target);
            let (mut sum, mut changes) = (0f64, 0);
            for _ in 0..300 {
                let before = sizer.size();
                now = source.step(&mut sizer, now);
                changes += u32::from(sizer.size() != before);
                sum += source.mean(sizer.size()) / target;
            }
            let mean = sum / 300.0;
            prop_assert!((0.6..=1.3).contains(&mean), "{mean} of the target at {}", sizer.size());
            prop_assert!(changes <= 30, "{changes} changes");
        }

        #[test]
        fn a_cost_that_rises_tenfold_is_answered_within_a_few_pages(
            (mut source, target) in source(0.0..0.05),
        ) {
            let settings = bounds().target(Duration::from_secs_f64(target));
            let mut sizer = PageSizer::new(settings, 100);
            let mut now = settle(&mut source, &mut sizer, target);
            source.per_item *= 10.0;
            source.pages_done = 0;
            while source.mean(sizer.size()) > target * 1.3 {
                now = source.step(&mut sizer, now);
                // Four halvings, each after what is still running and at most three pages, or one stride.
                let strides = 5 * (source.strides as u64 + 3);
                prop_assert!(source.pages_done <= strides * u64::from(source.pages));
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Sample {
            size: Option<u32>,
            pages: u32,
            busy: u64,
            slowest: u64,
        },
        TimedOut(Option<u32>),
    }

    fn event() -> impl Strategy<Value = (u64, Event)> {
        let micros = prop_oneof![
            0u64..10,
            0u64..10_000_000,
            0u64..10_000_000_000,
            Just(u64::MAX)
        ];
        let size = prop::option::weighted(0.2, prop_oneof![0u32..20, 0u32..2_000_000]);
        let event = prop_oneof![
            9 => (size.clone(), 0u32..2_000, micros.clone(), micros).prop_map(
                |(size, pages, busy, slowest)| Event::Sample { size, pages, busy, slowest }),
            1 => size.prop_map(Event::TimedOut),
        ];
        (0u64..20_000, event)
    }

    fn apply(sizer: &mut PageSizer, event: &Event, now: Timestamp) {
        match *event {
            Event::Sample {
                size,
                pages,
                busy,
                slowest,
            } => {
                let sample = PageSample {
                    page_size: size.unwrap_or(sizer.size()),
                    pages,
                    busy: Duration::from_micros(busy),
                    slowest: Duration::from_micros(slowest),
                };
                sizer.observe(&sample, now);
            }
            Event::TimedOut(size) => sizer.timed_out(size.unwrap_or(sizer.size()), now),
        }
    }

    proptest! {
        #[test]
        fn whatever_is_reported_sizes_stay_within_bounds_and_steps_within_theirs(
            min in 1u32..500, more in 0u32..20_000, initial in 0u32..30_000,
            events in prop::collection::vec(event(), 1..150), stored_at in 0usize..150,
        ) {
            let settings = AutoPageSize::new(min, min + more);
            let mut sizer = PageSizer::new(settings, initial);
            let mut now = Timestamp(0);
            let mut changed: Option<Timestamp> = None;
            for (n, (wait, event)) in events.iter().enumerate() {
                now = now.plus(Duration::from_millis(*wait));
                if n == stored_at {
                    let stored = serde_json::to_string(&sizer).unwrap();
                    prop_assert!(stored.len() < 1_000, "{}", stored.len());
                    let restored: PageSizer = serde_json::from_str(&stored).unwrap();
                    prop_assert_eq!(&restored, &sizer);
                    sizer = restored;
                }
                let before = sizer.size();
                apply(&mut sizer, event, now);
                let after = sizer.size();
                prop_assert!((min..=min + more).contains(&after));
                if after > before {
                    prop_assert!(after <= (before + before / 2).max(before + 1));
                    prop_assert!(changed.is_none_or(|at| now.since(at) >= GROWTH_INTERVAL));
                }
                prop_assert!(after >= before / 2, "{before} to {after}");
                if after != before {
                    changed = Some(now);
                    let bound = after == min || after == min + more;
                    prop_assert!(bound || after == readable_below(f64::from(after)), "{after}");
                }
            }
        }

        #[test]
        fn a_gap_full_of_fast_pages_makes_them_larger_only_by_the_clock(
            initial in 10u32..1_000, every in 1u64..5_000,
        ) {
            let mut sizer = PageSizer::new(bounds(), initial);
            let mut most = f64::from(initial) * 1.5;
            let mut grow_at = 10_000;
            for millis in (0..60_000).step_by(usize::try_from(every).unwrap()) {
                while millis >= grow_at {
                    most *= 1.5;
                    grow_at += 10_000;
                }
                let sample = sample(sizer.size(), 1_000, Duration::from_micros(1));
                sizer.observe(&sample, Timestamp(millis));
                prop_assert!(f64::from(sizer.size()) <= most);
            }
            prop_assert!(sizer.size() > initial);
        }
    }
}
