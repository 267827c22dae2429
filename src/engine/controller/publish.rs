//! The memo: what can be read of a batch without a worker.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_common::MemoValue;
use temporalio_sdk::WorkflowContext;

use super::{Controller, now, size};
use crate::{
    base::time::Timestamp,
    decisions::scheduler,
    progress::{
        MEMO_LISTED, Progress,
        phase::{HeldBy, Phase},
    },
    protocol::{self, ControlState},
};

/// How old the progress in the memo may become while something happens. Each is an event in the history.
const EVERY: Duration = Duration::from_secs(10);
/// A change that people wait for is published sooner, but not more often than this.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// How long the progress is kept fresh after a client has looked.
const WATCHED_FOR: Duration = Duration::from_secs(15);
/// Partitions in the memo.
const MAX_PARTITIONS: usize = 10;
/// The size of a progress with its longer lists. A batch that is watched for hours writes hundreds of them.
const MAX_FULL_BYTES: usize = 64 * 1024;

/// A field of the memo, and what is to be in it.
type News = (&'static str, Option<MemoValue>);

/// What is in the memo.
#[derive(Default)]
pub(super) struct Published {
    pub control: ControlState,
    /// When, the phase, and what limited the batch.
    progress: Option<(Timestamp, Phase, Option<HeldBy>)>,
    /// Items and pages given up, as published.
    failed: u64,
    watched_until: Option<Timestamp>,
    /// A client looks, and was shown nothing yet.
    looked: bool,
    /// An operator has changed something since.
    steered: bool,
    /// Something has happened since.
    behind: bool,
}

impl Published {
    /// What the run before this one has left there.
    pub fn before(control: ControlState) -> Self {
        Self {
            control,
            ..Self::default()
        }
    }

    /// Whoever has asked for a change sees it at once.
    pub fn steered(&mut self) {
        self.steered = true;
    }

    /// A client looks.
    pub fn looks(&mut self, now: Timestamp) {
        self.looked = true;
        self.watched_until = Some(now.plus(WATCHED_FOR));
    }

    /// Whether a client has looked a short while ago.
    pub fn is_watched(&self, now: Timestamp) -> bool {
        self.watched_until.is_some_and(|until| now < until)
    }

    /// When a client that watches has to be shown what has happened since the last time.
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let (at, ..) = self
            .progress
            .filter(|_| self.behind && self.is_watched(now))?;
        Some(at.plus(AT_MOST_EVERY))
    }
}

/// Leaves the first entries of each list, and the last ones of the audit.
fn shorten(progress: &mut Progress, entries: usize) {
    progress.failing.truncate(entries);
    progress.failed.truncate(entries);
    progress.failed_items.truncate(entries);
    progress.partitions.truncate(entries.max(MAX_PARTITIONS));
    if let Some(found) = progress.check.as_mut().and_then(|c| c.found.as_mut()) {
        found.failed.truncate(entries);
    }
    let older = progress.audit.len().saturating_sub(entries);
    progress.audit_older += u64::try_from(older).unwrap_or(u64::MAX);
    progress.audit.drain(..older);
}

/// With its longer lists, as far as there is room for them.
fn full(mut progress: Progress) -> Progress {
    for entries in [10, MEMO_LISTED] {
        if size::bytes(&progress) <= MAX_FULL_BYTES {
            break;
        }
        shorten(&mut progress, entries);
    }
    progress
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

    fn progress_is_due(&self, progress: &Progress) -> bool {
        let Some((at, phase, limited_by)) = &self.published.progress else {
            return true;
        };
        // What fails in a partition is counted by its parent, which reads of it here.
        let failed = self.is_part() && self.published.failed != failed(progress);
        let changed = *phase != progress.phase || *limited_by != progress.limited_by || failed;
        let age = self.now.since(*at);
        // What is left as it is would look to the parent as if slots could not be used.
        let used_again = self.is_part() && *limited_by == Some(HeldBy::Discovery);
        // A client waits for the batch to be accepted. While nothing runs there may be no later moment.
        let awaited = *phase == Phase::Preparing || self.ledger.running() == 0 || used_again;
        let watched = self.published.behind || self.published.is_watched(self.now);
        self.published.steered
            || age >= EVERY
            || (age >= AT_MOST_EVERY && (changed || watched))
            || (changed && awaited)
    }

    /// What is new for the memo, taken note of as published.
    fn take_news(&mut self, progress: Progress) -> Vec<News> {
        let mut updates = Vec::new();
        if let Some(control) = self.control_to_publish() {
            self.published.control = control.clone();
            updates.push((protocol::MEMO_CONTROL, Some(MemoValue::new(control))));
        }
        if self.progress_is_due(&progress) {
            updates.push(self.take_progress(progress));
        } else {
            self.published.behind = self.published.is_watched(self.now);
        }
        updates
    }

    fn take_progress(&mut self, mut progress: Progress) -> News {
        shorten(&mut progress, MEMO_LISTED);
        self.published.progress = Some((self.now, progress.phase, progress.limited_by));
        self.published.failed = failed(&progress);
        self.published.steered = false;
        self.published.behind = false;
        (protocol::MEMO_PROGRESS, Some(MemoValue::new(progress)))
    }

    /// The fields of the memo for a client that looks. There are none if the memo has the latest progress already.
    fn news_for_who_looks(&mut self, now: Timestamp) -> Vec<News> {
        let looked = std::mem::take(&mut self.published.looked);
        let shown = self.published.progress.is_some_and(|(at, ..)| at == now);
        if !looked || shown {
            return Vec::new();
        }
        self.now = now;
        let progress = self.look();
        vec![
            self.take_progress(progress.clone()),
            (protocol::MEMO_FULL, Some(MemoValue::new(full(progress)))),
        ]
    }
}

fn failed(progress: &Progress) -> u64 {
    progress.pages_failed + progress.items.failed
}

/// Writes to the memo what has changed enough.
pub(super) fn publish(ctx: &WorkflowContext<Controller>, progress: Progress) {
    let news = ctx.state_mut(|s| s.take_news(progress));
    write(ctx, news);
}

/// Writes to the memo what a client that looks is to see.
pub(super) fn show_who_looks(ctx: &WorkflowContext<Controller>) {
    if ctx.state(|s| s.published.looked) {
        let now = now(ctx);
        let news = ctx.state_mut(|s| s.news_for_who_looks(now));
        write(ctx, news);
    }
}

pub(super) fn write(ctx: &WorkflowContext<Controller>, news: Vec<News>) {
    if news.is_empty() {
        return;
    }
    if let Err(error) = ctx.upsert_memo(news) {
        // Only a payload codec that fails can be the reason; strides go on with their orders.
        tracing::warn!(%error, "the memo was not written");
    }
}
