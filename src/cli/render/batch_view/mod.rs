//! A batch as one look finds it, for people and as JSON.

mod table;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::{
    base::{error::text::words, time::Timestamp},
    cli::{
        dead_letters::repair::Repair,
        exit::CliResult,
        output::{self, note},
        render::{
            next_command::{self, redrive_hint},
            web_ui,
        },
        shell::Program,
    },
    engine::client::{
        BatchHandle, BatchStatus, Observation, ProgressError, ProgressSource, ResultError,
        RunningStride, Workers,
    },
    progress::{Progress, phase::Outcome, report::BatchReport},
};

/// The version of all JSON of the commands, raised when a field changes its meaning or is removed; see the docs of
/// [`cli`](crate::cli).
pub(crate) const SCHEMA: u32 = 1;

/// All that is known of a batch. Its JSON is documented in the docs of [`cli`](crate::cli).
#[derive(Debug, Serialize)]
pub(crate) struct BatchView {
    schema: u32,
    batch_id: String,
    state: BatchStatus,
    outcome: Option<Outcome>,
    reason: Option<String>,
    ended_at: Option<Timestamp>,
    percent: Option<f64>,
    /// The time of a cancellation request that no worker has taken yet.
    cancel_waits_since: Option<Timestamp>,
    /// The command that helps with what holds the batch, if there is one.
    next: Option<String>,
    /// The link to the batch on Temporal's own web page.
    ui_url: Option<String>,
    progress: Option<Progress>,
    /// The source of the progress.
    source: Option<ProgressSource>,
    /// The workers that poll the task queue while the batch runs.
    workers: Option<Workers>,
    /// The strides that workers are processing.
    strides: Vec<RunningStride>,
    /// The repair of the pages and items that were given up, if it was looked for.
    repair: Option<Repair>,
    /// The reason why the progress is unknown.
    #[serde(skip)]
    trouble: Option<ProgressError>,
}

impl BatchView {
    /// Asks the server, and also a worker if the batch runs.
    pub(crate) async fn at(handle: &BatchHandle, program: &Program) -> CliResult<Self> {
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
        Ok(Self::seen(handle.look().await?, program))
    }

    /// Asks like [`at`](Self::at), and prints the reason if the progress is unknown.
    pub(crate) async fn told(handle: &BatchHandle, program: &Program) -> CliResult<Self> {
        let look = Self::at(handle, program).await?;
        if let Some(trouble) = look.trouble() {
            note(format_args!("its progress is unknown: {}", words(trouble)));
        }
        Ok(look)
    }

    /// Creates the view of a batch that runs, or ran a moment ago.
    pub(crate) fn seen(seen: Observation, program: &Program) -> Self {
        let next = next_command::after(&seen, program).filter(|_| seen.state.is_open());
        let no_worker = || ProgressError::NoWorker {
            batch_id: seen.batch_id.clone(),
        };
        let unknown = seen.progress.is_none().then(no_worker);
        let trouble = seen.task_fails().or(unknown);
        let batch_id = seen.batch_id;
        Self {
            percent: seen.progress.as_ref().and_then(Progress::percent),
            progress: seen.progress,
            source: seen.source,
            workers: seen.workers,
            strides: seen.strides,
            cancel_waits_since: seen.cancel_waits_since,
            next,
            trouble,
            ..Self::unknown(&batch_id, seen.state)
        }
    }

    /// Creates the view of a batch of which only the state is known.
    pub(crate) fn unknown(batch_id: &str, state: BatchStatus) -> Self {
        Self {
            schema: SCHEMA,
            batch_id: batch_id.to_owned(),
            state,
            outcome: None,
            reason: None,
            ended_at: None,
            percent: None,
            cancel_waits_since: None,
            next: None,
            ui_url: web_ui::link(batch_id),
            progress: None,
            source: None,
            workers: None,
            strides: Vec::new(),
            repair: None,
            trouble: None,
        }
    }

    pub(crate) fn running(progress: Progress, next: Option<String>) -> Self {
        Self {
            next,
            percent: progress.percent(),
            progress: Some(progress.clone()),
            ..Self::unknown(&progress.batch_id, BatchStatus::Running)
        }
    }

    pub(crate) fn ended(report: BatchReport) -> Self {
        let state = match report.outcome {
            Outcome::Completed | Outcome::CompletedWithFailures => BatchStatus::Completed,
            // Temporal has only one state for both.
            Outcome::Failed | Outcome::Stopped => BatchStatus::Failed,
            Outcome::Cancelled => BatchStatus::Cancelled,
        };
        Self {
            state,
            outcome: Some(report.outcome),
            reason: report.reason,
            ended_at: Some(report.ended_at),
            source: Some(ProgressSource::Report),
            ..Self::running(report.progress, None)
        }
    }

    /// Returns the reason why the progress of a running batch is unknown.
    pub(crate) fn trouble(&self) -> Option<&ProgressError> {
        self.trouble.as_ref()
    }

    /// Returns whether a cancellation waits for a worker.
    pub(crate) fn lets_cancellation_wait(&self) -> bool {
        self.cancel_waits_since.is_some()
    }

    pub(crate) fn batch_id(&self) -> &str {
        &self.batch_id
    }

    pub(crate) fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Adds the repair of the pages and items that the batch gave up.
    pub(crate) fn with_repair(self, repair: Option<Repair>) -> Self {
        Self { repair, ..self }
    }

    /// Returns the current time, or the end of the batch.
    pub(crate) fn now(&self) -> Timestamp {
        self.ended_at.unwrap_or_else(|| SystemTime::now().into())
    }

    /// Prints the result of a command: a table with hints for people, or one line of JSON.
    pub(crate) fn print(&self, json: bool, program: &Program) {
        if json {
            output::json(self);
        } else {
            output::result(self.table());
            self.hint(program);
        }
    }

    /// Prints the command that helps with what holds the batch, if there is one.
    pub(crate) fn tell_next(&self) {
        if let Some(next) = &self.next {
            note(format_args!("next: `{next}`"));
        }
    }

    /// Prints the commands that list and redrive the remaining failures. The failures of a redrive stay with the batch
    /// that it redrives.
    fn hint(&self, program: &Program) {
        let failed = self
            .progress
            .as_ref()
            .is_some_and(|p| !p.failing.is_empty() || p.pages_failed > 0 || p.items.failed > 0);
        let repair = self.repair.as_ref();
        if failed && !repair.is_some_and(Repair::all_settled) {
            let redrive_of = self.progress.as_ref().and_then(|p| p.redrive_of.as_ref());
            let id = redrive_of.unwrap_or(&self.batch_id);
            let failures = program.of_batch("failures", id);
            note(format_args!("`{failures}` lists what failed"));
        }
        if repair.is_some_and(Repair::has_open) {
            let processor = self.progress().map(|p| p.processor.as_str());
            note(redrive_hint(&self.batch_id, processor, program));
        }
    }
}

/// Returns the age of a running batch. `as_of` cannot be used: it is the time of the controller's last event, and in a
/// paused batch nothing happens.
pub(crate) fn age(progress: &Progress) -> Duration {
    Timestamp::from(SystemTime::now()).since(progress.started_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_without_progress_still_has_every_field() {
        let json = serde_json::to_value(BatchView::unknown("b", BatchStatus::Running)).unwrap();
        let fields: Vec<_> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            fields,
            [
                "batch_id",
                "cancel_waits_since",
                "ended_at",
                "next",
                "outcome",
                "percent",
                "progress",
                "reason",
                "repair",
                "schema",
                "source",
                "state",
                "strides",
                "ui_url",
                "workers"
            ]
        );
        assert_eq!(json["schema"], 1);
        assert_eq!(json["state"], "running");
    }
}
