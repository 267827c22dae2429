//! `start`: begins a batch, and follows it unless told otherwise.

use clap::Args;
use serde_json::Value;

use crate::{
    batch::{Batch, IfRunning, default_task_queue},
    cli::{
        args::{
            batch_options::BatchOptionArgs,
            pacing::PacingArgs,
            stages::StageArgs,
            temporal_server::ConnectionArgs,
            values::{json, json_or_file, task_queue},
        },
        exit::{CliError, CliResult},
        processors::Processors,
        session::launch::LaunchArgs,
        shell::Program,
    },
    page::token::PageToken,
    processor::hooks::Hooks,
};

#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// The processor, by its name
    #[arg(value_name = "PROCESSOR")]
    processor: String,

    /// Its arguments as JSON, or @FILE to read them from a file
    #[arg(long, value_name = "JSON|@FILE", value_parser = json_or_file, allow_hyphen_values = true)]
    args: Option<Value>,

    /// The id of the batch [default: the processor's name and some random letters]
    #[arg(long, value_name = "ID")]
    batch_id: Option<String>,

    /// Continue as new after about this many pages [default: Temporal decides]
    #[arg(long, value_name = "PAGES", allow_negative_numbers = true)]
    pages_per_run: Option<u32>,

    /// Process only what comes after this cursor
    #[arg(long, value_name = "JSON", value_parser = json, allow_hyphen_values = true)]
    first_cursor: Option<Value>,

    #[command(flatten)]
    pacing: PacingArgs,

    #[command(flatten)]
    limits: BatchOptionArgs,

    #[command(flatten)]
    stages: StageArgs,

    /// Have the processor check everything after the last page; implied by --stages
    #[arg(long)]
    check: bool,

    /// The processor has partitions; only needed if this program does not have the processor
    #[arg(long)]
    partitioned: bool,

    /// Reuse the id of a batch that has ended; everything is run again
    #[arg(long)]
    rerun: bool,

    /// Follow the batch of this id if it runs, with the same processor and arguments; start it otherwise
    #[arg(long, requires = "batch_id")]
    attach: bool,

    /// Continue where the batch of this id stood if it failed, stopped or was cancelled, with the limits given here
    #[arg(long = "continue", requires = "batch_id", conflicts_with = "rerun")]
    continues: bool,

    /// The task queue that the workers poll
    #[arg(long, default_value = default_task_queue(), value_name = "QUEUE", value_parser = task_queue)]
    task_queue: String,

    #[command(flatten)]
    launch: LaunchArgs,
}

impl StartArgs {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        processors: &Processors,
        hooks: &Hooks,
        program: &Program,
    ) -> CliResult {
        let batch = self.batch(processors)?;
        // A program without processors leaves the check of the hooks to the worker.
        if !processors.is_empty() {
            hooks.check(&batch.spec.hooks)?;
        }
        let connected = connection.connect().await?;
        let launch = self.launch.of(program);
        let exit = launch.run(&connected.client, &batch, &self.pacing).await?;
        connected.close().await?;
        Ok(exit)
    }

    /// Builds the batch, and checks everything that can be checked without a server.
    fn batch(&self, processors: &Processors) -> CliResult<Batch> {
        let first_cursor = self.first_cursor.as_ref().map(PageToken::encode);
        let first_cursor = first_cursor
            .transpose()
            .map_err(|e| CliError::usage(e.message()))?;
        let (args, first_cursor) =
            processors.check(&self.processor, self.args.clone(), first_cursor.as_ref())?;
        let batch_id = self.batch_id.clone().unwrap_or_else(|| {
            let random = uuid::Uuid::new_v4().simple().to_string();
            format!("{}-{}", self.processor, &random[..8])
        });
        let mut batch = Batch::named(batch_id, &self.processor, args)
            .task_queue(&self.task_queue)
            .partitioned(self.partitioned || processors.has_partitions(&self.processor))
            .rerun(self.rerun)
            .continues(self.continues);
        if self.attach {
            batch = batch.if_running(IfRunning::Attach);
        }
        batch = self.limits.apply(self.pacing.apply(batch)?);
        batch = self.stages.apply(batch);
        if self.check {
            batch = batch.check_at_end(true);
        }
        if let Some(pages) = self.pages_per_run {
            batch = batch.pages_per_run(pages);
        }
        batch.spec.first_cursor = first_cursor;
        batch.validate()?;
        Ok(batch)
    }
}
