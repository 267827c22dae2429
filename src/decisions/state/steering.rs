//! Requests of operators, applied.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{
    base::{error::truncate, text::exactly, time::Timestamp},
    batch::pace_settings::stride::Stride,
    decisions::state::{BatchState, work::Work},
    progress::{PauseNote, audit::Given},
    protocol::{
        ApproveRequest, PageSizeSetting, PauseRequest, RecoverNote, ResumeRequest, SetRequest,
    },
};

/// A pause reason is shown in one line.
pub(crate) const MAX_REASON_CHARS: usize = 500;

impl<W: Work> BatchState<W> {
    pub(crate) fn do_pause(&mut self, at: Timestamp, request: PauseRequest) {
        if !self.controls.is_new(request.id.as_deref()) {
            return;
        }
        let given = Given {
            who: request.who,
            why: request.reason,
        };
        let until = request.until.or(request.lasting.map(|for_| at.plus(for_)));
        let action = match (request.now, until) {
            (true, _) => "pause now",
            (false, Some(_)) => "pause for a time",
            (false, None) => "pause",
        };
        self.steered(at, action, &given);
        let why = given.why.map(|r| truncate(&r, MAX_REASON_CHARS));
        self.controls.paused = true;
        self.controls.stop_now = request.now;
        self.controls.pause_reason.clone_from(&why);
        let before = self.controls.pause.take();
        self.controls.pause = Some(PauseNote {
            who: given.who,
            why,
            at: before.map_or(at, |pause| pause.at),
            until,
        });
    }

    pub(crate) fn do_resume(&mut self, at: Timestamp, request: &ResumeRequest) {
        if !self.controls.is_new(request.id.as_deref()) {
            return;
        }
        self.steered(at, "resume", &request.given);
        self.go_on();
    }

    /// Returns the reason why an approval would have no effect now, if there is one.
    pub(crate) fn waits_for_approval(&self) -> Result<(), String> {
        match self.work.stages() {
            Some(stages) => stages.waits(),
            None => Err("the batch has no stages".to_owned()),
        }
    }

    pub(crate) fn do_approve(&mut self, at: Timestamp, request: &ApproveRequest) {
        if !self.controls.is_new(request.id.as_deref()) {
            return;
        }
        let approved = match self.work.stages_mut() {
            Some(stages) => stages.approve(),
            None => Err("the batch has no stages".to_owned()),
        };
        match approved {
            Ok(stage) => {
                // An approval covers all failures up to this point.
                self.controls.forgiven = Some(self.work.forgiven());
                self.steered(at, format!("approve {stage}"), &request.given);
            }
            // A signal has no other answer.
            Err(why) => self.steered(at, format!("approve refused: {why}"), &request.given),
        }
    }

    /// Records a request of a worker. Every worker that sees the batch stand still may send one.
    pub(crate) fn note_recovery(&mut self, at: Timestamp, id: &str, note: &RecoverNote) {
        if self.controls.is_new(Some(id)) {
            let action = match note.partition {
                Some(number) => format!("recover partition {number}"),
                None => "recover".to_owned(),
            };
            self.steered(at, action, &note.given);
        }
    }

    /// Ends a pause. Failures are forgiven if the batch paused itself because of them.
    pub(crate) fn go_on(&mut self) {
        self.controls.paused = false;
        self.controls.stop_now = false;
        self.controls.pause_reason = None;
        self.controls.pause = None;
        if self.controls.tripped.take().is_some() {
            self.controls.forgiven = Some(self.work.forgiven());
            self.work.forgive();
        }
    }

    /// Ends a pause that was to last until now.
    pub(crate) fn expire_pause(&mut self) {
        let until = self.controls.pause.as_ref().and_then(|pause| pause.until);
        if self.controls.paused && until.is_some_and(|until| until <= self.now) {
            let given = Given::by_itself("the time of the pause is over");
            self.audit.note(self.now, "resume", &given);
            self.go_on();
        }
    }

    pub(crate) fn do_set(&mut self, at: Timestamp, request: &SetRequest) {
        if !self.controls.is_new(request.id.as_deref()) {
            return;
        }
        for action in self.apply(at, request) {
            self.steered(at, action, &request.given);
        }
    }

    /// Returns the description of the changes, for the audit.
    pub(crate) fn apply(&mut self, at: Timestamp, request: &SetRequest) -> Vec<String> {
        let mut done = Vec::new();
        let (controls, pacing) = (&mut self.controls, &mut self.pacing);
        if let Some(ramp) = &request.ramp {
            controls.max_parallelism = ramp.to();
            pacing.begin_ramp(ramp.clone(), at);
            done.push(format!("set ramp to {ramp}"));
        }
        if let Some(auto) = &request.auto_parallelism {
            controls.max_parallelism = auto.max();
            pacing.end_ramp();
            pacing.tune_parallelism(*auto, at);
            done.push(format!("set max_parallelism to auto {auto}"));
        }
        if let Some(pages) = request.max_parallelism {
            controls.max_parallelism = pages;
            // An operator's value takes precedence over a ramp or tuning that was set before.
            if request.ramp.is_none() {
                pacing.end_ramp();
            }
            if request.auto_parallelism.is_none() {
                pacing.fix_parallelism();
            }
            done.push(format!("set max_parallelism to {pages}"));
        }
        if let Some(rate) = request.rate {
            pacing.set_rate(rate.into_option(), at);
            done.push(format!("set rate to {}", named(pacing.rate)));
        }
        if let Some(rate) = request.page_rate {
            pacing.page_rate = rate.into_option();
            done.push(format!("set page_rate to {}", named(pacing.page_rate)));
        }
        if let Some(pause) = request.page_pause {
            pacing.page_pause = pause.into_option();
            let pause = pacing.page_pause.map(exactly);
            done.push(format!("set page_pause to {}", named(pause)));
        }
        match &request.page_size {
            Some(PageSizeSetting::Fixed(items)) => {
                pacing.fix_page_size(*items);
                done.push(format!("set page_size to {items}"));
            }
            Some(PageSizeSetting::Auto(auto)) => {
                pacing.tune_page_size(*auto);
                done.push(format!("set page_size to auto {auto}"));
            }
            None => {}
        }
        let before = self.input.spec.stride;
        match &request.stride {
            Some(Stride::Pages(pages)) => {
                pacing.fix_stride(*pages, before);
                done.push(format!("set stride to {pages}"));
            }
            Some(Stride::Auto(auto)) => {
                pacing.tune_stride(*auto, before);
                done.push(format!("set stride to auto {auto}"));
            }
            None => {}
        }
        if let Some(windows) = &request.windows {
            pacing.set_windows(windows.clone(), at);
            let names: Vec<_> = windows.iter().map(ToString::to_string).collect();
            let names = (!names.is_empty()).then(|| names.join("; "));
            done.push(format!("set window to {}", named(names)));
        }
        done
    }
}

pub(crate) fn named(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        batch::{Batch, tolerance::Tolerance},
        decisions::carry::ControllerInput,
    };

    const NOW: Timestamp = Timestamp(1_000_000);

    #[test]
    fn a_pause_with_an_end_forgives_like_a_resume_and_the_next_failures_count() {
        let batch = Batch::named("batch", "processor", serde_json::Value::Null)
            .tolerate(Tolerance::new().consecutive(3));
        let mut batch_state: BatchState = BatchState::of(ControllerInput {
            version: 1,
            batch_run: "run".to_owned(),
            spec: batch.spec,
            begun: None,
            carry: None,
            part: None,
        });
        let fail = |batch_state: &mut BatchState, at| {
            batch_state.work.chain.totals.consecutive_failures += 4;
            batch_state.refresh(at, false, 0);
            assert!(batch_state.controls.paused);
            assert!(batch_state.controls.tripped.is_some());
        };
        fail(&mut batch_state, NOW);
        let lasting = Some(Duration::from_secs(1_800));
        let request = PauseRequest {
            lasting,
            ..PauseRequest::default()
        };
        batch_state.do_pause(NOW, request);
        let later = NOW.plus(Duration::from_secs(1_800));
        batch_state.refresh(later, false, 0);
        assert!(!batch_state.controls.paused, "it goes on by itself");
        fail(&mut batch_state, later);
    }
}
