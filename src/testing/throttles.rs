//! The throttles of a simulation, asked by the virtual clock.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    base::{error::text::words, time::Timestamp},
    batch::validate::InvalidBatch,
    processor::throttle::{Reading, Said, Throttle, ThrottleState},
};

/// A throttle that a simulation has.
#[derive(Clone)]
pub(super) struct Known(Arc<dyn Throttle>);

impl Known {
    pub fn new(throttle: impl Throttle) -> Self {
        Self(Arc::new(throttle))
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

/// The throttles that a batch names, sorted by name.
pub(super) struct Throttling {
    throttles: Vec<Asked>,
    begun: Timestamp,
    told: Option<Reading>,
}

struct Asked {
    throttle: Arc<dyn Throttle>,
    state: ThrottleState,
    due: Duration,
}

impl Throttling {
    /// The throttles with these names.
    pub fn of(known: &[Known], names: &[String], begun: Timestamp) -> Result<Self, InvalidBatch> {
        let mut names: Vec<&String> = names.iter().collect();
        names.sort_unstable();
        names.dedup();
        let asked = |name: &String| {
            let found = known.iter().find(|known| known.0.name() == name);
            let Known(throttle) = found.ok_or_else(|| InvalidBatch::Prepare {
                message: format!("the simulator has no throttle \"{name}\""),
            })?;
            let (interval, hold) = (throttle.interval(), throttle.hold_on_failure());
            Ok(Asked {
                throttle: Arc::clone(throttle),
                state: ThrottleState::new(name, interval, hold),
                due: Duration::ZERO,
            })
        };
        let throttles: Result<_, InvalidBatch> = names.into_iter().map(asked).collect();
        Ok(Self {
            throttles: throttles?,
            begun,
            told: None,
        })
    }

    /// The time at which a throttle is asked next, or lets go because it fails.
    pub fn due(&self) -> Option<Timestamp> {
        let times = self.throttles.iter().flat_map(|asked| {
            let lets_go = asked.state.wakes_at();
            lets_go.into_iter().chain([asked.due])
        });
        times.min().map(|due| self.begun.plus(due))
    }

    /// Asks the throttles that are due, and returns what they say together, if that is new.
    pub async fn ask(&mut self, now: Timestamp) -> Option<Reading> {
        let now = now.since(self.begun);
        for asked in &mut self.throttles {
            if asked.due <= now {
                let answer = asked.throttle.ask().await;
                asked
                    .state
                    .answered(answer.map_err(|error| words(&*error)), now);
                asked.due = now.saturating_add(asked.throttle.interval());
            }
            asked.state.wakes(now);
        }
        let said: Vec<(&str, Said)> = self
            .throttles
            .iter()
            .map(|asked| (asked.throttle.name(), asked.state.said(now)))
            .collect();
        let reading = Reading::of(said.iter().map(|(name, said)| (*name, said)));
        if self.told.as_ref() == Some(&reading) {
            return None;
        }
        self.told = Some(reading.clone());
        Some(reading)
    }
}
