//! A planned change of the parallelism.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::running_time::RunningTime;
use crate::{base::time::Timestamp, batch::pace_settings::ramp::Ramp};

/// A ramp in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RampState {
    ramp: Ramp,
    clock: RunningTime,
}

impl RampState {
    pub fn begin(ramp: Ramp, now: Timestamp) -> Self {
        Self {
            ramp,
            clock: RunningTime::begin(now),
        }
    }

    /// Stops the clock of the ramp while the batch is not running. Repeated calls do no harm.
    pub fn halt(&mut self, now: Timestamp) {
        self.clock.halt(now);
    }

    /// Restarts the clock of the ramp. Repeated calls do no harm.
    pub fn go(&mut self, now: Timestamp) {
        self.clock.go(now);
    }

    /// Returns the number of pages in flight that the ramp allows now.
    pub fn limit(&self, now: Timestamp) -> u32 {
        let taken = self.steps_taken(now);
        if self.ramp.to >= self.ramp.from {
            self.ramp.from + taken
        } else {
            self.ramp.from - taken
        }
    }

    /// Returns when the limit changes next, if the batch keeps running. `None` while the ramp is halted and once it
    /// is over.
    pub fn next_step(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.steps_taken(now) + 1;
        let steps = self.ramp.steps();
        if next > steps {
            return None;
        }
        let all = u128::from(self.ramp.millis());
        let at = (all * u128::from(next)).div_ceil(u128::from(steps));
        self.clock.when(u64::try_from(at).unwrap_or(u64::MAX))
    }

    /// Returns whether the limit has reached its final value.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.steps_taken(now) == self.ramp.steps()
    }

    /// Returns the running time that is left.
    pub fn left(&self, now: Timestamp) -> Duration {
        if self.is_over(now) {
            return Duration::ZERO;
        }
        let ran = self.clock.millis(now);
        Duration::from_millis(self.ramp.millis().saturating_sub(ran))
    }

    pub fn ramp(&self) -> &Ramp {
        &self.ramp
    }

    fn steps_taken(&self, now: Timestamp) -> u32 {
        let steps = self.ramp.steps();
        let all = u128::from(self.ramp.millis());
        let ran = u128::from(self.clock.millis(now));
        if ran >= all {
            return steps;
        }
        // Less than `steps`, because ran < all.
        u32::try_from(ran * u128::from(steps) / all).unwrap_or(steps)
    }
}

#[cfg(test)]
mod tests {
    use crate::batch::pace_settings::ramp::tests::ramps;
    use proptest::prelude::*;

    use super::*;

    const BEGIN: Timestamp = Timestamp(1_700_000_000_000);

    fn at(millis: u64) -> Timestamp {
        BEGIN.plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_ramp_goes_up_in_even_steps_and_ends_exactly_at_its_end() {
        let state = RampState::begin("1..5/8s".parse().unwrap(), BEGIN);
        let limits: Vec<u32> = (0..=9).map(|s| state.limit(at(s * 1_000))).collect();
        assert_eq!(limits, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
        assert_eq!(state.next_step(BEGIN), Some(at(2_000)));
        assert_eq!(state.left(at(3_000)), Duration::from_secs(5));
        assert!(!state.is_over(at(7_999)));
        assert!(state.is_over(at(8_000)));
        assert_eq!(state.next_step(at(8_000)), None);
        assert_eq!(state.left(at(9_000)), Duration::ZERO);
    }

    #[test]
    fn a_ramp_may_go_down_to_nothing() {
        let state = RampState::begin(Ramp::new(2, 0, Duration::from_secs(2)), BEGIN);
        let limits = [0, 999, 1_000, 1_999, 2_000].map(|ms| state.limit(at(ms)));
        assert_eq!(limits, [2, 2, 1, 1, 0]);
    }

    #[test]
    fn a_ramp_without_a_step_is_over_at_once() {
        let state = RampState::begin(Ramp::new(4, 4, Duration::from_secs(60)), BEGIN);
        assert_eq!(state.limit(BEGIN), 4);
        assert!(state.is_over(BEGIN));
        assert_eq!(state.next_step(BEGIN), None);
        assert_eq!(state.left(BEGIN), Duration::ZERO);
    }

    #[test]
    fn a_pause_stops_the_ramp_where_it_is() {
        let mut state = RampState::begin("0..10/10s".parse().unwrap(), BEGIN);
        state.halt(at(3_500));
        assert_eq!(state.limit(at(1_000_000)), 3);
        assert_eq!(state.next_step(at(1_000_000)), None);
        assert_eq!(state.left(at(1_000_000)), Duration::from_millis(6_500));
        state.go(at(1_000_000));
        assert_eq!(state.next_step(at(1_000_000)), Some(at(1_000_500)));
        assert_eq!(state.limit(at(1_000_500)), 4);
    }

    /// Runs and halts, in turns: milliseconds of each.
    fn pauses() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0u64..5_000, 0u64..10_000_000), 0..8)
    }

    proptest! {

        #[test]
        fn the_limit_walks_between_its_ends_and_never_turns_back(
            ramp in ramps(), mut moments in prop::collection::vec(0u64..3_000_000_000, 1..20),
        ) {
            prop_assert_eq!(ramp.validate(), Ok(()));
            let state = RampState::begin(ramp.clone(), BEGIN);
            moments.sort_unstable();
            let mut walked = 0;
            for moment in moments {
                let limit = state.limit(at(moment));
                let low = ramp.from().min(ramp.to());
                let high = ramp.from().max(ramp.to());
                prop_assert!((low..=high).contains(&limit));
                let distance = limit.abs_diff(ramp.from());
                prop_assert!(distance >= walked);
                walked = distance;
                prop_assert_eq!(state.is_over(at(moment)), limit == ramp.to());
                prop_assert_eq!(state.left(at(moment)).is_zero(), limit == ramp.to());
            }
            prop_assert_eq!(state.limit(BEGIN), ramp.from());
            let end = BEGIN.plus(ramp.over());
            prop_assert_eq!(state.limit(end), ramp.to());
            if ramp.from() != ramp.to() {
                prop_assert_ne!(state.limit(Timestamp(end.0 - 1)), ramp.to());
            }
        }

        #[test]
        fn every_step_is_one_page_and_comes_when_it_was_foretold(ramp in ramps()) {
            let state = RampState::begin(ramp.clone(), BEGIN);
            let (mut now, mut steps) = (BEGIN, 0);
            while let Some(next) = state.next_step(now) {
                prop_assert!(next > now);
                let before = state.limit(now);
                prop_assert_eq!(state.limit(Timestamp(next.0 - 1)), before);
                prop_assert_eq!(state.limit(next).abs_diff(before), 1);
                prop_assert_eq!(state.next_step(Timestamp(next.0 - 1)), Some(next));
                now = next;
                steps += 1;
            }
            prop_assert_eq!(steps, ramp.from().abs_diff(ramp.to()));
            prop_assert_eq!(state.limit(now), ramp.to());
        }

        #[test]
        fn neither_halting_nor_storing_changes_the_schedule(
            ramp in ramps(), pauses in pauses(), further in 0u64..30_000,
        ) {
            let undisturbed = RampState::begin(ramp.clone(), BEGIN);
            let mut state = undisturbed.clone();
            let (mut now, mut ran) = (0, 0);
            for (run, halt) in pauses {
                now += run;
                ran += run;
                state.halt(at(now));
                let json = serde_json::to_string(&state).unwrap();
                state = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(state.next_step(at(now)), None);
                state.halt(at(now + halt / 2));
                prop_assert_eq!(state.limit(at(now + halt)), undisturbed.limit(at(ran)));
                now += halt;
                state.go(at(now));
                state.go(at(now));
                let json = serde_json::to_string(&state).unwrap();
                prop_assert_eq!(&serde_json::from_str::<RampState>(&json).unwrap(), &state);
            }
            now += further;
            ran += further;
            prop_assert_eq!(state.limit(at(now)), undisturbed.limit(at(ran)));
            prop_assert_eq!(state.left(at(now)), undisturbed.left(at(ran)));
            prop_assert_eq!(state.is_over(at(now)), undisturbed.is_over(at(ran)));
            let halted = now - ran;
            let foretold = undisturbed.next_step(at(ran)).map(|t| Timestamp(t.0 + halted));
            prop_assert_eq!(state.next_step(at(now)), foretold);
        }
    }
}
