//! The failures that a batch tolerates, and its reaction to the next one.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::{base::text::count, batch::validate::InvalidBatch};

/// The failures that a batch tolerates. If there is one more, the batch pauses itself or stops.
///
/// | setting | default |
/// |---|---|
/// | `items` | any number of items may be given up |
/// | `pages` | any number of pages may be given up, or be retrying after their quick attempts |
/// | `consecutive` | any number of attempts may fail in a row |
/// | `then` | [`OnExceeded::Pause`] |
///
/// ```
/// use temporal_batch::{settings::{Limit, OnExceeded, Tolerance}, Batch};
///
/// let tolerance = Tolerance::new()
///     .items(Limit::percent(1.0).or_count(10_000))
///     .pages(Limit::count(5))
///     .consecutive(50)
///     .then(OnExceeded::Stop);
/// let batch = Batch::named("b", "p", serde_json::Value::Null).tolerate(tolerance);
/// assert!(batch.validate().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pages: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consecutive: Option<u32>,
    #[serde(default)]
    then: OnExceeded,
}

/// A number of failures, a percentage of the work done, or both, in which case the one exceeded first applies.
///
/// A percentage of a few items or pages says little, so it applies only once [`min_sample`](Self::min_sample) items or
/// pages (default 100) are done or given up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    percent: Option<f64>,
    #[serde(default = "default_sample")]
    min_sample: u64,
}

fn default_sample() -> u64 {
    100
}

/// The reaction of a batch whose failures exceed the tolerance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExceeded {
    /// Pauses the batch. Resuming it forgives the failures so far and restarts the counting.
    #[default]
    Pause,
    /// Ends the batch as [`Outcome::Stopped`](crate::Outcome::Stopped) once the running pages are done.
    Stop,
}

/// # Construct
impl Tolerance {
    /// Creates a tolerance without limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the items that are given up.
    #[must_use]
    pub fn items(mut self, limit: Limit) -> Self {
        self.items = Some(limit);
        self
    }

    /// Limits the pages that are given up. A page that is still retrying also counts, from the end of its quick
    /// attempts until it finishes.
    #[must_use]
    pub fn pages(mut self, limit: Limit) -> Self {
        self.pages = Some(limit);
        self
    }

    /// Limits the attempts that fail one after the other, over the whole batch, without a page that finishes in
    /// between. This detects a service that is down while every page still has attempts left. The limit must be
    /// at least 1; use a multiple of `max_parallelism`.
    #[must_use]
    pub fn consecutive(mut self, attempts: u32) -> Self {
        self.consecutive = Some(attempts);
        self
    }

    /// Sets the reaction when a limit is exceeded.
    #[must_use]
    pub fn then(mut self, what: OnExceeded) -> Self {
        self.then = what;
        self
    }
}

impl Tolerance {
    pub(crate) fn counts_consecutive(&self) -> bool {
        self.consecutive.is_some()
    }
}

/// # Construct
impl Limit {
    /// Tolerates this many failures; with 0 the first failure exceeds the limit.
    pub fn count(count: u64) -> Self {
        Self {
            count: Some(count),
            percent: None,
            min_sample: default_sample(),
        }
    }

    /// Tolerates this percentage of the work done or given up, from 0 to 100.
    pub fn percent(percent: f64) -> Self {
        Self {
            count: None,
            percent: Some(percent),
            min_sample: default_sample(),
        }
    }

    /// Adds a limit on the number.
    #[must_use]
    pub fn or_count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// Adds a limit on the percentage.
    #[must_use]
    pub fn or_percent(mut self, percent: f64) -> Self {
        self.percent = Some(percent);
        self
    }

    /// Sets how much must be done or given up before the percentage applies.
    #[must_use]
    pub fn min_sample(mut self, sample: u64) -> Self {
        self.min_sample = sample;
        self
    }
}

/// The counts of work done and failed since counting began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Items done or given up.
    pub items: u64,
    /// Items given up.
    pub items_failed: u64,
    /// Pages done or given up.
    pub pages: u64,
    /// Pages given up.
    pub pages_failed: u64,
}

impl Tally {
    /// Returns the difference to an earlier tally.
    pub(crate) fn since(self, earlier: &Self) -> Self {
        Self {
            items: self.items.saturating_sub(earlier.items),
            items_failed: self.items_failed.saturating_sub(earlier.items_failed),
            pages: self.pages.saturating_sub(earlier.pages),
            pages_failed: self.pages_failed.saturating_sub(earlier.pages_failed),
        }
    }
}

/// The tolerance of a batch as seen by one of its strides, which knows only its own failures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideTolerance {
    pub tolerance: Tolerance,
    /// The tally when the stride was dispatched, without forgiven failures.
    pub tally: Tally,
    /// The number of strides that may run at the same time.
    pub strides: u32,
}

impl StrideTolerance {
    /// Returns whether the tolerance would be exceeded if every stride that may run had failed like this one.
    /// The stride must then report its failures, so that the unreported failures of strides that were dispatched with the
    /// same tally never add up to too many.
    pub(crate) fn is_exceeded_by(&self, own: Tally) -> bool {
        let Tally {
            items,
            items_failed,
            pages,
            pages_failed,
        } = self.tally;
        let all =
            |before: u64, own: u64| before.saturating_add(own.saturating_mul(self.strides.into()));
        let tally = Tally {
            items: all(items, own.items),
            items_failed: all(items_failed, own.items_failed),
            pages: all(pages, own.pages),
            pages_failed: all(pages_failed, own.pages_failed),
        };
        let fails = own.items_failed > 0 || own.pages_failed > 0;
        fails
            && self
                .tolerance
                .exceeded(tally, &Tally::default(), 0)
                .is_some()
    }
}

/// # Decide
impl Tolerance {
    /// Returns the reaction when a limit is exceeded.
    pub(crate) fn reaction(&self) -> OnExceeded {
        self.then
    }

    /// Returns which limit is exceeded, if any. Failures in `forgiven` no longer count.
    pub(crate) fn exceeded(
        &self,
        tally: Tally,
        forgiven: &Tally,
        consecutive: u64,
    ) -> Option<String> {
        let tally = tally.since(forgiven);
        let items = self
            .items
            .and_then(|limit| limit.exceeded("item", tally.items_failed, tally.items));
        let pages = || {
            self.pages
                .and_then(|limit| limit.exceeded("page", tally.pages_failed, tally.pages))
        };
        let in_a_row = || {
            let tolerated = self.consecutive?;
            (consecutive > u64::from(tolerated)).then(|| {
                let attempts = count(consecutive, "attempt");
                format!("{attempts} failed in a row; at most {tolerated} are tolerated")
            })
        };
        let what = items.or_else(pages).or_else(in_a_row)?;
        Some(format!("tolerated failures exceeded: {what}"))
    }

    /// Like [`exceeded`](Self::exceeded) for the sample of a stage, however small. Consecutive failures do not
    /// apply to finished work.
    pub(crate) fn exceeded_by_sample(&self, tally: Tally, forgiven: &Tally) -> Option<String> {
        let whatever_size = |limit: Option<Limit>| limit.map(|limit| limit.min_sample(0));
        let stage = Self {
            items: whatever_size(self.items),
            pages: whatever_size(self.pages),
            consecutive: None,
            then: self.then,
        };
        stage.exceeded(tally, forgiven, 0)
    }

    /// Rejects limits without a meaning.
    pub(crate) fn validate(&self) -> Result<(), InvalidBatch> {
        for limit in [self.items, self.pages].into_iter().flatten() {
            if let Some(given) = limit.percent
                && !(0.0..=100.0).contains(&given)
            {
                return Err(InvalidBatch::TolerancePercent { given });
            }
        }
        if self.consecutive == Some(0) {
            return Err(InvalidBatch::ToleranceConsecutive);
        }
        Ok(())
    }
}

impl Limit {
    fn exceeded(&self, what: &str, failed: u64, all: u64) -> Option<String> {
        if let Some(most) = self.count
            && failed > most
        {
            let failed = count(failed, what);
            return Some(format!("{failed} failed; at most {most} are tolerated"));
        }
        let percent = self.percent?;
        let share = failed as f64 / all.max(1) as f64 * 100.0;
        // The comparison avoids a division, so that exactly the tolerated percentage is never exceeded.
        let more = failed as f64 * 100.0 > percent * all as f64;
        (all >= self.min_sample && more).then(|| {
            format!(
                "{failed} of {} failed ({share:.2} %); at most {percent} % are tolerated",
                count(all, what)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tally(items: u64, items_failed: u64) -> Tally {
        Tally {
            items,
            items_failed,
            ..Tally::default()
        }
    }

    fn says(tolerance: &Tolerance, tally: Tally) -> Option<String> {
        tolerance.exceeded(tally, &Tally::default(), 0)
    }

    #[test]
    fn the_reason_names_numbers_and_limit() {
        let tolerance = Tolerance::new().items(Limit::percent(1.0));
        assert_eq!(
            says(&tolerance, tally(900, 12)).unwrap(),
            "tolerated failures exceeded: 12 of 900 items failed (1.33 %); at most 1 % are tolerated"
        );
        let tolerance = Tolerance::new().items(Limit::count(0));
        assert_eq!(
            says(&tolerance, tally(9, 1)).unwrap(),
            "tolerated failures exceeded: 1 item failed; at most 0 are tolerated"
        );
        let tolerance = Tolerance::new().consecutive(3);
        assert_eq!(tolerance.exceeded(tally(0, 0), &Tally::default(), 3), None);
        assert_eq!(
            tolerance
                .exceeded(tally(0, 0), &Tally::default(), 4)
                .unwrap(),
            "tolerated failures exceeded: 4 attempts failed in a row; at most 3 are tolerated"
        );
    }

    #[test]
    fn a_stride_tells_of_its_share_of_what_is_tolerated() {
        let seen_by = |strides, tally| StrideTolerance {
            tolerance: Tolerance::new().items(Limit::count(10)),
            tally,
            strides,
        };
        for (strides, before, own, tells) in [
            (1, 0, 10, false),
            (1, 0, 11, true),
            (1, 9, 1, false),
            (1, 9, 2, true),
            (4, 0, 2, false),
            (4, 0, 3, true),
            (4, 9, 1, true),
            (4, 11, 0, false),
        ] {
            let stride = seen_by(strides, tally(1_000, before));
            let said = stride.is_exceeded_by(tally(100, own));
            assert_eq!(said, tells, "{own} after {before} in one of {strides}");
        }
        let pages = StrideTolerance {
            tolerance: Tolerance::new().pages(Limit::count(0)),
            ..seen_by(4, Tally::default())
        };
        assert!(!pages.is_exceeded_by(tally(100, 9)), "no page has failed");
        let failed = Tally {
            pages: 1,
            pages_failed: 1,
            ..Tally::default()
        };
        assert!(pages.is_exceeded_by(failed));
    }

    #[test]
    fn limits_that_mean_nothing_are_refused() {
        for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            let tolerance = Tolerance::new().pages(Limit::percent(percent));
            assert!(tolerance.validate().is_err(), "{percent}");
        }
        assert!(Tolerance::new().consecutive(0).validate().is_err());
        let edges = Tolerance::new()
            .items(Limit::percent(0.0).or_count(0))
            .pages(Limit::percent(100.0))
            .consecutive(1);
        assert_eq!(edges.validate(), Ok(()));
    }

    #[test]
    fn what_a_history_holds_may_leave_everything_out() {
        let tolerance: Tolerance = serde_json::from_str(r#"{"items":{"percent":2.5}}"#).unwrap();
        assert_eq!(tolerance, Tolerance::new().items(Limit::percent(2.5)));
    }

    proptest! {
        #[test]
        fn a_count_trips_at_the_first_failure_more(count in 0u64..1_000, all in 0u64..10_000, failed in 0u64..2_000) {
            let tolerance = Tolerance::new().items(Limit::count(count));
            prop_assert_eq!(says(&tolerance, tally(all.max(failed), failed)).is_some(), failed > count);
        }

        #[test]
        fn a_share_trips_exactly_above_it_and_never_before_the_sample(
            percent in 0u32..=100, sample in 0u64..500, all in 0u64..1_000, failed in 0u64..1_000,
        ) {
            let failed = failed.min(all);
            let limit = Limit::percent(f64::from(percent)).min_sample(sample);
            let tripped = says(&Tolerance::new().items(limit), tally(all, failed)).is_some();
            let above = failed * 100 > u64::from(percent) * all;
            prop_assert_eq!(tripped, all >= sample && above);
        }

        /// Models strides that withhold their failures for as long as they may.
        #[test]
        fn what_strides_have_not_told_of_is_tolerated(
            count in 0u64..100, before in 0u64..100, strides in 1u32..20, own in prop::collection::vec(0u64..50, 20),
        ) {
            let tolerance = Tolerance::new().items(Limit::count(count));
            let before = tally(1_000, before.min(count));
            let stride = StrideTolerance { tolerance: tolerance.clone(), tally: before, strides };
            let own = own.iter().take(strides as usize).filter(|own| !stride.is_exceeded_by(tally(50, **own)));
            let all = tally(10_000, before.items_failed + own.sum::<u64>());
            prop_assert_eq!(says(&tolerance, all), None);
        }

        #[test]
        fn more_failures_never_make_it_better(
            count in prop::option::of(0u64..50), percent in prop::option::of(0f64..100.0),
            all in 0u64..500, failed in 0u64..500,
        ) {
            let limit = Limit { count, percent, min_sample: 10 };
            let tolerance = Tolerance::new().items(limit);
            let now = says(&tolerance, tally(all + failed, failed)).is_some();
            let later = says(&tolerance, tally(all + failed + 1, failed + 1)).is_some();
            prop_assert!(!now || later);
        }

        #[test]
        fn forgiving_starts_the_counting_anew(
            count in 0u64..20, before in 0u64..100, after in 0u64..100,
        ) {
            let tolerance = Tolerance::new().items(Limit::count(count));
            let forgiven = tally(before, before);
            let now = tally(before + after, before + after);
            prop_assert_eq!(tolerance.exceeded(now, &forgiven, 0).is_some(), after > count);
        }
    }
}
