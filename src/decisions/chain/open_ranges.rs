//! The ranges of a chain that are not finished, for batches that follow.

use super::{FailureStreak, Stride, StrideChain};
use crate::progress::{OpenRange, OpenState};

/// The number of open ranges that are told. What comes after the last one counts as open.
pub(crate) const MAX_OPEN_RANGES: usize = 50;
/// The size of the open ranges that are told. They are in the memo, which is written every second while a client looks.
const MAX_BYTES: usize = 4 * 1024;
/// A range counts as overtaken once this many times as many ranges were dispatched after it as are in flight.
const OVERTAKEN: u64 = 3;
/// The number of failed attempts in a row from which on a range counts as failing.
const FAILURES: u32 = 3;

impl StrideChain {
    /// Returns the ranges that are not finished, in the order of the data. Neighbours that are at work are one range.
    /// Everything outside of them, up to the end of the data, is finished or listed as failed.
    pub fn open_ranges(&self) -> Vec<OpenRange> {
        let mut ranges: Vec<OpenRange> = Vec::new();
        let (mut bytes, mut last) = (0, None);
        for (number, stride) in self.open() {
            let state = self.open_state(stride);
            let neighbours = last.is_some_and(|last| last + 1 == number);
            last = Some(number);
            if let Some(range) = ranges.last_mut()
                && neighbours
                && (range.state, state) == (OpenState::AtWork, OpenState::AtWork)
            {
                range.end.clone_from(&stride.end);
                continue;
            }
            let range = OpenRange {
                start: stride.at.clone(),
                end: stride.end.clone(),
                state,
            };
            bytes += range.stored_bytes();
            let full = bytes > MAX_BYTES || ranges.len() == MAX_OPEN_RANGES;
            if let Some(last) = ranges.last_mut().filter(|_| full) {
                last.end = None;
                last.state = OpenState::AtWork;
                break;
            }
            ranges.push(range);
        }
        ranges
    }

    fn open_state(&self, stride: &Stride) -> OpenState {
        // A first failure is often over soon, and its page may then be finished in parts.
        let fails = |trouble: &FailureStreak| {
            trouble.is_spent() || trouble.attempts + trouble.not_the_page >= FAILURES
        };
        if stride.trouble.as_ref().is_some_and(fails) || stride.give_up.is_some() {
            return OpenState::Failing;
        }
        let enough = OVERTAKEN * u64::from(self.running().max(1));
        match stride.run() {
            Some(run) if self.dispatches() - run.dispatch > enough => OpenState::Overtaken,
            _ => OpenState::AtWork,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::time::Timestamp, decisions::chain::Event, page::token::PageToken};

    fn dispatch(chain: &mut StrideChain, stride: u64) {
        let event = Event::Dispatched {
            stride,
            rate_share: None,
            page_share: None,
            items: None,
            now: Timestamp(0),
        };
        chain.record(event).unwrap();
    }

    fn ranges(chain: &StrideChain) -> Vec<(Option<u64>, Option<u64>, OpenState)> {
        let number = |token: Option<PageToken>| token.map(|token| token.decode().unwrap());
        let ranges = chain.open_ranges().into_iter();
        ranges
            .map(|range| (number(range.start), number(range.end), range.state))
            .collect()
    }

    #[test]
    fn neighbours_at_work_are_one_range() {
        let mut chain = StrideChain::of_strides(5);
        dispatch(&mut chain, 0);
        assert_eq!(ranges(&chain), [(None, None, OpenState::AtWork)]);
    }

    #[test]
    fn a_range_is_overtaken_once_many_others_were_dispatched_after_it() {
        let mut chain = StrideChain::of_strides(5);
        dispatch(&mut chain, 0);
        chain.dispatches += 3;
        assert_eq!(ranges(&chain), [(None, None, OpenState::AtWork)]);
        chain.dispatches += 1;
        let rest = (Some(1), None, OpenState::AtWork);
        assert_eq!(
            ranges(&chain),
            [(None, Some(1), OpenState::Overtaken), rest]
        );
    }

    #[test]
    fn what_does_not_fit_counts_as_open() {
        let mut chain = StrideChain::of_strides(200);
        // Every second stride is finished.
        chain.open.retain(|number, _| number % 2 == 0);
        let found = ranges(&chain);
        assert_eq!(found.len(), MAX_OPEN_RANGES);
        assert_eq!(found[48], (Some(96), Some(97), OpenState::AtWork));
        assert_eq!(found[49], (Some(98), None, OpenState::AtWork));
        let long = PageToken::encode(&"x".repeat(1_000)).unwrap();
        for stride in chain.open.values_mut() {
            stride.at = Some(long.clone());
        }
        let bytes = chain
            .open_ranges()
            .iter()
            .map(OpenRange::stored_bytes)
            .sum::<usize>();
        assert!(bytes <= MAX_BYTES, "{bytes}");
        assert_eq!(chain.open_ranges().last().unwrap().end, None);
    }
}
