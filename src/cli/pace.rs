//! Items per second over the last seconds, and the time that is left.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::progress::Progress;

/// Long enough to even out pages, short enough to show a change of parallelism.
const WINDOW: Duration = Duration::from_secs(10);

/// How fast a batch is right now. The time of a look is this machine's: the controller's own clock stands
/// still while nothing happens.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    /// When a look was taken, in milliseconds, and how many items were done.
    looks: VecDeque<(u64, u64)>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            looks: VecDeque::new(),
        }
    }

    pub(crate) fn record(&mut self, progress: &Progress) {
        let now = self.since.elapsed().as_millis() as u64;
        self.add(now, progress.items.total());
    }

    /// A look that was taken `at` so many milliseconds.
    pub(crate) fn add(&mut self, at: u64, items: u64) {
        let last_items = self.looks.back().map_or(0, |(_, items)| *items);
        if items < last_items {
            // Another batch run.
            self.looks.clear();
        }
        self.looks.push_back((at, items));
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
        (millis > 0).then(|| (now - before) as f64 * 1_000.0 / millis as f64)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let mut pace = Pace::new();
        assert_eq!(pace.items_per_second(), None);
        pace.add(0, 0);
        assert_eq!(pace.items_per_second(), None);
        pace.add(1_000, 500);
        assert_eq!(pace.items_per_second(), Some(500.0));
        for second in 2..=60 {
            pace.add(second * 1_000, 500 + (second - 1) * 100);
        }
        assert_eq!(pace.items_per_second(), Some(100.0));
        assert!(pace.looks.len() <= 12, "{}", pace.looks.len());
    }

    #[test]
    fn a_rerun_begins_anew() {
        let mut pace = Pace::new();
        pace.add(0, 0);
        pace.add(1_000, 500);
        pace.add(2_000, 0);
        assert_eq!(pace.items_per_second(), None);
    }
}
