//! The combined reading of several throttles. Pure.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cmp::Ordering;

use super::{Verdict, state::Said};

/// The combined reading of some throttles.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The strictest verdict: `Hold` before `Slow`, the lowest factor before higher ones.
    pub verdict: Verdict,
    /// The throttle with the strictest verdict, or the first of them by name. If all throttles are open, the
    /// first failing throttle. Empty if there are no throttles.
    pub by: String,
    /// True if at least one throttle fails, so that its own verdict is unknown. It is holding, or has let go.
    pub failing: bool,
}

impl Reading {
    /// Combines throttles, which must be sorted by name.
    pub fn of<'a>(said: impl Iterator<Item = (&'a str, &'a Said)>) -> Self {
        let mut hardest: Option<(&str, &Said)> = None;
        let mut failing = false;
        for (name, said) in said {
            failing |= said.failing;
            if hardest.is_none_or(|(_, other)| harder(said, other)) {
                hardest = Some((name, said));
            }
        }
        let (by, verdict) =
            hardest.map_or(("", Verdict::Go), |(by, said)| (by, said.verdict.clone()));
        Self {
            verdict,
            by: by.to_owned(),
            failing,
        }
    }

    /// Returns whether two readings differ at most in the figures of the reason.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.verdict.factor() == other.verdict.factor()
            && self.by == other.by
            && self.failing == other.failing
    }
}

fn harder(one: &Said, other: &Said) -> bool {
    match one.verdict.factor().total_cmp(&other.verdict.factor()) {
        Ordering::Less => true,
        Ordering::Equal => one.verdict == Verdict::Go && one.failing && !other.failing,
        Ordering::Greater => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Draws from few values, so that ties occur.
    pub fn said() -> impl Strategy<Value = Said> {
        let reason = || "r".to_owned();
        let verdict = prop_oneof![
            Just(Verdict::Go),
            (1u8..4).prop_map(move |quarters| Verdict::Slow {
                factor: f64::from(quarters) / 4.0,
                reason: reason(),
            }),
            Just(Verdict::Hold { reason: reason() }),
        ];
        (verdict, any::<bool>()).prop_map(|(verdict, failing)| Said {
            // A failing throttle holds or has let go.
            failing: failing && !matches!(verdict, Verdict::Slow { .. }),
            verdict,
            settled: true,
        })
    }

    #[test]
    fn no_throttles_let_everything_go() {
        let none = Reading::of(std::iter::empty());
        let expected = Reading {
            verdict: Verdict::Go,
            by: String::new(),
            failing: false,
        };
        assert_eq!(none, expected);
    }

    proptest! {
        #[test]
        fn the_hardest_verdict_counts_and_the_first_by_name_says_it(
            all in prop::collection::btree_map("[a-e]", said(), 1..5),
        ) {
            let reading = Reading::of(all.iter().map(|(name, said)| (name.as_str(), said)));
            let decides = &all[&reading.by];
            prop_assert_eq!(&reading.verdict, &decides.verdict);
            prop_assert_eq!(reading.failing, all.values().any(|said| said.failing));
            for (name, said) in &all {
                prop_assert!(said.verdict.factor() >= reading.verdict.factor());
                if said.verdict.factor() == reading.verdict.factor() {
                    let named_for_failing =
                        reading.verdict == Verdict::Go && decides.failing && !said.failing;
                    prop_assert!(*name >= reading.by || named_for_failing);
                }
            }
            if reading.verdict == Verdict::Go {
                prop_assert_eq!(decides.failing, reading.failing);
            }
        }
    }
}
