//! `cancel`: ends a batch before its end.

use clap::Args;

use crate::{
    cli::{
        args::temporal_server::ConnectionArgs,
        exit::{CliResult, Exit},
        output,
        render::{batch_view::BatchView, follow_to_end::to_the_end},
        shell::Program,
    },
    engine::client::BatchHandle,
    progress::phase::Outcome,
};

#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// The reason, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Wait until the running pages have ended, and print where the batch stood
    #[arg(long)]
    wait: bool,
}

impl CancelArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        let (connected, handle) = connection.open_batch(&self.batch_id).await?;
        handle.cancel(&self.reason).await?;
        let exit = if self.wait {
            let no_worker = "no worker answers; the batch ends when one comes back";
            match to_the_end(&handle, false, no_worker, program).await? {
                // A cancelled batch is the aim of this command.
                Exit::Stopped if self.was_cancelled(&handle).await => Exit::Done,
                exit => exit,
            }
        } else {
            self.tell(&handle, program).await;
            Exit::Done
        };
        connected.close().await?;
        Ok(exit)
    }

    /// Prints when the batch will end. The server keeps the cancellation, even if the batch cannot be looked at now.
    async fn tell(&self, handle: &BatchHandle, program: &Program) {
        let id = &self.batch_id;
        match BatchView::at(handle, program).await {
            Ok(look) if look.lets_cancellation_wait() => {
                output::result(format_args!(
                    "batch \"{id}\": the cancellation is kept, and waits for a worker that ends the batch"
                ));
                look.tell_next();
            }
            Ok(_) | Err(_) => {
                output::result(format_args!(
                    "batch \"{id}\" is being cancelled: it ends as soon as its running pages have ended"
                ));
            }
        }
    }

    async fn was_cancelled(&self, handle: &BatchHandle) -> bool {
        let report = handle.result().await;
        report.is_ok_and(|report| report.outcome == Outcome::Cancelled)
    }
}
