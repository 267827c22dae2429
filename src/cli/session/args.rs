//! The flags that `backfill`, `import` and `export` share, and the session that they describe.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::Args;
use serde::Serialize;

use crate::{
    batch::{Batch, IfRunning, validate::validate_id},
    cli::{
        args::{
            batch_options::BatchOptionArgs, metrics::MetricsArgs, pacing::PacingArgs,
            stages::StageArgs, values::task_queue,
        },
        exit::{CliError, CliResult},
        session::{
            CommandContext, Session, SessionWorker,
            batch_id::WorkId,
            database::SessionDatabase,
            work_ledger::{Ids, WorkLedger},
        },
    },
    engine::worker::WorkerError,
    processor::{PageProcessor, store::dead_letter::DeadLetters},
    stride::registry::Registry,
};

#[derive(Args, Debug)]
pub(crate) struct SessionArgs {
    /// The id of the batch; the same command with the same id continues it [default: made from the database, the table
    /// and the work, so that repeating the command is enough]
    #[arg(long, value_name = "ID")]
    batch_id: Option<String>,

    /// Run a batch again that has ended
    #[arg(long, conflicts_with = "continues")]
    pub(crate) rerun: bool,

    /// Continue where the batch stood if it failed, stopped or was cancelled, with the limits given here
    #[arg(long = "continue")]
    continues: bool,

    /// The task queue of the batch [default: one of its own]
    #[arg(long, value_name = "QUEUE", value_parser = task_queue)]
    task_queue: Option<String>,

    /// Wait this long for running pages when stopped, before they are cancelled
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    #[command(flatten)]
    metrics: MetricsArgs,

    /// Print JSON: one line per second, and a last one when the batch has ended
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    limits: BatchOptionArgs,

    #[command(flatten)]
    pacing: PacingArgs,

    #[command(flatten)]
    stages: StageArgs,
}

impl SessionArgs {
    /// Returns a batch with the given limits and nothing else yet. Wrong flags are refused before the database and the
    /// server are asked.
    pub(crate) fn limits(&self, processor: &str) -> CliResult<Batch> {
        if let Some(id) = &self.batch_id {
            validate_id(id)?;
        }
        let batch = Batch::named("nameless", processor, serde_json::Value::Null);
        let batch = self.limits.apply(self.pacing.apply(batch)?);
        Ok(self.stages.apply(batch))
    }

    /// Caps the parallelism at the slots of this process, unless a flag sets it: a page without a slot would only hold
    /// its part of the rate.
    pub(crate) fn fitted(&self, batch: Batch, database: &SessionDatabase) -> Batch {
        if self.pacing.says_parallelism() {
            return batch;
        }
        let pages = batch.spec.max_parallelism.min(database.slots());
        batch.max_parallelism(pages)
    }

    /// Returns the given id, or else the one of the work.
    pub(crate) fn batch_id(&self, made: &WorkId) -> String {
        let given = self.batch_id.clone();
        given.unwrap_or_else(|| made.batch_id())
    }

    /// Returns the ledger to be asked whether the work was done before. A batch that was given an id of its own is
    /// compared only with batches of that id.
    pub(crate) fn work_ledger(&self, database: &SessionDatabase, made: &WorkId) -> WorkLedger {
        let own = self.batch_id.clone();
        WorkLedger {
            database: database.database.clone(),
            ids: own.map_or_else(|| Ids::BeginWith(made.prefix()), Ids::Is),
        }
    }

    /// Completes the batch of a command: its id, its arguments and its task queue.
    pub(crate) fn batch(
        &self,
        limits: Batch,
        id: &str,
        args: &impl Serialize,
        (command, target): (&str, &str),
    ) -> CliResult<Batch> {
        let queue = self.task_queue.clone();
        let queue = queue.unwrap_or_else(|| format!("{command}-{target}-{id}"));
        let mut batch = limits
            .task_queue(queue)
            .rerun(self.rerun)
            .continues(self.continues)
            .if_running(IfRunning::Attach);
        batch.spec.batch_id = id.to_owned();
        batch.spec.args = serde_json::to_value(args)
            .map_err(|e| CliError::failure(format_args!("the arguments have no JSON: {e}")))?;
        Ok(batch)
    }

    pub(crate) fn session<'a>(
        &'a self,
        batch: Batch,
        context: &CommandContext<'a>,
        ledger: Option<WorkLedger>,
        letters: Option<Arc<dyn DeadLetters>>,
        rerun: String,
    ) -> Session<'a> {
        Session {
            batch,
            program: context.program,
            pacing: &self.pacing,
            json: self.json,
            drain_timeout: self.drain_timeout,
            ended_run: OnceLock::new(),
            joins: false,
            ledger,
            letters,
            rerun,
        }
    }

    pub(crate) fn worker(
        &self,
        processor: impl PageProcessor,
        max_pages: u32,
        context: &CommandContext<'_>,
    ) -> CliResult<SessionWorker> {
        let mut registry = Registry::new();
        registry
            .register(processor)
            .map_err(WorkerError::Register)?;
        Ok(SessionWorker {
            registry,
            hooks: context.hooks.clone(),
            throttles: context.throttles.clone(),
            metrics: self.metrics,
            max_pages,
        })
    }
}
