//! Counts that never decrease while a batch run is shown.
//!
//! A recovery restarts the current run of the controller from its initial state. Pages that finished since then run
//! again and are counted once, so the counts of the batch drop for a while, although the person who watches has already
//! seen those pages finish.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    page::{size::Stand, token::PageToken},
    progress::{ItemCounts, Progress},
};

/// Remembers the highest counts and the latest time that were shown of a batch run.
#[derive(Debug, Default)]
pub(crate) struct MonotonicCounts {
    furthest: Option<Furthest>,
    time: Duration,
}

impl MonotonicCounts {
    /// Returns the progress to show for a look, and the number of items that are being processed again.
    pub(crate) fn show(&mut self, look: &Progress) -> (Progress, u64) {
        let mut shown = look.clone();
        let before = self.furthest.take();
        let before = before.filter(|before| before.batch_run == look.batch_run);
        if before.is_none() {
            self.time = Duration::ZERO;
        }
        let again = before.map_or(0, |before| before.hold(&mut shown));
        self.furthest = Some(Furthest::of(&shown));
        (shown, again)
    }

    /// Returns the time to show for the latest look. The age of a running batch is measured with the clock of this
    /// machine, and the duration of one that has ended with the server's, which may be behind.
    pub(crate) fn time(&mut self, time: Duration) -> Duration {
        self.time = self.time.max(time);
        self.time
    }
}

/// The counts that were shown. Counts that belong together are kept together: an item that failed may now be processed.
#[derive(Debug)]
struct Furthest {
    batch_run: String,
    items: ItemCounts,
    skip_reasons: BTreeMap<String, u64>,
    pages: (u64, u64),
    retries: u64,
    dead_letters: u64,
    low_water_mark: Option<PageToken>,
}

impl Furthest {
    fn of(p: &Progress) -> Self {
        Self {
            batch_run: p.batch_run.clone(),
            items: p.items,
            skip_reasons: p.skip_reasons.clone(),
            pages: (p.pages_completed, p.pages_failed),
            retries: p.retries,
            dead_letters: p.dead_letters,
            low_water_mark: p.low_water_mark.clone(),
        }
    }

    /// Raises the counts of a look to the ones that were shown. Returns the number of items that the look is behind.
    fn hold(self, look: &mut Progress) -> u64 {
        let again = self.items.total().saturating_sub(look.items.total());
        if again > 0 {
            look.items = self.items;
            look.skip_reasons = self.skip_reasons;
        }
        let pages_behind = look.pages_completed + look.pages_failed < self.pages.0 + self.pages.1;
        if pages_behind {
            (look.pages_completed, look.pages_failed) = self.pages;
        }
        if again > 0 || pages_behind {
            look.low_water_mark = self.low_water_mark;
        }
        look.retries = look.retries.max(self.retries);
        look.dead_letters = look.dead_letters.max(self.dead_letters);
        look.settle(Stand::Underway);
        again
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::render::sentences::tests::progress;

    fn at(run: &str, processed: u64, failed: u64, pages: u64) -> Progress {
        Progress {
            batch_run: run.to_owned(),
            items: ItemCounts {
                processed,
                failed,
                ..ItemCounts::default()
            },
            pages_completed: pages,
            ..progress()
        }
    }

    #[test]
    fn what_a_recovery_does_again_is_not_taken_back() {
        let mut steady = MonotonicCounts::default();
        let (shown, again) = steady.show(&at("r", 209_000, 5, 209));
        assert_eq!((shown.items.total(), again), (209_005, 0));
        let (shown, again) = steady.show(&at("r", 186_000, 0, 186));
        assert_eq!((shown.items.processed, shown.items.failed), (209_000, 5));
        assert_eq!((shown.pages_completed, again), (209, 23_005));
        let (shown, again) = steady.show(&at("r", 210_000, 0, 210));
        assert_eq!((shown.items.processed, shown.items.failed), (210_000, 0));
        assert_eq!((shown.pages_completed, again), (210, 0));
    }

    #[test]
    fn a_time_is_never_earlier_than_the_one_before_except_in_another_run() {
        let mut steady = MonotonicCounts::default();
        steady.show(&at("r", 1, 0, 1));
        let shown = [1_000, 6_900, 6_500, 7_000].map(|ms| steady.time(Duration::from_millis(ms)));
        assert_eq!(
            shown.map(|time| time.as_millis()),
            [1_000, 6_900, 6_900, 7_000]
        );
        steady.show(&at("s", 0, 0, 0));
        assert_eq!(steady.time(Duration::from_millis(10)).as_millis(), 10);
    }

    #[test]
    fn a_rerun_begins_with_nothing() {
        let mut steady = MonotonicCounts::default();
        steady.show(&at("r", 209_000, 0, 209));
        let (shown, again) = steady.show(&at("s", 0, 0, 0));
        assert_eq!((shown.items.total(), again), (0, 0));
    }

    proptest! {
        #[test]
        fn shown_counts_never_go_back(
            looks in prop::collection::vec((0u64..1_000, 0u64..9, 0u64..20), 1..40)
        ) {
            let mut steady = MonotonicCounts::default();
            let (mut items, mut pages, mut percent) = (0, 0, 0.0);
            for (processed, failed, done) in looks {
                let look = at("r", processed, failed, done);
                let (shown, again) = steady.show(&look);
                prop_assert!(shown.items.total() >= items);
                prop_assert!(shown.pages_completed >= pages);
                prop_assert!(shown.items.total() >= look.items.total());
                prop_assert_eq!(again, shown.items.total() - look.items.total());
                let share = shown.percent().unwrap_or(percent);
                prop_assert!(share >= percent);
                (items, pages, percent) = (shown.items.total(), shown.pages_completed, share);
            }
        }
    }
}
