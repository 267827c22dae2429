//! The strides that are asked to end early, so that a continue-as-new need not wait for them.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::BTreeMap, time::Duration};

use super::Limits;
use crate::{base::time::Timestamp, decisions::chain::StrideChain};

/// The time that strides have to end by themselves before the first is asked.
const BY_THEMSELVES: Duration = Duration::from_secs(5);
/// The time after which an asked stride that has not ended is taken to be in a long page. Further strides are then
/// asked without waiting for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The divisor of the parallelism that gives how many strides are asked at a time, so that few slots are empty at once.
const PART: u32 = 10;

/// The dispatches that were asked to end, each with the time of asking.
#[derive(Clone, Debug, Default)]
pub(crate) struct YieldWave {
    asked: BTreeMap<u64, Timestamp>,
}

impl YieldWave {
    /// Asks the next strides to end, while a continue-as-new is due.
    pub fn tick(&mut self, chain: &StrideChain, limits: &Limits, now: Timestamp) {
        let Some(since) = chain.hand_over_due().filter(|_| limits.overlaps) else {
            return;
        };
        let here = here(chain);
        self.asked.retain(|dispatch, _| here.contains(dispatch));
        let due = now.since(since) >= BY_THEMSELVES;
        let room = match limits.must_hand_over {
            true => here.len(),
            false if due => self.room(limits, now),
            false => 0,
        };
        // The latest dispatches would last the longest.
        let next: Vec<u64> = here
            .into_iter()
            .rev()
            .filter(|dispatch| !self.asked.contains_key(dispatch))
            .take(room)
            .collect();
        self.asked
            .extend(next.into_iter().map(|dispatch| (dispatch, now)));
    }

    fn room(&self, limits: &Limits, now: Timestamp) -> usize {
        let most = (limits.max_parallelism / PART).max(1) as usize;
        let recent = |at: &&Timestamp| now.since(**at) < PATIENCE;
        most.saturating_sub(self.asked.values().filter(recent).count())
    }

    /// The dispatches that were asked.
    pub fn asked(&self) -> impl Iterator<Item = u64> {
        self.asked.keys().copied()
    }

    /// The time at which the next strides are asked if no other stride ends before.
    pub fn next_change(
        &self,
        chain: &StrideChain,
        limits: &Limits,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let since = chain.hand_over_due().filter(|_| limits.overlaps)?;
        let waiting = here(chain).len() > self.asked.len();
        let begin = since.plus(BY_THEMSELVES);
        let patient_until = self.asked.values().map(|at| at.plus(PATIENCE));
        let next = match begin > now {
            true => Some(begin),
            false => patient_until.filter(|at| *at > now).min(),
        };
        next.filter(|_| waiting)
    }
}

/// The dispatches owned by this run, in ascending order.
fn here(chain: &StrideChain) -> Vec<u64> {
    let here = chain.runs().filter(|(_, run)| run.owner.is_none());
    let mut here: Vec<u64> = here.map(|(_, run)| run.dispatch).collect();
    here.sort_unstable();
    here
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{batch::retry::RetryPolicy, decisions::chain::Event, protocol::StrideReport};

    fn running(strides: u64) -> StrideChain {
        let mut chain = StrideChain::of_strides(strides);
        for stride in 0..strides {
            let dispatched = Event::Dispatched {
                stride,
                rate_share: None,
                page_share: None,
                items: None,
                now: Timestamp(0),
            };
            chain.record(dispatched).unwrap();
        }
        chain
    }

    fn comes_back(chain: &mut StrideChain, dispatch: u64) {
        let (stride, _) = chain
            .runs()
            .find(|(_, run)| run.dispatch == dispatch)
            .unwrap();
        let reported = Event::Reported {
            stride,
            report: Box::new(StrideReport::default()),
            policy: &RetryPolicy::default(),
            dead_letters: false,
            now: Timestamp(0),
        };
        chain.record(reported).unwrap();
    }

    proptest! {
        /// The length of pages and the order of their ends do not matter: few strides are asked at a time, and all in
        /// the end.
        #[test]
        fn few_are_asked_at_once_and_all_in_the_end(
            strides in 1u64..60,
            parallelism in 1u32..60,
            steps in prop::collection::vec((0u64..7_000, any::<bool>()), 0..60),
        ) {
            let mut chain = running(strides);
            let limits = Limits {
                max_parallelism: parallelism,
                overlaps: true,
                ..Limits::default()
            };
            let due = Timestamp(1_000);
            chain.record(Event::HandOverDue { now: due }).unwrap();
            let mut wave = YieldWave::default();
            let mut now = due;
            for (later, ends) in steps {
                let before: Vec<u64> = wave.asked().collect();
                wave.tick(&chain, &limits, now);
                let new = wave.asked().filter(|dispatch| !before.contains(dispatch)).count();
                prop_assert!(new <= (parallelism / PART).max(1) as usize);
                prop_assert!(now.since(due) >= BY_THEMSELVES || new == 0);
                if let Some(first) = wave.asked().next().filter(|_| ends) {
                    comes_back(&mut chain, first);
                }
                now = now.plus(Duration::from_millis(later));
            }
            for _ in 0..1_000 {
                wave.tick(&chain, &limits, now);
                let Some(next) = wave.next_change(&chain, &limits, now) else {
                    break;
                };
                prop_assert!(next > now, "waits for the past");
                now = next;
            }
            prop_assert_eq!(wave.asked().count(), chain.running_here() as usize);
        }
    }

    #[test]
    fn near_the_limits_of_a_run_all_are_asked_at_once() {
        let mut chain = running(30);
        chain
            .record(Event::HandOverDue { now: Timestamp(0) })
            .unwrap();
        let limits = Limits {
            max_parallelism: 30,
            overlaps: true,
            must_hand_over: true,
            ..Limits::default()
        };
        let mut wave = YieldWave::default();
        wave.tick(&chain, &limits, Timestamp(0));
        assert_eq!(wave.asked().count(), 30);
    }
}
