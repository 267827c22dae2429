//! The facts about a batch: which strides are known, running, waiting or finished.
//!
//! The chain keeps facts and refuses impossible ones. The next action is decided by
//! [`decide`](crate::decisions::scheduler::decide). Neither has a clock, I/O or Temporal.
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
//! A finished stride is forgotten. Only the open strides remain (bounded by the parallelism, the look-ahead,
//! [`MAX_STUCK`] and bytes) and the lists of failures (bounded by [`MAX_FAILED`] and [`MAX_FAILED_ITEMS`]), so the
//! chain does not grow with the number of pages.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod cycle;
mod open_ranges;
mod owners;
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
use cycle::CycleDetector;
use owners::Owners;
use stride::{FailureStreak, Moment};

pub(crate) use stride::{ItemBudget, Run, STRIDE_BYTES, State, Stride};

/// The number of given-up pages that are listed. Without dead letters one more ends the batch, because it could not be
/// accounted for.
pub(crate) const MAX_FAILED: usize = 50;
/// The number of given-up items that are listed. Further ones are only counted.
pub(crate) const MAX_FAILED_ITEMS: usize = 20;
/// The number of strides in trouble from which on no new data is discovered.
pub(crate) const MAX_STUCK: usize = 32;

/// The facts about a batch. See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideChain {
    open: BTreeMap<u64, Stride>,
    /// The number that the next announced stride gets.
    next_number: u64,
    end_of_data: bool,
    /// The place where the data ended. Meaningful only once no stride is open.
    tail: Option<PageToken>,
    cycle: CycleDetector,
    pub totals: Totals,
    failed: Vec<PageFailure>,
    failed_items: Vec<FailedItem>,
    broken: Option<Broken>,
    /// Seed of the jitter that spreads the retries of pages that failed together.
    seed: u64,
    /// True if the latest dispatch was an extended retry. A batch with a single slot then gives the turn to another
    /// stride.
    extended_had_last_turn: bool,
    /// The number of dispatches so far. Every retry is one.
    dispatches: u64,
    /// The combined output of the pages, if the batch has a reducer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fold: Option<Fold>,
    /// The end of a partition's range. When this token is announced, it closes the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<PageToken>,
    /// The number of the first stride, which no other stride announced.
    first: u64,
    /// The workflows other than the controller that own strides.
    #[serde(default, skip_serializing_if = "Owners::is_empty")]
    owners: Owners,
    /// The latest failed attempt with its whole message. Strides keep only the beginning of their own messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_failure: Option<LastFailure>,
    /// Pages finished or failed since the last continue-as-new.
    #[serde(skip)]
    pages_this_run: u64,
    /// The time at which a continue-as-new became due.
    #[serde(skip)]
    hand_over_due: Option<Timestamp>,
}

/// The error of a failed attempt at a page.
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
    /// Failed attempts at pages since a page was last finished.
    pub consecutive_failures: u64,
    /// Dead letters that were kept.
    pub dead_letters: u64,
    /// Upper bound on the items in pages that were abandoned whole. Counted against the stage's limit, because a lost
    /// worker may already have processed some of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub items_in_abandoned_pages: u64,
}

impl Totals {
    /// Returns the counts that tolerated failures are measured against.
    pub fn tally(&self) -> Tally {
        Tally {
            items: self.items.total(),
            items_failed: self.items.failed,
            pages: self.pages_completed + self.pages_failed,
            pages_failed: self.pages_failed,
        }
    }

    /// Returns the counts, with pages that are failing counted as given up.
    pub fn tally_with(&self, failing: u32) -> Tally {
        let mut tally = self.tally();
        tally.pages += u64::from(failing);
        tally.pages_failed += u64::from(failing);
        tally
    }

    /// Updates the consecutive failures from a report. An attempt that says nothing about its page does not count.
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

/// The reason why a batch cannot be finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Broken {
    /// The page at the frontier was given up before the start of the next one was known.
    CoverageStops {
        at: Option<PageToken>,
        error_type: String,
        message: String,
    },
    /// A token repeated: the source runs in a circle.
    CursorDidNotAdvance { token: PageToken },
    /// More pages were given up than can be listed.
    TooManyFailures,
    /// A page could not be processed for too long, and the page is not at fault.
    Blocked {
        at: Option<PageToken>,
        error_type: String,
        message: String,
    },
    /// The controller saw something impossible, which is a defect of this crate.
    Impossible { what: String },
}

/// A fact to be recorded.
#[derive(Clone, Debug)]
pub(crate) enum Event<'a> {
    /// A running stride announced the starts of its successors. An empty list means that the data ends with its page.
    Announced {
        by: u64,
        /// The dispatch whose activity announced them.
        dispatch: u64,
        starts: &'a [PageToken],
    },
    /// A stride was given to an activity.
    Dispatched {
        stride: u64,
        rate_share: Option<f64>,
        page_share: Option<f64>,
        /// Upper bound on the items that the stride may process, if a stage limits them.
        items: Option<ItemBudget>,
        now: Timestamp,
    },
    /// An activity returned.
    Reported {
        stride: u64,
        report: Box<StrideReport>,
        policy: &'a RetryPolicy,
        /// True if strides keep dead letters, in which case strides give pages up themselves.
        dead_letters: bool,
        now: Timestamp,
    },
    /// The activity of a stride that was just dispatched belongs to this workflow.
    Owned { stride: u64, owner: &'a str },
    /// A continue-as-new became due.
    HandOverDue { now: Timestamp },
}

/// The effect of an event on the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The chain changed.
    Applied,
    /// The fact was known already.
    Duplicate,
    /// The event contradicts the known facts or came too late. It was dropped and counted.
    Dropped,
}

/// An impossible fact: the caller is wrong, not the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Impossible(String);

/// # Construct
impl StrideChain {
    /// A chain with one stride, which begins after `first`.
    pub fn new(first: Option<PageToken>, seed: u64) -> Self {
        Self::of_range(first, None, 0, seed)
    }

    /// A chain of this many strides that start at the tokens 1, 2 and so on, for tests. None of them runs.
    #[cfg(test)]
    pub fn of_strides(strides: u64) -> Self {
        let mut chain = Self::new(None, 1);
        for number in 1..strides {
            let start = PageToken::encode(&number).ok();
            chain
                .open
                .entry(number - 1)
                .and_modify(|stride| stride.end.clone_from(&start));
            chain.open.insert(number, Stride::starting_at(start));
        }
        chain.next_number = strides.max(1);
        chain
    }

    /// A chain of the range `(first, last]`. Its strides are numbered from `number`.
    pub fn of_range(
        first: Option<PageToken>,
        last: Option<PageToken>,
        number: u64,
        seed: u64,
    ) -> Self {
        Self {
            open: BTreeMap::from([(number, Stride::starting_at(first.clone()))]),
            next_number: number + 1,
            first: number,
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
            owners: Owners::default(),
            last_failure: None,
            pages_this_run: 0,
            hand_over_due: None,
        }
    }
}

/// # Combine the output of the pages
impl StrideChain {
    /// Gives the batch a reducer, before its first page.
    pub fn reduce_by(&mut self, plan: Plan) {
        self.fold.get_or_insert_with(|| Fold::new(plan));
    }

    /// The result so far, where the batch has a reducer.
    pub fn fold(&self) -> Option<&Fold> {
        self.fold.as_ref()
    }

    /// Takes the combined output of the pages so far.
    pub fn take_output(&mut self) -> Option<Output> {
        self.fold.take().map(Fold::into_output)
    }

    pub fn fold_mut(&mut self) -> Option<&mut Fold> {
        self.fold.as_mut()
    }
}

/// # Record
impl StrideChain {
    /// Records a fact.
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
                    owner: None,
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
            Event::Owned { stride, owner } => self.owned(stride, owner),
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

    /// Ends this range at `at` and returns its previous end, so that another chain can take the rest. `at` has to be
    /// in the [undiscovered](Self::undiscovered) range. `None` if the range cannot be split there.
    pub fn split_at(&mut self, at: PageToken) -> Option<Option<PageToken>> {
        let (start, end) = self.undiscovered()?;
        if start.as_ref() == Some(&at) || end.as_ref() == Some(&at) {
            return None;
        }
        // The frontier gets a new number, because a late attempt would announce starts beyond the new end.
        let frontier = self.frontier()?;
        self.open.remove(&frontier)?;
        self.open.insert(frontier + 1, Stride::starting_at(start));
        self.next_number = frontier + 2;
        self.first = frontier + 1;
        Some(self.last.replace(at))
    }

    /// Takes the lists of failures, for a list that is bounded across several ledgers. The counts stay. The page where
    /// coverage stopped stays too, since it is tried again when the batch is continued.
    pub fn give_lists(&mut self) -> (Vec<PageFailure>, Vec<FailedItem>) {
        let failed = std::mem::take(&mut self.failed);
        let (kept, given) = failed.into_iter().partition(|page| self.stops_at(page));
        self.failed = kept;
        (given, std::mem::take(&mut self.failed_items))
    }

    /// Returns whether this is the page where coverage stopped.
    fn stops_at(&self, page: &PageFailure) -> bool {
        let Some(Broken::CoverageStops { at, .. }) = &self.broken else {
            return false;
        };
        let stride = self.open.get(&page.stride);
        stride.is_some_and(|s| s.at == page.start) && page.end.is_none() && page.start == *at
    }

    /// Marks the batch as unable to finish. The first reason is kept.
    pub fn break_off(&mut self, reason: Broken) {
        self.broken.get_or_insert(reason);
    }

    /// Prepares an ended batch to be continued. All strides become ready, and the page where coverage stopped is tried
    /// again as if it had never failed. Fails if the chain itself cannot be trusted.
    pub fn revive(&mut self) -> Result<(), String> {
        // The page is tried again, so it no longer counts as failed.
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
        self.forget_idle_owners();
        self.totals.consecutive_failures = 0;
        Ok(())
    }

    /// Applies an announcement. Its tokens are compared in order. The first token that differs from what is known, or
    /// whose stride is finished and so cannot be compared, is dropped with all that follow, because they come from
    /// another way of cutting the data.
    ///
    /// A stride gets its end only from the dispatch that has it. Strides that the same announcement adds get their ends
    /// too, since they have not begun. A lost attempt can be heard late, when the stride is already beyond the end that
    /// the attempt found or when another attempt works towards an end of its own. Such an announcement adds nothing.
    fn announced(&mut self, by: u64, dispatch: u64, starts: &[PageToken]) -> Recorded {
        let mut result = Recorded::Duplicate;
        let run = self.open.get(&by).and_then(Stride::run);
        let current = run.is_some_and(|run| run.dispatch == dispatch);
        if starts.is_empty()
            && current
            && let Some(stride) = self.open.get_mut(&by)
        {
            stride.ends_data |= stride.is_running() && stride.end.is_none();
        }
        for (number, token) in (by..).zip(starts) {
            let frontier = number + 1 == self.next_number && !self.end_of_data;
            let just_added = result == Recorded::Applied;
            let closes = current && (number == by || just_added);
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

    /// Counts an announcement that was not applied.
    pub fn dropped(&mut self) -> Recorded {
        self.totals.announcements_dropped += 1;
        Recorded::Dropped
    }

    fn dispatched(
        &mut self,
        number: u64,
        run: Run,
        items: Option<ItemBudget>,
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
            owner: run.owner,
        };
        stride.ends_data = false;
        stride.granted_items = items.map_or(0, |item_budget| item_budget.items);
        stride.is_partial = items.is_some_and(|item_budget| item_budget.is_partial);
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
        self.forget_idle_owners();
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
        let spent = report
            .items
            .total()
            .saturating_add(report.items_in_abandoned_pages);
        stride.granted_items = stride.granted_items.saturating_sub(spent);
        // A lost worker does not matter once its stride has nothing left to do.
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
        self.count_blocked(number, policy);
        self.totals.pages_completed += u64::from(report.pages);
        self.totals.pages_failed += u64::from(report.pages_failed);
        self.pages_this_run += u64::from(report.pages) + u64::from(report.pages_failed);
        self.totals.items += report.items;
        if let (Some(fold), Some(output)) = (&mut self.fold, report.output) {
            fold.merge(output);
        }
        self.totals.items_in_abandoned_pages += report.items_in_abandoned_pages;
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
                // Its successors were announced, so there once was data after it. The successors find out what is there
                // now.
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

    /// Ends a batch that has waited long enough for the repair of a fault outside its page.
    fn count_blocked(&mut self, number: u64, policy: &RetryPolicy) {
        let Some(stride) = self.open.get(&number) else {
            return;
        };
        let allowed = policy.tries_allowed();
        if let Some(trouble) = &stride.trouble
            && allowed.is_some_and(|allowed| trouble.not_the_page >= allowed)
            // A worker that has the processor may still start, so this never ends the batch.
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

    /// Lists a page that has no attempts left. The stride continues after the page if its end is known.
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
        // A lost worker may have processed some of the page that is given up.
        let aside = std::mem::take(&mut stride.granted_items);
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
        self.totals.items_in_abandoned_pages += aside;
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
impl StrideChain {
    /// Open strides by number.
    pub fn open(&self) -> impl Iterator<Item = (u64, &Stride)> {
        self.open.iter().map(|(number, stride)| (*number, stride))
    }

    /// One open stride.
    pub fn stride(&self, number: u64) -> Option<&Stride> {
        self.open.get(&number)
    }

    /// Returns whether a page ledger must have a row for a stride. It has one if some of the stride was applied, or if
    /// an activity stored the end of the stride before it, which happens before the announcement.
    pub fn is_kept(&self, number: u64) -> bool {
        let began = |stride: &Stride| stride.done != StrideTotals::default();
        self.stride(number).is_some_and(began) || number > self.first
    }

    /// The number of known strides, including finished ones.
    #[cfg(test)]
    pub fn known(&self) -> u64 {
        self.next_number
    }

    /// The last known stride, while the end of the data has not been seen.
    pub fn frontier(&self) -> Option<u64> {
        (!self.end_of_data).then(|| self.next_number - 1)
    }

    /// Replaces the seed of the waits between attempts.
    pub fn seed_by(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// The end of this chain's range, unless it is the end of the data.
    pub fn last(&self) -> Option<&PageToken> {
        self.last.as_ref()
    }

    /// The unassigned range: from the frontier to the end. `None` unless no stride runs and the frontier has no
    /// failure, so that no attempt can still be working in it.
    pub fn undiscovered(&self) -> Option<(Option<PageToken>, Option<PageToken>)> {
        let frontier = self.stride(self.frontier()?)?;
        let untouched = matches!(frontier.state, State::Ready)
            && frontier.end.is_none()
            && frontier.trouble.is_none()
            && frontier.give_up.is_none();
        (untouched && self.running() == 0).then(|| (frontier.at.clone(), self.last.clone()))
    }

    /// Pages in flight. Every running stride works on one page at a time.
    pub fn running(&self) -> u32 {
        self.count(Stride::is_running)
    }

    /// Pages in flight that do not outlive this run of the controller.
    pub fn running_here(&self) -> u32 {
        self.count(|stride| stride.run().is_some_and(|run| run.owner.is_none()))
    }

    /// Strides in extended retries, running or not.
    pub fn stuck(&self) -> u32 {
        self.count(Stride::is_stuck)
    }

    /// Strides that could be dispatched now.
    pub fn ready(&self) -> u32 {
        self.count(|stride| matches!(stride.state, State::Ready))
    }

    /// Upper bound on the bytes that the open strides take in the stored chain, approximately.
    pub fn open_bytes(&self) -> usize {
        self.open.values().map(Stride::stored_bytes).sum()
    }

    /// Items of the stage that strides hold and have not counted yet.
    pub fn granted_items(&self) -> u64 {
        self.open.values().map(|stride| stride.granted_items).sum()
    }

    /// Pages whose quick attempts are spent.
    pub fn spent(&self) -> u32 {
        self.count(|stride| stride.trouble.as_ref().is_some_and(FailureStreak::is_spent))
    }

    /// Strides whose current page has failed and is not finished yet.
    pub fn in_trouble(&self) -> u32 {
        self.count(|stride| stride.trouble.is_some())
    }

    fn count(&self, which: impl Fn(&Stride) -> bool) -> u32 {
        u32::try_from(self.open.values().filter(|s| which(s)).count()).unwrap_or(u32::MAX)
    }

    /// The whole message of the latest failure, if the failure is of this type.
    pub fn message_of(&self, error_type: &str) -> Option<&str> {
        let last = self.last_failure.as_ref()?;
        (last.error_type == error_type).then_some(last.message.as_str())
    }

    /// The number of dispatches so far.
    pub fn dispatches(&self) -> u64 {
        self.dispatches
    }

    /// The running strides by number, with the parameters of their dispatches.
    pub fn runs(&self) -> impl Iterator<Item = (u64, Run)> {
        self.open
            .iter()
            .filter_map(|(number, stride)| Some((*number, stride.run()?)))
    }

    /// The number of idle strides that may be dispatched at `by` or before.
    pub fn due(&self, by: Timestamp) -> u32 {
        self.count(|stride| stride.due().is_some_and(|at| at <= by))
    }

    /// The low-water mark: every page at or before it is finished or listed as failed.
    pub fn low_water_mark(&self) -> Option<&PageToken> {
        match self.open.values().next() {
            Some(first) => first.at.as_ref(),
            None => self.tail.as_ref(),
        }
    }

    /// Returns whether the end of the data has been seen.
    pub fn end_of_data(&self) -> bool {
        self.end_of_data
    }

    /// Returns whether the end of the data has been seen and every stride is finished.
    pub fn is_complete(&self) -> bool {
        self.end_of_data && self.open.is_empty()
    }

    /// The reason why the batch cannot be finished, if there is one.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// Pages that were given up.
    pub fn failed(&self) -> &[PageFailure] {
        &self.failed
    }

    /// The first given-up items, at most [`MAX_FAILED_ITEMS`].
    pub fn failed_items(&self) -> &[FailedItem] {
        &self.failed_items
    }

    /// The failures that count against the tolerance. A page whose quick attempts are spent counts as given up until it
    /// is finished.
    pub fn tally(&self) -> Tally {
        self.totals.tally_with(self.spent())
    }

    /// The failures that may still be forgiven. Pages with quick attempts left are included.
    pub fn forgiven(&self) -> Tally {
        self.totals.tally_with(self.in_trouble())
    }

    /// Pages that have failed and are waiting for another attempt, or are in one.
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

    /// The time at which a continue-as-new became due.
    pub fn hand_over_due(&self) -> Option<Timestamp> {
        self.hand_over_due
    }

    /// Returns whether the latest dispatch was an extended retry.
    pub fn extended_had_last_turn(&self) -> bool {
        self.extended_had_last_turn
    }
}
