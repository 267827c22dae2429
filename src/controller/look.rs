//! What the controller says of the batch: its progress, its report, and a line for Temporal.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Controller;
use crate::{
    error::truncate,
    progress::{BatchReport, Phase, Progress},
    scheduler::{self, Ending},
};

/// Tokens are shown in one line.
const MAX_TOKEN_CHARS: usize = 60;
/// Failing pages that a progress query lists.
const MAX_FAILING_SHOWN: usize = 20;

impl Controller {
    pub(super) fn look(&self) -> Progress {
        let spec = &self.input.spec;
        let totals = &self.ledger.totals;
        let phase = match self.closing {
            Some(phase) => phase,
            None if self.prepared.is_none() => Phase::Preparing,
            None => scheduler::phase(&self.ledger, &self.limits(), self.now),
        };
        let (blocked_at, blocked_reason) = match phase {
            Phase::Blocked => scheduler::blocked(&self.ledger),
            _ => (None, None),
        };
        Progress {
            batch_id: spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            processor: spec.processor.clone(),
            redrive_of: spec.redrive_of.clone(),
            phase,
            pause_reason: self.controls.pause_reason.clone(),
            pages_completed: totals.pages_completed,
            pages_failed: totals.pages_failed,
            pages_in_flight: self.ledger.running(),
            pages_stuck: self.ledger.stuck(),
            strides_waiting: self.ledger.ready(),
            items: totals.items,
            skip_reasons: totals.skip_reasons.clone(),
            items_expected: self.prepared.as_ref().and_then(|p| p.items_expected),
            retries: totals.retries,
            max_parallelism: self.controls.max_parallelism,
            max_parallelism_achieved: totals.max_parallelism_achieved,
            rate: spec.rate,
            low_water_mark: self.ledger.low_water_mark().cloned(),
            end_of_data: self.ledger.end_of_data(),
            failing: self.ledger.failing().take(MAX_FAILING_SHOWN).collect(),
            failed: self.ledger.failed().to_vec(),
            failed_items: self.ledger.failed_items().to_vec(),
            started_at: self.started_at,
            as_of: self.now,
            runs: self.runs + 1,
            announcements_dropped: totals.announcements_dropped,
            consecutive_failures: totals.consecutive_failures,
            deadline: self.deadline,
            blocked_at,
            blocked_reason,
            hooks_failed: self.notices.hooks_failed,
            notices_dropped: self.notices.dropped(),
            audit: self.audit.entries(),
            audit_older: self.audit.older(),
        }
    }

    pub(super) fn report(&self, ending: &Ending) -> BatchReport {
        let mut progress = self.look();
        progress.phase = Phase::Ended;
        BatchReport {
            outcome: ending.outcome,
            reason: ending.reason.clone(),
            progress,
            ended_at: self.now,
        }
    }

    /// A line or two of Markdown for Temporal's own user interface.
    pub(super) fn details(&self) -> String {
        let p = self.look();
        let reason = p.pause_reason.as_ref().or(p.blocked_reason.as_ref());
        let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let share = p
            .percent()
            .map_or_else(String::new, |percent| format!(" ({percent:.0} %)"));
        let mark = p.low_water_mark.as_ref().map_or_else(
            || "the beginning".to_owned(),
            |token| {
                let token = truncate(token.as_str(), MAX_TOKEN_CHARS);
                format!("`{}`", token.replace('`', "'"))
            },
        );
        format!(
            "**{}**{why}  \n{} pages, {} items{share}; {} in flight, {} stuck, {} pages and {} items \
             failed; finished up to {mark}",
            p.phase,
            p.pages_completed,
            p.items.total(),
            p.pages_in_flight,
            p.pages_stuck,
            p.pages_failed,
            p.items.failed,
        )
    }
}
