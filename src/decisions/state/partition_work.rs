//! The work of the parent of partitions: partitions, each with a controller of its own.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Timestamp,
    batch::{spec::BatchSpec, tolerance::Tally},
    decisions::{
        chain::Totals,
        pacing::{Length, PaceNow},
        partitions::Partitions,
        scheduler::{self, Because},
        state::{
            BatchState,
            stages::UnknownSize,
            work::{Seen, Work},
        },
    },
    processor::reducer::{Fold, Plan},
    progress::{Progress, phase::Phase},
    protocol::Prepared,
};

/// The largest number of partitions that are listed in an answer or a report.
const MAX_LISTED: usize = 100;

/// The state of a batch with partitions.
pub(crate) type ParentState = BatchState<PartitionWork>;

/// The work of the parent of partitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionWork {
    pub partitions: Partitions,
    /// The counts of all partitions.
    pub totals: Totals,
    /// The combined output of the partitions, if the batch has a reducer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fold: Option<Fold>,
    /// True if a continue-as-new is due.
    #[serde(skip)]
    pub hand_over_due: bool,
}

impl Work for PartitionWork {
    /// The parent has few events for each page.
    const RUN_LENGTH: u64 = 10;

    fn new(_spec: &BatchSpec, _batch_run: &str) -> Self {
        Self::default()
    }

    /// Takes the partitions that the processor named. The sum of their items is used as the items of the batch if no
    /// other number is known.
    fn prepared(&mut self, _spec: &BatchSpec, prepared: &mut Prepared) -> Result<(), UnknownSize> {
        let named = std::mem::take(&mut prepared.partitions);
        let items: Option<u64> = named.iter().map(|partition| partition.items).sum();
        if prepared.items_expected.is_none() {
            prepared.items_expected = items;
            prepared.items_exact = false;
        }
        self.partitions = Partitions::new(named);
        Ok(())
    }

    fn revive(&mut self) -> Result<(), String> {
        self.partitions.revive()
    }

    fn totals(&self) -> &Totals {
        &self.totals
    }

    fn reduce_by(&mut self, plan: Plan) {
        self.fold.get_or_insert_with(|| Fold::new(plan));
    }

    fn fold(&self) -> Option<&Fold> {
        self.fold.as_ref()
    }

    fn fold_mut(&mut self) -> Option<&mut Fold> {
        self.fold.as_mut()
    }

    fn tally(&self) -> Tally {
        self.totals.tally_with(self.partitions.stuck())
    }

    fn forgiven(&self) -> Tally {
        self.tally()
    }

    fn is_over(&self) -> bool {
        self.partitions.is_over()
    }

    fn pages_this_run(&mut self) -> u64 {
        self.partitions.pages_this_run()
    }

    fn hand_over(&mut self, _now: Timestamp) {
        self.hand_over_due = true;
    }

    fn makes_way(state: &ParentState) -> bool {
        state.must_hand_over || state.work.hand_over_due
    }

    fn seen(state: &ParentState, pace: &PaceNow) -> Seen {
        let held = pace.held.is_some() && !state.controls.paused;
        let partitions = &state.work.partitions;
        let begins = state.controls.max_parallelism > 0 && !state.must_hand_over;
        let limit = match &state.controls {
            _ if state.cancelled => None,
            controls if controls.paused => Some(scheduler::paused(controls.pause.as_ref())),
            _ => scheduler::held(&state.pacing, pace, state.now)
                .or_else(|| scheduler::slowed(&state.pacing).filter(|_| begins)),
        };
        Seen {
            phase: partitions.phase(&state.part_limits(), held, state.now),
            blocked_at: None,
            blocked_reason: None,
            because: limit.clone().map(Because::from),
            limit,
        }
    }

    fn stride_because(_length: &Length) -> String {
        "each partition finds its own".to_owned()
    }

    fn show(state: &ParentState, progress: &mut Progress) {
        if state.prepared.is_none() {
            return;
        }
        let partitions = &state.work.partitions;
        partitions.show(progress, MAX_LISTED);
        if progress.phase == Phase::Blocked {
            progress.blocked_reason = partitions.blocked_reason();
        }
    }
}
