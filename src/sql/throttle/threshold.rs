//! The step from a figure to a verdict.

use std::ops::Range;

use crate::processor::throttle::Verdict;

/// The factor at the limit, just before the throttle holds.
const SLOWEST: f64 = 0.1;

/// The limits of a check of a [`PostgresThrottle`](crate::sql::PostgresThrottle): one value, above which the batch is
/// held, or two, `slow..hold`: the batch is slowed down above the first and held above the second.
///
/// ```
/// use temporal_batch::sql::Threshold;
///
/// let holds_above_4: Threshold<u32> = 4.into();
/// let slows_above_2_and_holds_above_4: Threshold<u32> = (2..4).into();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold<T> {
    pub(crate) slow: Option<T>,
    pub(crate) hold: T,
}

impl<T> From<T> for Threshold<T> {
    fn from(hold: T) -> Self {
        Self { slow: None, hold }
    }
}

impl<T> From<Range<T>> for Threshold<T> {
    fn from(range: Range<T>) -> Self {
        Self {
            slow: Some(range.start),
            hold: range.end,
        }
    }
}

impl<T> Threshold<T> {
    pub(super) fn map<U>(self, to: impl Fn(T) -> U) -> Threshold<U> {
        Threshold {
            slow: self.slow.map(&to),
            hold: to(self.hold),
        }
    }
}

impl Threshold<f64> {
    /// Returns the verdict on a figure. The reason names the exceeded limit.
    pub(super) fn judge(&self, figure: f64, reason: impl FnOnce(f64) -> String) -> Verdict {
        if figure > self.hold {
            let reason = reason(self.hold);
            return Verdict::Hold { reason };
        }
        match self.slow {
            Some(slow) if figure > slow => {
                let way = (figure - slow) / (self.hold - slow);
                let factor = 1.0 - way * (1.0 - SLOWEST);
                // Every other factor is announced to listeners.
                let factor = (factor * 100.0).round() / 100.0;
                Verdict::Slow {
                    factor: factor.clamp(SLOWEST, 0.99),
                    reason: reason(slow),
                }
            }
            _ => Verdict::Go,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(threshold: impl Into<Threshold<f64>>, figure: f64) -> Verdict {
        threshold.into().judge(figure, |limit| format!("> {limit}"))
    }

    #[test]
    fn it_holds_above_the_limit_and_slows_down_between_the_two() {
        let hold = Verdict::Hold {
            reason: "> 4".to_owned(),
        };
        assert_eq!(judge(4.0, 4.0), Verdict::Go);
        assert_eq!(judge(4.0, 4.1), hold);
        assert_eq!(judge(2.0..4.0, 2.0), Verdict::Go);
        assert_eq!(judge(2.0..4.0, 4.1), hold);
        for (figure, factor) in [(2.001, 0.99), (3.0, 0.55), (4.0, 0.1)] {
            let reason = "> 2".to_owned();
            assert_eq!(judge(2.0..4.0, figure), Verdict::Slow { factor, reason });
        }
    }

    proptest! {
        #[test]
        fn more_is_never_easier_and_factors_are_between_0_and_1(
            slow in 0.0..1e6f64, more in 1e-3..1e6f64, one in 0.0..3e6f64, other in 0.0..3e6f64,
        ) {
            let factor = |figure: f64| judge(slow..slow + more, figure).factor();
            let (low, high) = (one.min(other), one.max(other));
            prop_assert!(factor(low) >= factor(high));
            for figure in [low, high] {
                match judge(slow..slow + more, figure) {
                    Verdict::Slow { factor, .. } => prop_assert!((0.1..=0.99).contains(&factor)),
                    Verdict::Go => prop_assert!(figure <= slow),
                    Verdict::Hold { .. } => prop_assert!(figure > slow + more),
                }
            }
        }
    }
}
