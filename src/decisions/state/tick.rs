//! A run of the controller: the changes due before each decision, and the input of the next run.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{
    base::time::{Timestamp, earliest},
    batch::tolerance::{OnExceeded, StrideTolerance},
    decisions::{
        carry::{Carry, ControllerInput},
        scheduler::Ending,
        state::{BatchState, stages::Stages, work::Work},
    },
    processor::hooks::Failure,
    progress::{
        PauseNote,
        audit::Given,
        phase::{Outcome, Phase},
        report::BatchReport,
    },
};

/// Limits of a Temporal run are 51,200 events, 10,000 signals and 2,000 updates (Temporal Cloud limits,
/// the defaults of a self-hosted server). A continue-as-new is due at the first figure of each pair, and
/// dispatching stops at the second.
pub(crate) const SIGNALS: (u32, u32) = (4_000, 8_000);

pub(crate) const UPDATES: (u32, u32) = (1_000, 1_500);

/// The number of events that fit into 50 MB even with the largest arguments and tokens.
pub(crate) const MUST_HAND_OVER_EVENTS: u32 = 20_000;

impl<W: Work> BatchState<W> {
    pub(crate) fn told_to_end(&self) -> Option<Ending> {
        let (outcome, reason) = match &self.controls.stopping {
            _ if self.cancelled => (Outcome::Cancelled, "cancelled".to_owned()),
            Some(why) => (Outcome::Stopped, why.clone()),
            None => return None,
        };
        let reason = Some(reason);
        Some(Ending { outcome, reason })
    }

    /// Returns the end of a batch that is told to end during side work, or whose time is over `until` then. A batch that
    /// was told before the work began, so that `known` is set, is bounded only by the time.
    pub(crate) fn ends_early(&self, known: bool, until: Option<Timestamp>) -> Option<Ending> {
        let told = self.told_to_end().filter(|_| !known);
        told.or_else(|| {
            until.filter(|until| *until <= self.now).map(|_| Ending {
                outcome: Outcome::Stopped,
                reason: Some("the deadline is over".to_owned()),
            })
        })
    }

    /// Records that the batch is ending, and returns its report for the hooks.
    pub(crate) fn begin_to_end(&mut self, ending: &Ending) -> BatchReport {
        self.closing = Some(Phase::Finishing);
        if ending.outcome == Outcome::Stopped && self.controls.stopping.is_none() {
            let why = ending.reason.clone().unwrap_or_default();
            self.audit.note(self.now, "stop", &Given::by_itself(why));
        }
        self.report(ending)
    }

    /// Stops the batch, in the name of the batch.
    pub(crate) fn stop_itself(&mut self, reason: String) {
        let given = Given::by_itself(reason.clone());
        self.audit.note(self.now, "stop", &given);
        self.controls.stopping = Some(reason);
    }

    /// Records the time and the distance to the limits of a run.
    pub(crate) fn tick(&mut self, now: Timestamp, suggested: bool, events: u32) {
        self.now = now;
        self.expire_pause();
        let stage_holds = self.work.stages().is_some_and(Stages::holds);
        let going = !self.controls.paused && self.pace().held.is_none() && !stage_holds;
        let items = self.work.totals().items.total();
        self.pacing.tick(now, going, items);
        let pages = self.input.spec.pages_per_run.map(u64::from);
        let pages = pages.map(|pages| pages.saturating_mul(W::RUN_LENGTH));
        let due = suggested
            || pages.is_some_and(|pages| self.work.pages_this_run() >= pages)
            || self.signals >= SIGNALS.0
            || self.updates >= UPDATES.0;
        if due {
            self.work.hand_over(now);
        }
        self.must_hand_over = events >= MUST_HAND_OVER_EVENTS
            || self.signals >= SIGNALS.1
            || self.updates >= UPDATES.1;
        self.enforce_tolerance();
    }

    /// Returns when the pace or the memo changes next without a request or a report.
    pub(crate) fn next_tick(&self) -> Option<Timestamp> {
        let pause = self.controls.pause.as_ref().and_then(|pause| pause.until);
        let pace = match self.controls.paused {
            true => pause,
            false => self.pacing.next_change(self.now),
        };
        earliest(pace, self.published.due(self.now))
    }

    /// Pauses or stops the batch when more has failed than is tolerated.
    pub(crate) fn enforce_tolerance(&mut self) {
        let tally = self.work.tally();
        let Some(tolerance) = &self.input.spec.tolerance else {
            return;
        };
        let (controls, totals) = (&mut self.controls, self.work.totals());
        let known = controls.tripped.is_some() || controls.stopping.is_some();
        if known || self.cancelled || self.work.is_over() {
            return;
        }
        let forgiven = controls.forgiven.unwrap_or_default();
        let exceeded = tolerance.exceeded(tally, &forgiven, totals.consecutive_failures);
        let Some(reason) = exceeded else {
            return;
        };
        let paused = tolerance.reaction() == OnExceeded::Pause;
        if paused {
            let given = Given::by_itself(reason.clone());
            self.audit.note(self.now, "pause", &given);
            controls.tripped = Some(reason.clone());
            controls.pause = Some(PauseNote {
                who: given.who,
                why: Some(reason.clone()),
                at: self.now,
                until: None,
            });
            controls.paused = true;
            controls.pause_reason = Some(reason.clone());
        } else {
            self.stop_itself(reason.clone());
        }
        self.note(Failure::ToleranceExceeded { reason, paused });
    }

    /// Returns the part of the tolerance that a stride receives with its order.
    pub(crate) fn stride_tolerance(&self) -> Option<StrideTolerance> {
        let tolerance = self.input.spec.tolerance.clone()?;
        let forgiven = self.controls.forgiven.unwrap_or_default();
        Some(StrideTolerance {
            tolerance,
            tally: self.work.tally().since(&forgiven),
            strides: self.pace().parallelism,
        })
    }

    /// Returns the input with which the next controller continues from the current state.
    pub(crate) fn next_input(&self) -> ControllerInput<W> {
        ControllerInput {
            carry: self.prepared.clone().map(|prepared| Carry {
                work: self.work.carried(),
                prepared,
                controls: self.controls.clone(),
                started_at: self.started_at,
                runs: self.runs + 1,
                deadline: self.deadline,
                notices: self.notices.clone(),
                audit: self.audit.clone(),
                pacing: self.pacing.clone(),
                published: self.published.control.clone(),
                checked: self.checked.clone(),
            }),
            ..self.input.clone()
        }
    }
}

/// # A run of a controller
impl BatchState {
    /// Makes the changes that are due before a decision.
    pub(crate) fn refresh(&mut self, now: Timestamp, suggested: bool, events: u32) {
        self.tick(now, suggested, events);
        self.pacing.settle_credit(self.rates(), now);
        self.advance_stage();
        self.refresh_outbox();
    }

    /// Returns when the limits change next without a request or a report.
    pub(crate) fn next_change(&self) -> Option<Timestamp> {
        earliest(self.next_tick(), self.outbox_due())
    }
}
