//! Decides which changes of a reading to report, and when. Pure.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use super::Reading;

/// Minimum time between reports of changed figures.
const FIGURES: Duration = Duration::from_secs(10);

/// The last report and its time.
#[derive(Debug)]
pub(super) struct LastTold {
    reading: Reading,
    at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The reading is unchanged.
    Nothing,
    /// A change of the reason alone, which waits until this time.
    At(Duration),
    /// A change to report immediately.
    Now,
}

impl LastTold {
    pub fn new(reading: Reading, at: Duration) -> Self {
        Self { reading, at }
    }

    pub fn news(&self, reading: &Reading, now: Duration) -> News {
        if !self.reading.is_like(reading) {
            return News::Now;
        }
        if self.reading == *reading {
            return News::Nothing;
        }
        let due = self.at.saturating_add(FIGURES);
        if due <= now { News::Now } else { News::At(due) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::processor::throttle::Verdict;

    fn slow(factor: f64, reason: &str) -> Reading {
        Reading {
            verdict: Verdict::Slow {
                factor,
                reason: reason.to_owned(),
            },
            by: "db".to_owned(),
            failing: false,
        }
    }

    #[test]
    fn kind_name_and_factor_are_told_at_once_and_figures_after_a_while() {
        let told = LastTold::new(slow(0.5, "lag 2 s"), Duration::from_secs(100));
        let now = Duration::from_secs(101);
        let others = [
            slow(0.4, "lag 2 s"),
            Reading {
                by: "other".to_owned(),
                ..slow(0.5, "lag 2 s")
            },
            Reading {
                failing: true,
                ..slow(0.5, "lag 2 s")
            },
            Reading {
                verdict: Verdict::Go,
                ..slow(0.5, "")
            },
            Reading {
                verdict: Verdict::Hold {
                    reason: "lag 2 s".to_owned(),
                },
                ..slow(0.5, "")
            },
        ];
        for other in others {
            assert_eq!(told.news(&other, now), News::Now, "{other:?}");
        }
        assert_eq!(told.news(&slow(0.5, "lag 2 s"), now), News::Nothing);
        let figures = slow(0.5, "lag 3 s");
        assert_eq!(told.news(&figures, now), News::At(Duration::from_secs(110)));
        assert_eq!(told.news(&figures, Duration::from_secs(110)), News::Now);
    }

    proptest! {
        #[test]
        fn nothing_that_changed_stays_untold_and_figures_are_not_told_often(
            steps in prop::collection::vec((0u64..4_000, 1u8..3, 0u8..3), 1..100),
        ) {
            let mut now = Duration::ZERO;
            let mut last = (slow(0.25, "0"), now);
            let mut told = LastTold::new(last.0.clone(), now);
            for (wait, quarters, reason) in steps {
                now += Duration::from_millis(wait);
                let reading = slow(f64::from(quarters) / 4.0, &reason.to_string());
                match told.news(&reading, now) {
                    News::Nothing => prop_assert_eq!(&reading, &last.0),
                    News::At(at) => {
                        prop_assert!(now < at && at == last.1 + FIGURES);
                        prop_assert_eq!(reading.verdict.factor(), last.0.verdict.factor());
                    }
                    News::Now => {
                        prop_assert_ne!(&reading, &last.0);
                        let same = reading.verdict.factor() == last.0.verdict.factor();
                        prop_assert!(!same || now >= last.1 + FIGURES);
                        last = (reading.clone(), now);
                        told = LastTold::new(reading, now);
                    }
                }
            }
        }
    }
}
