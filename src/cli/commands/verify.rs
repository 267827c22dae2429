//! `verify`: has the processor of a batch check the finished pages, here and now, and issues a certificate.

use std::time::SystemTime;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{
    base::time::Timestamp,
    batch::{letter_filter::LetterFilter, validate::validate_id},
    cli::{
        args::{temporal_server::ConnectionArgs, values::json_or_file},
        dead_letters::{
            known_batch::{args_of, no_such_batch},
            repair::{FailedBatch, Repair},
        },
        exit::{CliError, CliResult, Exit},
        output::{self, count, note},
        processors::Processors,
        render::batch_view::SCHEMA,
    },
    engine::{
        client::{BatchClient, BatchHandle, ProgressError, RedriveError},
        worker::shutdown_signal,
    },
    page::token::PageToken,
    processor::stop_signal::{Interruption, StopSignal},
    progress::{ItemCounts, Progress, check::Check, phase::Outcome},
    protocol::side::CheckOrder,
};

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// The arguments of the processor as JSON, or @FILE [default: those that the batch had]
    #[arg(long, value_name = "JSON|@FILE", value_parser = json_or_file, allow_hyphen_values = true)]
    args: Option<Value>,

    /// Print the certificate as one JSON object
    #[arg(long)]
    json: bool,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(crate) database: crate::cli::args::databases::database::DatabaseArgs,
}

/// The result of a verification. Its JSON is documented in `docs/cli.md`.
#[derive(Debug, Serialize)]
pub(crate) struct Certificate {
    schema: u32,
    batch_id: String,
    batch_run: String,
    processor: String,
    /// A hash, because the arguments may be confidential.
    args_sha256: String,
    outcome: Option<Outcome>,
    covered_from: Option<PageToken>,
    covered_to: Option<PageToken>,
    /// True if everything from the first cursor to the end of the data was checked.
    covers_all: bool,
    pages: u64,
    pages_failed: u64,
    items: ItemCounts,
    check: Check,
    /// The repair of the pages and items that the batch gave up; absent if it gave up none of them.
    repair: Option<Repair>,
    holds: bool,
    verified_at: Timestamp,
    version: &'static str,
    /// The hash of all other fields.
    digest: String,
}

impl VerifyArgs {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        processors: &Processors,
    ) -> CliResult {
        validate_id(&self.batch_id)?;
        let connected = connection.connect().await?;
        let verifying = verify(
            &connected.client,
            &self.batch_id,
            self.args.clone(),
            processors,
        );
        let certificate = match verifying.await? {
            Some(certificate) => certificate,
            None => return Ok(Exit::Interrupted),
        };
        if self.json {
            output::json(&certificate);
        } else {
            output::result(certificate.text());
        }
        connected.close().await?;
        Ok(certificate.exit())
    }
}

/// Verifies the finished part of a batch. `None` if the command was interrupted.
pub(crate) async fn verify(
    client: &BatchClient,
    batch_id: &str,
    args: Option<Value>,
    processors: &Processors,
) -> CliResult<Option<Certificate>> {
    let handle = client.handle(batch_id)?;
    let (outcome, progress) = standing(&handle).await?;
    let args = match (args, client.redrive_of(LetterFilter::of(batch_id)).await) {
        (Some(given), _) => given,
        (None, Ok(batch)) => args_of(&batch)?,
        (None, Err(error @ RedriveError::OfRedrive { .. })) => {
            return Err(CliError::usage(error).hint("verify the batch that it redrives"));
        }
        (None, Err(error)) => return Err(error.into()),
    };
    let broken = FailedBatch {
        progress: &progress,
        args: &args,
    };
    let repair = Repair::of(client, broken, processors).await?;
    verify_known(outcome, &progress, repair, args, processors).await
}

/// Verifies a batch whose progress, arguments and repair are known.
pub(crate) async fn verify_known(
    outcome: Option<Outcome>,
    progress: &Progress,
    repair: Option<Repair>,
    args: Value,
    processors: &Processors,
) -> CliResult<Option<Certificate>> {
    let batch_id = progress.batch_id.as_str();
    let finished = matches!(
        outcome,
        Some(Outcome::Completed | Outcome::CompletedWithFailures)
    );
    let covered_to = progress.low_water_mark.clone().filter(|_| !finished);
    if !finished && covered_to == progress.first_cursor {
        return Err(CliError::failure(format_args!(
            "nothing of batch \"{batch_id}\" is finished yet, so there is nothing to verify"
        )));
    }
    let order = CheckOrder {
        batch_id: batch_id.to_owned(),
        batch_run: progress.batch_run.clone(),
        processor: progress.processor.clone(),
        args,
        redrive: false,
        covered_from: progress.first_cursor.clone(),
        covered_to,
    };
    let registry = processors.one(&order.processor).await;
    let registry = registry.map_err(|why| {
        CliError::failure(format_args!(
            "batch \"{batch_id}\" cannot be verified from here: {why}"
        ))
    })?;
    let processor = registry.of_batch(&order.processor, false)?;
    let (told, interruption) = watch::channel(StopSignal::default());
    let stop = shutdown_signal().map_err(|e| CliError::caused("cannot listen for signals", &e))?;
    let found = tokio::select! {
        found = processor.check(&order, Interruption::new(interruption, false)) => found,
        () = stop => {
            told.send_modify(|told| told.cancelled = true);
            note("interrupted; the check was not finished");
            return Ok(None);
        }
    };
    let found = found.map_err(|error| {
        CliError::failure(format_args!(
            "batch \"{batch_id}\" could not be verified: {}: {}",
            error.error_type(),
            error.message()
        ))
    })?;
    let Some(check) = found else {
        return Err(CliError::failure(format_args!(
            "processor \"{}\" checks nothing, so there is nothing to verify",
            order.processor
        )));
    };
    Certificate::of(order, outcome, progress, (check, repair)).map(Some)
}

/// Returns the outcome of a batch, if it has ended, and its progress.
async fn standing(handle: &BatchHandle) -> CliResult<(Option<Outcome>, Progress)> {
    let state = match handle.state().await {
        Err(ProgressError::NotFound { .. }) => return Err(no_such_batch(handle.id())),
        state => state?,
    };
    if !state.is_open() {
        let report = handle.result().await?;
        return Ok((Some(report.outcome), report.progress));
    }
    let seen = handle.look().await?;
    let progress = seen.progress.ok_or_else(|| {
        CliError::failure(format_args!(
            "the progress of batch \"{}\" is unknown, because no worker answers; start a worker, or wait for its end",
            handle.id()
        ))
    })?;
    Ok((None, progress))
}

impl Certificate {
    fn of(
        order: CheckOrder,
        outcome: Option<Outcome>,
        progress: &Progress,
        (check, repair): (Check, Option<Repair>),
    ) -> CliResult<Self> {
        let mut certificate = Self {
            schema: SCHEMA,
            batch_id: order.batch_id,
            batch_run: order.batch_run,
            processor: order.processor,
            args_sha256: sha256(&order.args),
            outcome,
            covers_all: order.covered_to.is_none(),
            covered_from: order.covered_from,
            covered_to: order.covered_to,
            pages: progress.pages_completed,
            pages_failed: progress.pages_failed,
            items: progress.items,
            holds: check.holds() && repair.as_ref().is_none_or(Repair::all_settled),
            check,
            repair,
            verified_at: SystemTime::now().into(),
            version: env!("CARGO_PKG_VERSION"),
            digest: String::new(),
        };
        let mut json = serde_json::to_value(&certificate)
            .map_err(|e| CliError::caused("the certificate cannot be written", &e))?;
        if let Some(fields) = json.as_object_mut() {
            fields.remove("digest");
        }
        certificate.digest = sha256(&json);
        Ok(certificate)
    }

    pub(crate) fn into_check(self) -> Check {
        self.check
    }

    fn summary(&self) -> String {
        summary(&self.check, self.repair.as_ref())
    }

    fn exit(&self) -> Exit {
        match self.holds {
            true => Exit::Done,
            false => Exit::WithFailures,
        }
    }

    fn text(&self) -> String {
        let covered = match &self.covered_to {
            Some(to) => format!("up to {to}"),
            None => "to the end of the data".to_owned(),
        };
        let mut text = format!(
            "batch \"{}\" {}: {} ({covered}, {} processed)",
            self.batch_id,
            if self.holds { "holds" } else { "does not hold" },
            self.summary(),
            count(self.items.processed, "item"),
        );
        for failed in &self.check.failed {
            let place = |token: &Option<PageToken>, open: &str| {
                let token = token.as_ref();
                token.map_or_else(|| open.to_owned(), PageToken::to_string)
            };
            text.push_str(&format!(
                "\n  after {} up to {}: {}: {}",
                place(&failed.start, "the beginning"),
                place(&failed.end, "the end"),
                count(failed.items, "item"),
                output::one_line(&failed.message),
            ));
        }
        for note in &self.check.notes {
            text.push_str(&format!("\n  note: {}", output::one_line(note)));
        }
        text
    }
}

/// Returns the result of a check, with that of the repair.
pub(crate) fn summary(check: &Check, repair: Option<&Repair>) -> String {
    let settled = repair.filter(|repair| repair.all_settled());
    if let Some(summary) = settled.and_then(|_| check.summary_once_settled()) {
        return summary;
    }
    match repair {
        Some(repair) => format!("{}; {}", check.summary(), repair.summary()),
        None => check.summary(),
    }
}

/// Returns the hash of JSON without spaces and with sorted fields.
fn sha256(json: &Value) -> String {
    let digest = Sha256::digest(canonical(json).to_string());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sorts the fields, because other crates of the program decide whether maps keep their order.
fn canonical(json: &Value) -> Value {
    match json {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| name.as_str());
            let fields = sorted.into_iter();
            Value::Object(fields.map(|(n, v)| (n.clone(), canonical(v))).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_what_is_said_and_not_on_the_order() {
        let one: Value = serde_json::from_str(r#"{"b":[1,{"d":2,"c":3}],"a":null}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"a":null,"b":[1,{"c":3,"d":2}]}"#).unwrap();
        assert_eq!(sha256(&one), sha256(&other));
        assert_eq!(
            canonical(&one).to_string(),
            r#"{"a":null,"b":[1,{"c":3,"d":2}]}"#
        );
        let changed: Value = serde_json::from_str(r#"{"a":null,"b":[1,{"c":3,"d":1}]}"#).unwrap();
        assert_ne!(sha256(&one), sha256(&changed));
        // As `printf 'null' | sha256sum` shows it.
        assert_eq!(
            sha256(&Value::Null),
            "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
        );
    }
}
