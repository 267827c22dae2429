//! The memo: what can be read of a batch without a worker.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_common::MemoValue;
use temporalio_sdk::WorkflowContext;

use super::Controller;
use crate::{
    progress::{HeldBy, Phase, Progress, Timestamp},
    protocol::{self, ControlState},
    scheduler,
};

/// How old the progress in the memo may become while something happens. Each is an event in the history.
const EVERY: Duration = Duration::from_secs(10);
/// A change that people wait for is published sooner, but not more often than this.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Entries of each list in the memo.
const MAX_LISTED: usize = 3;
/// Partitions in the memo.
const MAX_PARTITIONS: usize = 10;

/// What is in the memo.
#[derive(Default)]
pub(super) struct Published {
    pub control: ControlState,
    progress: Option<(Timestamp, Phase, Option<HeldBy>)>,
    /// Items and pages given up, as published.
    failed: u64,
}

impl Published {
    /// What the run before this one has left there.
    pub fn before(control: ControlState) -> Self {
        Self {
            control,
            progress: None,
            failed: 0,
        }
    }
}

impl Controller {
    fn control_state(&self) -> ControlState {
        let limits = self.limits();
        let asked = || self.bridging.cohort.asked();
        let all = scheduler::stop_at_page_boundary(&self.ledger, &limits, self.now);
        ControlState {
            batch_run: self.input.batch_run.clone(),
            stop_at_page_boundary: all,
            stop_now: limits.paused && self.controls.stop_now,
            yields: match all {
                true => Vec::new(),
                false => {
                    let mut yields = scheduler::yields(&self.ledger, &limits, self.now);
                    yields.extend(asked());
                    yields.sort_unstable();
                    yields.dedup();
                    yields
                }
            },
            bridges: self.bridges_in_use(),
        }
    }

    /// The control that has to be written, if any: nobody reads it while no stride runs, and a dispatch that
    /// has come back does no harm in it.
    fn control_to_publish(&self) -> Option<ControlState> {
        if self.ledger.running() == 0 {
            return None;
        }
        let (new, old) = (self.control_state(), &self.published.control);
        let yields_known = new
            .yields
            .iter()
            .all(|dispatch| old.yields.contains(dispatch));
        let bridges_known = new.bridges.iter().all(|id| old.bridges.contains(id));
        let same = new.stop_at_page_boundary == old.stop_at_page_boundary
            && new.stop_now == old.stop_now
            && yields_known
            && bridges_known;
        let untouched = *old == ControlState::default() && !new.stop_at_page_boundary;
        let nobody_is_named = new.yields.is_empty() && new.bridges.is_empty();
        let nothing_new = same || (untouched && nobody_is_named);
        (!nothing_new).then_some(new)
    }

    fn progress_to_publish(&self, mut progress: Progress) -> Option<Progress> {
        let due = match &self.published.progress {
            None => true,
            Some((at, phase, held_by)) => {
                // What fails in a partition is counted by its parent, which reads of it here.
                let failed = self.is_part() && self.published.failed != failed(&progress);
                let changed = *phase != progress.phase || *held_by != progress.held_by || failed;
                let age = self.now.since(*at);
                // While nothing runs there may be no later moment for it.
                // What is left as it is would look to the parent as if slots could not be used.
                let used_again = self.is_part() && *held_by == Some(HeldBy::Discovery);
                let soon = age >= AT_MOST_EVERY || self.ledger.running() == 0 || used_again;
                age >= EVERY || (changed && soon)
            }
        };
        if !due {
            return None;
        }
        progress.failing.truncate(MAX_LISTED);
        progress.failed.truncate(MAX_LISTED);
        progress.failed_items.truncate(MAX_LISTED);
        progress.partitions.truncate(MAX_PARTITIONS);
        if let Some(found) = progress.check.as_mut().and_then(|c| c.found.as_mut()) {
            found.failed.truncate(MAX_LISTED);
        }
        let latest = progress.audit.len().saturating_sub(MAX_LISTED);
        progress.audit_older += u64::try_from(latest).unwrap_or(u64::MAX);
        progress.audit.drain(..latest);
        Some(progress)
    }

    /// What is new for the memo, taken note of as published.
    fn take_news(&mut self, progress: Progress) -> Vec<(&'static str, Option<MemoValue>)> {
        let mut updates = Vec::new();
        if let Some(control) = self.control_to_publish() {
            self.published.control = control.clone();
            updates.push((protocol::MEMO_CONTROL, Some(MemoValue::new(control))));
        }
        if let Some(progress) = self.progress_to_publish(progress) {
            self.published.progress = Some((self.now, progress.phase, progress.held_by));
            self.published.failed = failed(&progress);
            updates.push((protocol::MEMO_PROGRESS, Some(MemoValue::new(progress))));
        }
        updates
    }
}

fn failed(progress: &Progress) -> u64 {
    progress.pages_failed + progress.items.failed
}

/// Writes to the memo what has changed enough.
pub(super) fn publish(ctx: &WorkflowContext<Controller>, progress: Progress) {
    if !ctx.state(|s| s.paced) {
        return;
    }
    let updates = ctx.state_mut(|s| s.take_news(progress));
    if updates.is_empty() {
        return;
    }
    if let Err(error) = ctx.upsert_memo(updates) {
        // Only a payload codec that fails can be the reason; strides go on with their orders.
        tracing::warn!(%error, "the memo was not written");
    }
}
