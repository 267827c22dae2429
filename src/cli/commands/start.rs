//! `start`: begins a batch, and follows it unless told otherwise.

use clap::Args;
use serde_json::Value;

use crate::{
    base::{error::text::words, small_file},
    batch::{Batch, IfRunning, default_task_queue},
    cli::{
        args::{
            pacing::PacingArgs, stages::StageArgs, temporal_server::ConnectionArgs,
            tolerance::LimitArgs,
        },
        commands::{status::show, watch::to_the_end, worker::task_queue},
        exit::{CliError, CliResult, Exit},
        processors::Processors,
        render::{
            output::{self, note},
            web_ui,
        },
        session::{
            joined,
            run::{followed_by, no_worker},
        },
        shell::Program,
    },
    engine::client::{
        AcceptError, BatchClient, BatchHandle, BatchState, ProgressError, StartError,
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
    limits: LimitArgs,

    #[command(flatten)]
    stages: StageArgs,

    /// Have the processor check everything after the last page; with --stages it does
    #[arg(long)]
    check: bool,

    /// The processor names partitions. A program that has the processor knows it by itself
    #[arg(long)]
    partitioned: bool,

    /// Use an id again whose batch has ended: everything is run again
    #[arg(long)]
    rerun: bool,

    /// Follow the batch of this id if it runs, with the same processor and arguments; start it otherwise
    #[arg(long, requires = "batch_id")]
    attach: bool,

    /// Go on where the batch of this id stood if it failed, stopped or was cancelled, with the limits given here
    #[arg(long = "continue", requires = "batch_id", conflicts_with = "rerun")]
    continues: bool,

    /// The task queue that the workers poll
    #[arg(long, default_value = default_task_queue(), value_name = "QUEUE", value_parser = task_queue)]
    task_queue: String,

    #[command(flatten)]
    launch: LaunchArgs,
}

/// What becomes of a batch that was started: flags of `start` and `redrive`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct LaunchArgs {
    /// Return as soon as a worker has accepted the batch, after 10 s at most
    #[arg(long, overrides_with = "wait")]
    detach: bool,

    /// Follow the batch to its end; the default
    #[arg(long, overrides_with = "detach")]
    wait: bool,

    /// Print JSON: one line per second, and a last one when the batch has ended
    #[arg(long)]
    json: bool,
}

pub(crate) fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("this is not JSON: {e}"))
}

pub(crate) fn json_or_file(text: &str) -> Result<Value, String> {
    match text.strip_prefix('@') {
        None => json(text),
        Some(path) => {
            let text = small_file::read_text(path);
            json(&text.map_err(|e| format!("cannot read {path}: {}", words(&e)))?)
        }
    }
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
        // A program without processors can only leave it to the worker.
        if !processors.is_empty() {
            hooks.check(&batch.spec.hooks)?;
        }
        let connected = connection.connect().await?;
        let launch = self.launch.of(program);
        let exit = launch.run(&connected.client, &batch, &self.pacing).await?;
        connected.close().await?;
        Ok(exit)
    }

    /// Everything that can be checked without a server is checked here.
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

impl LaunchArgs {
    pub(crate) fn detaches(self) -> bool {
        self.detach
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    pub(crate) fn of(self, program: &Program) -> Launch<'_> {
        Launch {
            program,
            detach: self.detach,
            json: self.json,
        }
    }
}

/// Starts a batch and follows it to its end, or leaves it to itself.
pub(crate) struct Launch<'a> {
    program: &'a Program,
    detach: bool,
    json: bool,
}

impl Launch<'_> {
    pub(crate) async fn run(
        &self,
        client: &BatchClient,
        batch: &Batch,
        given: &PacingArgs,
    ) -> CliResult {
        let program = self.program;
        let handle = self.start(client, batch).await?;
        let id = handle.id();
        // It may have been started by somebody else.
        let what = if batch.continues || batch.if_running == IfRunning::Attach {
            "runs"
        } else {
            "is started"
        };
        note(format_args!("batch \"{id}\" {what}"));
        let no_worker = no_worker(batch, program);
        match handle.accepted().await {
            Ok(()) if self.detach => warn(&handle).await,
            Ok(()) => {}
            Err(refused @ AcceptError::Refused { .. }) => return Err(refused.into()),
            Err(AcceptError::Unknown(ProgressError::NoWorker { .. })) => note(&no_worker),
            Err(waits @ AcceptError::NoProcessor { .. }) => note(waits),
            Err(AcceptError::Unknown(error)) => note(CliError::from(error)),
        }
        joined::tell(&handle, given, None, program).await;
        if self.detach {
            self.leave(&handle).await
        } else {
            to_the_end(&handle, self.json, &no_worker, program).await
        }
    }

    async fn start(&self, client: &BatchClient, batch: &Batch) -> CliResult<BatchHandle> {
        let program = self.program;
        client.start(batch).await.map_err(|error| {
            let redrives = batch.spec.redrive_of.is_some();
            let watch = |id: &str| format!("`{}` follows it", program.of_batch("watch", id));
            let status = |id: &str| format!("`{}` shows it", program.of_batch("status", id));
            let hint = match &error {
                StartError::AlreadyRunning { batch_id } if redrives => {
                    Some(format!("{}; --batch-id names another", watch(batch_id)))
                }
                StartError::AlreadyRunning { batch_id } => Some(format!(
                    "{}, and so does --attach; --batch-id names another",
                    watch(batch_id)
                )),
                StartError::AlreadyEnded { batch_id, .. } if redrives => {
                    Some(format!("{}; --batch-id names another", status(batch_id)))
                }
                StartError::AlreadyEnded {
                    batch_id,
                    state: BatchState::Failed | BatchState::Cancelled,
                } => Some(format!(
                    "{}; --continue goes on where it stood, --rerun runs everything again",
                    status(batch_id)
                )),
                StartError::AlreadyEnded { batch_id, .. } => Some(format!(
                    "{}; --rerun runs everything again",
                    status(batch_id)
                )),
                _ => None,
            };
            match hint {
                Some(hint) => CliError::from(error).hint(hint),
                None => error.into(),
            }
        })
    }

    async fn leave(&self, handle: &BatchHandle) -> CliResult {
        let (id, program) = (handle.id(), self.program);
        if self.json {
            show(handle, true, program).await?;
        } else {
            output::result(id);
            web_ui::tell(id);
        }
        note(followed_by(id, program));
        Ok(Exit::Done)
    }
}

/// Says which settings should be others, as following the batch would.
async fn warn(handle: &BatchHandle) {
    let progress = handle.progress().await;
    for warning in progress.into_iter().flat_map(|progress| progress.warnings) {
        note(format_args!("warning: {warning}"));
    }
}
