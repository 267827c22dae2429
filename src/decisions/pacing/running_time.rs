//! A clock that stands still while a batch does.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::time::Timestamp;

/// A clock that counts the running time of a batch. It is stored, so it continues after a continue-as-new.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunningTime {
    /// The running time up to `since`, in milliseconds.
    ran: u64,
    /// The time at which the clock was last started or stopped.
    since: Timestamp,
    halted: bool,
}

impl RunningTime {
    /// A clock that runs from now on.
    pub fn begin(now: Timestamp) -> Self {
        Self {
            ran: 0,
            since: now,
            halted: false,
        }
    }

    /// Stops the clock. A stopped clock is unaffected.
    pub fn halt(&mut self, now: Timestamp) {
        if !self.halted {
            self.ran = self.millis(now);
            self.since = now;
            self.halted = true;
        }
    }

    /// Restarts the clock. A running clock is unaffected.
    pub fn go(&mut self, now: Timestamp) {
        if self.halted {
            self.since = now;
            self.halted = false;
        }
    }

    /// Returns the running time in milliseconds.
    pub fn millis(&self, now: Timestamp) -> u64 {
        let runs = if self.halted { 0 } else { self.since_last(now) };
        self.ran.saturating_add(runs)
    }

    /// Returns the milliseconds since the clock was stopped; 0 while it runs.
    pub fn stands(&self, now: Timestamp) -> u64 {
        if self.halted { self.since_last(now) } else { 0 }
    }

    /// Returns when the clock will show `millis`, unless it is stopped before. `None` while the clock is stopped.
    pub fn when(&self, millis: u64) -> Option<Timestamp> {
        let wait = Duration::from_millis(millis.saturating_sub(self.ran));
        (!self.halted).then(|| self.since.plus(wait))
    }

    fn since_last(&self, now: Timestamp) -> u64 {
        now.0.saturating_sub(self.since.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_between_go_and_halt_counts() {
        let mut clock = RunningTime::begin(Timestamp(1_000));
        assert_eq!(clock.millis(Timestamp(1_500)), 500);
        assert_eq!(clock.when(700), Some(Timestamp(1_700)));
        clock.halt(Timestamp(1_600));
        clock.halt(Timestamp(9_000));
        assert_eq!(clock.millis(Timestamp(9_000)), 600);
        assert_eq!(clock.stands(Timestamp(9_000)), 7_400);
        assert_eq!(clock.when(700), None);
        clock.go(Timestamp(10_000));
        clock.go(Timestamp(10_050));
        assert_eq!(clock.millis(Timestamp(10_050)), 650);
        assert_eq!(clock.stands(Timestamp(10_050)), 0);
        assert_eq!(clock.when(700), Some(Timestamp(10_100)));
    }
}
