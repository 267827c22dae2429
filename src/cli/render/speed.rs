//! Items per second over the last seconds, and the time left.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::progress::Progress;

/// The time over which the pace is measured: long enough to even out pages, short enough to show a change of
/// parallelism.
const WINDOW: Duration = Duration::from_secs(10);
/// The longest stride whose report is spread over its time. A stride reports all its items at once. The items of a
/// longer stride that exceed one page for each page in flight are shown as the peak that they form in the reports.
const LONGEST_STRIDE: Duration = Duration::from_secs(60);

/// A limit on items per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limit {
    per_second: f64,
    /// The items that pages within the limit may report at once.
    at_once: f64,
}

impl Limit {
    pub(crate) fn of(progress: &Progress) -> Option<Self> {
        let per_second = progress.rate?;
        let pages = f64::from(progress.page_size) * f64::from(progress.max_parallelism);
        Some(Self {
            per_second,
            at_once: pages.max(per_second * LONGEST_STRIDE.as_secs_f64()),
        })
    }

    fn max(self, other: Self) -> Self {
        Self {
            per_second: self.per_second.max(other.per_second),
            at_once: self.at_once.max(other.at_once),
        }
    }
}

/// The current speed of a batch, measured with the clock of this machine: the controller's own clock stands still while
/// nothing happens.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    /// The time of each look in milliseconds, with the number of items done.
    looks: VecDeque<(u64, f64)>,
    /// The items reported at the last look, and the limit on items per second at that time.
    reported: Option<(u64, Option<Limit>)>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            looks: VecDeque::new(),
            reported: None,
        }
    }

    pub(crate) fn record(&mut self, progress: &Progress) {
        let now = self.since.elapsed().as_millis() as u64;
        self.add(now, progress.items.total(), Limit::of(progress));
    }

    /// Records a look at the time `at`, in milliseconds, under a limit.
    pub(crate) fn add(&mut self, at: u64, items: u64, limit: Option<Limit>) {
        let last = self.reported.replace((items, limit));
        if last.is_some_and(|(last, _)| items < last) {
            // This is another batch run, or a recovered one.
            self.looks.clear();
        }
        let done = match (self.looks.back(), last) {
            (Some((from, before)), Some((_, limit_before))) => {
                let highest = limit.zip(limit_before).map(|(a, b)| a.max(b));
                let seconds = at.saturating_sub(*from) as f64 / 1_000.0;
                evened(*before, items as f64, highest, seconds)
            }
            _ => items as f64,
        };
        self.looks.push_back((at, done));
        let oldest = at.saturating_sub(WINDOW.as_millis() as u64);
        // The last look before the window stays: without it, a window with one look would have no rate.
        while self.looks.get(1).is_some_and(|(at, _)| *at <= oldest) {
            self.looks.pop_front();
        }
    }

    /// Returns the rate over the window; `None` before the second look.
    pub(crate) fn items_per_second(&self) -> Option<f64> {
        let (from, before) = self.looks.front()?;
        let (to, now) = self.looks.back()?;
        let millis = to - from;
        (millis > 0).then(|| (now - before) * 1_000.0 / millis as f64)
    }

    /// Returns the time left at this pace, never less than the rate limit allows; `None` if the end or the pace is
    /// unknown.
    pub(crate) fn time_left(&self, progress: &Progress) -> Option<Duration> {
        let left = progress
            .items_expected?
            .saturating_sub(progress.items.total());
        let rate = self.items_per_second().filter(|rate| *rate > 0.0)?;
        let rate = rate.min(progress.rate.unwrap_or(f64::INFINITY));
        Duration::try_from_secs_f64(left as f64 / rate).ok()
    }
}

/// Returns the number of items to count as done. Items that several strides report at once were processed earlier and
/// no faster than the limit allows, so each second counts as many items as the limit allows until all reported items
/// are counted.
fn evened(before: f64, reported: f64, limit: Option<Limit>, seconds: f64) -> f64 {
    let Some(limit) = limit else {
        return reported;
    };
    reported
        .min(before + limit.per_second * seconds)
        .max(reported - limit.at_once)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::render::sentences::tests::progress;

    fn limit(per_second: f64) -> Option<Limit> {
        Limit::of(&Progress {
            rate: Some(per_second),
            ..progress()
        })
    }

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let mut pace = Pace::new();
        assert_eq!(pace.items_per_second(), None);
        pace.add(0, 0, None);
        assert_eq!(pace.items_per_second(), None);
        pace.add(1_000, 500, None);
        assert_eq!(pace.items_per_second(), Some(500.0));
        for second in 2..=60 {
            pace.add(second * 1_000, 500 + (second - 1) * 100, None);
        }
        assert_eq!(pace.items_per_second(), Some(100.0));
        assert!(pace.looks.len() <= 12, "{}", pace.looks.len());
    }

    #[test]
    fn a_rerun_begins_at_zero() {
        let mut pace = Pace::new();
        pace.add(0, 0, None);
        pace.add(1_000, 500, None);
        pace.add(2_000, 0, None);
        assert_eq!(pace.items_per_second(), None);
    }

    #[test]
    fn reports_that_come_together_are_no_peak_above_the_limit() {
        let mut pace = Pace::new();
        pace.add(0, 0, limit(5_000.0));
        // Strides of four seconds end in the same second, and again four seconds later: three times in ten seconds.
        for second in 1..=20 {
            pace.add(second * 1_000, second / 4 * 20_000, limit(5_000.0));
            let now = pace.items_per_second().unwrap();
            assert!(now <= 5_000.0, "{now} after {second} s");
        }
        assert_eq!(
            pace.items_per_second(),
            Some(5_000.0),
            "nothing is lost of it"
        );
    }

    #[test]
    fn a_page_that_is_worth_many_minutes_of_its_rate_is_no_peak_and_promises_no_early_end() {
        let slow = |items: u64| Progress {
            rate: Some(1.0),
            page_size: 1_000,
            items: crate::progress::ItemCounts {
                processed: items,
                ..crate::progress::ItemCounts::default()
            },
            items_expected: Some(5_000),
            ..progress()
        };
        let mut pace = Pace::new();
        for (at, items) in [(0, 0), (1_000, 0), (2_000, 1_000), (3_000, 1_000)] {
            pace.add(at, items, Limit::of(&slow(items)));
            let now = pace.items_per_second().unwrap_or_default();
            assert!(now <= 1.0, "{now} after {at} ms");
        }
        let mut unlimited = Pace::new();
        unlimited.add(0, 0, None);
        unlimited.add(1_000, 1_000, None);
        let left = unlimited.time_left(&slow(1_000));
        assert_eq!(left, Some(Duration::from_secs(4_000)));
    }

    #[test]
    fn a_batch_that_does_not_keep_its_limit_is_seen() {
        let mut pace = Pace::new();
        for second in 0..=600 {
            pace.add(second * 1_000, second * 9_000, limit(5_000.0));
        }
        assert_eq!(pace.items_per_second(), Some(9_000.0));
    }

    proptest! {
        #[test]
        fn what_keeps_the_limit_is_never_shown_above_it(
            limit in 1u64..10_000, reports in prop::collection::vec((1u64..3_000, 0u64..=20), 1..100)
        ) {
            let mut pace = Pace::new();
            let (mut at, mut done, mut reported) = (0, 0.0, 0);
            pace.add(0, 0, Limit::of(&Progress { rate: Some(limit as f64), ..progress() }));
            for (wait, part) in reports {
                at += wait;
                done += limit as f64 * wait as f64 / 1_000.0;
                // A part of the finished items is reported, at most half a minute late.
                let late = (limit * 30) as f64;
                let some = reported + (done as u64).saturating_sub(reported) * part / 20;
                reported = some.max((done - late).max(0.0) as u64);
                pace.add(at, reported, Limit::of(&Progress { rate: Some(limit as f64), ..progress() }));
                let now = pace.items_per_second().unwrap();
                prop_assert!(now <= limit as f64 * 1.000_001, "{} of {}", now, limit);
                prop_assert!(now >= 0.0);
            }
        }
    }
}
