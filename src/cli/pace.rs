//! Items per second over the last seconds, and the time that is left.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::progress::Progress;

/// Long enough to even out pages, short enough to show a change of parallelism.
const WINDOW: Duration = Duration::from_secs(10);
/// A stride reports the items of all of its time at once. One that took longer than this is shown as the peak that
/// it is in the reports.
const LONGEST_STRIDE: Duration = Duration::from_secs(60);

/// How fast a batch is right now. The time of a look is this machine's: the controller's own clock stands
/// still while nothing happens.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    /// When a look was taken, in milliseconds, and how many items were done.
    looks: VecDeque<(u64, f64)>,
    /// Items that had been reported at the last look, and the limit on items per second that held.
    reported: Option<(u64, Option<f64>)>,
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
        self.add(now, progress.items.total(), progress.rate);
    }

    /// A look that was taken `at` so many milliseconds, under a limit of so many items per second.
    pub(crate) fn add(&mut self, at: u64, items: u64, limit: Option<f64>) {
        let last = self.reported.replace((items, limit));
        if last.is_some_and(|(last, _)| items < last) {
            // Another batch run, or one that was recovered.
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
        // The last look before the window stays: without it a window with one look had no rate.
        while self.looks.get(1).is_some_and(|(at, _)| *at <= oldest) {
            self.looks.pop_front();
        }
    }

    /// `None` before the second look.
    pub(crate) fn items_per_second(&self) -> Option<f64> {
        let (from, before) = self.looks.front()?;
        let (to, now) = self.looks.back()?;
        let millis = to - from;
        (millis > 0).then(|| (now - before) * 1_000.0 / millis as f64)
    }

    /// `None` where the end or the pace is unknown.
    pub(crate) fn time_left(&self, progress: &Progress) -> Option<Duration> {
        let left = progress
            .items_expected?
            .saturating_sub(progress.items.total());
        let rate = self.items_per_second().filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(left as f64 / rate).ok()
    }
}

/// How many items to count as done. Those that several strides report at once were done before, and not faster than the
/// limit allows: so many as it does are counted in each second, until none is left over.
fn evened(before: f64, reported: f64, limit: Option<f64>, seconds: f64) -> f64 {
    let Some(limit) = limit.filter(|limit| limit.is_finite() && *limit > 0.0) else {
        return reported;
    };
    let left_over = limit * LONGEST_STRIDE.as_secs_f64();
    reported
        .min(before + limit * seconds)
        .max(reported - left_over)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn a_rerun_begins_anew() {
        let mut pace = Pace::new();
        pace.add(0, 0, None);
        pace.add(1_000, 500, None);
        pace.add(2_000, 0, None);
        assert_eq!(pace.items_per_second(), None);
    }

    #[test]
    fn reports_that_come_together_are_no_peak_above_the_limit() {
        let mut pace = Pace::new();
        pace.add(0, 0, Some(5_000.0));
        // Four strides of five seconds end in the same second, and again five seconds later.
        for second in 1..=20 {
            pace.add(second * 1_000, second / 5 * 25_000, Some(5_000.0));
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
    fn a_batch_that_does_not_keep_its_limit_is_seen() {
        let mut pace = Pace::new();
        for second in 0..=600 {
            pace.add(second * 1_000, second * 9_000, Some(5_000.0));
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
            pace.add(0, 0, Some(limit as f64));
            for (wait, part) in reports {
                at += wait;
                done += limit as f64 * wait as f64 / 1_000.0;
                // A part of the finished items is reported, at most half a minute late.
                let late = (limit * 30) as f64;
                let some = reported + (done as u64).saturating_sub(reported) * part / 20;
                reported = some.max((done - late).max(0.0) as u64);
                pace.add(at, reported, Some(limit as f64));
                let now = pace.items_per_second().unwrap();
                prop_assert!(now <= limit as f64 * 1.000_001, "{} of {}", now, limit);
                prop_assert!(now >= 0.0);
            }
        }
    }
}
