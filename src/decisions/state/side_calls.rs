//! Calls that are due: notices, progress, throttles, windows.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::{
    base::time::Timestamp,
    batch::{HOOK_TIMEOUT, TRACK_EVERY},
    decisions::state::{BatchState, work::Work},
    processor::hooks::{Failure, FailureNotice, HookCall},
    progress::{phase::Outcome, report::BatchReport},
    protocol::{HookOrder, KeepReport, ThrottleOrder, WindowsOrder},
};

/// Attempts of a hook, and of keeping the final report.
pub(crate) const HOOK_ATTEMPTS: u32 = 3;

/// The time that a hook call may take beyond its attempts and the wait for a worker, for the waits between attempts.
pub(crate) const HOOK_SLACK: Duration = Duration::from_secs(30);

impl<W: Work> BatchState<W> {
    /// Keeps a failure for the handler, if there is one.
    pub(crate) fn note(&mut self, failure: Failure) {
        if self.input.spec.hooks.failure_handler.is_some() {
            self.notices.note(failure);
        }
    }

    /// Returns the throttles that must be polled.
    pub(crate) fn throttles_to_ask(&self) -> Option<ThrottleOrder> {
        let throttles = self.pacing.throttles();
        let wanted = !throttles.is_empty() && !self.is_part();
        wanted.then(|| ThrottleOrder {
            batch_id: self.input.spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            throttles: throttles.to_vec(),
        })
    }

    pub(crate) fn windows_to_work_out(&self) -> Option<WindowsOrder> {
        let windows = self.pacing.windows_to_work_out(self.now)?;
        Some(WindowsOrder {
            windows: windows.to_vec(),
            from: self.now,
        })
    }

    pub(crate) fn hook(&self, name: &str, call: HookCall) -> HookOrder {
        HookOrder {
            name: name.to_owned(),
            call,
            timeout: self.input.spec.hook_timeout.unwrap_or(HOOK_TIMEOUT),
        }
    }

    pub(crate) fn notice(&self, number: u64, failure: Failure) -> Option<HookOrder> {
        let spec = &self.input.spec;
        let handler = spec.hooks.failure_handler.as_deref()?;
        let notice = FailureNotice {
            batch_id: spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            processor: spec.processor.clone(),
            number,
            failure,
        };
        Some(self.hook(handler, HookCall::Failure(Box::new(notice))))
    }

    /// Returns the failure to send to the handler next.
    pub(crate) fn next_notice(&mut self) -> Option<HookOrder> {
        let (number, failure) = self.notices.next()?;
        self.notice(number, failure)
    }

    /// Returns the notice about the end of the batch for the handler, unless the batch completed.
    pub(crate) fn last_notice(&mut self, report: &BatchReport) -> Option<HookOrder> {
        // The batch reports the end of a partition.
        if report.outcome == Outcome::Completed || self.is_part() {
            return None;
        }
        self.input.spec.hooks.failure_handler.as_ref()?;
        let number = self.notices.number();
        self.notice(number, Failure::Ended(Box::new(report.clone())))
    }

    /// Returns when the tracker is due, if there is one.
    pub(crate) fn tracked_at(&self) -> Option<Timestamp> {
        let tracker = self.input.spec.hooks.tracker.as_ref();
        tracker.map(|_| self.notices.track_at)
    }

    /// Returns the progress to send to the tracker now.
    pub(crate) fn next_progress(&mut self) -> Option<HookOrder> {
        let spec = &self.input.spec;
        let tracker = spec.hooks.tracker.as_deref()?;
        if self.notices.track_at > self.now {
            return None;
        }
        let every = spec.track_every.unwrap_or(TRACK_EVERY);
        self.notices.track_at = self.now.plus(every);
        Some(self.hook(tracker, HookCall::Progress(Box::new(self.look()))))
    }

    pub(crate) fn last_progress(&self, report: &BatchReport) -> Option<HookOrder> {
        let tracker = self.input.spec.hooks.tracker.as_deref()?;
        let progress = Box::new(report.progress.clone());
        Some(self.hook(tracker, HookCall::Progress(progress)))
    }

    pub(crate) fn completion(&self, report: &BatchReport) -> Option<HookOrder> {
        let hook = self.input.spec.hooks.completion_hook.as_deref()?;
        let report = Box::new(report.clone());
        let call = match report.outcome {
            Outcome::Completed | Outcome::CompletedWithFailures => HookCall::Completed(report),
            Outcome::Failed | Outcome::Stopped | Outcome::Cancelled => HookCall::Failed(report),
        };
        Some(self.hook(hook, call))
    }

    pub(crate) fn report_to_keep(&self, report: &BatchReport) -> Option<KeepReport> {
        let keeps = self.prepared.as_ref().is_some_and(|p| p.dead_letters) && !self.is_part();
        keeps.then(|| KeepReport {
            processor: self.input.spec.processor.clone(),
            args: self.args().clone(),
            report: report.clone(),
        })
    }
}
