//! One look at a batch, for people and as JSON.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    exit::CliResult,
    output::{count, duration, note, number, one_line},
};
use crate::{
    BatchState,
    client::{BatchHandle, ProgressError, ResultError},
    progress::{BatchReport, FailureState, Outcome, PageFailure, Phase, Progress, Timestamp},
};

/// Raised when a field changes its meaning or goes away; see the docs of [`cli`](super).
pub(crate) const SCHEMA: u32 = 1;

/// Failures that are shown to people; JSON has all that the controller keeps.
const MAX_SHOWN: usize = 10;

/// What is known of a batch. Its JSON is documented in the docs of [`cli`](super).
#[derive(Debug, Serialize)]
pub(crate) struct Look {
    schema: u32,
    batch_id: String,
    state: BatchState,
    outcome: Option<Outcome>,
    reason: Option<String>,
    ended_at: Option<Timestamp>,
    percent: Option<f64>,
    progress: Option<Progress>,
    /// Why nobody could say how far it is.
    #[serde(skip)]
    trouble: Option<ProgressError>,
}

impl Look {
    /// Asks the server, and a worker if the batch runs.
    pub(crate) async fn at(handle: &BatchHandle) -> CliResult<Self> {
        let state = handle.state().await?;
        if !state.is_open() {
            return match handle.result().await {
                Ok(report) => Ok(Self::ended(report)),
                Err(ResultError::Refused { reason }) => Ok(Self {
                    reason: Some(reason),
                    ..Self::unknown(handle.id(), state)
                }),
                Err(ResultError::NoReport { .. }) => Ok(Self::unknown(handle.id(), state)),
                Err(error) => Err(error.into()),
            };
        }
        match handle.progress().await {
            Ok(progress) => Ok(Self::running(progress)),
            Err(trouble @ (ProgressError::NoWorker { .. } | ProgressError::TaskFails { .. })) => {
                Ok(Self {
                    trouble: Some(trouble),
                    ..Self::unknown(handle.id(), state)
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A batch of which only the state is known.
    pub(crate) fn unknown(batch_id: &str, state: BatchState) -> Self {
        Self {
            schema: SCHEMA,
            batch_id: batch_id.to_owned(),
            state,
            outcome: None,
            reason: None,
            ended_at: None,
            percent: None,
            progress: None,
            trouble: None,
        }
    }

    pub(crate) fn running(progress: Progress) -> Self {
        Self {
            percent: progress.percent(),
            progress: Some(progress.clone()),
            ..Self::unknown(&progress.batch_id, BatchState::Running)
        }
    }

    pub(crate) fn ended(report: BatchReport) -> Self {
        let state = match report.outcome {
            Outcome::Completed | Outcome::CompletedWithFailures => BatchState::Completed,
            // Temporal knows one way to fail.
            Outcome::Failed | Outcome::Stopped => BatchState::Failed,
            Outcome::Cancelled => BatchState::Cancelled,
        };
        Self {
            state,
            outcome: Some(report.outcome),
            reason: report.reason,
            ended_at: Some(report.ended_at),
            ..Self::running(report.progress)
        }
    }

    /// Why nobody could say how far the batch is, if it runs.
    pub(crate) fn trouble(&self) -> Option<&ProgressError> {
        self.trouble.as_ref()
    }

    pub(crate) fn batch_id(&self) -> &str {
        &self.batch_id
    }

    pub(crate) fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// Now, or when the batch ended.
    pub(crate) fn now(&self) -> Timestamp {
        self.ended_at.unwrap_or_else(|| SystemTime::now().into())
    }

    /// Says where failures are listed, if there are any: those of a redrive stay with the batch that it
    /// redrives.
    pub(crate) fn hint(&self, program: &str) {
        let failed = self
            .progress
            .as_ref()
            .is_some_and(|p| !p.failing.is_empty() || p.pages_failed > 0 || p.items.failed > 0);
        if failed {
            let redrive_of = self.progress.as_ref().and_then(|p| p.redrive_of.as_ref());
            let id = redrive_of.unwrap_or(&self.batch_id);
            note(format_args!("`{program} failures {id}` lists what failed"));
        }
    }

    /// A table for people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::default();
        let state = match (self.outcome, &self.progress) {
            (Some(outcome), _) => outcome.to_string(),
            (None, Some(progress)) => phase(progress),
            (None, None) => self.state.to_string(),
        };
        table.row("batch", &self.batch_id);
        table.row("state", state);
        if let Some(reason) = &self.reason {
            table.row("reason", reason);
        }
        if let Some(progress) = &self.progress {
            self.rows(progress, &mut table);
        }
        table.text
    }

    fn rows(&self, p: &Progress, table: &mut Table) {
        table.row("processor", &p.processor);
        if let Some(redrive_of) = &p.redrive_of {
            table.row("redrives", redrive_of);
        }
        let time = match self.ended_at {
            Some(at) => at.since(p.started_at),
            None => age(p),
        };
        table.row("time", duration(time));
        let mut items = format!("{} processed", number(p.items.processed));
        if p.items.changed > 0 {
            let _ = write!(items, " ({} changed)", number(p.items.changed));
        }
        for (n, what) in [(p.items.skipped, "skipped"), (p.items.failed, "failed")] {
            if n > 0 {
                let _ = write!(items, ", {} {what}", number(n));
            }
        }
        if let (Some(expected), Some(percent)) = (p.items_expected, self.percent) {
            let _ = write!(items, " of {} ({percent:.1} %)", number(expected));
        }
        table.row("items", items);
        for (reason, items) in &p.skip_reasons {
            table.row("skipped", format!("{}: {reason}", number(*items)));
        }
        let mut pages = format!("{} completed", number(p.pages_completed));
        for (n, what) in [
            (p.pages_failed, "given up"),
            (u64::from(p.pages_in_flight), "in flight"),
            (u64::from(p.pages_stuck), "stuck"),
        ] {
            if n > 0 {
                let _ = write!(pages, ", {} {what}", number(n));
            }
        }
        table.row("pages", pages);
        table.row("retries", number(p.retries));
        table.row(
            "parallelism",
            format!(
                "{} (at most {} so far)",
                p.max_parallelism, p.max_parallelism_achieved
            ),
        );
        if let Some(rate) = p.rate {
            table.row("rate", format!("{rate} items/s at most"));
        }
        table.row(
            "finished to",
            match &p.low_water_mark {
                Some(token) => token.to_string(),
                None => "the beginning".to_owned(),
            },
        );
        table.row("runs", number(u64::from(p.runs)));
        table.failures("failing", &p.failing, |page| {
            let since = duration(self.now().since(page.first_at));
            format!("{} for {since}, ", page.state)
        });
        table.failures("given up", &p.failed, |page| match page.state {
            FailureState::DeadLetter => "dead letter, ".to_owned(),
            _ => String::new(),
        });
        for item in p.failed_items.iter().take(MAX_SHOWN) {
            let text = format!("{}: {}: {}", item.key, item.error_type, item.message);
            table.row("item failed", text);
        }
    }
}

/// How long a batch that runs has been running. `as_of` would not do: it is the time of the controller's
/// last event, and nothing happens in a batch that is paused.
pub(crate) fn age(progress: &Progress) -> Duration {
    Timestamp::from(SystemTime::now()).since(progress.started_at)
}

/// The phase, with the reason where somebody gave one.
pub(crate) fn phase(progress: &Progress) -> String {
    match (progress.phase, &progress.pause_reason) {
        (phase @ (Phase::Pausing | Phase::Paused), Some(reason)) => format!("{phase} ({reason})"),
        (phase @ (Phase::Pausing | Phase::Paused), None) if progress.max_parallelism == 0 => {
            format!("{phase} (max parallelism is 0)")
        }
        (phase, _) => phase.to_string(),
    }
}

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn row(&mut self, name: &str, value: impl std::fmt::Display) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        // Reasons, keys and messages come from elsewhere.
        let value = one_line(&value.to_string());
        let _ = write!(self.text, "{name:<12} {value}");
    }

    fn failures(
        &mut self,
        name: &str,
        failures: &[PageFailure],
        state: impl Fn(&PageFailure) -> String,
    ) {
        for failure in failures.iter().take(MAX_SHOWN) {
            let start = match &failure.start {
                Some(token) => format!("page after {token}"),
                None => "first page".to_owned(),
            };
            let attempts = count(u64::from(failure.attempts), "attempt");
            let PageFailure {
                error_type,
                message,
                ..
            } = failure;
            self.row(
                name,
                format!(
                    "{start}, {}{attempts}: {error_type}: {message}",
                    state(failure)
                ),
            );
        }
        if let Some(more @ 1..) = failures.len().checked_sub(MAX_SHOWN) {
            self.row(
                name,
                format!("and {} more (--json shows them)", number(more as u64)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_without_progress_still_has_every_field() {
        let json = serde_json::to_value(Look::unknown("b", BatchState::Running)).unwrap();
        let fields: Vec<_> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            fields,
            [
                "batch_id", "ended_at", "outcome", "percent", "progress", "reason", "schema",
                "state"
            ]
        );
        assert_eq!(json["schema"], 1);
        assert_eq!(json["state"], "running");
    }
}
