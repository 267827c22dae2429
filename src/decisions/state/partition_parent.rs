//! The partitions of a batch: their limits, starts, splits and ends.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::{
    base::time::Timestamp,
    batch::{
        pace_settings::PaceSpec,
        partition_spec::first_stride,
        spec::{BatchSpec, HookNames},
    },
    decisions::{
        carry::{Carry, ControllerInput, EndDetails},
        chain::Event,
        pacing::{Pacing, StrideLength},
        partitions::{Next, Parked, PartLimits, Partitions},
        scheduler::Ending,
        state::{BatchState, pending_notices::Notices, seed},
    },
    page::token::PageToken,
    progress::{
        Progress,
        phase::{HeldBy, Outcome, Phase},
    },
    protocol::{
        self, ControlState, Controls, PageSizeSetting, PartOf, PartitionNews, Prepared, Settled,
        ShareOrder, SplitOrder,
        partition::{PartitionOrder, Share},
    },
};

/// Partitions that are listed in an answer or a report.
pub(crate) const MAX_LISTED: usize = 100;

/// The parent continues as new after this many times the pages of a run: it has few events for each of them.
pub(crate) const PAGES_PER_RUN: u64 = 10;

/// The time for which one activity watches partitions before another takes over.
pub(crate) const LOOKED_AT_FOR: Duration = Duration::from_secs(24 * 3_600);

/// The end of a partition's workflow.
pub(crate) enum ChildEnd {
    Report(Box<EndDetails>),
    /// An end without a report, with the reason.
    Lost(String),
}

/// # Decide and record
impl BatchState {
    pub(crate) fn next_of_partitions(&self) -> Next {
        match &self.partitions {
            Some(partitions) => partitions.next(&self.part_limits(), self.now),
            None => Next::Finish(Ending {
                outcome: Outcome::Failed,
                reason: Some("internal error: there are no partitions".to_owned()),
            }),
        }
    }

    /// Returns the limits of the batch that its partitions share.
    pub(crate) fn part_limits(&self) -> PartLimits {
        let pace = self.pace();
        let prepared = self.prepared.as_ref();
        let max_parallelism = self.controls.max_parallelism;
        let page_size = match self.pacing.auto_page_size() {
            Some(auto) => PageSizeSetting::Auto(*auto),
            None => PageSizeSetting::Fixed(self.pacing.page_size()),
        };
        let stride = self.pacing.stride().map(StrideLength::setting);
        PartLimits {
            all: PartitionOrder {
                share: Share {
                    parallelism: pace.parallelism,
                    rate: pace.rate,
                    page_rate: pace.page_rate,
                },
                paused: self.controls.paused || pace.held.is_some(),
                stop_now: self.controls.paused && self.controls.stop_now,
                stop: false,
                page_pause: self.pacing.page_pause_now(max_parallelism, self.now),
                page_size,
                stride,
            },
            cancelled: self.cancelled,
            stopping: self.controls.stopping.clone(),
            deadline: self.deadline,
            hand_over: self.must_hand_over || self.chain.hand_over_due().is_some(),
            must_hand_over: self.must_hand_over,
            hooks_running: self.hooks_running,
            dead_letters: prepared.is_some_and(|prepared| prepared.dead_letters),
            splits: prepared.is_some_and(|prepared| prepared.splits),
        }
    }

    /// Takes note of the time and of what the partitions have done.
    pub(crate) fn refresh_partitions(&mut self, now: Timestamp, suggested: bool, events: u32) {
        let mut pages = 0;
        if let Some(partitions) = &mut self.partitions {
            self.chain.totals = partitions.totals();
            pages = partitions.pages_this_run();
        }
        self.refresh(now, suggested, events);
        let due = self.input.spec.pages_per_run.map(u64::from);
        if due.is_some_and(|due| pages >= due.saturating_mul(PAGES_PER_RUN)) {
            self.record(Event::HandOverDue { now });
        }
        let limits = self.part_limits();
        if let Some(partitions) = &mut self.partitions {
            partitions.hand_over_when_due(&limits, now);
        }
    }

    pub(crate) fn partition_ended(&mut self, number: u32, ended: ChildEnd) {
        let Some(partitions) = &mut self.partitions else {
            return;
        };
        match ended {
            ChildEnd::Report(details) => {
                let carry = details.continuation.and_then(|input| input.carry);
                let parked = carry.map(|carry| Parked {
                    chain: carry.chain,
                    pacing: carry.pacing,
                    notices: carry.notices,
                });
                let output = partitions.ended(number, &details.report, parked);
                if let (Some(output), Some(fold)) = (output, self.chain.fold_mut()) {
                    fold.merge(output);
                }
            }
            ChildEnd::Lost(why) => partitions.lost(number, &why),
        }
    }

    pub(crate) fn partition_settled(&mut self, settled: &Settled) {
        if settled.batch_run != self.input.batch_run {
            return;
        }
        if let Some(partitions) = &mut self.partitions {
            self.version += 1;
            partitions.settled(settled.number, settled.seq);
        }
    }

    pub(crate) fn partitions_looked(&mut self, news: PartitionNews, at: Timestamp) {
        if news.batch_run != self.input.batch_run {
            return;
        }
        if let Some(partitions) = &mut self.partitions {
            self.version += 1;
            for (number, look) in news.looks {
                partitions.looked(number, look, at);
            }
        }
    }
}

/// # Orders for children
impl BatchState {
    pub(crate) fn share_order(
        &mut self,
        number: u32,
        told: PartitionOrder,
        split: bool,
    ) -> Option<(String, ShareOrder)> {
        let partitions = self.partitions.as_mut()?;
        let (seq, say_when_settled) = partitions.tell(number, told.clone(), split)?;
        let order = ShareOrder {
            batch_run: self.input.batch_run.clone(),
            seq,
            told,
            say_when_settled,
        };
        let id = protocol::partition_id(&self.input.spec.batch_id, number);
        Some((id, order))
    }

    pub(crate) fn split_order(
        &self,
        number: u32,
        start: Option<PageToken>,
        end: Option<PageToken>,
    ) -> SplitOrder {
        let name = self.partitions.as_ref().and_then(|p| p.own_name(number));
        SplitOrder {
            processor: self.input.spec.processor.clone(),
            args: self.args().clone(),
            partition: name.unwrap_or_default().to_owned(),
            start,
            end,
        }
    }

    /// Returns the input with which the controller of a partition starts or resumes.
    pub(crate) fn part_input(
        &mut self,
        number: u32,
        told: &PartitionOrder,
    ) -> Option<ControllerInput> {
        let prepared = self.prepared.clone()?;
        let (partition, seq, parked) = self.partitions.as_mut()?.begin(number, told.clone())?;
        let spec = self.spec_of_part(partition.start.clone());
        let parked = parked.unwrap_or_else(|| {
            let mut pacing = Pacing::of(&spec, self.now);
            // The parent asks the throttles, and holds its partitions.
            pacing.hears_of_throttles();
            Parked {
                chain: Partitions::chain(&partition, number, seed(&self.input.batch_run)),
                pacing,
                // Those of the batch itself begin with 1.
                notices: Notices::numbered_from(first_stride(number + 1)),
            }
        });
        let part = PartOf {
            number,
            name: partition.own_name().to_owned(),
            seq,
            says_when_settled: false,
        };
        let carry = Carry {
            chain: parked.chain,
            prepared: Prepared {
                items_expected: partition.items,
                items_exact: false,
                ..prepared
            },
            controls: Controls {
                max_parallelism: told.share.parallelism,
                ..Controls::default()
            },
            started_at: self.now,
            runs: 0,
            deadline: None,
            notices: parked.notices,
            audit: crate::progress::audit::Audit::default(),
            pacing: parked.pacing,
            published: ControlState::default(),
            stages: None,
            checked: None,
            partitions: None,
        };
        let input = ControllerInput {
            version: self.input.version,
            batch_run: self.input.batch_run.clone(),
            spec,
            begun: None,
            carry: Some(carry),
            part: Some(part),
        };
        Some(input.keeping_to(told))
    }

    /// Returns the batch as one partition sees it. Settings for the batch as a whole stay with the parent.
    pub(crate) fn spec_of_part(&self, start: Option<PageToken>) -> BatchSpec {
        let spec = &self.input.spec;
        BatchSpec {
            first_cursor: start,
            hooks: HookNames {
                failure_handler: spec.hooks.failure_handler.clone(),
                ..HookNames::default()
            },
            pace: PaceSpec {
                auto_page_size: spec.pace.auto_page_size,
                throttles: spec.pace.throttles.clone(),
                ..PaceSpec::default()
            },
            rate: None,
            tolerance: None,
            deadline: None,
            lock: None,
            wait_for_lock: false,
            check_at_end: None,
            partitioned: false,
            ..spec.clone()
        }
    }
}

impl ControllerInput {
    /// Writes the first share of a partition into its carried state, like a share that it receives later.
    pub(crate) fn keeping_to(self, told: &PartitionOrder) -> Self {
        let mut controller = BatchState::of(self);
        controller.keep_to(told);
        let runs = controller.runs;
        let mut input = controller.next_input();
        if let Some(carry) = &mut input.carry {
            carry.runs = runs;
        }
        input
    }
}

/// # PartitionSnapshot
impl BatchState {
    /// Writes the partitions into the progress of the batch, if it has any.
    pub(crate) fn show_partitions(&self, progress: &mut Progress, held: bool) {
        let Some(partitions) = &self.partitions else {
            return;
        };
        partitions.show(progress, MAX_LISTED);
        if self.closing.is_some() || self.waits_for_lock() {
            return;
        }
        let held = held && !self.controls.paused;
        progress.phase = partitions.phase(&self.part_limits(), held, self.now);
        if progress.phase == Phase::Blocked {
            progress.blocked_reason = partitions.blocked_reason();
        }
        // These would be about the pages of the parent, which has none.
        let of_pages = [
            HeldBy::Discovery,
            HeldBy::Retries,
            HeldBy::Parallelism,
            HeldBy::ContinueAsNew,
        ];
        if progress.held_by.is_some_and(|by| of_pages.contains(&by)) {
            progress.held_by = None;
            progress.explanation.clear();
        }
        progress.limited_by = progress.limited_by.filter(|by| !of_pages.contains(by));
    }
}
