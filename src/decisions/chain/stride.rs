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

/// The length to which messages of pages that will be tried again are cut. It is shorter than for failed pages, because
/// the continue-as-new input can hold more of them.
const MAX_TROUBLE_CHARS: usize = 80;
/// Stored bytes of an open stride beside its tokens, including any trouble.
pub(crate) const STRIDE_BYTES: usize = 400;

/// A stride that is not finished: the pages in `(at, end]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stride {
    /// The progress: every page of the stride up to here is finished.
    pub at: Option<PageToken>,
    /// The accepted start of the next stride.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    pub state: State,
    /// The failures of the page after `at`. `None` once the page succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<FailureStreak>,
    /// The counts of the stride so far.
    #[serde(default, skip_serializing_if = "is_default")]
    pub done: StrideTotals,
    /// Items that a stage allotted to the stride and that are not counted yet. They survive failures, so they also
    /// bound the items after `at` that an attempt can have processed without the controller's knowledge.
    #[serde(default, skip_serializing_if = "is_default")]
    pub granted_items: u64,
    /// True if the stage had fewer items left than a stride is expected to have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// The page after `at` has no attempts left, and the next activity puts it aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up: Option<Box<GiveUp>>,
    /// True if the running activity announced that the data ends with the page that it was about to process.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_data: bool,
}

/// The state of a stride.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Idle, and free to be dispatched.
    Ready,
    /// Owned by an activity.
    Running {
        /// Items per second that the activity may process.
        rate_share: Option<f64>,
        /// Pages per second that the activity may start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        page_share: Option<f64>,
        /// The number of this dispatch within the batch run.
        dispatch: u64,
        /// The time of the dispatch.
        since: Timestamp,
        /// The number in the chain of the workflow that owns the activity. `None` if that is the controller's own run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<u32>,
    },
    /// Idle until this time.
    Waiting { until: Timestamp },
}

/// Items that a stride is allotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemBudget {
    pub items: u64,
    /// See [`Stride::is_partial`].
    pub is_partial: bool,
}

/// The parameters with which a running stride was dispatched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    pub rate_share: Option<f64>,
    pub page_share: Option<f64>,
    pub dispatch: u64,
    pub since: Timestamp,
    /// The workflow that owns the activity, which then outlives the run of the controller.
    pub owner: Option<u32>,
}

/// The failures of one page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailureStreak {
    /// Failed attempts.
    pub attempts: u32,
    /// True if the quick attempts are spent, so that the page has only extended retries left.
    pub stuck: bool,
    pub error_type: String,
    pub message: String,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    /// Consecutive tries that failed for a reason other than the page.
    #[serde(default, skip_serializing_if = "is_default")]
    pub not_the_page: u32,
    /// Failures that count against the page itself. A failure of unknown blame resets them if no other page was
    /// finished since the page's previous failure.
    #[serde(default, skip_serializing_if = "is_default")]
    pub against: u32,
    /// True if the next attempt is to take the page apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_apart: bool,
    /// True if as many tries failed for a reason other than the page as the page has quick attempts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocked: bool,
    /// Pages of the batch that were finished when this page last failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub others: u64,
}

impl FailureStreak {
    /// Returns whether the quick attempts of the page are spent.
    pub fn is_spent(&self) -> bool {
        self.stuck || self.take_apart || self.blocked
    }

    /// The time at which the page is given up if it keeps failing and the batch is not paused.
    pub fn gives_up_at(&self, policy: &RetryPolicy) -> Option<Timestamp> {
        let left = match self.not_the_page {
            0 => policy.time_of_attempts_left(self.attempts),
            tries => policy.time_of_tries_left(tries),
        };
        let left = left.filter(|_| self.stuck || self.blocked)?;
        Some(self.last_at.plus(left))
    }
}

/// Failures against a page after which it is taken apart.
const MOST_AGAINST: u32 = 3;

/// The moment at which a page failed, with the progress of the batch until then.
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
            granted_items: 0,
            is_partial: false,
            give_up: None,
            ends_data: false,
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Upper bound on the stored bytes of the stride, approximately.
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

    /// The parameters of the current dispatch, while the stride runs.
    pub fn run(&self) -> Option<Run> {
        match self.state {
            State::Running {
                rate_share,
                page_share,
                dispatch,
                since,
                owner,
            } => Some(Run {
                rate_share,
                page_share,
                dispatch,
                since,
                owner,
            }),
            State::Ready | State::Waiting { .. } => None,
        }
    }

    /// The number that the next attempt would have.
    pub fn next_attempt(&self) -> u32 {
        self.trouble.as_ref().map_or(0, |t| t.attempts) + 1
    }

    /// The time from which on the stride may be dispatched. `None` while it runs.
    pub fn due(&self) -> Option<Timestamp> {
        match self.state {
            State::Ready => Some(Timestamp(0)),
            State::Waiting { until } => Some(until),
            State::Running { .. } => None,
        }
    }

    /// Records a failure of the page after `at` and schedules the next attempt. Returns `false` if the page has no
    /// attempts left.
    ///
    /// An error that blames the page counts against it. An error of unknown blame counts only if other pages were
    /// finished since the page's previous failure.
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
        // The attempt that was to take the page apart has failed.
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
        self.trouble = Some(FailureStreak {
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
                // Extended retries stay slow, whatever delay an error asks for.
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

    /// Records that the page after `at`, which is [given up](Self::give_up), could not be put aside. The page keeps its
    /// own failure, and no attempt is counted.
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

/// The wait before the next attempt. `None` when all attempts are spent.
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

    /// Fails the same page repeatedly, with `finished(n)` other pages finished by the n-th failure. Returns the failure
    /// after which the page is to be taken apart.
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
        // No other page is finished after the ninth failure.
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
