//! `failures`: the pages that fail, the pages and items that were given up, and the dead letters.

mod listing;

use clap::Args;
use serde_json::Value;

use crate::{
    base::time::Timestamp,
    batch::{letter_filter::LetterFilter, validate::validate_id},
    cli::{
        args::{
            failure_filter::{FilterArgs, means_item, means_page},
            temporal_server::ConnectionArgs,
            values::json_or_file,
        },
        dead_letters::{
            known_batch::{agree, args_of, known_to, no_such_batch_or_processor},
            letters::Letters,
            repair::{FailedBatch, check_store},
            store::StoreError,
        },
        exit::{CliError, CliResult, Exit},
        output::{self, note},
        processors::Processors,
        render::batch_view::{BatchView, SCHEMA},
        shell::Program,
    },
    engine::client::{BatchClient, BatchHandle, ProgressError, RedriveError},
    processor::store::dead_letter::DeadLetters,
    progress::{
        Progress,
        failures::{FailureState, PageFailure},
    },
    stride::registry::Refused,
};
use listing::Failures;

#[derive(Args, Debug)]
pub(crate) struct FailuresArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    #[command(flatten)]
    filter: FilterArgs,

    /// The processor, for a batch that the server has forgotten
    #[arg(long, value_name = "PROCESSOR")]
    processor: Option<String>,

    /// The arguments of the processor as JSON, or @FILE [default: those that the batch had]
    #[arg(long, value_name = "JSON|@FILE", value_parser = json_or_file, allow_hyphen_values = true)]
    args: Option<Value>,

    /// Most dead letters to show
    #[arg(
        long,
        default_value_t = 100,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    limit: u32,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(crate) database: crate::cli::args::databases::database::DatabaseArgs,
}

impl FailuresArgs {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        processors: &Processors,
        program: &Program,
    ) -> CliResult {
        validate_id(&self.batch_id)?;
        // Flags are checked before the server is asked.
        self.filter(self.processor.as_deref(), processors)?;
        let connected = connection.connect().await?;
        let around = (processors, program);
        let failures = self.find(&connected.client, around).await?;
        if self.json {
            output::json(&failures);
        } else {
            failures.tell(program);
        }
        connected.close().await?;
        Ok(Exit::Done)
    }

    async fn find(
        &self,
        client: &BatchClient,
        around: (&Processors, &Program),
    ) -> CliResult<Failures> {
        let handle = client.handle(&self.batch_id)?;
        match handle.state().await {
            Ok(_) => self.remembered(client, &handle, around).await,
            Err(ProgressError::NotFound { .. }) => self.forgotten(around.0).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn remembered(
        &self,
        client: &BatchClient,
        handle: &BatchHandle,
        (processors, program): (&Processors, &Program),
    ) -> CliResult<Failures> {
        let look = BatchView::at(handle, program).await?;
        if let Some(trouble) = look.trouble() {
            note(format_args!("its pages are unknown: {trouble}"));
        }
        let source = client.redrive_of(LetterFilter::of(handle.id())).await;
        let (known, redrive_of) = match look.progress() {
            Some(p) => (Some(p.processor.clone()), p.redrive_of.clone()),
            None => match &source {
                Ok(batch) => (Some(batch.processor().to_owned()), None),
                Err(RedriveError::OfRedrive { redrive_of, .. }) => (None, Some(redrive_of.clone())),
                Err(_) => (None, None),
            },
        };
        let args = match (&self.args, &source) {
            (Some(given), _) => given.clone(),
            (None, Ok(batch)) => args_of(batch)?,
            (None, Err(_)) => Value::Null,
        };
        let processor = agree(handle.id(), known, self.processor.as_deref())?;
        let filter = self.filter(processor.as_deref(), processors)?;
        let letters = match &processor {
            // A redrive has no dead letters of its own.
            Some(name) if redrive_of.is_none() => match processors.letters(name, &args).await {
                Ok(store) => match self.letters(&*store, &filter).await {
                    Ok(letters) => {
                        if let (0, Some(progress)) = (letters.total, look.progress()) {
                            let args = &args;
                            check_store(&*store, FailedBatch { progress, args }, processors)
                                .await?;
                        }
                        Some(letters)
                    }
                    Err(error) => {
                        note(CliError::from(error));
                        None
                    }
                },
                Err(why) => {
                    note(format_args!("no dead letters are shown: {why}"));
                    None
                }
            },
            _ => None,
        };
        let mut failures = self.failures(&filter, look.progress(), letters, look.now());
        failures.processor = processor;
        failures.redrive_of = redrive_of;
        Ok(failures)
    }

    /// Finds the failures of a batch that only its store can know.
    async fn forgotten(&self, processors: &Processors) -> CliResult<Failures> {
        let id = &self.batch_id;
        let Some(name) = &self.processor else {
            return Err(no_such_batch_or_processor(id));
        };
        let args = processors.check(name, self.args.clone(), None);
        let args = args.map(|(args, _)| args);
        // Wrong arguments are reported only if nothing else is wrong.
        let args = args.or_else(|refused| match refused {
            Refused::UnknownProcessor { .. } => Ok(Value::Null),
            refused => Err(refused),
        })?;
        let store = processors.letters(name, &args).await.map_err(|why| {
            CliError::failure(format_args!(
                "the server does not remember batch \"{id}\", and its dead letters cannot be read: {why}"
            ))
        })?;
        let report = known_to(&*store, id, name).await?;
        note(format_args!(
            "the server does not remember batch \"{id}\"; its processor keeps these failures"
        ));
        let filter = self.filter(Some(name), processors)?;
        let letters = self.letters(&*store, &filter).await?;
        let progress = report.as_ref().map(|report| &report.progress);
        let now = report.as_ref().map_or_else(now, |report| report.ended_at);
        let mut failures = self.failures(&filter, progress, Some(letters), now);
        failures.processor = Some(name.clone());
        Ok(failures)
    }

    fn filter(&self, processor: Option<&str>, processors: &Processors) -> CliResult<LetterFilter> {
        self.filter.of(&self.batch_id, processor, processors)
    }

    async fn letters(
        &self,
        store: &dyn DeadLetters,
        filter: &LetterFilter,
    ) -> Result<Letters, StoreError> {
        Letters::of(store, filter, self.limit as usize).await
    }

    fn failures(
        &self,
        filter: &LetterFilter,
        progress: Option<&Progress>,
        letters: Option<Letters>,
        now: Timestamp,
    ) -> Failures {
        let pages = |pages: &[PageFailure]| -> Vec<_> {
            let meant = pages.iter().filter(|page| means_page(filter, page));
            meant.cloned().collect()
        };
        // A dead letter is in the store, or has been redriven.
        let stored = letters.is_some();
        let mut failed_pages = progress.map(|p| pages(&p.failed));
        let mut failed_items = progress.map(|p| {
            let meant = p
                .failed_items
                .iter()
                .filter(|item| means_item(filter, item));
            meant.cloned().collect::<Vec<_>>()
        });
        if stored {
            let given_up = |page: &PageFailure| page.state != FailureState::DeadLetter;
            failed_pages = failed_pages.map(|pages| pages.into_iter().filter(given_up).collect());
            failed_items
                .iter_mut()
                .for_each(|items| items.retain(|item| !item.dead_letter));
        }
        let more = match &letters {
            Some(letters) => letters.total > letters.first.len() as u64,
            None => progress.is_some_and(|p| {
                p.pages_failed > p.failed.len() as u64
                    || p.items.failed > p.failed_items.len() as u64
            }),
        };
        Failures {
            schema: SCHEMA,
            batch_id: self.batch_id.clone(),
            processor: None,
            redrive_of: None,
            failing: progress.map(|p| pages(&p.failing)),
            failed_pages,
            failed_items,
            errors: letters.as_ref().map(|letters| letters.errors.clone()),
            letters: letters.as_ref().map_or(0, |letters| letters.total),
            dead_letters: letters.map(|letters| letters.first),
            more,
            now,
        }
    }
}

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
