//! The parent of partitions: their limits, starts, splits and ends.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::{
    base::time::{Timestamp, earliest},
    batch::{
        pace_settings::PaceSpec,
        partition_spec::first_stride,
        spec::{BatchSpec, HookNames},
    },
    decisions::{
        carry::{Carry, ControllerInput, EndDetails},
        pacing::{Pacing, StrideLength},
        partitions::{Next, Parked, PartLimits, Partitions},
        state::{
            BatchState, partition_work::ParentState, pending_notices::Notices, seed,
            stride_work::StrideWork, work::Work,
        },
    },
    page::token::PageToken,
    protocol::{
        self, ControlState, Controls, PageSizeSetting, PartOf, PartitionNews, Prepared, Settled,
        ShareOrder, SplitOrder,
        partition::{PartitionOrder, Share},
    },
};

/// The time for which one activity watches partitions before another takes over.
pub(crate) const LOOKED_AT_FOR: Duration = Duration::from_secs(24 * 3_600);

/// The end of a partition's workflow.
pub(crate) enum ChildEnd {
    Report(Box<EndDetails>),
    /// An end without a report, with the reason.
    Lost(String),
}

/// # Decide and record
impl ParentState {
    /// Decides the next steps.
    pub(crate) fn next(&self) -> Next {
        let partitions = &self.work.partitions;
        partitions.next(&self.part_limits(), self.now)
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
            hand_over: self.must_hand_over || self.work.hand_over_due,
            must_hand_over: self.must_hand_over,
            hooks_running: self.hooks_running,
            dead_letters: prepared.is_some_and(|prepared| prepared.dead_letters),
            splits: prepared.is_some_and(|prepared| prepared.splits),
        }
    }

    /// Makes the changes that are due before a decision.
    pub(crate) fn refresh(&mut self, now: Timestamp, suggested: bool, events: u32) {
        self.work.totals = self.work.partitions.totals();
        self.tick(now, suggested, events);
        let limits = self.part_limits();
        self.work.partitions.hand_over_when_due(&limits, now);
    }

    /// Returns when the next steps change without a request or news.
    pub(crate) fn next_change(&self) -> Option<Timestamp> {
        let due = self.work.partitions.next_change(self.now);
        let deadline = self.deadline.filter(|at| *at > self.now);
        earliest(earliest(deadline, due), self.next_tick())
    }

    /// Records that the controller of a partition exists.
    pub(crate) fn partition_started(&mut self, number: u32) {
        self.version += 1;
        self.work.partitions.started(number);
    }

    /// Records the end of a partition's controller.
    pub(crate) fn partition_ended(&mut self, number: u32, ended: ChildEnd) {
        match ended {
            ChildEnd::Report(details) => {
                let carry = details.continuation.and_then(|input| input.carry);
                let parked = carry.map(|carry| Parked {
                    chain: carry.work.chain,
                    pacing: carry.pacing,
                    notices: carry.notices,
                });
                let partitions = &mut self.work.partitions;
                let output = partitions.ended(number, &details.report, parked);
                if let (Some(output), Some(fold)) = (output, self.work.fold_mut()) {
                    fold.merge(output);
                }
            }
            ChildEnd::Lost(why) => self.work.partitions.lost(number, &why),
        }
    }

    /// Takes the latest progress of partitions.
    pub(crate) fn hear_partitions(&mut self, at: Timestamp, news: PartitionNews) {
        if self.is_meant(&news.batch_run) {
            for (number, look) in news.looks {
                self.work.partitions.looked(number, look, at);
            }
        }
    }

    /// Records that a partition now keeps to a smaller share.
    pub(crate) fn hear_settled(&mut self, settled: &Settled) {
        if self.is_meant(&settled.batch_run) {
            self.work.partitions.settled(settled.number, settled.seq);
        }
    }
}

/// # Orders for children
impl ParentState {
    pub(crate) fn share_order(
        &mut self,
        number: u32,
        told: PartitionOrder,
        split: bool,
    ) -> Option<(String, ShareOrder)> {
        let partitions = &mut self.work.partitions;
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
        let name = self.work.partitions.own_name(number);
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
        let (partition, seq, parked) = self.work.partitions.begin(number, told.clone())?;
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
            work: StrideWork::of(parked.chain),
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
            checked: None,
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
