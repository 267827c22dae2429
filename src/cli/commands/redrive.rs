//! `redrive`: tries the dead letters of a batch again, with the code that is deployed now.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde_json::Value;

use crate::{
    base::time::Timestamp,
    batch::{
        Batch, default_task_queue, letter_filter::LetterFilter, redrive_args, validate::validate_id,
    },
    cli::{
        args::{failure_filter::FilterArgs, pacing::PacingArgs, temporal_server::ConnectionArgs},
        commands::{
            failures::{agree, in_time, known_to, no_such_batch},
            start::{LaunchArgs, json_or_file},
            worker::task_queue,
        },
        exit::{CliError, CliResult, Exit},
        processors::{NoStore, Processors},
        render::{
            batch_view::Look,
            output::note,
            repair::{Broken, MAX_REDRIVES, Repair, check_store},
        },
        session::run::{Crew, Run},
        shell::Program,
    },
    engine::client::{BatchClient, BatchState, RedriveError},
    processor::{hooks::Hooks, throttle::Throttles},
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

    /// Leave it to the workers of this task queue [default: this command works on it itself; with --detach, or where it
    /// does not have the processor, the workers of the batch's task queue do]
    #[arg(long, value_name = "QUEUE", value_parser = task_queue)]
    task_queue: Option<String>,

    /// How long the command waits for running pages when it is stopped, before it cancels them
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// Items are dead letters here, 20 per page unless told otherwise; each may stand for a whole page.
    #[command(flatten)]
    pacing: PacingArgs,

    #[command(flatten)]
    launch: LaunchArgs,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(crate) database: crate::cli::args::databases::DatabaseArgs,
}

const OTHER_WORKERS: &str =
    "with --task-queue QUEUE the workers of that queue redrive it, where they run with --allow-sql";

/// The hooks and throttles of the program's workers.
#[derive(Clone, Copy)]
pub(crate) struct Help<'a> {
    pub hooks: &'a Hooks,
    pub throttles: &'a Throttles,
}

/// The arguments of the batch that a redrive redrives.
pub(crate) fn args_of(redrive: &Batch) -> CliResult<Value> {
    let args = serde_json::from_value::<redrive_args::RedriveArgs>(redrive.spec.args.clone());
    let args = args.map_err(|e| CliError::caused("the batch's arguments are not readable", &e))?;
    Ok(args.args)
}

/// What has to be known of a batch to redrive it.
struct Source {
    processor: String,
    args: Value,
    /// The processor has completed them.
    completed: bool,
    task_queue: String,
    /// Whether the server knows it.
    remembered: bool,
}

impl RedriveArgs {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        processors: &Processors,
        help: Help<'_>,
        program: &Program,
    ) -> CliResult {
        validate_id(&self.batch_id)?;
        let around = (processors, help, program);
        // Everything that can be checked without a server is checked first.
        let name = self.processor.as_deref();
        let filter = self.filter.of(&self.batch_id, name, processors)?;
        self.adapted(Batch::redrive("id", "name", Value::Null, filter))?
            .validate()?;

        let connected = connection.connect().await?;
        let source = self.source(&connected.client, processors).await?;
        let mut filter = self
            .filter
            .of(&self.batch_id, Some(&source.processor), processors)?;
        // What fails again during the redrive is not tried a second time by it.
        filter.until = filter.until.or_else(|| Some(SystemTime::now().into()));
        let exit = Box::pin(self.redrive(connection, &connected.client, (source, filter), around));
        let exit = exit.await;
        connected.close().await?;
        exit
    }

    async fn redrive(
        &self,
        connection: &ConnectionArgs,
        client: &BatchClient,
        (source, filter): (Source, LetterFilter),
        (processors, help, program): (&Processors, Help<'_>, &Program),
    ) -> CliResult {
        let id = &self.batch_id;
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
                "redrive \"{redrive}\" was interrupted, and goes on now"
            ));
            batch.spec.batch_id.clone_from(redrive);
        }
        let own_queue = batch.spec.batch_id.clone();
        let batch = batch.task_queue(own_queue);
        batch.validate()?;
        let crew = Crew {
            registry,
            hooks: help.hooks.clone(),
            throttles: help.throttles.clone(),
            metrics_address: None,
            max_pages: batch.spec.max_parallelism,
        };
        let run = Run {
            batch,
            program,
            pacing: &self.pacing,
            json: self.launch.is_json(),
            drain_timeout: self.drain_timeout,
            ended_run: OnceLock::new(),
            joins: interrupted.is_some(),
            ledger: None,
            letters: None,
        };
        let exit = run.attended(connection, crew).await?;
        if !self.launch.is_json() {
            self.tell_what_is_left(client, &source_args, processors)
                .await?;
        }
        Ok(exit)
    }

    /// Tells how far all letters of the batch are settled, where that can be known.
    async fn tell_what_is_left(
        &self,
        client: &BatchClient,
        args: &Value,
        processors: &Processors,
    ) -> CliResult<()> {
        let handle = client.handle(&self.batch_id)?;
        let Ok(false) = handle.state().await.map(BatchState::is_open) else {
            return Ok(());
        };
        let Ok(report) = handle.result().await else {
            return Ok(());
        };
        let broken = Broken {
            progress: &report.progress,
            args,
        };
        if let Some(repair) = Repair::of(client, broken, processors).await? {
            let id = &self.batch_id;
            note(format_args!("batch \"{id}\": {}", repair.summary()));
        }
        Ok(())
    }

    /// The processor for the letters in this process; `None` where they are left to other workers.
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
            // The queue of such a batch was its own, and no worker polls it any more.
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

    /// A redrive of the batch that had its worker in a process that is gone.
    async fn interrupted(&self, client: &BatchClient) -> CliResult<Option<String>> {
        let redrives = client.redrives(&self.batch_id, Timestamp(0), MAX_REDRIVES);
        let mut redrives = redrives.await?.into_iter();
        let own = redrives
            .find(|redrive| redrive.state.is_open() && redrive.task_queue == redrive.batch_id);
        Ok(own.map(|redrive| redrive.batch_id))
    }

    /// What the server remembers of the batch, or what the user says.
    async fn source(&self, client: &BatchClient, processors: &Processors) -> CliResult<Source> {
        let given = self.processor.as_deref();
        let known = match client.redrive_of(LetterFilter::of(&self.batch_id)).await {
            Ok(known) => Some(known),
            Err(RedriveError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let name = known.as_ref().map(|known| known.processor().to_owned());
        let Some(processor) = agree(&self.batch_id, name, given)? else {
            return Err(no_such_batch(&self.batch_id));
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

    /// Whether there is anything to redrive, as far as this program can see.
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
            // The worker will know.
            Err(NoStore::NotHere { .. }) => return Ok(true),
            Err(NoStore::NotBuilt(why)) => {
                note(format_args!(
                    "the dead letters cannot be looked at from here: {why}"
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
                    let look = Look::at(&client.handle(&self.batch_id)?, program).await?;
                    if let Some(progress) = look.progress() {
                        let broken = Broken {
                            progress,
                            args: &source.args,
                        };
                        check_store(&*store, broken, processors).await?;
                    }
                }
                Ok(false)
            }
            // Without the table for it every letter would fail.
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
