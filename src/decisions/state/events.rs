//! Signals and updates, as they change the state.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{
    base::time::Timestamp,
    decisions::{
        chain::Event,
        state::{BatchState, work::Work},
    },
    protocol::{
        AcceptedEnd, AcceptedEndRequest, ApproveRequest, Controls, LockHeld, NextPage, ShareOrder,
        Steer, SteerRequest, ThrottleNews, WaitNews,
    },
};

/// # Signals
impl<W: Work> BatchState<W> {
    /// The latest verdict of a throttle.
    pub(crate) fn hear_throttle(&mut self, at: Timestamp, news: &ThrottleNews) {
        if self.is_meant(&news.batch_run) {
            self.pacing.throttle(&news.by, &news.verdict, at);
        }
    }

    /// The holder of the lock that the batch waits for.
    pub(crate) fn hear_lock_held(&mut self, held: LockHeld) {
        if self.is_meant(&held.batch_run) {
            self.lock_held_by = Some(held.by);
        }
    }

    /// The event that an activity beside the pages waits for.
    pub(crate) fn hear_waits(&mut self, news: WaitNews) {
        if self.is_meant(&news.batch_run) {
            self.waits = Some(news);
        }
    }

    /// A request of an operator that has no answer.
    pub(crate) fn hear_steering(&mut self, at: Timestamp, request: SteerRequest) {
        self.signals += 1;
        match request.what {
            Steer::Pause(request) => self.do_pause(at, request),
            Steer::Resume(request) => self.do_resume(at, &request),
            Steer::Approve(request) => self.do_approve(at, &request),
            Steer::Recover(note) => self.note_recovery(at, &request.id, &note),
            Steer::Nothing => {}
            Steer::Set(request) => match request.validate() {
                Ok(()) => self.do_set(at, &request),
                // Clients check before they send, so the request is from another program. A signal has no answer, so the
                // audit has it.
                Err(invalid) => self.steered(at, format!("set refused: {invalid}"), &request.given),
            },
        }
    }

    /// Records a client's look, after which the memo shows the progress for a while.
    pub(crate) fn hear_look(&mut self, at: Timestamp) {
        self.signals += 1;
        self.published.looks(at);
    }

    /// Counts a signal. A signal to an earlier execution of the same batch id changes nothing.
    pub(crate) fn is_meant(&mut self, batch_run: &str) -> bool {
        self.signals += 1;
        let meant = batch_run == self.input.batch_run;
        if meant {
            self.version += 1;
        }
        meant
    }
}

/// # Updates
impl<W: Work> BatchState<W> {
    /// Makes a change that is answered with the limits as they are then.
    pub(crate) fn answered(&mut self, change: impl FnOnce(&mut Self)) -> Controls {
        self.updates += 1;
        change(self);
        self.controls.clone()
    }

    /// Refuses an approval that the batch does not wait for. A request that came as a signal before is repeated.
    pub(crate) fn validate_approval(&self, request: &ApproveRequest) -> Result<(), String> {
        match self.controls.is_known(request.id.as_deref()) {
            true => Ok(()),
            false => self.waits_for_approval(),
        }
    }
}

/// # Events of strides
impl BatchState {
    /// Starts of the strides that follow one that is running.
    pub(crate) fn hear_next_page(&mut self, next: &NextPage) {
        self.signals += 1;
        self.version += 1;
        if next.batch_run != self.input.batch_run {
            self.work.chain.dropped();
            return;
        }
        let event = Event::Announced {
            by: next.stride,
            dispatch: next.dispatch,
            starts: &next.starts,
        };
        self.record(event);
    }

    /// The share of this partition from now on.
    pub(crate) fn hear_share(&mut self, order: ShareOrder) {
        self.signals += 1;
        self.take_share(order);
    }

    /// The end of a stride, as far as it is accepted.
    pub(crate) fn accepted_end(&mut self, asked: &AcceptedEndRequest) -> AcceptedEnd {
        self.updates += 1;
        let stride = (asked.batch_run == self.input.batch_run)
            .then(|| self.work.chain.stride(asked.stride))
            .flatten();
        AcceptedEnd {
            open: stride.is_some(),
            end: stride.and_then(|s| s.end.clone()),
        }
    }
}
