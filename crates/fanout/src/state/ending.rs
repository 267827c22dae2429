//! The report of a fan-out.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::{FanoutState, Stop};
use crate::{
    progress::{FanoutOutcome, FanoutReport},
    protocol::{OnFailure, Tolerate},
};

impl FanoutState {
    pub fn report(&self) -> FanoutReport {
        let carry = &self.carry;
        let (outcome, reason) = match &carry.stop {
            Some(Stop::Cancelled(reason)) => (FanoutOutcome::Cancelled, Some(reason.clone())),
            Some(Stop::FailFast(reason) | Stop::Failed(reason)) => {
                (FanoutOutcome::Failed, Some(reason.clone()))
            }
            None => match self.too_many_failed() {
                Some(reason) => (FanoutOutcome::Failed, Some(reason)),
                None => (FanoutOutcome::Completed, None),
            },
        };
        FanoutReport {
            id: self.spec.id.clone(),
            outcome,
            reason,
            progress: self.progress(),
            not_started: carry.not_started,
            stray_reports: carry.stray,
            failures: carry.failures.clone(),
            result: carry.so_far.clone().filter(|_| carry.aggregated),
            runs: carry.runs,
        }
    }

    fn too_many_failed(&self) -> Option<String> {
        let OnFailure::CollectAll {
            tolerate: Tolerate::Percent(most),
        } = self.spec.on_failure
        else {
            return None;
        };
        let (failed, all) = (self.carry.failed, self.carry.completed);
        // Exact for as many items as a fan-out can have.
        let is_more = failed as f64 * 100.0 > most * all as f64;
        is_more.then(|| format!("{failed} of {all} items failed and {most} % are tolerated"))
    }

    /// A line for Temporal's page of the workflow.
    pub fn details(&self) -> String {
        let progress = self.progress();
        format!(
            "{}/{}{} items, {} failed, {} in flight",
            progress.completed,
            progress.total,
            if progress.all_read { "" } else { "+" },
            progress.failed,
            progress.in_flight
        )
    }
}
