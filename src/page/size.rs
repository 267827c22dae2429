//! The number of items in a batch, and how it is shown.
//!
//! This is the one place that computes a total and a percentage from the items done, the announced size and the
//! state of the batch. It is pure.

use serde::{Deserialize, Serialize};

/// The number of items in a batch, with its certainty.
///
/// ```
/// use temporal_batch::Size;
///
/// assert_eq!(Size::Estimate(1_000).items(), Some(1_000));
/// assert_eq!(Size::from_hint(None), Size::Unknown);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Size {
    /// The number is unknown.
    #[default]
    Unknown,
    /// An estimate, which may be wrong by any factor.
    Estimate(u64),
    /// A count.
    Exact(u64),
}

/// The reliability of a number of items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// The number is unknown.
    #[default]
    Unknown,
    /// The number is an estimate.
    Estimate,
    /// The items were counted.
    Exact,
}

/// The state of a batch as far as its size is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// The batch may find more items.
    Underway,
    /// Every item is done.
    Complete,
    /// The batch has ended and some items are not done.
    Over,
}

/// Maximum percentage of a batch that is not complete.
const MOST: f64 = 99.9;

impl Size {
    /// Converts an optional estimate.
    pub fn from_hint(items: Option<u64>) -> Self {
        items.map_or(Self::Unknown, Self::Estimate)
    }

    /// Returns the number, whether exact or estimated.
    pub fn items(self) -> Option<u64> {
        match self {
            Self::Unknown => None,
            Self::Estimate(items) | Self::Exact(items) => Some(items),
        }
    }

    /// Returns the reliability of the number.
    pub fn certainty(self) -> Certainty {
        match self {
            Self::Unknown => Certainty::Unknown,
            Self::Estimate(_) => Certainty::Estimate,
            Self::Exact(_) => Certainty::Exact,
        }
    }

    /// Combines a number and its certainty. A number of unknown certainty counts as an estimate.
    pub(crate) fn of(items: Option<u64>, certainty: Certainty) -> Self {
        match (items, certainty) {
            (None, _) => Self::Unknown,
            (Some(items), Certainty::Exact) => Self::Exact(items),
            (Some(items), Certainty::Unknown | Certainty::Estimate) => Self::Estimate(items),
        }
    }

    /// Returns the total to show when `done` items are done. A total that was exceeded is not shown, nor is the
    /// estimate of a batch that has ended.
    pub(crate) fn shown(self, done: u64, stand: Stand) -> Self {
        match (stand, self) {
            (Stand::Complete, _) => Self::Exact(done),
            // Rows inserted later can exceed even an exact count.
            (Stand::Underway, Self::Estimate(items) | Self::Exact(items)) if done > items => {
                Self::Unknown
            }
            (Stand::Underway, size) => size,
            // A batch that was stopped still has items left if the count was exact.
            (Stand::Over, Self::Exact(items)) if items > done => self,
            (Stand::Over, _) => Self::Unknown,
        }
    }

    /// Returns the percentage of items done, from 0 to 100. Only a complete batch has 100.
    pub(crate) fn percent(self, done: u64, stand: Stand) -> Option<f64> {
        if stand == Stand::Complete {
            return Some(100.0);
        }
        let items = self.shown(done, stand).items().filter(|items| *items > 0)?;
        Some((done as f64 / items as f64 * 100.0).clamp(0.0, MOST))
    }
}

/// Formats a percentage as `46.0 %`, rounded down so that 99.97 does not read as complete.
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
            // Values close to the number of items done, or any value.
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
        // 294,000 rows, for which the statistics said 639,438.
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
            // Showing the result again changes nothing.
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
