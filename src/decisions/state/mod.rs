//! The state of a batch, and everything that changes it. Pure: no clock, no I/O, no Temporal.
//!
//! | file | content |
//! |---|---|
//! | here | [`BatchState`]: the fields, and the beginning of a run |
//! | `work` | the work of a batch, and everything about a batch that depends on its kind |
//! | `stride_work`, `partition_work` | the work of a controller, and that of the parent of partitions |
//! | `events` | signals and updates, as they change the state |
//! | `steering` | requests of operators, applied |
//! | `tick` | changes that are due before a decision; the beginning of the next run; tolerance |
//! | `dispatching` | the next decision of a controller; orders for strides, and their reports |
//! | `side_calls` | calls that are due: notices, progress, throttles, windows |
//! | `stages`, `checks` | stages, and the checks between them and at the end |
//! | `lock`, `reduce` | the named lock, outputs to combine |
//! | `partition_parent`, `partition_child` | the next steps of the parent, and the controller of a partition |
//! | `publish`, `view`, `size` | the memo, the progress and report, and their sizes |
//! | `pending_notices` | failures that the handler has not been told of yet |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

#[cfg(test)]
mod at_work;
pub(crate) mod checks;
pub(crate) mod dispatching;
pub(crate) mod events;
pub(crate) mod lock;
pub(crate) mod partition_child;
pub(crate) mod partition_parent;
pub(crate) mod partition_work;
pub(crate) mod pending_notices;
#[cfg(test)]
mod properties;
pub(crate) mod publish;
pub(crate) mod reduce;
pub(crate) mod side_calls;
pub(crate) mod size;
pub(crate) mod stages;
pub(crate) mod steering;
pub(crate) mod stride_work;
#[cfg(test)]
mod tests;
pub(crate) mod tick;
pub(crate) mod view;
pub(crate) mod work;

use crate::{
    base::time::Timestamp,
    decisions::{
        carry::ControllerInput,
        pacing::{PaceNow, Pacing},
        state::pending_notices::Notices,
    },
    progress::{
        audit::{Audit, Given},
        check::Checked,
        phase::Phase,
    },
    protocol::{Controls, PrepareInput, Prepared, WaitNews},
};
use publish::Published;
use stages::UnknownSize;
use stride_work::StrideWork;
use work::Work;

/// The state of a batch, with everything that changes it. No clock, no I/O, no Temporal: events come in as arguments, and
/// the same calls always give the same answers.
///
/// A controller has strides to do, and the parent of partitions has partitions. Everything else is the same for both.
pub(crate) struct BatchState<W = StrideWork> {
    pub(crate) input: ControllerInput<W>,
    pub(crate) prepared: Option<Prepared>,
    pub(crate) work: W,
    pub(crate) controls: Controls,
    pub(crate) notices: Notices,
    pub(crate) audit: Audit,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) cancelled: bool,
    /// Set once the batch is over: first while hooks are told, then when they are.
    pub(crate) closing: Option<Phase>,
    pub(crate) must_hand_over: bool,
    pub(crate) hooks_running: bool,
    /// An activity combines what pages have put out.
    pub(crate) combining: bool,
    pub(crate) pacing: Pacing,
    /// The side activity for which the batch waits.
    pub(crate) waits: Option<WaitNews>,
    pub(crate) checked: Option<Checked>,
    /// True while the check after the last page is running.
    pub(crate) checking_at_end: bool,
    pub(crate) taking_lock: bool,
    pub(crate) lock_held_by: Option<String>,
    pub(crate) published: Published,
    pub(crate) started_at: Timestamp,
    /// Server time of the last decision.
    pub(crate) now: Timestamp,
    /// The number of continue-as-news before this run.
    pub(crate) runs: u32,
    pub(crate) signals: u32,
    pub(crate) updates: u32,
    /// Counts changes, so that the main loop notices them.
    pub(crate) version: u64,
}

impl<W: Work> BatchState<W> {
    pub(crate) fn of(mut input: ControllerInput<W>) -> Self {
        let carry = input.carry.take();
        let spec = &input.spec;
        let mut state = Self {
            prepared: None,
            work: W::new(spec, &input.batch_run),
            controls: Controls {
                max_parallelism: spec.max_parallelism,
                ..Controls::default()
            },
            notices: Notices::default(),
            audit: Audit::default(),
            deadline: None,
            cancelled: false,
            closing: None,
            must_hand_over: false,
            hooks_running: false,
            combining: false,
            pacing: Pacing::of(spec, Timestamp(0)),
            waits: None,
            checked: None,
            checking_at_end: false,
            taking_lock: false,
            lock_held_by: None,
            published: Published::default(),
            started_at: Timestamp(0),
            now: Timestamp(0),
            runs: 0,
            signals: 0,
            updates: 0,
            version: 0,
            input,
        };
        if let Some(carry) = carry {
            state.work = carry.work;
            state.prepared = Some(carry.prepared);
            state.begin_to_reduce();
            state.controls = carry.controls;
            state.notices = carry.notices;
            state.audit = carry.audit;
            state.deadline = carry.deadline;
            state.started_at = carry.started_at;
            state.now = carry.started_at;
            state.runs = carry.runs;
            state.published = Published::before(carry.published);
            state.checked = carry.checked;
            state.pacing = carry.pacing;
        }
        state
    }

    /// Begins a run of the controller. Returns whether it is the first of its batch run.
    pub(crate) fn begin(&mut self, now: Timestamp) -> bool {
        self.now = now;
        self.work.begin(now, &mut self.published.control);
        let first = self.runs == 0;
        if first {
            self.started_at = now;
        }
        let begun = self.input.begun.take();
        if first || begun.is_some() {
            self.pacing.begins(now);
            self.deadline = self.input.spec.deadline.map(|after| now.plus(after));
        }
        if let Some(begun) = begun {
            self.audit.begin(now, begun.action, &begun.given);
        }
        first
    }

    /// Returns the question to a worker about the processor.
    pub(crate) fn prepare_input(&self) -> PrepareInput {
        let spec = &self.input.spec;
        PrepareInput {
            processor: spec.processor.clone(),
            args: spec.args.clone(),
            first_cursor: spec.first_cursor.clone(),
            redrive: spec.redrive_of.is_some(),
            hooks: spec.hooks.clone(),
            throttles: spec.pace.throttles.clone(),
            batch_id: spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            partitioned: spec.partitioned,
        }
    }

    /// Takes what the processor said about the batch.
    pub(crate) fn accept(&mut self, mut prepared: Prepared) -> Result<(), UnknownSize> {
        self.work.prepared(&self.input.spec, &mut prepared)?;
        // A partition may be one of very many that begin one after the other.
        if !self.is_part() {
            self.pacing.begins_at_once(self.now);
        }
        self.prepared = Some(prepared);
        self.begin_to_reduce();
        self.waits = None;
        Ok(())
    }

    /// Gives the work the reducer of the processor, if it has one and the work has none yet.
    pub(crate) fn begin_to_reduce(&mut self) {
        let prepared = self.prepared.as_ref();
        if let Some(plan) = prepared.and_then(|prepared| prepared.reducer.clone()) {
            self.work.reduce_by(plan);
        }
    }

    /// The arguments of the batch, as its processor completed them.
    pub(crate) fn args(&self) -> &serde_json::Value {
        let completed = self.prepared.as_ref().and_then(|p| p.args.as_ref());
        completed.unwrap_or(&self.input.spec.args)
    }

    /// Records an operator's request.
    pub(crate) fn steered(&mut self, at: Timestamp, action: impl Into<String>, given: &Given) {
        self.published.steered();
        self.version += 1;
        self.audit.note(at, action, given);
    }

    pub(crate) fn cancel(&mut self, at: Timestamp, reason: Option<&str>) {
        if !self.cancelled {
            self.cancelled = true;
            let given = Given::from_text(reason.unwrap_or_default());
            self.audit.note(at, "cancel", &given);
        }
    }

    pub(crate) fn pace(&self) -> PaceNow {
        self.pacing.now(self.controls.max_parallelism, self.now)
    }
}

/// The same for every run of a batch run, and different for others.
pub(crate) fn seed(batch_run: &str) -> u64 {
    // FNV-1a (Fowler, Noll and Vo).
    batch_run.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
