//! `redrive`: tries the dead letters of a batch again, with the code that is deployed now.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde_json::Value;

use crate::{
    base::time::Timestamp,
    batch::{Batch, default_task_queue, letter_filter::LetterFilter, validate::validate_id},
    cli::{
        args::{
            failure_filter::FilterArgs,
            metrics::MetricsArgs,
            pacing::PacingArgs,
            values::{json_or_file, task_queue},
        },
        dead_letters::{
            known_batch::{agree, args_of, known_to, no_such_batch_or_processor},
            repair::{FailedBatch, MAX_REDRIVES, Repair, check_store},
            store::in_time,
        },
        exit::{CliError, CliResult, Exit},
        output::note,
        processors::{NoStore, Processors},
        render::batch_view::BatchView,
        session::{CommandContext, Session, SessionWorker, launch::LaunchArgs},
        shell::Program,
    },
    engine::client::{BatchClient, BatchStatus, RedriveError},
    stride::registry::{Refused, Registry},
};

#[derive(Args, Debug)]
pub(crate) struct RedriveArgs {
    /// The batch whose dead letters are tried again
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

    /// The id of the redrive [default: ID.redrive- and some random letters]
    #[arg(long = "batch-id", value_name = "NEW_ID")]
    new_id: Option<String>,

    /// Leave the redrive to the workers of this task queue [default: this command redrives by itself; with --detach or
    /// without the processor, the workers of the batch's task queue do]
    #[arg(long, value_name = "QUEUE", value_parser = task_queue)]
    task_queue: Option<String>,

    /// Wait this long for running pages when stopped, before they are cancelled
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// The pace, in which items are dead letters: 20 per page by default, each of which may stand for a whole page.
    #[command(flatten)]
    pacing: PacingArgs,

    #[command(flatten)]
    launch: LaunchArgs,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(crate) database: crate::cli::args::databases::database::DatabaseArgs,
}

const OTHER_WORKERS: &str =
    "with --task-queue QUEUE the workers of that queue redrive it, where they run with --allow-sql";

/// The facts about a batch that its redrive needs.
struct Source {
    processor: String,
    args: Value,
    /// True if the processor has already completed the arguments.
    completed: bool,
    task_queue: String,
    /// True if the server still knows the batch.
    remembered: bool,
}

impl RedriveArgs {
    pub(crate) async fn run(
        &self,
        context: &CommandContext<'_>,
        processors: &Processors,
    ) -> CliResult {
        validate_id(&self.batch_id)?;
        // Flags are checked before the server is asked.
        let name = self.processor.as_deref();
        let filter = self.filter.of(&self.batch_id, name, processors)?;
        self.adapted(Batch::redrive("id", "name", Value::Null, filter))?
            .validate()?;

        let connected = context.connection.connect().await?;
        let source = self.source(&connected.client, processors).await?;
        let mut filter = self
            .filter
            .of(&self.batch_id, Some(&source.processor), processors)?;
        // The redrive does not retry letters that fail again while it runs.
        filter.until = filter.until.or_else(|| Some(SystemTime::now().into()));
        let redrive = self.redrive(context, &connected.client, (source, filter), processors);
        let exit = Box::pin(redrive).await;
        connected.close().await?;
        exit
    }

    async fn redrive(
        &self,
        context: &CommandContext<'_>,
        client: &BatchClient,
        (source, filter): (Source, LetterFilter),
        processors: &Processors,
    ) -> CliResult {
        let (id, program) = (&self.batch_id, context.program);
        let has_letters = self.has_letters(client, &source, &filter, (processors, program));
        if !has_letters.await? {
            note(format_args!(
                "nothing to redrive: batch \"{id}\" has no such dead letters"
            ));
            return Ok(Exit::Done);
        }
        let processor = source.processor.clone();
        let source_args = source.args.clone();
        let mut batch = self.batch(source, filter)?;
        let Some(registry) = self.works_itself(&processor, processors).await? else {
            return self
                .launch
                .of(program)
                .run(client, &batch, &self.pacing)
                .await;
        };
        let interrupted = match self.new_id {
            Some(_) => None,
            None => self.interrupted(client).await?,
        };
        if let Some(redrive) = &interrupted {
            note(format_args!(
                "redrive \"{redrive}\" was interrupted, and continues now"
            ));
            batch.spec.batch_id.clone_from(redrive);
        }
        let own_queue = batch.spec.batch_id.clone();
        let batch = batch.task_queue(own_queue);
        batch.validate()?;
        let worker = SessionWorker {
            registry,
            hooks: context.hooks.clone(),
            throttles: context.throttles.clone(),
            metrics: MetricsArgs::default(),
            max_pages: batch.spec.max_parallelism,
        };
        let session = Session {
            batch,
            program,
            pacing: &self.pacing,
            json: self.launch.is_json(),
            drain_timeout: self.drain_timeout,
            ended_run: OnceLock::new(),
            joins: interrupted.is_some(),
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            ledger: None,
            letters: None,
            rerun: String::new(),
        };
        let exit = session.attended(context.connection, worker).await?;
        if !self.launch.is_json() {
            self.tell_what_is_left(client, &source_args, processors)
                .await?;
        }
        Ok(exit)
    }

    /// Prints how many letters of the batch are settled, if that can be found out.
    async fn tell_what_is_left(
        &self,
        client: &BatchClient,
        args: &Value,
        processors: &Processors,
    ) -> CliResult<()> {
        let handle = client.handle(&self.batch_id)?;
        let Ok(false) = handle.state().await.map(BatchStatus::is_open) else {
            return Ok(());
        };
        let Ok(report) = handle.result().await else {
            return Ok(());
        };
        let broken = FailedBatch {
            progress: &report.progress,
            args,
        };
        if let Some(repair) = Repair::of(client, broken, processors).await? {
            let id = &self.batch_id;
            note(format_args!("batch \"{id}\": {}", repair.summary()));
        }
        Ok(())
    }

    /// Returns the processor for a redrive in this process; `None` if other workers do the redrive.
    async fn works_itself(
        &self,
        processor: &str,
        processors: &Processors,
    ) -> CliResult<Option<Registry>> {
        if self.launch.detaches() || self.task_queue.is_some() {
            return Ok(None);
        }
        match processors.one(processor).await {
            Ok(registry) => Ok(Some(registry)),
            // Such a batch had a task queue of its own, which no worker polls any more.
            Err(why) if processors.runs_sql(processor) => {
                Err(CliError::usage(why).hint(OTHER_WORKERS))
            }
            Err(why) => {
                note(format_args!(
                    "{why}; the workers of the batch's task queue redrive it"
                ));
                Ok(None)
            }
        }
    }

    /// Returns an open redrive of the batch whose worker was in a process that is gone.
    async fn interrupted(&self, client: &BatchClient) -> CliResult<Option<String>> {
        let redrives = client.redrives(&self.batch_id, Timestamp(0), MAX_REDRIVES);
        let mut redrives = redrives.await?.into_iter();
        let own = redrives
            .find(|redrive| redrive.state.is_open() && redrive.task_queue == redrive.batch_id);
        Ok(own.map(|redrive| redrive.batch_id))
    }

    /// Returns the facts from the server, or else from the user.
    async fn source(&self, client: &BatchClient, processors: &Processors) -> CliResult<Source> {
        let given = self.processor.as_deref();
        let known = match client.redrive_of(LetterFilter::of(&self.batch_id)).await {
            Ok(known) => Some(known),
            Err(RedriveError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let name = known.as_ref().map(|known| known.processor().to_owned());
        let Some(processor) = agree(&self.batch_id, name, given)? else {
            return Err(no_such_batch_or_processor(&self.batch_id));
        };
        let queue = known.as_ref().map(|known| known.task_queue.clone());
        let args = match (&self.args, &known) {
            (None, Some(known)) => args_of(known)?,
            (given, _) => processors.check(&processor, given.clone(), None)?.0,
        };
        Ok(Source {
            processor,
            args,
            completed: self.args.is_none() && known.is_some(),
            task_queue: queue.unwrap_or_else(|| default_task_queue().to_owned()),
            remembered: known.is_some(),
        })
    }

    /// Returns whether there may be something to redrive.
    async fn has_letters(
        &self,
        client: &BatchClient,
        source: &Source,
        filter: &LetterFilter,
        (processors, program): (&Processors, &Program),
    ) -> CliResult<bool> {
        let name = &source.processor;
        let store = match processors.letters(name, &source.args).await {
            Ok(store) => store,
            Err(NoStore::KeepsNone { name }) => return Err(Refused::NoDeadLetters { name }.into()),
            // The worker of the redrive has the processor.
            Err(NoStore::NotHere { .. }) => return Ok(true),
            Err(NoStore::NotBuilt(why)) => {
                note(format_args!(
                    "the dead letters cannot be read from here: {why}"
                ));
                return Ok(true);
            }
        };
        if !source.remembered {
            known_to(&*store, &self.batch_id, name).await?;
        }
        match in_time(store.list(filter, None, 1)).await {
            Ok(letters) if letters.is_empty() => {
                if source.remembered {
                    let look = BatchView::at(&client.handle(&self.batch_id)?, program).await?;
                    if let Some(progress) = look.progress() {
                        let broken = FailedBatch {
                            progress,
                            args: &source.args,
                        };
                        check_store(&*store, broken, processors).await?;
                    }
                }
                Ok(false)
            }
            // A ledger of an earlier version lacks the table for settled letters, and every letter would fail.
            Ok(_) => match in_time(store.settled(&self.batch_id)).await {
                Ok(_) => Ok(true),
                Err(error) => Err(CliError::from(error).hint(format!(
                    "`{}` makes the tables of the page ledger that are missing",
                    program.command("schema apply")
                ))),
            },
            Err(error) if processors.runs_sql(name) => Err(error.into()),
            Err(error) => {
                note(CliError::from(error));
                Ok(true)
            }
        }
    }

    fn batch(&self, source: Source, filter: LetterFilter) -> CliResult<Batch> {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let id = format!("{}.redrive-{}", self.batch_id, &random[..8]);
        let redrive = match source.completed {
            true => Batch::redrive_completed,
            false => Batch::redrive,
        };
        let batch = redrive(id, source.processor, source.args, filter);
        self.adapted(batch.task_queue(source.task_queue))
    }

    fn adapted(&self, batch: Batch) -> CliResult<Batch> {
        let mut batch = self.pacing.apply(batch)?;
        if let Some(id) = &self.new_id {
            batch.spec.batch_id.clone_from(id);
        }
        if let Some(queue) = &self.task_queue {
            batch = batch.task_queue(queue);
        }
        Ok(batch)
    }
}
