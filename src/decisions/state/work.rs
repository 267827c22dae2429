//! The work of a batch: strides in a controller, partitions in the parent of partitions.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    base::time::Timestamp,
    batch::{spec::BatchSpec, tolerance::Tally},
    decisions::{
        chain::Totals,
        pacing::{Length, PaceNow, StrideLength},
        scheduler::Because,
        state::{
            BatchState,
            stages::{Stages, UnknownSize},
        },
    },
    page::token::PageToken,
    processor::reducer::{Fold, Plan},
    progress::{
        Progress,
        phase::{HeldBy, Phase},
    },
    protocol::{ControlState, Prepared},
};

/// The work of a batch, and everything about a batch that depends on its kind.
pub(crate) trait Work: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The length of a run of the workflow, in multiples of the pages that a run of a controller has.
    const RUN_LENGTH: u64;

    /// Creates the work of a batch that has not begun.
    fn new(spec: &BatchSpec, batch_run: &str) -> Self;

    /// Takes what the processor said about the work.
    fn prepared(&mut self, spec: &BatchSpec, prepared: &mut Prepared) -> Result<(), UnknownSize>;

    /// Begins a run of the workflow. `published` is what the run before wrote to the memo.
    fn begin(&mut self, _now: Timestamp, _published: &mut ControlState) {}

    /// Returns the part of the work that the next run receives.
    fn carried(&self) -> Self {
        self.clone()
    }

    /// Prepares the work of an ended batch to be continued.
    fn revive(&mut self) -> Result<(), String>;

    fn totals(&self) -> &Totals;

    /// Gives the work a reducer, before its first page.
    fn reduce_by(&mut self, plan: Plan);

    fn fold(&self) -> Option<&Fold>;

    fn fold_mut(&mut self) -> Option<&mut Fold>;

    /// The failures that count against the tolerance.
    fn tally(&self) -> Tally;

    /// The failures that may still be forgiven. Pages with quick attempts left are included.
    fn forgiven(&self) -> Tally;

    /// Begins to count consecutive failures again.
    fn forgive(&mut self) {}

    /// Returns whether nothing is left to do, or the batch cannot be finished.
    fn is_over(&self) -> bool;

    /// Activities of strides that are running.
    fn running(&self) -> u32 {
        0
    }

    /// Activities of strides that end with this run of the workflow.
    fn running_here(&self) -> u32 {
        0
    }

    /// Pages that open strides are expected to have.
    fn open_pages(&self, _lengths: &StrideLength) -> u64 {
        0
    }

    /// Pages finished or given up since the last continue-as-new.
    fn pages_this_run(&mut self) -> u64;

    /// Records that a continue-as-new is due.
    fn hand_over(&mut self, now: Timestamp);

    fn stages(&self) -> Option<&Stages> {
        None
    }

    fn stages_mut(&mut self) -> Option<&mut Stages> {
        None
    }

    /// Returns whether side work is held back, because it would delay a continue-as-new.
    fn makes_way(state: &BatchState<Self>) -> bool;

    /// Returns the control state that must be written to the memo, if any.
    fn control_to_publish(_state: &BatchState<Self>) -> Option<ControlState> {
        None
    }

    /// Looks at the batch after it was prepared.
    fn seen(state: &BatchState<Self>, pace: &PaceNow) -> Seen;

    /// The reason for the stride length that is shown, for people.
    fn stride_because(length: &Length) -> String {
        length.by.to_string()
    }

    /// Writes the work into the progress of the batch.
    fn show(state: &BatchState<Self>, progress: &mut Progress);
}

/// The phase of a batch that works, and the limits on it.
pub(crate) struct Seen {
    pub phase: Phase,
    pub blocked_at: Option<PageToken>,
    pub blocked_reason: Option<String>,
    /// The limit that keeps the batch from being faster.
    pub limit: Option<(HeldBy, String)>,
    /// The cause of that, for people.
    pub because: Option<Because>,
}
