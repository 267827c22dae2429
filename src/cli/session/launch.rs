//! Starts a batch for the workers of its task queue, and follows it or leaves it to them: `start`, and `redrive` without a
//! worker of its own.

use clap::Args;

use crate::{
    batch::{Batch, IfRunning},
    cli::{
        args::pacing::PacingArgs,
        exit::{CliError, CliResult, Exit},
        output::{self, note},
        render::{
            batch_view::BatchView,
            follow_to_end::{followed_by, to_the_end},
            next_command::no_worker,
            web_ui,
        },
        session::limit_warnings,
        shell::Program,
    },
    engine::client::{
        AcceptError, BatchClient, BatchHandle, BatchStatus, ProgressError, StartError,
    },
};

/// The flags of `start` and `redrive` for the time after the start.
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

/// The start of a batch, which is then followed to its end or left to its workers.
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
        // Another process may have started the batch.
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
        limit_warnings::tell(&handle, given, None, program).await;
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
                    state: BatchStatus::Failed | BatchStatus::Cancelled,
                } => Some(format!(
                    "{}; --continue picks up where it stood, --rerun runs everything again",
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
            BatchView::told(handle, program).await?.print(true, program);
        } else {
            output::result(id);
            web_ui::tell(id);
        }
        note(followed_by(id, program));
        Ok(Exit::Done)
    }
}

/// Prints the warnings about settings that following the batch would print.
async fn warn(handle: &BatchHandle) {
    let progress = handle.progress().await;
    for warning in progress.into_iter().flat_map(|progress| progress.warnings) {
        note(format_args!("warning: {warning}"));
    }
}
