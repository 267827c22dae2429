//! The repair of a batch: the dead letters that redrives have settled, and the ones that are still open.
//!
//! The store of the dead letters is the authority. It holds the open letters and counts the settled ones, so the repair
//! does not depend on whether Temporal still remembers the redrives. The report of the batch says how many letters
//! there were. If the store cannot account for all of them, it is the wrong store or only a part of it.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::{
    base::time::Timestamp,
    batch::letter_filter::LetterFilter,
    cli::{
        dead_letters::{letters::each, store::in_time},
        exit::{CliError, CliResult},
        output::{count, number},
        processors::Processors,
        shell::DEFAULT_CONNECTION,
    },
    engine::client::{BatchClient, BatchStatus},
    processor::store::dead_letter::{DeadLetter, DeadLetters},
    progress::{Progress, phase::Outcome},
};

/// The number of redrives that are listed.
pub(crate) const MAX_REDRIVES: usize = 20;

/// The repair of the pages and items that a batch gave up. Its JSON is documented in `docs/cli.md`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Repair {
    /// Pages and items that were given up.
    failures: u64,
    /// Failures that became dead letters.
    dead_letters: u64,
    /// Dead letters that redrives have settled; `None` if unknown.
    settled: Option<u64>,
    /// Dead letters that are still open; `None` if unknown.
    open: Option<u64>,
    /// True if redrives have settled every failure.
    all_settled: bool,
    /// The reason why the counts are unknown.
    unknown_because: Option<String>,
    /// Redrives that the server remembers, the latest first.
    redrives: Vec<Redriven>,
}

/// A redrive of the batch.
#[derive(Clone, Debug, Serialize)]
struct Redriven {
    batch_id: String,
    state: BatchStatus,
    outcome: Option<Outcome>,
    /// Dead letters, not records.
    processed: Option<u64>,
    failed: Option<u64>,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
}

/// The batch whose failures are repaired.
pub(crate) struct FailedBatch<'a> {
    pub progress: &'a Progress,
    /// The arguments of its processor.
    pub args: &'a Value,
}

impl Repair {
    /// Returns the repair of a failed batch. `None` if the batch gave up neither pages nor items, and for a redrive,
    /// whose letters belong to another batch.
    pub(crate) async fn of(
        client: &BatchClient,
        broken: FailedBatch<'_>,
        processors: &Processors,
    ) -> CliResult<Option<Self>> {
        let FailedBatch { progress, args } = broken;
        let store = async || {
            let letters = processors.letters(&progress.processor, args).await;
            letters.map_err(|why| why.to_string())
        };
        Self::in_store(client, progress, store).await
    }

    /// Returns the repair from a store that is already open.
    pub(crate) async fn in_store(
        client: &BatchClient,
        progress: &Progress,
        store: impl AsyncFnOnce() -> Result<Arc<dyn DeadLetters>, String>,
    ) -> CliResult<Option<Self>> {
        let failures = progress.pages_failed + progress.items.failed;
        if failures == 0 || progress.redrive_of.is_some() {
            return Ok(None);
        }
        let mut repair = Self {
            failures,
            dead_letters: progress.dead_letters,
            settled: None,
            open: None,
            all_settled: false,
            unknown_because: None,
            redrives: redrives(client, progress).await?,
        };
        match store().await {
            Ok(store) => match repair.look_into(&*store, progress).await {
                Ok(()) => {}
                Err(error) => repair.unknown_because = Some(error.text().to_owned()),
            },
            Err(why) => repair.unknown_because = Some(why),
        }
        Ok(Some(repair))
    }

    async fn look_into(&mut self, store: &dyn DeadLetters, progress: &Progress) -> CliResult<()> {
        let open = open(store, progress).await?;
        let settled = in_time(store.settled(&progress.batch_run)).await?;
        self.found(open, settled);
        Ok(())
    }

    fn found(&mut self, open: u64, settled: Option<u64>) {
        (self.open, self.settled) = (Some(open), settled);
        let accounted_for = settled.is_none_or(|n| n >= self.dead_letters);
        self.all_settled = open == 0 && accounted_for && self.without_letter() == 0;
    }

    /// Returns the number of pages and items that were given up and cannot be redriven.
    fn without_letter(&self) -> u64 {
        self.failures.saturating_sub(self.dead_letters)
    }

    pub(crate) fn all_settled(&self) -> bool {
        self.all_settled
    }

    /// Returns whether open letters are known.
    pub(crate) fn has_open(&self) -> bool {
        self.open.is_some_and(|open| open > 0)
    }

    /// Returns the state of the repair in one sentence.
    pub(crate) fn summary(&self) -> String {
        let of_all = format!("of {}", count(self.dead_letters, "dead letter"));
        let without = self.without_letter();
        match (self.open, &self.unknown_because) {
            _ if without > 0 => format!(
                "{} without a dead letter, which no redrive can settle",
                count(without, "failure")
            ),
            (_, Some(why)) => format!("the dead letters cannot be read from here: {why}"),
            (Some(open @ 1..), _) => format!("{} {of_all} open", number(open)),
            _ if self.all_settled => format!(
                "{} settled",
                match self.dead_letters {
                    1 => "the 1 dead letter is".to_owned(),
                    n => format!("all {} dead letters are", number(n)),
                }
            ),
            _ => {
                let settled = self.settled.unwrap_or_default();
                format!(
                    "{} {of_all} settled here; this store has no trace of the others: it is the wrong \
                     store, or only a part, or they were deleted",
                    number(settled)
                )
            }
        }
    }

    /// Returns a line for each redrive.
    pub(crate) fn redrives(&self) -> Vec<String> {
        let line = |redrive: &Redriven| {
            let state = match redrive.outcome {
                Some(outcome) => outcome.to_string(),
                None => redrive.state.to_string(),
            };
            let done = match (redrive.processed, redrive.failed) {
                (Some(done), Some(0)) => format!(", {} settled", count(done, "letter")),
                (Some(done), Some(failed)) => format!(
                    ", {} settled, {} failed again",
                    count(done, "letter"),
                    number(failed)
                ),
                _ => String::new(),
            };
            format!("{}: {state}{done}", redrive.batch_id)
        };
        self.redrives.iter().map(line).collect()
    }
}

/// Refuses a store that holds no trace of the dead letters that the batch has counted.
pub(crate) async fn check_store(
    store: &dyn DeadLetters,
    broken: FailedBatch<'_>,
    processors: &Processors,
) -> CliResult<()> {
    let FailedBatch { progress, args } = broken;
    if progress.dead_letters == 0
        || progress.redrive_of.is_some()
        || open(store, progress).await? > 0
    {
        return Ok(());
    }
    let settled = in_time(store.settled(&progress.batch_run)).await?;
    if settled != Some(0) {
        return Ok(());
    }
    let (what, remedy) = match processors.runs_sql(&progress.processor) {
        true => ("database", database_of(args)),
        false => (
            "store",
            "start this command with the settings of the workers of the batch".to_owned(),
        ),
    };
    Err(CliError::failure(format_args!(
        "batch \"{}\" counts {}, but this {what} holds none of them: it is the wrong one, or they were deleted",
        progress.batch_id,
        count(progress.dead_letters, "dead letter"),
    ))
    .hint(remedy))
}

/// Returns advice on how to name the database of a batch with these arguments.
fn database_of(args: &Value) -> String {
    match args.get("connection").and_then(Value::as_str) {
        None | Some(DEFAULT_CONNECTION) => {
            "--database-url or DATABASE_URL names the database of the batch".to_owned()
        }
        Some(name) => format!(
            "TEMPORAL_BATCH_CONNECTION_{} names the database of the batch",
            name.to_ascii_uppercase()
        ),
    }
}

/// Returns the number of open letters of the batch run.
async fn open(store: &dyn DeadLetters, progress: &Progress) -> CliResult<u64> {
    let filter = LetterFilter::of(&progress.batch_id);
    let mut open = 0;
    let count = |letter: DeadLetter| open += u64::from(letter.batch_run == progress.batch_run);
    each(store, &filter, count).await?;
    Ok(open)
}

async fn redrives(client: &BatchClient, progress: &Progress) -> CliResult<Vec<Redriven>> {
    let listed = client
        .redrives(&progress.batch_id, progress.started_at, MAX_REDRIVES)
        .await?;
    let mut redrives = Vec::new();
    for redrive in listed {
        let mut report = None;
        if !redrive.state.is_open() {
            // A redrive that was terminated has no report.
            let handle = client.handle(&redrive.batch_id).map_err(CliError::from)?;
            report = handle.result().await.ok();
        }
        let items = report.as_ref().map(|report| report.progress.items);
        redrives.push(Redriven {
            batch_id: redrive.batch_id,
            state: redrive.state,
            outcome: report.as_ref().map(|report| report.outcome),
            processed: items.map(|items| items.processed),
            failed: items.map(|items| items.failed),
            started_at: redrive.started_at,
            ended_at: redrive.ended_at,
        });
    }
    Ok(redrives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repair(failures: u64, dead_letters: u64, settled: u64, open: u64) -> Repair {
        let mut repair = Repair {
            failures,
            dead_letters,
            settled: None,
            open: None,
            all_settled: false,
            unknown_because: None,
            redrives: Vec::new(),
        };
        repair.found(open, Some(settled));
        repair
    }

    #[test]
    fn what_is_left_is_told() {
        let all = repair(30, 30, 30, 0);
        assert_eq!(all.summary(), "all 30 dead letters are settled");
        assert_eq!(repair(30, 30, 27, 3).summary(), "3 of 30 dead letters open");
        let elsewhere = repair(30, 30, 27, 0).summary();
        assert!(elsewhere.starts_with("27 of 30 dead letters settled here"));
        let without = repair(30, 25, 25, 0).summary();
        assert!(without.starts_with("5 failures without a dead letter"));
    }

    #[test]
    fn the_database_is_named_as_the_batch_names_it() {
        let of = |args| database_of(&args);
        assert!(of(serde_json::json!({})).starts_with("--database-url or DATABASE_URL"));
        let named = of(serde_json::json!({"connection": "shop"}));
        assert!(
            named.starts_with("TEMPORAL_BATCH_CONNECTION_SHOP names"),
            "{named}"
        );
    }
}
