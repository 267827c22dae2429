//! The flags of the commands that start a batch and work for it in the same process: `backfill`, `import`
//! and `export`.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::Args;

use crate::{
    batch::{Batch, validate::validate_id},
    cli::{
        args::{pacing::PacingArgs, stages::StageArgs, tolerance::LimitArgs},
        commands::worker::{listen_address, task_queue},
        exit::CliResult,
        session::run::{Crew, Run},
        shell::Program,
    },
    engine::worker::WorkerError,
    processor::{
        PageProcessor,
        hooks::Hooks,
        store::{dead_letter::DeadLetters, page_ledger::PageLedger},
        throttle::Throttles,
    },
    sql::Database,
    stride::registry::Registry,
};

#[derive(Args, Debug)]
pub(crate) struct AttendedArgs {
    /// The id of the batch; the same command with the same id goes on with it [default: made from the database,
    /// the table and what is done, so that repeating the command is enough]
    #[arg(long, value_name = "ID")]
    pub batch_id: Option<String>,

    /// Do it again although it is done
    #[arg(long, conflicts_with = "continues")]
    pub rerun: bool,

    /// Go on where the batch stood if it failed, stopped or was cancelled, with the limits given here
    #[arg(long = "continue")]
    pub continues: bool,

    /// The task queue of the batch [default: one of its own]
    #[arg(long, value_name = "QUEUE", value_parser = task_queue)]
    pub task_queue: Option<String>,

    /// How long the command waits for running pages when it is stopped, before it cancels them
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,

    /// Serve Prometheus metrics here, for example at 127.0.0.1:9464
    #[arg(long, value_name = "IP:PORT", value_parser = listen_address)]
    pub metrics_address: Option<SocketAddr>,

    /// Print JSON: one line per second, and a last one when the batch has ended
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    pacing: PacingArgs,

    #[command(flatten)]
    stages: StageArgs,
}

impl AttendedArgs {
    /// The batch, of which only the limits are known. What is wrong with the flags is told here.
    pub fn nameless(&self, processor: &str) -> CliResult<Batch> {
        if let Some(id) = &self.batch_id {
            validate_id(id)?;
        }
        let batch = Batch::named("nameless", processor, serde_json::Value::Null);
        let batch = self
            .limits
            .apply(self.pacing.clone().or_auto_stride().apply(batch)?);
        Ok(self.stages.apply(batch))
    }

    /// Where nothing is said of the parallelism, no page is in flight that this process has no slot for: it would only hold
    /// its part of the rate.
    pub fn fitted(&self, batch: Batch, database: &Database) -> Batch {
        if self.pacing.says_parallelism() {
            return batch;
        }
        let pages = batch.spec.max_parallelism.min(slots(database));
        batch.max_parallelism(pages)
    }

    /// How the batch is told of.
    pub fn run<'a>(
        &'a self,
        batch: Batch,
        program: &'a Program,
        ledger: Option<Arc<dyn PageLedger>>,
        letters: Option<Arc<dyn DeadLetters>>,
    ) -> Run<'a> {
        Run {
            batch,
            program,
            pacing: &self.pacing,
            json: self.json,
            drain_timeout: self.drain_timeout,
            ended_run: OnceLock::new(),
            joins: false,
            ledger,
            letters,
        }
    }

    /// What works on it here.
    pub fn crew(
        &self,
        processor: impl PageProcessor,
        hooks: &Hooks,
        throttles: Throttles,
        database: &Database,
    ) -> CliResult<Crew> {
        let mut registry = Registry::new();
        registry
            .register(processor)
            .map_err(WorkerError::Register)?;
        Ok(Crew {
            registry,
            hooks: hooks.clone(),
            throttles,
            metrics_address: self.metrics_address,
            max_pages: slots(database),
        })
    }
}

/// The pages that this process works on at once. One that has begun must not wait for a connection that others have.
fn slots(database: &Database) -> u32 {
    database.max_connections().saturating_sub(1).max(1)
}
