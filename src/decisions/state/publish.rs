//! The contents of the memo, and the times at which they are published.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::{
    base::time::Timestamp,
    decisions::{
        scheduler,
        state::{BatchState, size, work::Work},
    },
    progress::{
        MEMO_LISTED, Progress,
        phase::{HeldBy, Phase},
    },
    protocol::ControlState,
};

/// The largest age of the progress in the memo while the batch is active. Each update is an event in the history.
pub(crate) const EVERY: Duration = Duration::from_secs(10);

/// The shortest interval between two updates. A change that people wait for is published sooner than [`EVERY`], but
/// keeps to this.
pub(crate) const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// The time for which the progress is kept fresh after a client has looked.
pub(crate) const WATCHED_FOR: Duration = Duration::from_secs(15);

/// The largest number of partitions in the memo.
pub(crate) const MAX_PARTITIONS: usize = 10;

/// The largest size of a progress with its longer lists. A batch that is watched for hours writes hundreds of them.
pub(crate) const MAX_FULL_BYTES: usize = 64 * 1024;

/// A field of the memo with its new value.
pub(crate) enum News {
    Control(ControlState),
    Progress(Box<Progress>),
    Full(Box<Progress>),
}

/// The published contents of the memo, and the reasons to update them.
#[derive(Default)]
pub(crate) struct Published {
    pub control: ControlState,
    /// The time of the last published progress, with its phase and the limit on the batch.
    pub(crate) progress: Option<(Timestamp, Phase, Option<HeldBy>)>,
    /// The number of abandoned items and pages, as published.
    pub(crate) failed: u64,
    pub(crate) watched_until: Option<Timestamp>,
    /// True if a client is looking and has not been shown a progress yet.
    pub(crate) looked: bool,
    /// True if an operator has changed the batch since the last update.
    pub(crate) steered: bool,
    /// True if the progress has changed since the last update.
    pub(crate) behind: bool,
}

impl Published {
    /// Returns the contents of the memo that the previous run left.
    pub fn before(control: ControlState) -> Self {
        Self {
            control,
            ..Self::default()
        }
    }

    /// Makes an update due at once, so that an operator who changed the batch sees the effect.
    pub fn steered(&mut self) {
        self.steered = true;
    }

    /// Records that a client is looking.
    pub fn looks(&mut self, now: Timestamp) {
        self.looked = true;
        self.watched_until = Some(now.plus(WATCHED_FOR));
    }

    /// Returns whether a client has looked recently.
    pub fn is_watched(&self, now: Timestamp) -> bool {
        self.watched_until.is_some_and(|until| now < until)
    }

    /// Returns when a watching client must be shown the changes since the last update.
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let (at, ..) = self
            .progress
            .filter(|_| self.behind && self.is_watched(now))?;
        Some(at.plus(AT_MOST_EVERY))
    }
}

/// Keeps the first entries of each list, and the last ones of the audit.
pub(crate) fn shorten(progress: &mut Progress, entries: usize) {
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

/// Returns the progress with its longer lists, shortened as far as the size limit requires.
pub(crate) fn full(mut progress: Progress) -> Progress {
    for entries in [10, MEMO_LISTED] {
        if size::bytes(&progress) <= MAX_FULL_BYTES {
            break;
        }
        shorten(&mut progress, entries);
    }
    progress
}

impl<W: Work> BatchState<W> {
    pub(crate) fn progress_is_due(&self, progress: &Progress) -> bool {
        let Some((at, phase, limited_by)) = &self.published.progress else {
            return true;
        };
        // The parent counts the failures of a partition, and reads them here.
        let failed = self.is_part() && self.published.failed != failed(progress);
        let changed = *phase != progress.phase || *limited_by != progress.limited_by || failed;
        let age = self.now.since(*at);
        // The parent would take an outdated progress as a sign that the partition cannot use its slots.
        let used_again = self.is_part() && *limited_by == Some(HeldBy::Discovery);
        // A client waits for the batch to be accepted. While nothing runs there may be no later moment.
        let awaited = *phase == Phase::Preparing || self.work.running() == 0 || used_again;
        let watched = self.published.behind || self.published.is_watched(self.now);
        self.published.steered
            || age >= EVERY
            || (age >= AT_MOST_EVERY && (changed || watched))
            || (changed && awaited)
    }

    /// Returns the new contents for the memo, and records them as published.
    pub(crate) fn take_news(&mut self, progress: Progress) -> Vec<News> {
        let mut updates = Vec::new();
        if let Some(control) = W::control_to_publish(self) {
            self.published.control = control.clone();
            updates.push(News::Control(control));
        }
        if self.progress_is_due(&progress) {
            updates.push(self.take_progress(progress));
        } else {
            self.published.behind = self.published.is_watched(self.now);
        }
        updates
    }

    pub(crate) fn take_progress(&mut self, mut progress: Progress) -> News {
        shorten(&mut progress, MEMO_LISTED);
        self.published.progress = Some((self.now, progress.phase, progress.limited_by));
        self.published.failed = failed(&progress);
        self.published.steered = false;
        self.published.behind = false;
        News::Progress(Box::new(progress))
    }

    /// The fields of the memo for a client that looks. There are none if the memo has the latest progress already.
    pub(crate) fn news_for_who_looks(&mut self, now: Timestamp) -> Vec<News> {
        let looked = std::mem::take(&mut self.published.looked);
        let shown = self.published.progress.is_some_and(|(at, ..)| at == now);
        if !looked || shown {
            return Vec::new();
        }
        self.now = now;
        let progress = self.look();
        vec![
            self.take_progress(progress.clone()),
            News::Full(Box::new(full(progress))),
        ]
    }
}

/// # Orders for running strides
impl BatchState {
    pub(crate) fn control_state(&self) -> ControlState {
        let limits = self.limits();
        let asked = || self.work.outbox.wave.asked();
        let all = scheduler::stop_at_page_boundary(&self.work.chain, &limits, self.now);
        ControlState {
            batch_run: self.input.batch_run.clone(),
            stop_at_page_boundary: all,
            stop_now: limits.paused && self.controls.stop_now,
            yields: match all {
                true => Vec::new(),
                false => {
                    let mut yields = scheduler::yields(&self.work.chain, &limits, self.now);
                    yields.extend(asked());
                    yields.sort_unstable();
                    yields.dedup();
                    yields
                }
            },
            owners: self.owners_in_use(),
        }
    }

    /// Returns the control state that must be written, if any. While no stride runs, it has no reader. Dispatches in
    /// it that are over do no harm.
    pub(crate) fn new_control(&self) -> Option<ControlState> {
        if self.work.chain.running() == 0 {
            return None;
        }
        let (new, old) = (self.control_state(), &self.published.control);
        let yields_known = new
            .yields
            .iter()
            .all(|dispatch| old.yields.contains(dispatch));
        let owners_known = new.owners.iter().all(|id| old.owners.contains(id));
        let same = new.stop_at_page_boundary == old.stop_at_page_boundary
            && new.stop_now == old.stop_now
            && yields_known
            && owners_known;
        let untouched = *old == ControlState::default() && !new.stop_at_page_boundary;
        let nobody_is_named = new.yields.is_empty() && new.owners.is_empty();
        let nothing_new = same || (untouched && nobody_is_named);
        (!nothing_new).then_some(new)
    }
}

pub(crate) fn failed(progress: &Progress) -> u64 {
    progress.pages_failed + progress.items.failed
}
