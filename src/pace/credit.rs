//! The permits with which a batch may begin at once under its rate, beside those that its strides earn.
//!
//! A stride that is dispatched has earned nothing yet, so with pages that are large for the rate it would stand for a
//! long time before its first page. The controller keeps the permits that were earned and not used: those of strides that came
//! back early, and those of a part of the rate that was not given out. The next stride begins with them.
//!
//! The permits here and those that running strides have kept are never more than one page for each page in flight. So the
//! bound of the rate stays what it is without this: in any window of w seconds rate x w items, and one page for each
//! page in flight.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::progress::Timestamp;

/// Permits that have been earned and that no stride has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Credit {
    permits: f64,
    /// Earned per second since then.
    free: f64,
    at: Timestamp,
}

/// The use of a batch's limit at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Permits per second of the whole batch; `None` is no limit.
    pub limit: Option<f64>,
    /// The part of the limit that running strides have.
    pub given_out: f64,
    /// Permits that are taken at once: those of a page, or one.
    pub unit: u32,
    /// Strides that may run beside those that do.
    pub free_slots: u32,
}

impl Credit {
    /// The credit of a batch that begins: its first page need not wait.
    pub fn of_first(unit: u32, now: Timestamp) -> Self {
        Self {
            permits: f64::from(unit),
            free: 0.0,
            at: now,
        }
    }

    /// Takes note of the time. The part of the rate that is not given out earns at most one unit, so that a batch which stood still does not
    /// begin with a burst.
    pub fn mind(&mut self, standing: &Standing, now: Timestamp) {
        let earned = self.free * now.since(self.at).as_secs_f64();
        self.at = now;
        let Some(limit) = standing.limit else {
            self.permits = 0.0;
            self.free = 0.0;
            return;
        };
        self.free = (limit - standing.given_out).max(0.0);
        let unit = f64::from(standing.unit);
        if self.permits < unit {
            self.permits = (self.permits + earned).min(unit);
        }
        self.permits = self.permits.min(unit * f64::from(standing.free_slots));
    }

    /// Takes the permits that the stride begins with which is dispatched now.
    pub fn take(&mut self, unit: u32) -> u32 {
        let ready = self.permits.min(f64::from(unit)).floor().max(0.0);
        self.permits -= ready;
        ready as u32
    }

    /// A stride came back with permits that it had earned.
    pub fn give_back(&mut self, permits: f64, standing: &Standing) {
        let most = f64::from(standing.unit) * f64::from(standing.free_slots);
        if permits.is_finite() && permits > 0.0 {
            self.permits = (self.permits + permits).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp(1_000_000);
    const UNIT: u32 = 100;

    fn standing(limit: f64, given_out: f64, free_slots: u32) -> Standing {
        Standing {
            limit: Some(limit),
            given_out,
            unit: UNIT,
            free_slots,
        }
    }

    fn after(seconds: f64) -> Timestamp {
        START.plus(std::time::Duration::from_secs_f64(seconds))
    }

    #[test]
    fn the_first_page_begins_with_all_its_permits_and_the_next_with_none() {
        let mut credit = Credit::of_first(UNIT, START);
        credit.mind(&standing(10.0, 0.0, 4), START);
        assert_eq!(credit.take(UNIT), UNIT);
        credit.mind(&standing(10.0, 10.0, 3), START);
        assert_eq!(credit.take(UNIT), 0);
    }

    #[test]
    fn a_batch_that_stood_still_begins_with_one_page_however_long_that_was() {
        let mut credit = Credit::default();
        credit.mind(&standing(10.0, 0.0, 4), START);
        credit.mind(&standing(10.0, 0.0, 4), after(5.0));
        assert_eq!(credit.take(UNIT), 50);
        credit.mind(&standing(10.0, 0.0, 4), after(86_400.0));
        assert_eq!((credit.take(UNIT), credit.take(UNIT)), (UNIT, 0));
    }

    #[test]
    fn what_strides_come_back_with_is_kept_up_to_a_page_for_each_free_slot() {
        let mut credit = Credit::default();
        credit.give_back(80.0, &standing(10.0, 0.0, 2));
        credit.give_back(80.0, &standing(10.0, 0.0, 2));
        credit.give_back(80.0, &standing(10.0, 0.0, 2));
        assert_eq!((credit.take(UNIT), credit.take(UNIT)), (UNIT, UNIT));
        assert_eq!(credit.take(UNIT), 0);
    }

    #[test]
    fn a_rate_that_is_set_while_the_batch_runs_begins_with_nothing() {
        let mut credit = Credit::of_first(UNIT, START);
        let none = Standing {
            limit: None,
            ..standing(0.0, 0.0, 4)
        };
        credit.mind(&none, START);
        credit.mind(&standing(10.0, 0.0, 4), after(60.0));
        assert_eq!(credit.take(UNIT), 0);
    }

    proptest! {
        /// Strides come and go and use what they have at any time. The items of any window are those of the rate, and
        /// one page for each page in flight.
        #[test]
        fn in_any_window_the_rate_and_a_page_for_each_page_in_flight(
            limit in 1.0..1_000.0f64,
            slots in 1usize..6,
            moves in prop::collection::vec((0usize..3, 0usize..6, 0.0..3.0f64), 1..80),
        ) {
            let share = limit / slots as f64;
            let mut credit = Credit::of_first(UNIT, START);
            // The permits of each running stride.
            let mut running: Vec<Option<f64>> = vec![None; slots];
            let mut used: Vec<(f64, f64)> = Vec::new();
            let mut at = 0.0;
            let mind = |credit: &mut Credit, running: &[Option<f64>], at: f64| {
                let runs = running.iter().flatten().count();
                let standing = standing(limit, share * runs as f64, (slots - runs) as u32);
                credit.mind(&standing, after(at));
                standing
            };
            for (what, slot, pause) in moves {
                let pause = (pause * f64::from(UNIT) / limit * 1_000.0).round() / 1_000.0;
                at += pause;
                for has in running.iter_mut().flatten() {
                    *has = (*has + share * pause).min(f64::from(UNIT));
                }
                mind(&mut credit, &running, at);
                let slot = slot % slots;
                match (what, running[slot]) {
                    (0, None) => running[slot] = Some(f64::from(credit.take(UNIT))),
                    (1, Some(has)) => {
                        used.push((at, has));
                        running[slot] = Some(0.0);
                    }
                    (2, Some(has)) => {
                        running[slot] = None;
                        let standing = mind(&mut credit, &running, at);
                        credit.give_back(has, &standing);
                    }
                    _ => {}
                }
                mind(&mut credit, &running, at);
            }
            for first in 0..used.len() {
                let mut items = 0.0;
                for (at, more) in &used[first..] {
                    items += more;
                    let allowed = limit * (at - used[first].0) + f64::from(UNIT) * slots as f64;
                    // Times are in whole milliseconds.
                    prop_assert!(items <= allowed + limit * 0.002 * used.len() as f64, "{items} > {allowed}");
                }
            }
        }
    }
}
