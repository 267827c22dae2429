//! The failures that have not been sent to the handler yet.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Timestamp, decisions::chain::StrideChain, page::token::PageToken,
    processor::hooks::Failure, progress::failures::PageFailure,
};

/// The largest number of waiting notices. Further ones are only counted.
pub(crate) const MAX_WAITING: usize = 20;

/// The notices of a batch run, in the order of events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notices {
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    waiting: VecDeque<(u64, Failure)>,
    /// The number of notices so far, dropped ones included.
    noted: u64,
    dropped: u64,
    /// The number of hook calls, of any kind, that failed for good.
    pub hooks_failed: u64,
    /// The time at which the tracker is due.
    pub track_at: Timestamp,
}

/// The state of a chain before a report, from which new failures are recognized.
pub(crate) struct Before {
    stuck_at: Option<Option<PageToken>>,
    listed: usize,
    failed: u64,
}

impl Before {
    /// Captures the state of a chain before a stride reports.
    pub fn of(chain: &StrideChain, stride: u64) -> Self {
        Self {
            stuck_at: stuck_at(chain, stride),
            listed: chain.failed().len(),
            failed: chain.totals.pages_failed,
        }
    }
}

pub(crate) fn stuck_at(chain: &StrideChain, stride: u64) -> Option<Option<PageToken>> {
    let stride = chain.stride(stride)?;
    stride.is_stuck().then(|| stride.at.clone())
}

impl Notices {
    /// Creates the notices of a partition. The numbers begin after `number`, so that every notice of a batch run has
    /// a different one, whichever controller sends it.
    #[cfg_attr(
        not(feature = "temporal"),
        allow(dead_code, reason = "for the controller")
    )]
    pub fn numbered_from(number: u64) -> Self {
        Self {
            noted: number,
            ..Self::default()
        }
    }

    /// Compares a chain with what it was before a stride reported.
    pub fn compare(&mut self, before: &Before, chain: &StrideChain, stride: u64) {
        let failed = chain.failed();
        let listed: Vec<PageFailure> = failed.iter().skip(before.listed).cloned().collect();
        // Failures that the chain counts without listing them.
        let unlisted = (chain.totals.pages_failed - before.failed)
            .saturating_sub(u64::try_from(listed.len()).unwrap_or(u64::MAX));
        for page in listed {
            self.note(Failure::PageFailed(page));
        }
        self.noted += unlisted;
        self.dropped += unlisted;
        let now = stuck_at(chain, stride);
        if now.is_some()
            && now != before.stuck_at
            && let Some(page) = chain.failing(None).find(|page| page.stride == stride)
        {
            self.note(Failure::PageStuck(page));
        }
    }

    /// Keeps a failure for the handler.
    pub fn note(&mut self, failure: Failure) {
        if self.waiting.len() >= MAX_WAITING {
            self.noted += 1;
            self.dropped += 1;
        } else {
            let number = self.number();
            self.waiting.push_back((number, failure));
        }
    }

    /// Returns the next notice to send.
    pub fn next(&mut self) -> Option<(u64, Failure)> {
        self.waiting.pop_front()
    }

    /// Returns the number for a notice that is sent without waiting.
    pub fn number(&mut self) -> u64 {
        self.noted += 1;
        self.noted
    }

    /// Drops all waiting notices.
    pub fn drop_waiting(&mut self) {
        self.dropped += u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        self.waiting.clear();
    }

    /// Returns whether notices are waiting.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the number of notices that were dropped without being sent.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_and_what_is_dropped_leaves_a_gap() {
        let mut notices = Notices::default();
        let failure = |n: u64| Failure::ToleranceExceeded {
            reason: n.to_string(),
            paused: true,
        };
        for n in 1..=25 {
            notices.note(failure(n));
        }
        assert_eq!(notices.dropped(), 5);
        for n in 1..=20 {
            assert_eq!(notices.next(), Some((n, failure(n))));
        }
        assert_eq!(notices.next(), None);
        notices.note(failure(26));
        assert_eq!(notices.next(), Some((26, failure(26))));
    }
}
