//! `ensure-complete`: lets a deploy script continue only if a batch is complete and checked.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::{
    batch::{letter_filter::LetterFilter, validate::validate_id},
    cli::{
        args::{
            temporal_server::ConnectionArgs,
            values::{json_or_file, length},
        },
        commands::verify::{Certificate, summary, verify_known},
        dead_letters::{
            known_batch::{args_of, known_to, no_such_batch_or_processor},
            repair::{FailedBatch, Repair},
        },
        exit::{CliError, CliResult, Exit},
        output::{self, note},
        processors::Processors,
        render::batch_view::SCHEMA,
    },
    engine::{
        client::{BatchClient, BatchHandle, BatchStatus, ProgressError, RedriveError},
        worker::shutdown_signal,
    },
    progress::{check::Check, phase::Outcome, report::BatchReport},
};

#[derive(Args, Debug)]
pub(crate) struct EnsureCompleteArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Check here and now, as `verify` does, instead of trusting the check at the end of the batch
    #[arg(long)]
    check_now: bool,

    /// Wait for a batch that still runs
    #[arg(long)]
    wait: bool,

    /// Wait no longer than this
    #[arg(long, value_name = "DURATION", value_parser = length, requires = "wait")]
    timeout: Option<Duration>,

    /// The processor, for a batch that the server has forgotten
    #[arg(long, value_name = "PROCESSOR")]
    processor: Option<String>,

    /// The arguments of the processor as JSON, or @FILE [default: those that the batch had]
    #[arg(long, value_name = "JSON|@FILE", value_parser = json_or_file, allow_hyphen_values = true)]
    args: Option<Value>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(crate) database: crate::cli::args::databases::database::DatabaseArgs,
}

impl EnsureCompleteArgs {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        processors: &Processors,
    ) -> CliResult {
        validate_id(&self.batch_id)?;
        let connected = connection.connect().await?;
        let handle = connected.client.handle(&self.batch_id)?;
        let ended = match handle.state().await {
            Err(ProgressError::NotFound { .. }) => Some(self.forgotten(processors).await?),
            state => self.ended(&handle, state?).await?,
        };
        let exit = match ended {
            Some(report) => self.judge(&connected.client, &report, processors).await?,
            None => Exit::Interrupted,
        };
        connected.close().await?;
        Ok(exit)
    }

    /// Returns the report of a batch that has ended, after a wait if asked for. `None` if the command was interrupted.
    async fn ended(
        &self,
        handle: &BatchHandle,
        state: BatchStatus,
    ) -> CliResult<Option<BatchReport>> {
        let id = &self.batch_id;
        if state.is_open() && !self.wait {
            return Err(
                CliError::failure(format_args!("batch \"{id}\" is not complete: it runs"))
                    .hint("--wait waits for its end"),
            );
        }
        if state.is_open() {
            note(format_args!("batch \"{id}\" runs; waiting for its end"));
        }
        let stop =
            shutdown_signal().map_err(|e| CliError::caused("cannot listen for signals", &e))?;
        let late = async {
            match self.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = handle.result() => Ok(Some(report?)),
            () = late => Err(CliError::failure(format_args!(
                "batch \"{id}\" is not complete: it still runs after --timeout"
            ))),
            () = stop => {
                note("stopped waiting; the batch continues");
                Ok(None)
            }
        }
    }

    async fn judge(
        &self,
        client: &BatchClient,
        report: &BatchReport,
        processors: &Processors,
    ) -> CliResult {
        let id = &self.batch_id;
        let reason = report.reason.as_ref();
        let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let outcome = format!("batch \"{id}\" is not complete: {}{why}", report.outcome);
        let mut verdict = Completeness::of(report);
        let ended = [Outcome::Completed, Outcome::CompletedWithFailures];
        if !ended.contains(&report.outcome) {
            return Ok(self.tell(verdict.not(Exit::of(report), outcome)));
        }
        let args = self.args(client, processors, report).await;
        if report.outcome == Outcome::CompletedWithFailures {
            let broken = FailedBatch {
                progress: &report.progress,
                args: args.as_ref().unwrap_or(&Value::Null),
            };
            verdict.repair = Repair::of(client, broken, processors).await?;
            match &verdict.repair {
                Some(repair) if repair.all_settled() => {}
                Some(repair) => {
                    let why = format!("{outcome}; {}", repair.summary());
                    return Ok(self.tell(verdict.not(Exit::WithFailures, why)));
                }
                None => return Ok(self.tell(verdict.not(Exit::WithFailures, outcome))),
            }
        }
        let at_end = report.progress.check.as_ref().filter(|check| check.at_end);
        let at_end = at_end.and_then(|check| check.found.as_ref());
        let before_redrives = at_end.filter(|found| !found.holds() && verdict.repair.is_some());
        let found = match at_end {
            _ if self.check_now || before_redrives.is_some() => {
                match self.check_now(report, args, processors).await? {
                    Some(found) => found,
                    None => return Ok(Exit::Interrupted),
                }
            }
            Some(found) => found.clone(),
            None => {
                return Err(CliError::failure(format_args!(
                    "batch \"{id}\" is completed, but its result was never checked"
                ))
                .hint(unchecked_hint(&report.progress.processor)));
            }
        };
        verdict.check = Some(found.summary());
        if !found.holds() {
            let why = format!(
                "batch \"{id}\" is completed, but the check does not hold: {}",
                found.summary()
            );
            return Ok(self.tell(verdict.not(Exit::WithFailures, why)));
        }
        let summary = summary(&found, verdict.repair.as_ref());
        verdict.complete = true;
        verdict.because = format!("batch \"{id}\" is complete and checked: {summary}");
        Ok(self.tell(verdict))
    }

    /// Returns the arguments of the batch, from the command line or else from the server.
    async fn args(
        &self,
        client: &BatchClient,
        processors: &Processors,
        report: &BatchReport,
    ) -> CliResult<Value> {
        match client.redrive_of(LetterFilter::of(&self.batch_id)).await {
            _ if self.args.is_some() => {}
            Ok(batch) => return args_of(&batch),
            Err(RedriveError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let given = self.args.clone();
        Ok(processors.check(&report.progress.processor, given, None)?.0)
    }

    /// Checks the batch in this process. `None` if the command was interrupted.
    async fn check_now(
        &self,
        report: &BatchReport,
        args: CliResult<Value>,
        processors: &Processors,
    ) -> CliResult<Option<Check>> {
        let progress = &report.progress;
        let verifying = verify_known(Some(report.outcome), progress, None, args?, processors);
        let certificate = Box::pin(verifying).await?;
        Ok(certificate.map(Certificate::into_check))
    }

    /// Returns the report of a batch that the server has forgotten, from the store of its processor.
    async fn forgotten(&self, processors: &Processors) -> CliResult<BatchReport> {
        let id = &self.batch_id;
        let Some(name) = &self.processor else {
            return Err(no_such_batch_or_processor(id));
        };
        let (args, _) = processors.check(name, self.args.clone(), None)?;
        let store = processors.letters(name, &args).await.map_err(|why| {
            CliError::failure(format_args!(
                "the server does not remember batch \"{id}\", and its dead letters cannot be read: {why}"
            ))
        })?;
        known_to(&*store, id, name).await?.ok_or_else(|| {
            CliError::failure(format_args!(
                "the server does not remember batch \"{id}\", and processor \"{name}\" keeps no report of it"
            ))
        })
    }

    fn tell(&self, verdict: Completeness) -> Exit {
        let exit = verdict.exit;
        if self.json {
            output::json(&verdict);
            return exit;
        }
        match verdict.complete {
            true => {
                output::result(&verdict.because);
            }
            false => note(&verdict.because),
        }
        for redrive in verdict.repair.iter().flat_map(Repair::redrives) {
            note(format_args!("redrive {redrive}"));
        }
        exit
    }
}

/// Returns advice for a batch without a check at its end.
fn unchecked_hint(processor: &str) -> &'static str {
    match processor {
        "sql-import" => {
            "an `import` keeps no record of its pages with --no-once; without that flag it is checked at its end"
        }
        "sql-backfill" => {
            "--check-now does if the `backfill` had --once or --verify; with these it is checked at its end"
        }
        _ => "--check-now does; with `start --check` a batch is checked at its end",
    }
}

/// The answer. Its JSON is documented in `docs/cli.md`.
#[derive(Debug, Serialize)]
struct Completeness {
    schema: u32,
    batch_id: String,
    complete: bool,
    outcome: Outcome,
    because: String,
    /// The result of the check that counts.
    check: Option<String>,
    repair: Option<Repair>,
    #[serde(skip)]
    exit: Exit,
}

impl Completeness {
    fn of(report: &BatchReport) -> Self {
        Self {
            schema: SCHEMA,
            batch_id: report.progress.batch_id.clone(),
            complete: false,
            outcome: report.outcome,
            because: String::new(),
            check: None,
            repair: None,
            exit: Exit::Done,
        }
    }

    fn not(self, exit: Exit, because: String) -> Self {
        Self {
            exit,
            because,
            ..self
        }
    }
}
