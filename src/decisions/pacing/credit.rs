//! The permits that a batch may use at once under its rate, in addition to those that its strides earn.
//!
//! A stride that is dispatched has earned nothing yet, so with pages that are large for the rate it would stand for a
//! long time before its first page. The controller keeps the permits that were earned and not used: those of strides that came
//! back early, and those of a part of the rate that was not given out. The next stride begins with them.
//!
//! The first page of a batch begins with permits that are not earned yet, so that it need not wait. They are owed: as many are
//! earned before its stride has another page, or by the next stride where it comes back before. So from the start of the
//! batch no more is begun on average than the rate allows, once that is paid.
//!
//! The permits here and those that running strides have kept are never more than one page for each page in flight. So the
//! bound of the rate stays what it is without this: in any window of w seconds rate x w items, and one page for each
//! page in flight.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::base::time::Timestamp;

/// Permits that have been earned but not given to a stride.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Credit {
    /// The number of permits. A negative number is owed.
    permits: f64,
    /// True until the first page begins, which need not wait for a permit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    first: bool,
    /// Permits earned per second since `at`.
    free: f64,
    at: Timestamp,
}

/// The permits that a stride begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Earned {
    /// Permits for its first page.
    pub ready: u32,
    /// Permits to be earned but not used: after the ready ones are taken, or before anything else.
    pub owed: u32,
}

/// The use of a batch's limit at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateUse {
    /// Permits per second of the whole batch; `None` means no limit.
    pub limit: Option<f64>,
    /// The part of the limit that running strides have.
    pub given_out: f64,
    /// Permits that are taken at once: those of a page, or one.
    pub unit: u32,
    /// The number of strides that may run in addition to the running ones.
    pub free_slots: u32,
}

impl Credit {
    /// Returns the credit at the start of a batch, whose first page need not wait.
    pub fn of_first(now: Timestamp) -> Self {
        Self {
            first: true,
            at: now,
            ..Self::default()
        }
    }

    /// Takes note of the time. The part of the rate that is not given out earns at most one unit, so that a batch which stood still does not
    /// begin with a burst.
    pub fn tick(&mut self, standing: &RateUse, now: Timestamp) {
        let earned = self.free * now.since(self.at).as_secs_f64();
        self.at = now;
        let Some(limit) = standing.limit else {
            *self = Self {
                at: now,
                ..Self::default()
            };
            return;
        };
        self.free = (limit - standing.given_out).max(0.0);
        let unit = f64::from(standing.unit);
        if self.permits < unit {
            self.permits = (self.permits + earned).min(unit);
        }
        self.permits = self.permits.min(unit * f64::from(standing.free_slots));
    }

    /// Takes the permits for the stride that is now dispatched.
    pub fn take(&mut self, unit: u32) -> Earned {
        let most = f64::from(unit);
        let have = self.permits.min(most).floor();
        self.permits -= have;
        let missing = if std::mem::take(&mut self.first) {
            most - have.max(0.0)
        } else {
            0.0
        };
        Earned {
            ready: (have.max(0.0) + missing) as u32,
            owed: (missing - have.min(0.0)) as u32,
        }
    }

    /// Takes back the permits that a finished stride had left. A negative number is owed.
    ///
    /// `untouched` means that the stride should have begun the first page of the batch but did not, so another stride
    /// must do so at once.
    pub fn give_back(&mut self, permits: f64, untouched: bool, standing: &RateUse) {
        self.first |= untouched;
        let unit = f64::from(standing.unit);
        if permits.is_finite() {
            self.permits += permits.max(-unit);
            self.permits = self.permits.min(unit * f64::from(standing.free_slots));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp(1_000_000);
    const UNIT: u32 = 100;

    fn standing(limit: f64, given_out: f64, free_slots: u32) -> RateUse {
        RateUse {
            limit: Some(limit),
            given_out,
            unit: UNIT,
            free_slots,
        }
    }

    fn after(seconds: f64) -> Timestamp {
        START.plus(std::time::Duration::from_secs_f64(seconds))
    }

    fn ready(ready: u32) -> Earned {
        Earned { ready, owed: 0 }
    }

    #[test]
    fn the_first_page_begins_with_all_its_permits_and_owes_them() {
        let mut credit = Credit::of_first(START);
        credit.tick(&standing(10.0, 0.0, 4), START);
        let first = Earned {
            ready: UNIT,
            owed: UNIT,
        };
        assert_eq!(credit.take(UNIT), first);
        credit.tick(&standing(10.0, 10.0, 3), START);
        assert_eq!(credit.take(UNIT), ready(0));
    }

    #[test]
    fn the_first_page_owes_what_was_not_earned_before_it() {
        let mut credit = Credit::of_first(START);
        credit.tick(&standing(10.0, 0.0, 4), START);
        credit.tick(&standing(10.0, 0.0, 4), after(4.0));
        let first = Earned {
            ready: UNIT,
            owed: 60,
        };
        assert_eq!(credit.take(UNIT), first);
    }

    #[test]
    fn a_first_page_that_its_stride_has_not_begun_does_not_wait_in_the_next_one() {
        let mut credit = Credit::of_first(START);
        credit.tick(&standing(10.0, 0.0, 4), START);
        let first = credit.take(UNIT);
        credit.give_back(0.0, true, &standing(10.0, 0.0, 4));
        assert_eq!((credit.take(UNIT), credit.take(UNIT)), (first, ready(0)));
    }

    #[test]
    fn what_a_stride_comes_back_owing_is_earned_before_the_next_one_has_anything() {
        let mut credit = Credit::of_first(START);
        credit.tick(&standing(10.0, 0.0, 4), START);
        credit.take(UNIT);
        credit.give_back(-70.0, false, &standing(10.0, 0.0, 4));
        credit.tick(&standing(10.0, 0.0, 4), START);
        credit.tick(&standing(10.0, 0.0, 4), after(2.0));
        assert_eq!(credit.take(UNIT), Earned { ready: 0, owed: 50 });
        assert_eq!(credit.take(UNIT), ready(0), "one stride owes it");
    }

    #[test]
    fn a_batch_that_stood_still_begins_with_one_page_however_long_that_was() {
        let mut credit = Credit::default();
        credit.tick(&standing(10.0, 0.0, 4), START);
        credit.tick(&standing(10.0, 0.0, 4), after(5.0));
        assert_eq!(credit.take(UNIT), ready(50));
        credit.tick(&standing(10.0, 0.0, 4), after(86_400.0));
        assert_eq!(
            (credit.take(UNIT), credit.take(UNIT)),
            (ready(UNIT), ready(0))
        );
    }

    #[test]
    fn what_strides_come_back_with_is_kept_up_to_a_page_for_each_free_slot() {
        let mut credit = Credit::default();
        credit.give_back(80.0, false, &standing(10.0, 0.0, 2));
        credit.give_back(80.0, false, &standing(10.0, 0.0, 2));
        credit.give_back(80.0, false, &standing(10.0, 0.0, 2));
        assert_eq!(
            (credit.take(UNIT), credit.take(UNIT)),
            (ready(UNIT), ready(UNIT))
        );
        assert_eq!(credit.take(UNIT), ready(0));
    }

    #[test]
    fn what_was_kept_for_slots_that_are_gone_is_dropped() {
        let mut credit = Credit::default();
        credit.give_back(300.0, false, &standing(10.0, 0.0, 3));
        credit.tick(&standing(10.0, 0.0, 1), START);
        assert_eq!(
            (credit.take(UNIT), credit.take(UNIT)),
            (ready(UNIT), ready(0))
        );
    }

    #[test]
    fn a_rate_that_is_set_while_the_batch_runs_begins_with_nothing() {
        let mut credit = Credit::of_first(START);
        let none = RateUse {
            limit: None,
            ..standing(0.0, 0.0, 4)
        };
        credit.tick(&none, START);
        credit.tick(&standing(10.0, 0.0, 4), after(60.0));
        assert_eq!(credit.take(UNIT), ready(0));
    }

    /// The permits of a stride that runs.
    #[derive(Clone, Copy)]
    struct Holds {
        has: f64,
        owes: f64,
        first: bool,
    }

    impl Holds {
        fn of(earned: Earned) -> Self {
            Self {
                has: earned.ready.into(),
                owes: earned.owed.into(),
                first: earned.ready > 0,
            }
        }

        fn earn(&mut self, permits: f64) {
            self.has = (self.has + permits).min(f64::from(UNIT));
            if !self.first {
                self.pay();
            }
        }

        fn pay(&mut self) {
            let paid = self.has.min(self.owes);
            self.has -= paid;
            self.owes -= paid;
        }

        /// Begins with all that it has, once nothing is owed.
        fn use_all(&mut self) -> f64 {
            let used = if self.first || self.owes == 0.0 {
                self.has
            } else {
                0.0
            };
            self.first &= used == 0.0;
            self.has -= used;
            used
        }
    }

    proptest! {
        /// Strides come and go and use what they have at any time. The items of any window are those of the rate, and
        /// one page for each page in flight; those from the start are no more than the rate and what is owed.
        #[test]
        fn in_any_window_the_rate_and_a_page_for_each_page_in_flight(
            limit in 1.0..1_000.0f64,
            slots in 1usize..6,
            moves in prop::collection::vec((0usize..3, 0usize..6, 0.0..3.0f64), 1..80),
        ) {
            let share = limit / slots as f64;
            let mut credit = Credit::of_first(START);
            // The permits of each running stride.
            let mut running: Vec<Option<Holds>> = vec![None; slots];
            let mut used: Vec<(f64, f64)> = Vec::new();
            let (mut at, mut all) = (0.0, 0.0);
            let mind = |credit: &mut Credit, running: &[Option<Holds>], at: f64| {
                let runs = running.iter().flatten().count();
                let standing = standing(limit, share * runs as f64, (slots - runs) as u32);
                credit.tick(&standing, after(at));
                standing
            };
            for (what, slot, pause) in moves {
                let pause = (pause * f64::from(UNIT) / limit * 1_000.0).round() / 1_000.0;
                at += pause;
                for holds in running.iter_mut().flatten() {
                    holds.earn(share * pause);
                }
                mind(&mut credit, &running, at);
                let slot = slot % slots;
                match (what, &mut running[slot]) {
                    (0, free @ None) => *free = Some(Holds::of(credit.take(UNIT))),
                    (1, Some(holds)) => {
                        let now = holds.use_all();
                        all += now;
                        used.push((at, now));
                    }
                    (2, Some(holds)) => {
                        let left = holds.has - holds.owes;
                        let untouched = holds.first && holds.owes > 0.0;
                        running[slot] = None;
                        let standing = mind(&mut credit, &running, at);
                        credit.give_back(left, untouched, &standing);
                    }
                    _ => {}
                }
                mind(&mut credit, &running, at);
                // Times are in whole milliseconds.
                let rounding = limit * 0.002 * (used.len() + 1) as f64;
                let owed: f64 = running.iter().flatten().map(|holds| holds.owes).sum();
                let owed = owed - credit.permits.min(0.0);
                prop_assert!(owed <= f64::from(UNIT) + 1.0, "{owed} owed");
                prop_assert!(all <= limit * at + owed + rounding, "{all} after {at} s, {owed} owed");
            }
            for first in 0..used.len() {
                let mut items = 0.0;
                for (at, more) in &used[first..] {
                    items += more;
                    let allowed = limit * (at - used[first].0) + f64::from(UNIT) * slots as f64;
                    prop_assert!(items <= allowed + limit * 0.002 * used.len() as f64, "{items} > {allowed}");
                }
            }
        }
    }
}
