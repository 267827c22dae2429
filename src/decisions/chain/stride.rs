//! One open stride.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        error::{Blame, truncate},
        stored::is_default,
        time::Timestamp,
    },
    batch::retry::RetryPolicy,
    page::token::PageToken,
    processor::store::page_ledger::StrideTotals,
    protocol::{FailedAttempt, GiveUp, MOST_READS},
};

/// Messages of pages that will be tried again are kept shorter than those of failed ones, because there
/// can be more of them in the continue-as-new input.
const MAX_TROUBLE_CHARS: usize = 80;
/// What an open stride takes beside its tokens, with the trouble that it may get into.
pub(crate) const STRIDE_BYTES: usize = 400;

/// A stride that is not finished: the pages in `(at, end]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stride {
    /// Everything of the stride up to here is finished.
    pub at: Option<PageToken>,
    /// The accepted start of the next stride.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    pub state: State,
    /// Set while the page after `at` has failed and not succeeded since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// What has been counted of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub done: StrideTotals,
    /// Items of a stage that it was given and has not counted yet. It keeps them over failures, so this is also
    /// the most that any attempt can have processed after `at` unknown to the controller.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reserved: u64,
    /// It was given less than it is expected to have, because no more was left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub short: bool,
    /// The page after `at` has no attempts left, and the next activity puts it aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up: Option<Box<GiveUp>>,
    /// The activity that has it announced that the data ends with the page that it was about to process.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_data: bool,
}

/// What a stride is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Nobody has it.
    Ready,
    /// An activity has it.
    Running {
        /// Items per second that it may process.
        rate_share: Option<f64>,
        /// Pages per second that it may start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        page_share: Option<f64>,
        /// Counts the dispatches of the batch run.
        dispatch: u64,
        /// When it was dispatched.
        since: Timestamp,
        /// The bridge that has it, by its number in the ledger; `None`: the controller's own run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bridge: Option<u32>,
    },
    /// Nobody has it, and nobody gets it before then.
    Waiting { until: Timestamp },
}

/// Items that a stride is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allotment {
    pub items: u64,
    /// See [`Stride::short`].
    pub short: bool,
}

/// What a running stride was dispatched with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    pub rate_share: Option<f64>,
    pub page_share: Option<f64>,
    pub dispatch: u64,
    pub since: Timestamp,
    /// It is on a bridge, so that it outlives the run of the controller.
    pub bridge: Option<u32>,
}

/// The failures of one page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    /// Attempts that failed.
    pub attempts: u32,
    /// The quick attempts are spent: the page is in the slow lane.
    pub stuck: bool,
    pub error_type: String,
    pub message: String,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    /// Nothing is wrong with the page; so often in a row the attempt was not even made.
    #[serde(default, skip_serializing_if = "is_default")]
    pub not_the_page: u32,
    /// Failures in a row from which on the page itself is to blame.
    #[serde(default, skip_serializing_if = "is_default")]
    pub against: u32,
    /// Another one takes it apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_apart: bool,
    /// As many tries as it has quick attempts are spent on something else than the page.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocked: bool,
    /// Pages of the batch that were finished when it failed last.
    #[serde(default, skip_serializing_if = "is_default")]
    pub others: u64,
}

impl Trouble {
    /// The page only retries: its quick attempts are spent.
    pub fn is_spent(&self) -> bool {
        self.stuck || self.take_apart || self.blocked
    }

    /// When it is over if it goes on to fail and the batch is not paused meanwhile.
    pub fn gives_up_at(&self, policy: &RetryPolicy) -> Option<Timestamp> {
        let left = match self.not_the_page {
            0 => policy.time_of_attempts_left(self.attempts),
            tries => policy.time_of_tries_left(tries),
        };
        let left = left.filter(|_| self.stuck || self.blocked)?;
        Some(self.last_at.plus(left))
    }
}

/// Failures in a row that speak against a page before it is taken apart.
const MOST_AGAINST: u32 = 3;

/// When a page failed, and what had become of the others by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub now: Timestamp,
    /// Pages of the batch that are finished.
    pub finished: u64,
}

impl Stride {
    pub fn starting_at(start: Option<PageToken>) -> Self {
        Self {
            at: start,
            end: None,
            state: State::Ready,
            trouble: None,
            done: StrideTotals::default(),
            reserved: 0,
            short: false,
            give_up: None,
            ends_data: false,
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// About the most bytes that it takes where it is stored.
    pub fn stored_bytes(&self) -> usize {
        let set_aside = self.give_up.as_ref().map(|give_up| &give_up.failure);
        let page_end = set_aside.and_then(|failure| failure.page_end.as_ref());
        let tokens = [self.at.as_ref(), self.end.as_ref(), page_end];
        let tokens = tokens.into_iter().flatten().map(PageToken::stored_bytes);
        STRIDE_BYTES + tokens.sum::<usize>() + set_aside.map_or(0, |failure| failure.message.len())
    }

    pub fn is_stuck(&self) -> bool {
        self.trouble.as_ref().is_some_and(|t| t.stuck)
    }

    /// What it was dispatched with, while it runs.
    pub fn run(&self) -> Option<Run> {
        match self.state {
            State::Running {
                rate_share,
                page_share,
                dispatch,
                since,
                bridge,
            } => Some(Run {
                rate_share,
                page_share,
                dispatch,
                since,
                bridge,
            }),
            State::Ready | State::Waiting { .. } => None,
        }
    }

    /// The number of the attempt that would be made now.
    pub fn next_attempt(&self) -> u32 {
        self.trouble.as_ref().map_or(0, |t| t.attempts) + 1
    }

    /// When it may be dispatched; `None` while it runs.
    pub fn due(&self) -> Option<Timestamp> {
        match self.state {
            State::Ready => Some(Timestamp(0)),
            State::Waiting { until } => Some(until),
            State::Running { .. } => None,
        }
    }

    /// Notes the failure of the page after `at`. `false`: the page has no attempts left.
    ///
    /// An error that speaks against the page counts against it. One of which nothing is known does if other pages were
    /// finished since the page failed before.
    pub fn wait_for_retry(
        &mut self,
        failure: &FailedAttempt,
        policy: &RetryPolicy,
        seed: u64,
        Moment { now, finished }: Moment,
    ) -> bool {
        let reads = failure.unread.then(|| RetryPolicy {
            max_attempts: MOST_READS,
            extended: None,
            ..policy.clone()
        });
        let policy = reads.as_ref().unwrap_or(policy);
        let before = self.trouble.take();
        let counted = u32::from(!failure.not_the_page);
        let attempts = before.as_ref().map_or(0, |t| t.attempts);
        let attempts = attempts.saturating_add(counted);
        let idle = before.as_ref().map_or(0, |t| t.not_the_page);
        let idle = (1 - counted) * idle.saturating_add(1);
        let stuck = attempts >= policy.max_attempts;
        let blocked = idle >= policy.max_attempts;
        let before = before.as_ref();
        let others_finish = before.is_some_and(|t| finished > t.others);
        let against = before.map_or(0, |t| t.against);
        let (against, enough) = match failure.blame {
            Blame::Page => (against.saturating_add(1), true),
            Blame::Unknown if others_finish => (against.saturating_add(1), stuck || blocked),
            Blame::Unknown => (0, false),
            Blame::Moment => (against, false),
        };
        let take_apart = enough && against >= MOST_AGAINST.min(policy.max_attempts);
        // The worker that was to take it apart could not.
        let in_one_piece = before.is_some_and(|t| t.take_apart);
        let at_fault = failure.blame == Blame::Page;
        let wait = if failure.not_the_page {
            Some(policy.wait_after(idle, seed))
        } else {
            let next = wait_before_next(attempts, policy, seed);
            let next = next.filter(|_| failure.retryable && !(at_fault && in_one_piece));
            match take_apart && !in_one_piece {
                true => next.map(|_| policy.wait_after(attempts, seed)),
                false => next,
            }
        };
        self.trouble = Some(Trouble {
            attempts,
            stuck,
            error_type: failure.error_type.clone(),
            message: truncate(&failure.message, MAX_TROUBLE_CHARS),
            first_at: before.map_or(now, |t| t.first_at),
            last_at: now,
            not_the_page: idle,
            against,
            take_apart,
            blocked,
            others: finished,
        });
        match wait {
            Some(wait) => {
                let stuck = self.is_stuck();
                // The slow lane stays slow, whatever an error asks for.
                let wait = match failure.retry_after {
                    Some(asked) if stuck => asked.max(wait),
                    Some(asked) => asked,
                    None => wait,
                };
                self.state = State::Waiting {
                    until: now.plus(wait),
                };
                true
            }
            None => false,
        }
    }

    /// Notes that the page after `at`, which is [given up](Self::give_up), could not be put aside. Its own failure is
    /// the one that is kept, and no attempt is counted.
    pub fn wait_to_put_aside(
        &mut self,
        failure: &FailedAttempt,
        policy: &RetryPolicy,
        seed: u64,
        now: Timestamp,
    ) {
        if let Some(give_up) = &mut self.give_up {
            give_up.failed += u32::from(!failure.not_the_page);
            give_up.lost += u32::from(failure.lost);
        }
        let idle = self.trouble.as_mut().map_or(1, |trouble| {
            trouble.not_the_page = trouble.not_the_page.saturating_add(1);
            trouble.not_the_page
        });
        let wait = policy.wait_after(idle, seed);
        let wait = failure.retry_after.unwrap_or(wait);
        self.state = State::Waiting {
            until: now.plus(wait),
        };
    }
}

/// `None` when all attempts are spent.
fn wait_before_next(attempts: u32, policy: &RetryPolicy, seed: u64) -> Option<Duration> {
    if attempts < policy.max_attempts {
        return Some(policy.wait_after(attempts, seed));
    }
    let extended = policy.extended.as_ref()?;
    let spent = attempts - policy.max_attempts;
    let left = extended.max_attempts.is_none_or(|max| spent < max);
    left.then_some(extended.interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::retry::ExtendedRetries;

    fn failure(blame: Blame) -> FailedAttempt {
        FailedAttempt {
            lost: false,
            blame,
            ..FailedAttempt::lost("Test".to_owned(), "made to fail")
        }
    }

    /// Fails so often, with so many other pages finished each time, and tells after which failure the page is to be taken
    /// apart.
    fn taken_apart_after(failure: &FailedAttempt, finished: impl Fn(u64) -> u64) -> Option<u64> {
        let mut stride = Stride::starting_at(None);
        let policy = RetryPolicy::default();
        (1..=40).find(|n| {
            let moment = Moment {
                now: Timestamp(n * 1_000),
                finished: finished(*n),
            };
            assert!(stride.wait_for_retry(failure, &policy, 1, moment));
            stride.trouble.as_ref().is_some_and(|t| t.take_apart)
        })
    }

    #[test]
    fn three_failures_speak_against_a_page_whose_data_is_at_fault() {
        assert_eq!(taken_apart_after(&failure(Blame::Page), |_| 0), Some(3));
        assert_eq!(taken_apart_after(&failure(Blame::Moment), |n| n), None);
    }

    #[test]
    fn an_error_that_may_be_the_page_is_once_its_quick_attempts_are_spent_and_others_finish() {
        let unknown = failure(Blame::Unknown);
        assert_eq!(taken_apart_after(&unknown, |n| n), Some(10));
        assert_eq!(taken_apart_after(&unknown, |_| 7), None);
        // By the tenth no other page is finished any more.
        assert_eq!(taken_apart_after(&unknown, |n| n.min(9)), None);
        assert_eq!(taken_apart_after(&unknown, |n| n.max(20)), Some(23));
        let statement = FailedAttempt {
            not_the_page: true,
            ..unknown
        };
        assert_eq!(taken_apart_after(&statement, |n| n), Some(10));
        assert_eq!(taken_apart_after(&statement, |_| 7), None);
    }

    #[test]
    fn a_page_that_could_not_be_taken_apart_has_no_attempts_left() {
        let mut stride = Stride::starting_at(None);
        let moment = Moment {
            now: Timestamp(1_000),
            finished: 0,
        };
        let policy = RetryPolicy::default();
        let failure = failure(Blame::Page);
        let mut fails = || stride.wait_for_retry(&failure, &policy, 1, moment);
        assert_eq!(
            [fails(), fails(), fails(), fails()],
            [true, true, true, false]
        );
    }

    #[test]
    fn a_page_in_extended_retries_says_when_it_gives_up() {
        let mut stride = Stride::starting_at(None);
        let policy = RetryPolicy::default().max_attempts(2);
        let mut gives_up = |policy: &RetryPolicy| {
            let moment = Moment {
                now: Timestamp(1_000),
                finished: 0,
            };
            assert!(stride.wait_for_retry(&failure(Blame::Moment), policy, 1, moment));
            let trouble = stride.trouble.as_ref().unwrap();
            trouble.gives_up_at(policy)
        };
        assert_eq!(gives_up(&policy), None);
        let week = Timestamp(1_000).plus(Duration::from_secs(7 * 86_400));
        assert_eq!(gives_up(&policy), Some(week));
        let endless = ExtendedRetries {
            max_attempts: None,
            ..ExtendedRetries::default()
        };
        assert_eq!(gives_up(&policy.extended(Some(endless))), None);
    }
}
