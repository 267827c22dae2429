//! The facts about a batch: which strides are known, running, waiting or finished.
//!
//! The ledger keeps facts and refuses impossible ones; what to do next is decided by
//! [`decide`](crate::decisions::scheduler::decide). There is no clock, no I/O and no Temporal in either.
//!
//! # Chain
//!
//! Strides are numbered from 0 and form an unbroken chain: stride n begins where stride n-1 ends. A stride
//! gets its end when its successor is announced, and from then on is closed: every later attempt works in
//! `(at, end]`. The last known stride, the *frontier*, has no end yet. The chain is complete when the
//! frontier itself reports the end of the data.
//!
//! # Bounds
//!
//! A finished stride is forgotten. What remains is what is open (bounded by the parallelism, the
//! look-ahead, [`MAX_STUCK`] and bytes) and the lists of failures (bounded by [`MAX_FAILED`] and
//! [`MAX_FAILED_ITEMS`]), so the ledger does not grow with the number of pages.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod bridges;
mod cycle;
#[cfg(test)]
pub(crate) mod properties;
mod stride;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    base::{stored::is_default, time::Timestamp},
    batch::{retry::RetryPolicy, tolerance::Tally},
    page::token::PageToken,
    processor::{
        reducer::{Fold, Output, Plan},
        report::count_reason,
        store::page_ledger::StrideTotals,
    },
    progress::{
        ItemCounts,
        failures::{FailedItem, FailureState, PageFailure},
    },
    protocol::{FailedAttempt, StrideReport, UNKNOWN_PROCESSOR},
};
use bridges::Bridges;
use cycle::CycleDetector;
use stride::{Moment, Trouble};

pub(crate) use stride::{Allotment, Run, STRIDE_BYTES, State, Stride};

/// Pages given up that are listed. Without dead letters one more ends the batch, because it could not be
/// accounted for.
pub(crate) const MAX_FAILED: usize = 50;
/// Items given up that are listed; further ones are counted.
pub(crate) const MAX_FAILED_ITEMS: usize = 20;
/// Strides waiting for another attempt beyond which no new data is discovered.
pub(crate) const MAX_STUCK: usize = 32;

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    open: BTreeMap<u64, Stride>,
    /// The number that the next announced stride gets.
    next_number: u64,
    end_of_data: bool,
    /// Where the data ended; meaningful once nothing is open.
    tail: Option<PageToken>,
    cycle: CycleDetector,
    pub totals: Totals,
    failed: Vec<PageFailure>,
    failed_items: Vec<FailedItem>,
    broken: Option<Broken>,
    /// Spreads the waits of pages that failed together.
    seed: u64,
    /// Whether the slow lane had the last turn on a batch with a single slot.
    extended_had_last_turn: bool,
    /// Strides that were given to activities, every time counted.
    dispatches: u64,
    /// What the pages have put out, where the batch has a reducer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fold: Option<Fold>,
    /// Where a partition ends. Announced like any other token, it closes the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<PageToken>,
    /// The stride that no other one has announced. `None`: the ledger is from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    /// The bridges that have strides.
    #[serde(default, skip_serializing_if = "Bridges::is_empty")]
    bridges: Bridges,
    /// How an attempt failed last. Each stride keeps the beginning of its own message only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_failure: Option<LastFailure>,
    /// Pages finished or failed since the last continue-as-new.
    #[serde(skip)]
    pages_this_run: u64,
    /// Since when a continue-as-new is due.
    #[serde(skip)]
    hand_over_due: Option<Timestamp>,
}

/// How an attempt at a page failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastFailure {
    pub error_type: String,
    pub message: String,
}

/// Counters of a batch run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub strides_finished: u64,
    pub pages_completed: u64,
    pub pages_failed: u64,
    pub items: ItemCounts,
    pub retries: u64,
    pub max_parallelism_achieved: u32,
    pub announcements_dropped: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
    /// Attempts at pages that failed since a page was finished.
    pub consecutive_failures: u64,
    /// Dead letters that were kept.
    pub dead_letters: u64,
    /// Items at most that pages had which a stage was given and that were given up as a whole. Some of them may
    /// have been processed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub items_aside: u64,
}

impl Totals {
    /// What tolerated failures are counted over.
    pub fn tally(&self) -> Tally {
        Tally {
            items: self.items.total(),
            items_failed: self.items.failed,
            pages: self.pages_completed + self.pages_failed,
            pages_failed: self.pages_failed,
        }
    }

    /// Takes note of how the attempts of a report went. One that says nothing of its page does not count.
    fn attempted(&mut self, report: &StrideReport) {
        if report.pages > 0 {
            self.consecutive_failures = 0;
        } else {
            self.consecutive_failures += u64::from(report.pages_failed);
        }
        if report.failure.as_ref().is_some_and(|f| !f.not_the_page) {
            self.consecutive_failures += 1;
        }
    }
}

/// Why a batch cannot go on to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Broken {
    /// The page at the frontier was given up before anybody knew where the next one starts.
    CoverageStops {
        at: Option<PageToken>,
        error_type: String,
        message: String,
    },
    /// A token repeated: the source runs in a circle.
    CursorDidNotAdvance { token: PageToken },
    /// More pages were given up than can be listed.
    TooManyFailures,
    /// A page could not be processed for too long, for a reason that is not its fault.
    Blocked {
        at: Option<PageToken>,
        error_type: String,
        message: String,
    },
    /// The controller saw something that cannot be; a defect of this crate.
    Impossible { what: String },
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event<'a> {
    /// A running stride told where its successors start; none: the data ends with its page.
    Announced {
        by: u64,
        /// The dispatch whose activity says so; `None`: its worker is of a version that does not tell.
        dispatch: Option<u64>,
        starts: &'a [PageToken],
    },
    /// A stride was given to an activity.
    Dispatched {
        stride: u64,
        rate_share: Option<f64>,
        page_share: Option<f64>,
        /// Items that it may go through at most, where a stage limits them.
        items: Option<Allotment>,
        now: Timestamp,
    },
    /// An activity returned.
    Reported {
        stride: u64,
        report: Box<StrideReport>,
        policy: &'a RetryPolicy,
        /// Strides keep dead letters, so it is they who give pages up.
        dead_letters: bool,
        now: Timestamp,
    },
    /// A stride that was just dispatched went to this bridge.
    Bridged { stride: u64, bridge: &'a str },
    /// A continue-as-new became due.
    HandOverDue { now: Timestamp },
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The ledger changed.
    Applied,
    /// It was known already.
    Duplicate,
    /// It does not fit what is known, or came too late; dropped and counted.
    Dropped,
}

/// A fact that cannot be: the caller is wrong, not the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Impossible(String);

/// # Construct
impl Ledger {
    /// A ledger that knows one stride: the one that begins after `first`.
    pub fn new(first: Option<PageToken>, seed: u64) -> Self {
        Self::of_range(first, None, 0, seed)
    }

    /// A ledger of the range `(first, last]`, whose strides are numbered from `number`.
    pub fn of_range(
        first: Option<PageToken>,
        last: Option<PageToken>,
        number: u64,
        seed: u64,
    ) -> Self {
        Self {
            open: BTreeMap::from([(number, Stride::starting_at(first.clone()))]),
            next_number: number + 1,
            first: Some(number),
            last,
            end_of_data: false,
            tail: first.clone(),
            cycle: CycleDetector::starting_at(first),
            totals: Totals::default(),
            failed: Vec::new(),
            failed_items: Vec::new(),
            broken: None,
            seed,
            extended_had_last_turn: false,
            dispatches: 0,
            fold: None,
            bridges: Bridges::default(),
            last_failure: None,
            pages_this_run: 0,
            hand_over_due: None,
        }
    }
}

/// # Fold what the pages put out
impl Ledger {
    /// Gives the batch a reducer, before its first page.
    pub fn reduce_by(&mut self, plan: Plan) {
        self.fold.get_or_insert_with(|| Fold::new(plan));
    }

    /// The result so far, where the batch has a reducer.
    pub fn fold(&self) -> Option<&Fold> {
        self.fold.as_ref()
    }

    /// Gives away what the pages have put out so far.
    pub fn take_output(&mut self) -> Option<Output> {
        self.fold.take().map(Fold::into_output)
    }

    pub fn fold_mut(&mut self) -> Option<&mut Fold> {
        self.fold.as_mut()
    }
}

/// # Record
impl Ledger {
    /// Keeps a fact.
    pub fn record(&mut self, event: Event<'_>) -> Result<Recorded, Impossible> {
        match event {
            Event::Announced {
                by,
                dispatch,
                starts,
            } => Ok(self.announced(by, dispatch, starts)),
            Event::Dispatched {
                stride,
                rate_share,
                page_share,
                items,
                now,
            } => {
                let run = Run {
                    rate_share,
                    page_share,
                    dispatch: self.dispatches + 1,
                    since: now,
                    bridge: None,
                };
                self.dispatched(stride, run, items)
            }
            Event::Reported {
                stride,
                report,
                policy,
                dead_letters,
                now,
            } => self.reported(stride, *report, (policy, dead_letters), now),
            Event::Bridged { stride, bridge } => self.bridged(stride, bridge),
            Event::HandOverDue { now } => {
                let new = self.hand_over_due.is_none();
                self.hand_over_due.get_or_insert(now);
                Ok(if new {
                    Recorded::Applied
                } else {
                    Recorded::Duplicate
                })
            }
        }
    }

    /// Leaves everything after `at` to somebody else, and tells where that ends. `at` is a place in what is
    /// [undiscovered](Self::undiscovered); the answer is `None` where it cannot be.
    pub fn split_at(&mut self, at: PageToken) -> Option<Option<PageToken>> {
        let (start, end) = self.undiscovered()?;
        if start.as_ref() == Some(&at) || end.as_ref() == Some(&at) {
            return None;
        }
        // Under a new number: an attempt that wakes up late would announce starts that are beyond the new end.
        let frontier = self.frontier()?;
        self.open.remove(&frontier)?;
        self.open.insert(frontier + 1, Stride::starting_at(start));
        self.next_number = frontier + 2;
        self.first = Some(frontier + 1);
        Some(self.last.replace(at))
    }

    /// Gives the lists of failures away, to a list that is bounded for several ledgers. What is counted stays counted.
    /// The page where coverage stopped is kept, since it is tried again when the batch goes on.
    pub fn give_lists(&mut self) -> (Vec<PageFailure>, Vec<FailedItem>) {
        let failed = std::mem::take(&mut self.failed);
        let (kept, given) = failed.into_iter().partition(|page| self.stops_at(page));
        self.failed = kept;
        (given, std::mem::take(&mut self.failed_items))
    }

    /// Whether this is the page where coverage stopped.
    fn stops_at(&self, page: &PageFailure) -> bool {
        let Some(Broken::CoverageStops { at, .. }) = &self.broken else {
            return false;
        };
        let stride = self.open.get(&page.stride);
        stride.is_some_and(|s| s.at == page.start) && page.end.is_none() && page.start == *at
    }

    /// Marks the batch as unable to finish; the first reason stays.
    pub fn break_off(&mut self, reason: Broken) {
        self.broken.get_or_insert(reason);
    }

    /// Lets a batch that ended go on: the page where coverage stopped is tried again as if it had never
    /// been, and nobody waits any longer. Says no where the chain itself cannot be trusted.
    pub fn revive(&mut self) -> Result<(), String> {
        // The page was not left behind, so it is not a failure any more.
        let failed = std::mem::take(&mut self.failed);
        let (again, failed): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|page| self.stops_at(page));
        self.failed = failed;
        let again = u64::try_from(again.len()).unwrap_or(u64::MAX);
        self.totals.pages_failed = self.totals.pages_failed.saturating_sub(again);
        match self.broken.take() {
            None
            | Some(
                Broken::TooManyFailures | Broken::CoverageStops { .. } | Broken::Blocked { .. },
            ) => {}
            Some(broken @ Broken::CursorDidNotAdvance { .. }) => {
                self.broken = Some(broken);
                return Err(
                    "its source ran in a circle, so that its place in the data is not known"
                        .to_owned(),
                );
            }
            Some(broken @ Broken::Impossible { .. }) => {
                self.broken = Some(broken);
                return Err("its state is not consistent".to_owned());
            }
        }
        for stride in self.open.values_mut() {
            stride.state = State::Ready;
            if let Some(trouble) = &mut stride.trouble {
                trouble.not_the_page = 0;
            }
        }
        self.forget_empty_bridges();
        self.totals.consecutive_failures = 0;
        Ok(())
    }

    /// Tokens are compared in order. As soon as one differs from what is known, or cannot be compared
    /// because its stride is finished, it and all that follow are dropped: they belong to another way of
    /// cutting the data.
    ///
    /// A stride gets its end from the dispatch that has it, and strides that nobody has begun come with it. An attempt
    /// that was lost can be heard late, when the stride has gone on beyond the end that it found, or when another
    /// attempt works towards an end of its own. Nothing that it says is new then.
    fn announced(&mut self, by: u64, dispatch: Option<u64>, starts: &[PageToken]) -> Recorded {
        let mut result = Recorded::Duplicate;
        let run = self.open.get(&by).and_then(Stride::run);
        let current = dispatch.is_none_or(|said| run.is_some_and(|run| run.dispatch == said));
        if starts.is_empty()
            && current
            && let Some(stride) = self.open.get_mut(&by)
        {
            stride.ends_data |= stride.is_running() && stride.end.is_none();
        }
        for (number, token) in (by..).zip(starts) {
            let frontier = number + 1 == self.next_number && !self.end_of_data;
            let just_added = result == Recorded::Applied;
            let closes = current && (number == by || just_added || dispatch.is_none());
            let Some(stride) = self.open.get_mut(&number) else {
                return self.dropped();
            };
            match &stride.end {
                Some(known) if known == token => {}
                Some(_) => return self.dropped(),
                None if !closes => return self.dropped(),
                // The range ends here, so nothing follows.
                None if frontier && self.last.as_ref() == Some(token) => {
                    stride.end = Some(token.clone());
                    self.end_of_data = true;
                    result = Recorded::Applied;
                }
                None if frontier => {
                    if stride.at.as_ref() == Some(token) || self.cycle.sees(token) {
                        self.break_off(Broken::CursorDidNotAdvance {
                            token: token.clone(),
                        });
                        return Recorded::Applied;
                    }
                    stride.end = Some(token.clone());
                    self.open
                        .insert(number + 1, Stride::starting_at(Some(token.clone())));
                    self.next_number = number + 2;
                    result = Recorded::Applied;
                }
                None => return self.dropped(),
            }
        }
        result
    }

    /// Counts an announcement that is not applied.
    pub fn dropped(&mut self) -> Recorded {
        self.totals.announcements_dropped += 1;
        Recorded::Dropped
    }

    fn dispatched(
        &mut self,
        number: u64,
        run: Run,
        items: Option<Allotment>,
    ) -> Result<Recorded, Impossible> {
        let stride = self.stride_mut(number)?;
        if stride.is_running() {
            return Err(Impossible(format!(
                "stride {number} was dispatched while it runs"
            )));
        }
        let stuck = stride.is_stuck();
        stride.state = State::Running {
            rate_share: run.rate_share,
            page_share: run.page_share,
            dispatch: run.dispatch,
            since: run.since,
            bridge: run.bridge,
        };
        stride.ends_data = false;
        stride.reserved = items.map_or(0, |allotment| allotment.items);
        stride.short = items.is_some_and(|allotment| allotment.short);
        self.dispatches = run.dispatch;
        self.extended_had_last_turn = stuck;
        self.totals.max_parallelism_achieved =
            self.totals.max_parallelism_achieved.max(self.running());
        Ok(Recorded::Applied)
    }

    fn reported(
        &mut self,
        number: u64,
        report: StrideReport,
        (policy, dead_letters): (&RetryPolicy, bool),
        now: Timestamp,
    ) -> Result<Recorded, Impossible> {
        let frontier = number + 1 == self.next_number;
        let seed = self.seed ^ number;
        let finished = self.totals.pages_completed;
        let stride = self.stride_mut(number)?;
        if !stride.is_running() {
            return Err(Impossible(format!(
                "stride {number} reported while it does not run"
            )));
        }
        stride.state = State::Ready;
        self.forget_empty_bridges();
        self.totals.attempted(&report);
        if let Some(failure) = &report.failure {
            self.last_failure = Some(LastFailure {
                error_type: failure.error_type.clone(),
                message: failure.message.clone(),
            });
        }
        let stride = self.stride_mut(number)?;
        if let Some(covered_to) = report.covered_to
            && stride.at.as_ref() != Some(&covered_to)
        {
            stride.at = Some(covered_to);
            stride.trouble = None;
            stride.give_up = None;
        } else if report.failure.is_none() && !report.end_of_data && report.pages > 0 {
            return Err(Impossible(format!(
                "stride {number} reported pages but no progress"
            )));
        }
        stride.done.pages += u64::from(report.pages);
        stride.done.pages_failed += u64::from(report.pages_failed);
        stride.done.items += report.items;
        let spent = report.items.total().saturating_add(report.items_aside);
        stride.reserved = stride.reserved.saturating_sub(spent);
        // A worker can be lost when there is nothing left to do.
        let done = report.end_of_data || (stride.end.is_some() && stride.at == stride.end);
        let failure = match report.failure.filter(|failure| !(failure.lost && done)) {
            Some(failure) if failure.coverage_stops => Some(failure),
            Some(failure) if stride.give_up.is_some() => {
                stride.wait_to_put_aside(&failure, policy, seed, now);
                self.totals.retries += 1;
                None
            }
            Some(failure)
                if !stride.wait_for_retry(&failure, policy, seed, Moment { now, finished }) =>
            {
                let last_page = failure.lost && stride.ends_data && stride.end.is_none();
                let failure = FailedAttempt {
                    last_page: failure.last_page || last_page,
                    ..failure
                };
                if dead_letters {
                    stride.give_up = Some(Box::new(failure.into()));
                    self.totals.retries += 1;
                    None
                } else {
                    Some(failure)
                }
            }
            Some(_) => {
                self.totals.retries += 1;
                None
            }
            None => None,
        };
        self.mind_blocked(number, policy);
        self.totals.pages_completed += u64::from(report.pages);
        self.totals.pages_failed += u64::from(report.pages_failed);
        self.pages_this_run += u64::from(report.pages) + u64::from(report.pages_failed);
        self.totals.items += report.items;
        if let (Some(fold), Some(output)) = (&mut self.fold, report.output) {
            fold.merge(output);
        }
        self.totals.items_aside += report.items_aside;
        self.totals.dead_letters += report.dead_letters;
        for (reason, items) in &report.skip_reasons {
            count_reason(&mut self.totals.skip_reasons, reason, *items);
        }
        let room = MAX_FAILED.saturating_sub(self.failed.len());
        self.failed
            .extend(report.failed_pages.into_iter().take(room));
        if report.pages_failed > 0 && !dead_letters && self.totals.pages_failed > MAX_FAILED as u64
        {
            self.break_off(Broken::TooManyFailures);
        }
        let room = MAX_FAILED_ITEMS.saturating_sub(self.failed_items.len());
        self.failed_items
            .extend(report.failed_items.into_iter().take(room));
        if report.end_of_data {
            if !frontier || self.end_of_data {
                // Its successors were announced, so there was data after it once; what is there now
                // is for them to see.
                let stride = self.stride_mut(number)?;
                stride.at = stride.end.clone();
            } else {
                self.end_of_data = true;
            }
        }
        if let Some(failure) = failure {
            self.give_up(number, failure, now)?;
        }
        self.forget_if_finished(number);
        Ok(Recorded::Applied)
    }

    /// Ends a batch that has waited for long enough for the repair of a fault that is not its page's.
    fn mind_blocked(&mut self, number: u64, policy: &RetryPolicy) {
        let Some(stride) = self.open.get(&number) else {
            return;
        };
        let allowed = policy.tries_allowed();
        if let Some(trouble) = &stride.trouble
            && allowed.is_some_and(|allowed| trouble.not_the_page >= allowed)
            // A worker that has it may come at any time.
            && trouble.error_type != UNKNOWN_PROCESSOR
        {
            let blocked = Broken::Blocked {
                at: stride.at.clone(),
                error_type: trouble.error_type.clone(),
                message: trouble.message.clone(),
            };
            self.break_off(blocked);
        }
    }

    /// A page has no attempts left: it is listed, and the stride goes on after it where that is known.
    fn give_up(
        &mut self,
        number: u64,
        failure: FailedAttempt,
        now: Timestamp,
    ) -> Result<(), Impossible> {
        let frontier = number + 1 == self.next_number;
        let stride = self.stride_mut(number)?;
        let page_end = failure.page_end.clone().or_else(|| stride.end.clone());
        let start = stride.at.clone();
        let trouble = stride.trouble.take();
        stride.give_up = None;
        // A worker that was lost may have processed what is given up.
        let aside = std::mem::take(&mut stride.reserved);
        let listed = PageFailure {
            stride: number,
            start: start.clone(),
            end: page_end.clone(),
            error_type: failure.error_type.clone(),
            message: failure.message.clone(),
            attempts: trouble.as_ref().map_or(1, |t| t.attempts),
            first_at: trouble.map_or(now, |t| t.first_at),
            last_at: now,
            gives_up_at: None,
            state: FailureState::GivenUp,
        };
        if page_end.is_some() {
            stride.at = page_end;
        } else if failure.last_page && frontier {
            self.end_of_data = true;
        } else {
            self.break_off(Broken::CoverageStops {
                at: start,
                error_type: failure.error_type,
                message: failure.message,
            });
        }
        self.failed.push(listed);
        self.totals.items_aside += aside;
        self.totals.pages_failed += 1;
        self.pages_this_run += 1;
        if self.failed.len() > MAX_FAILED {
            self.break_off(Broken::TooManyFailures);
        }
        Ok(())
    }

    fn forget_if_finished(&mut self, number: u64) {
        let frontier = number + 1 == self.next_number;
        let Some(stride) = self.open.get(&number) else {
            return;
        };
        let reached_end = stride.end.is_some() && stride.at == stride.end;
        // The end of a partition is known before the stride that ends there is done.
        let was_last = frontier && self.end_of_data && stride.end.is_none();
        if reached_end || was_last {
            if frontier {
                self.tail = stride.at.clone();
            }
            self.open.remove(&number);
            self.totals.strides_finished += 1;
        }
    }

    fn stride_mut(&mut self, number: u64) -> Result<&mut Stride, Impossible> {
        self.open
            .get_mut(&number)
            .ok_or_else(|| Impossible(format!("stride {number} is not open")))
    }
}

/// # Inspect
impl Ledger {
    /// Open strides by number.
    pub fn open(&self) -> impl Iterator<Item = (u64, &Stride)> {
        self.open.iter().map(|(number, stride)| (*number, stride))
    }

    /// One open stride.
    pub fn stride(&self, number: u64) -> Option<&Stride> {
        self.open.get(&number)
    }

    /// Whether a page ledger must have heard of a stride: it has applied some of it, or an activity has kept the end of the
    /// stride before it there, before it announced it.
    pub fn is_kept(&self, number: u64) -> bool {
        let began = |stride: &Stride| stride.done != StrideTotals::default();
        self.stride(number).is_some_and(began) || self.first.is_some_and(|first| number > first)
    }

    /// Strides that are known, finished ones included.
    #[cfg(test)]
    pub fn known(&self) -> u64 {
        self.next_number
    }

    /// The last known stride, while the end of the data has not been seen.
    pub fn frontier(&self) -> Option<u64> {
        (!self.end_of_data).then(|| self.next_number - 1)
    }

    /// Where the range of this ledger ends, if that is not the end of the data.
    pub fn last(&self) -> Option<&PageToken> {
        self.last.as_ref()
    }

    /// What lies before nobody, from the frontier to the end: nothing of it is given out, and nothing of it has
    /// failed.
    pub fn undiscovered(&self) -> Option<(Option<PageToken>, Option<PageToken>)> {
        let frontier = self.stride(self.frontier()?)?;
        let untouched = matches!(frontier.state, State::Ready)
            && frontier.end.is_none()
            && frontier.trouble.is_none()
            && frontier.give_up.is_none();
        (untouched && self.running() == 0).then(|| (frontier.at.clone(), self.last.clone()))
    }

    /// Pages in flight: every running stride works on one page at a time.
    pub fn running(&self) -> u32 {
        self.count(Stride::is_running)
    }

    /// Pages in flight that do not outlive this run of the controller.
    pub fn running_here(&self) -> u32 {
        self.count(|stride| stride.run().is_some_and(|run| run.bridge.is_none()))
    }

    /// Strides in the slow lane, running or not.
    pub fn stuck(&self) -> u32 {
        self.count(Stride::is_stuck)
    }

    /// Strides that could be dispatched now.
    pub fn ready(&self) -> u32 {
        self.count(|stride| matches!(stride.state, State::Ready))
    }

    /// About the most bytes that the open strides take where the ledger is stored.
    pub fn open_bytes(&self) -> usize {
        self.open.values().map(Stride::stored_bytes).sum()
    }

    /// Items of the stage that are given out and not counted yet.
    pub fn reserved(&self) -> u64 {
        self.open.values().map(|stride| stride.reserved).sum()
    }

    /// Pages that only retry: their quick attempts are spent.
    pub fn spent(&self) -> u32 {
        self.count(|stride| stride.trouble.as_ref().is_some_and(Trouble::is_spent))
    }

    /// Strides whose page failed and that have not got past it yet.
    pub fn in_trouble(&self) -> u32 {
        self.count(|stride| stride.trouble.is_some())
    }

    fn count(&self, which: impl Fn(&Stride) -> bool) -> u32 {
        u32::try_from(self.open.values().filter(|s| which(s)).count()).unwrap_or(u32::MAX)
    }

    /// The whole message of the latest failure, where it is one of this type.
    pub fn message_of(&self, error_type: &str) -> Option<&str> {
        let last = self.last_failure.as_ref()?;
        (last.error_type == error_type).then_some(last.message.as_str())
    }

    /// Dispatches so far.
    pub fn dispatches(&self) -> u64 {
        self.dispatches
    }

    /// Running strides by number, with what they were dispatched with.
    pub fn runs(&self) -> impl Iterator<Item = (u64, Run)> {
        self.open
            .iter()
            .filter_map(|(number, stride)| Some((*number, stride.run()?)))
    }

    /// Strides that nobody has and that may be dispatched by then.
    pub fn due(&self, by: Timestamp) -> u32 {
        self.count(|stride| stride.due().is_some_and(|at| at <= by))
    }

    /// Everything at or before this is finished or listed as failed.
    pub fn low_water_mark(&self) -> Option<&PageToken> {
        match self.open.values().next() {
            Some(first) => first.at.as_ref(),
            None => self.tail.as_ref(),
        }
    }

    /// The end of the data has been seen.
    pub fn end_of_data(&self) -> bool {
        self.end_of_data
    }

    /// The end of the data has been seen and every stride is finished.
    pub fn is_complete(&self) -> bool {
        self.end_of_data && self.open.is_empty()
    }

    /// Why the batch cannot go on, if so.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// Pages that were given up.
    pub fn failed(&self) -> &[PageFailure] {
        &self.failed
    }

    /// The first items that were given up.
    pub fn failed_items(&self) -> &[FailedItem] {
        &self.failed_items
    }

    /// The failures, as tolerated failures are counted. A page that only retries counts as one that is given up until it
    /// is finished; there are some in its partitions, too.
    pub fn tally(&self, in_partitions: u32) -> Tally {
        self.tally_with(self.spent() + in_partitions)
    }

    /// The part of them that is forgiven: also pages that have failed and have quick attempts left.
    pub fn forgiven(&self, in_partitions: u32) -> Tally {
        self.tally_with(self.in_trouble() + in_partitions)
    }

    fn tally_with(&self, failing: u32) -> Tally {
        let mut tally = self.totals.tally();
        tally.pages += u64::from(failing);
        tally.pages_failed += u64::from(failing);
        tally
    }

    /// Pages that are waiting for another attempt or having one.
    pub fn failing(&self, policy: Option<&RetryPolicy>) -> impl Iterator<Item = PageFailure> {
        self.open.iter().filter_map(move |(number, stride)| {
            let trouble = stride.trouble.as_ref()?;
            let blocks = stride.end.is_none() && self.frontier() == Some(*number);
            Some(PageFailure {
                stride: *number,
                start: stride.at.clone(),
                end: None,
                error_type: trouble.error_type.clone(),
                message: trouble.message.clone(),
                attempts: trouble.attempts,
                first_at: trouble.first_at,
                last_at: trouble.last_at,
                gives_up_at: policy.and_then(|policy| trouble.gives_up_at(policy)),
                state: match trouble.stuck {
                    false => FailureState::Retrying,
                    true if blocks => FailureState::Blocked,
                    true => FailureState::Stuck,
                },
            })
        })
    }

    /// Pages finished or given up since the last continue-as-new.
    pub fn pages_this_run(&self) -> u64 {
        self.pages_this_run
    }

    /// Since when a continue-as-new is due.
    pub fn hand_over_due(&self) -> Option<Timestamp> {
        self.hand_over_due
    }

    /// Whether the slow lane had the last turn.
    pub fn extended_had_last_turn(&self) -> bool {
        self.extended_had_last_turn
    }
}
