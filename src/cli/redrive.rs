//! `redrive`: tries the dead letters of a batch again, with the code that is deployed now.

use std::time::SystemTime;

use clap::Args;
use serde_json::Value;

use super::{
    connection::ConnectionArgs,
    exit::{CliError, CliResult, Exit},
    failures::{agree, in_time, known_to, no_such_batch},
    filter::FilterArgs,
    output::note,
    pacing::PacingArgs,
    processors::{NoStore, Processors},
    start::{LaunchArgs, json_or_file},
    worker::task_queue,
};
use crate::{
    batch::{Batch, validate_id},
    client::{BatchClient, RedriveError},
    dead_letter::LetterFilter,
    default_task_queue, redrive,
    registry::Refused,
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

    /// The task queue that the workers poll [default: that of the batch, or temporal-batch]
    #[arg(long, value_name = "QUEUE", value_parser = task_queue)]
    task_queue: Option<String>,

    /// Items are dead letters here, 20 per page unless told otherwise; each may stand for a whole page.
    #[command(flatten)]
    pacing: PacingArgs,

    #[command(flatten)]
    launch: LaunchArgs,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(super) database: super::connections::DatabaseArgs,
}

/// The arguments of the batch that a redrive redrives.
pub(crate) fn args_of(redrive: &Batch) -> CliResult<Value> {
    let args = serde_json::from_value::<redrive::RedriveArgs>(redrive.spec.args.clone());
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
        program: &str,
    ) -> CliResult {
        validate_id(&self.batch_id)?;
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
        let exit = if self.has_letters(&source, &filter, processors).await? {
            let launch = self.launch.of(program);
            let batch = self.batch(source, filter)?;
            launch.run(&connected.client, &batch).await?
        } else {
            let id = &self.batch_id;
            note(format_args!(
                "nothing to redrive: batch \"{id}\" has no such dead letters"
            ));
            Exit::Done
        };
        connected.close().await?;
        Ok(exit)
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
        source: &Source,
        filter: &LetterFilter,
        processors: &Processors,
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
            Ok(letters) => Ok(!letters.is_empty()),
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
