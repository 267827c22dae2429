//! The progress of the partitions, for the batch and for people.

use std::collections::BTreeMap;

use super::{Part, Partitions, State};
use crate::{
    batch::partition_spec::{PartitionSpec, first_stride},
    decisions::chain::{StrideChain, Totals},
    processor::report::count_reason,
    progress::{
        Progress,
        parts::{PartitionCounts, PartitionProgress, PartitionState},
    },
};

/// # PartitionSnapshot
impl Partitions {
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u32, &Part)> {
        self.parts
            .iter()
            .enumerate()
            .map(|(n, part)| (u32::try_from(n).unwrap_or(u32::MAX), part))
    }

    pub fn running(&self) -> u32 {
        self.parts.iter().filter(|part| part.is_running()).count() as u32
    }

    /// Returns whether all partitions are finished or the batch cannot be finished.
    pub fn is_over(&self) -> bool {
        let counts = self.counts();
        self.broken.is_some() || counts.finished == counts.total
    }

    pub fn in_flight(&self) -> u32 {
        self.parts.iter().map(|part| part.look.in_flight).sum()
    }

    pub fn counts(&self) -> PartitionCounts {
        let finished = self
            .parts
            .iter()
            .filter(|p| matches!(p.state, State::Finished))
            .count();
        PartitionCounts {
            total: self.parts.len() as u32,
            running: self.running(),
            finished: finished as u32,
        }
    }

    /// Counts of the whole batch.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            skip_reasons: self.merged.skip_reasons.clone(),
            max_parallelism_achieved: self.most_in_flight,
            ..Totals::default()
        };
        for part in &self.parts {
            let look = &part.look;
            totals.pages_completed += look.pages_completed;
            totals.pages_failed += look.pages_failed;
            totals.items += look.items;
            totals.retries += look.retries;
            totals.dead_letters += look.dead_letters;
            totals.announcements_dropped += look.announcements_dropped;
            for (reason, items) in &look.skip_reasons {
                count_reason(&mut totals.skip_reasons, reason, *items);
            }
        }
        totals
    }

    /// Pages in extended retries, of all partitions.
    pub fn stuck(&self) -> u32 {
        self.parts.iter().map(|part| part.look.stuck).sum()
    }

    /// Writes the state of the partitions into the progress of the batch. At most `most` partitions are listed.
    pub fn show(&self, progress: &mut Progress, most: usize) {
        let looks = || self.parts.iter().map(|part| &part.look);
        progress.pages_in_flight = self.in_flight();
        progress.pages_stuck = self.stuck();
        progress.strides_waiting = looks().map(|look| look.waiting).sum();
        // Each partition reports its own failures to the handler.
        progress.hooks_failed += looks().map(|look| look.hooks_failed).sum::<u64>();
        progress.notices_dropped += looks().map(|look| look.notices_dropped).sum::<u64>();
        progress.failing = looks()
            .flat_map(|look| look.failing.clone())
            .take(20)
            .collect();
        let mut merged = self.merged.clone();
        for part in &self.parts {
            if let State::Waiting(Some(parked)) = &part.state {
                let chain = &parked.chain;
                merged.take(chain.failed(), chain.failed_items(), &BTreeMap::new());
            }
        }
        progress.failed = merged.failed;
        progress.failed_items = merged.failed_items;
        let counts = self.counts();
        progress.end_of_data = counts.finished == counts.total;
        progress.low_water_mark = None;
        progress.partition_counts = Some(counts);
        progress.partitions = self.listed(most);
    }

    /// Lists partitions by state: running, waiting, lost, finished. Within a state the largest come first.
    fn listed(&self, most: usize) -> Vec<PartitionProgress> {
        let mut listed: Vec<_> = self.parts.iter().map(Part::progress).collect();
        listed.sort_by_key(|p| {
            let size = p.items_expected.unwrap_or(p.items.total());
            (p.state, std::cmp::Reverse(size))
        });
        listed.truncate(most);
        listed
    }

    /// Creates the chain of partition `number`, whose strides have numbers of their own range.
    pub fn chain(spec: &PartitionSpec, number: u32, seed: u64) -> StrideChain {
        StrideChain::of_range(
            spec.start.clone(),
            spec.end.clone(),
            first_stride(number),
            seed,
        )
    }

    /// The name that the processor gave to a partition.
    pub fn own_name(&self, number: u32) -> Option<&str> {
        let part = self.parts.get(number as usize)?;
        Some(part.spec.own_name())
    }

    /// The reason why a partition is blocked, for people.
    pub fn blocked_reason(&self) -> Option<String> {
        self.parts.iter().find_map(|part| {
            let why = part.look.blocked_reason.as_ref()?;
            Some(format!("partition \"{}\": {why}", part.spec.name))
        })
    }
}

impl Part {
    fn progress(&self) -> PartitionProgress {
        let (state, max_parallelism) = match &self.state {
            State::Waiting(_) => (PartitionState::Waiting, 0),
            State::Running { told, .. } => (PartitionState::Running, told.share.parallelism),
            State::Finished => (PartitionState::Finished, 0),
            State::Lost => (PartitionState::Lost, 0),
        };
        PartitionProgress {
            name: self.spec.name.clone(),
            state,
            pages_completed: self.look.pages_completed,
            pages_failed: self.look.pages_failed,
            pages_in_flight: self.look.in_flight,
            max_parallelism,
            items: self.look.items,
            items_expected: self.spec.items,
            low_water_mark: self.look.low_water_mark.clone(),
        }
    }
}
