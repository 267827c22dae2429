//! How many items a batch has, and what may be said of it.
//!
//! The one place that turns the number of items that are done, a number that was told before, and where the batch
//! stands, into a total and a percentage. Pure.

use serde::{Deserialize, Serialize};

/// How many items a batch has, and how well that is known.
///
/// ```
/// use temporal_batch::Size;
///
/// assert_eq!(Size::Estimate(1_000).items(), Some(1_000));
/// assert_eq!(Size::from_hint(None), Size::Unknown);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Size {
    /// It is not known.
    #[default]
    Unknown,
    /// About so many. It may be wrong by any factor.
    Estimate(u64),
    /// So many: they were counted.
    Exact(u64),
}

/// How well a number of items is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// There is no number.
    #[default]
    Unknown,
    /// It is an estimate.
    Estimate,
    /// The items were counted.
    Exact,
}

/// Where a batch stands, as far as its size goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It may find more items.
    Underway,
    /// Every item of it is done.
    Complete,
    /// It is over, and not every item is done.
    Over,
}

/// The percentage of a batch that is not complete ends here.
const MOST: f64 = 99.9;

impl Size {
    /// An estimate, where there is one.
    pub fn from_hint(items: Option<u64>) -> Self {
        items.map_or(Self::Unknown, Self::Estimate)
    }

    /// The number, exact or not.
    pub fn items(self) -> Option<u64> {
        match self {
            Self::Unknown => None,
            Self::Estimate(items) | Self::Exact(items) => Some(items),
        }
    }

    /// How well it is known.
    pub fn certainty(self) -> Certainty {
        match self {
            Self::Unknown => Certainty::Unknown,
            Self::Estimate(_) => Certainty::Estimate,
            Self::Exact(_) => Certainty::Exact,
        }
    }

    /// An amount is an estimate unless it is known to be exact.
    pub(crate) fn of(items: Option<u64>, certainty: Certainty) -> Self {
        match (items, certainty) {
            (None, _) => Self::Unknown,
            (Some(items), Certainty::Exact) => Self::Exact(items),
            (Some(items), Certainty::Unknown | Certainty::Estimate) => Self::Estimate(items),
        }
    }

    /// The total that may be shown once so many items are done: none that was passed, and no estimate of a batch
    /// that is over.
    pub(crate) fn shown(self, done: u64, stand: Stand) -> Self {
        match (stand, self) {
            (Stand::Complete, _) => Self::Exact(done),
            // Rows that come in later can pass what was counted, too.
            (Stand::Underway, Self::Estimate(items) | Self::Exact(items)) if done > items => {
                Self::Unknown
            }
            (Stand::Underway, size) => size,
            // A batch that was stopped has items left, whatever was counted at its start.
            (Stand::Over, Self::Exact(items)) if items > done => self,
            (Stand::Over, _) => Self::Unknown,
        }
    }

    /// The share of the items that are done, from 0 to 100, and 100 only where the batch is complete.
    pub(crate) fn percent(self, done: u64, stand: Stand) -> Option<f64> {
        if stand == Stand::Complete {
            return Some(100.0);
        }
        let items = self.shown(done, stand).items().filter(|items| *items > 0)?;
        Some((done as f64 / items as f64 * 100.0).clamp(0.0, MOST))
    }
}

/// `46.0 %`, rounded down: 99.97 is not all.
#[cfg_attr(
    not(feature = "temporal"),
    allow(dead_code, reason = "for the engine and the command line")
)]
pub(crate) fn percent_text(percent: f64) -> String {
    format!("{:.1} %", (percent * 10.0).floor() / 10.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes() -> impl Strategy<Value = Size> {
        prop_oneof![
            Just(Size::Unknown),
            // Near to what is done, or anything.
            (0u64..200).prop_map(Size::Estimate),
            (0u64..200).prop_map(Size::Exact),
            any::<u64>().prop_map(Size::Estimate),
            any::<u64>().prop_map(Size::Exact),
        ]
    }

    fn stands() -> impl Strategy<Value = Stand> {
        prop_oneof![
            Just(Stand::Underway),
            Just(Stand::Complete),
            Just(Stand::Over)
        ]
    }

    #[test]
    fn ended_batches_of_the_field_are_told_as_they_are() {
        // 294,000 rows, of which the statistics said 639,438.
        let estimate = Size::Estimate(639_438);
        let percent = estimate.percent(294_000, Stand::Underway).unwrap();
        assert_eq!(percent_text(percent), "45.9 %");
        assert_eq!(
            estimate.shown(294_000, Stand::Complete),
            Size::Exact(294_000)
        );
        assert_eq!(estimate.percent(294_000, Stand::Complete), Some(100.0));
        assert_eq!(estimate.shown(294_000, Stand::Over), Size::Unknown);
        assert_eq!(estimate.percent(294_000, Stand::Over), None);
        let counted = Size::Exact(1_000);
        assert_eq!(counted.shown(250, Stand::Over), counted);
        assert_eq!(counted.percent(250, Stand::Over), Some(25.0));
        // A freshly analysed table.
        let passed = Size::Estimate(100);
        assert_eq!(passed.shown(6_666, Stand::Underway), Size::Unknown);
        assert_eq!(passed.percent(6_666, Stand::Underway), None);
    }

    #[test]
    fn nothing_is_all_of_nothing_once_it_is_over() {
        assert_eq!(Size::Exact(0).percent(0, Stand::Underway), None);
        assert_eq!(Size::Exact(0).percent(0, Stand::Over), None);
        assert_eq!(Size::Exact(0).percent(0, Stand::Complete), Some(100.0));
    }

    #[test]
    fn an_amount_that_is_not_known_to_be_exact_is_an_estimate() {
        assert_eq!(Size::of(Some(7), Certainty::Unknown), Size::Estimate(7));
        assert_eq!(Size::of(None, Certainty::Exact), Size::Unknown);
    }

    proptest! {
        #[test]
        fn a_total_is_never_less_than_what_is_done(
            size in sizes(), stand in stands(), done in prop_oneof![0u64..200, any::<u64>()],
        ) {
            let shown = size.shown(done, stand);
            prop_assert!(shown.items().is_none_or(|items| items >= done));
            // It says the same when it is said again.
            prop_assert_eq!(shown.shown(done, stand), shown);
            prop_assert_eq!(shown.percent(done, stand), size.percent(done, stand));
            prop_assert_eq!(Size::of(shown.items(), shown.certainty()), shown);
        }

        #[test]
        fn a_hundred_percent_is_said_of_complete_batches_alone(
            size in sizes(), stand in stands(), done in prop_oneof![0u64..200, any::<u64>()],
        ) {
            let percent = size.percent(done, stand);
            prop_assert_eq!(percent == Some(100.0), stand == Stand::Complete);
            if let Some(percent) = percent {
                prop_assert!((0.0..=100.0).contains(&percent), "{}", percent);
                let text = percent_text(percent);
                prop_assert_eq!(text == "100.0 %", stand == Stand::Complete, "{}", text);
            }
        }

        #[test]
        fn a_batch_that_is_over_shows_no_estimate(
            items in any::<u64>(), done in any::<u64>(), complete in any::<bool>(),
        ) {
            let stand = if complete { Stand::Complete } else { Stand::Over };
            let shown = Size::Estimate(items).shown(done, stand);
            prop_assert_eq!(shown, if complete { Size::Exact(done) } else { Size::Unknown });
        }

        #[test]
        fn the_share_never_shrinks_while_more_is_done(
            size in sizes(), done in 0u64..300, more in 0u64..300,
        ) {
            let before = size.percent(done, Stand::Underway);
            let after = size.percent(done + more, Stand::Underway);
            if let (Some(before), Some(after)) = (before, after) {
                prop_assert!(after >= before);
            }
        }
    }
}
