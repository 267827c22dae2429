//! The known facts about a partition, and the lists that ended ones leave behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    decisions::chain::{MAX_FAILED, MAX_FAILED_ITEMS},
    processor::report::count_reason,
    progress::{
        Progress,
        failures::{FailedItem, PageFailure},
        phase::HeldBy,
    },
    protocol::partition::PartitionSnapshot,
};

/// The number of failing pages that are kept of one partition.
const MAX_FAILING: usize = 3;

impl PartitionSnapshot {
    pub fn of(progress: &Progress, idle: bool) -> Self {
        let failing = progress.failing.iter().take(MAX_FAILING).cloned();
        Self {
            phase: Some(progress.phase),
            pages_completed: progress.pages_completed,
            pages_failed: progress.pages_failed,
            items: progress.items,
            retries: progress.retries,
            dead_letters: progress.dead_letters,
            announcements_dropped: progress.announcements_dropped,
            hooks_failed: progress.hooks_failed,
            notices_dropped: progress.notices_dropped,
            in_flight: progress.pages_in_flight,
            stuck: progress.pages_stuck,
            waiting: progress.strides_waiting,
            idle,
            skip_reasons: progress.skip_reasons.clone(),
            low_water_mark: progress.low_water_mark.clone(),
            failing: failing.collect(),
            blocked_reason: progress.blocked_reason.clone(),
        }
    }

    /// Returns whether the change to `later` is worth reporting at once.
    pub fn differs_much(&self, later: &Self) -> bool {
        self.phase != later.phase
            || self.idle != later.idle
            || self.pages_failed != later.pages_failed
            || self.items.failed != later.items.failed
            || self.stuck != later.stuck
    }

    /// Returns whether the child cannot use all of its share until a page has been read.
    pub fn is_discovering(progress: &Progress) -> bool {
        progress.held_by == Some(HeldBy::Discovery)
    }

    /// Clears the values that only a running partition has.
    pub fn end(&mut self) {
        self.in_flight = 0;
        self.stuck = 0;
        self.waiting = 0;
        self.idle = false;
        self.phase = None;
        self.failing.clear();
        self.blocked_reason = None;
    }
}

/// The lists that finished and stopped partitions leave behind, within the bounds of one batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Merged {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<PageFailure>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_items: Vec<FailedItem>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
}

impl Merged {
    pub fn take(
        &mut self,
        failed: &[PageFailure],
        failed_items: &[FailedItem],
        reasons: &BTreeMap<String, u64>,
    ) {
        let room = MAX_FAILED.saturating_sub(self.failed.len());
        self.failed.extend(failed.iter().take(room).cloned());
        let room = MAX_FAILED_ITEMS.saturating_sub(self.failed_items.len());
        self.failed_items
            .extend(failed_items.iter().take(room).cloned());
        for (reason, items) in reasons {
            count_reason(&mut self.skip_reasons, reason, *items);
        }
    }
}
