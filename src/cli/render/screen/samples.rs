//! Items per second, one sample for each second.

use std::collections::VecDeque;

/// The most samples, which is more than the width of a terminal.
const MAX_SAMPLES: usize = 600;

/// The latest samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples {
    ring: VecDeque<f64>,
    /// The end of the last sample, in milliseconds.
    last: Option<u64>,
}

impl Samples {
    /// Adds the pace of a look at the time `at`, in milliseconds. Seconds without a look get the pace of the next look.
    /// An unknown pace clears the samples.
    pub(super) fn add(&mut self, at: u64, per_second: Option<f64>) {
        let Some(per_second) = per_second else {
            self.ring.clear();
            self.last = Some(at);
            return;
        };
        let from = *self.last.get_or_insert(at);
        let seconds = (at / 1_000).saturating_sub(from / 1_000);
        if seconds == 0 {
            return;
        }
        for _ in 0..seconds.min(MAX_SAMPLES as u64) {
            if self.ring.len() == MAX_SAMPLES {
                self.ring.pop_front();
            }
            self.ring.push_back(per_second);
        }
        self.last = Some(at);
    }

    /// Returns the latest samples, the newest first.
    pub(super) fn latest(&self, n: usize) -> impl Iterator<Item = f64> + '_ {
        self.ring.iter().rev().take(n).copied()
    }

    /// Returns the mean of the latest `seconds`, or of fewer if there are no more.
    pub(super) fn mean(&self, seconds: usize) -> Option<f64> {
        let n = self.ring.len().min(seconds);
        (n > 0).then(|| self.latest(n).sum::<f64>() / n as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn there_is_one_sample_for_each_second() {
        let mut samples = Samples::default();
        samples.add(0, None);
        assert_eq!(samples.mean(60), None);
        for half in 1..=20 {
            samples.add(half * 500, Some(100.0));
        }
        assert_eq!(samples.latest(99).collect::<Vec<_>>(), [100.0; 10]);
        samples.add(13_000, Some(200.0));
        assert_eq!(
            samples.latest(4).collect::<Vec<_>>(),
            [200.0, 200.0, 200.0, 100.0]
        );
        assert_eq!(samples.mean(4), Some(175.0));
    }

    #[test]
    fn a_rerun_begins_at_zero() {
        let mut samples = Samples::default();
        samples.add(0, None);
        samples.add(1_000, Some(500.0));
        samples.add(2_000, None);
        assert_eq!(samples.mean(60), None);
        samples.add(3_000, Some(10.0));
        assert_eq!(samples.mean(60), Some(10.0));
    }

    proptest! {
        #[test]
        fn every_second_has_a_sample_until_the_ring_is_full(
            looks in prop::collection::vec((1_u64..5_000_000, 0_u32..10_000), 1..50)
        ) {
            let mut samples = Samples::default();
            samples.add(0, None);
            let mut at = 0;
            for (wait, rate) in looks {
                at += wait;
                samples.add(at, Some(f64::from(rate)));
                prop_assert!(samples.ring.len() <= MAX_SAMPLES);
            }
            prop_assert!(samples.ring.len() as u64 == (at / 1_000).min(MAX_SAMPLES as u64)
                || samples.ring.len() == MAX_SAMPLES);
        }
    }
}
