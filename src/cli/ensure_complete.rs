//! `ensure-complete`: for deploy scripts that must not go on before a batch is done and found right.

use std::time::Duration;

use clap::Args;

use super::{
    connection::ConnectionArgs,
    exit::{CliError, CliResult, Exit},
    failures::no_such_batch,
    limits::length,
    output::{self, note},
    processors::Processors,
    verify::verify,
};
use crate::{
    batch::validate_id,
    client::{BatchClient, BatchHandle, ProgressError},
    progress::{BatchReport, Outcome},
    worker::shutdown_signal,
};

#[derive(Args, Debug)]
pub(crate) struct EnsureCompleteArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Check now and from here, as `verify` does, rather than trusting the check at the end of the batch
    #[arg(long)]
    check_now: bool,

    /// Wait for a batch that still runs
    #[arg(long)]
    wait: bool,

    /// Wait no longer than this
    #[arg(long, value_name = "DURATION", value_parser = length, requires = "wait")]
    timeout: Option<Duration>,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(super) database: super::connections::DatabaseArgs,
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
        let exit = match self.ended(&handle).await? {
            Some(report) => self.judge(&connected.client, &report, processors).await?,
            None => Exit::Interrupted,
        };
        connected.close().await?;
        Ok(exit)
    }

    /// `None`: interrupted.
    async fn ended(&self, handle: &BatchHandle) -> CliResult<Option<BatchReport>> {
        let id = &self.batch_id;
        let state = match handle.state().await {
            Err(ProgressError::NotFound { .. }) => return Err(no_such_batch(id)),
            state => state?,
        };
        if state.is_open() && !self.wait {
            return Err(
                CliError::failure(format_args!("batch \"{id}\" is not complete: it runs"))
                    .hint("--wait waits for its end"),
            );
        }
        if state.is_open() {
            note(format_args!(
                "batch \"{id}\" runs, and its end is waited for"
            ));
        }
        let stop = shutdown_signal()
            .map_err(|e| CliError::caused("signals cannot be listened for", &e))?;
        let late = async {
            match self.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = handle.result() => Ok(Some(report?)),
            () = late => Err(CliError::failure(format_args!(
                "batch \"{id}\" is not complete: it still runs after the time that it was waited for"
            ))),
            () = stop => {
                note("not waited for any longer; the batch goes on");
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
        if report.outcome != Outcome::Completed {
            let reason = report.reason.as_ref();
            let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            note(format_args!(
                "batch \"{id}\" is not complete: {}{why}",
                report.outcome
            ));
            return Ok(Exit::of(report));
        }
        let (holds, summary) = if self.check_now {
            match Box::pin(verify(client, id, None, processors)).await? {
                Some(certificate) => (certificate.holds(), certificate.summary()),
                None => return Ok(Exit::Interrupted),
            }
        } else {
            let check = report.progress.check.as_ref().filter(|check| check.at_end);
            let Some(found) = check.and_then(|check| check.found.as_ref()) else {
                return Err(CliError::failure(format_args!(
                    "batch \"{id}\" is completed, but nobody has checked what it did"
                ))
                .hint("--check-now does; with `start --check` or `backfill --verify` a batch is checked at its end"));
            };
            (found.holds(), found.summary())
        };
        if holds {
            output::result(format_args!(
                "batch \"{id}\" is complete and checked: {summary}"
            ));
            return Ok(Exit::Done);
        }
        note(format_args!(
            "batch \"{id}\" is completed, but the check does not hold: {summary}"
        ));
        Ok(Exit::WithFailures)
    }
}
