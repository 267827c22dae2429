//! `pause`, `resume`, `set`, `cancel` and `recover`: steer a batch that runs.

use clap::Args;

use super::{
    connection::{Connected, ConnectionArgs},
    exit::{CliResult, Exit},
    output,
    watch::to_the_end,
};
use crate::{
    batch::{validate_id, validate_max_parallelism},
    client::BatchHandle,
    progress::Outcome,
};

#[derive(Args, Debug)]
pub(crate) struct PauseArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for whoever looks at the batch
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for the audit of the batch
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Pages in flight at most, from 0 (starts no further pages) to 500
    #[arg(
        long,
        value_name = "PAGES",
        required = true,
        allow_negative_numbers = true
    )]
    max_parallelism: u32,

    /// Why, for the audit of the batch
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Wait until the running pages have ended, and print where the batch stood
    #[arg(long)]
    wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Do it even where each page should be tried once only
    #[arg(long)]
    force: bool,
}

async fn open(connection: &ConnectionArgs, id: &str) -> CliResult<(Connected, BatchHandle)> {
    validate_id(id)?;
    let connected = connection.connect().await?;
    let handle = connected.client.handle(id)?;
    Ok((connected, handle))
}

impl PauseArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        let (connected, handle) = open(connection, &self.batch_id).await?;
        handle.pause(&self.reason).await?;
        output::result(format_args!(
            "batch \"{}\" pauses: no new pages, running ones are finished",
            self.batch_id
        ));
        connected.close().await?;
        Ok(Exit::Done)
    }
}

impl ResumeArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        let (connected, handle) = open(connection, &self.batch_id).await?;
        handle.because(&self.reason).resume().await?;
        output::result(format_args!("batch \"{}\" goes on", self.batch_id));
        connected.close().await?;
        Ok(Exit::Done)
    }
}

impl SetArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        validate_max_parallelism(self.max_parallelism)?;
        let (connected, handle) = open(connection, &self.batch_id).await?;
        let handle = handle.because(&self.reason);
        handle.set_max_parallelism(self.max_parallelism).await?;
        output::result(format_args!(
            "batch \"{}\": max parallelism is {}",
            self.batch_id, self.max_parallelism
        ));
        connected.close().await?;
        Ok(Exit::Done)
    }
}

impl CancelArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &str) -> CliResult {
        let (connected, handle) = open(connection, &self.batch_id).await?;
        handle.cancel(&self.reason).await?;
        let exit = if self.wait {
            let no_worker = "no worker answers; the batch ends when one comes back";
            match to_the_end(&handle, false, no_worker, program).await? {
                // It is what was asked for.
                Exit::Stopped if self.was_cancelled(&handle).await => Exit::Done,
                exit => exit,
            }
        } else {
            output::result(format_args!(
                "batch \"{}\" is being cancelled: it ends as soon as its running pages have",
                self.batch_id
            ));
            Exit::Done
        };
        connected.close().await?;
        Ok(exit)
    }

    async fn was_cancelled(&self, handle: &BatchHandle) -> bool {
        let report = handle.result().await;
        report.is_ok_and(|report| report.outcome == Outcome::Cancelled)
    }
}

impl RecoverArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        let (connected, handle) = open(connection, &self.batch_id).await?;
        if self.force {
            handle.recover_by_force(&self.reason).await?;
        } else {
            handle.recover(&self.reason).await?;
        }
        output::result(format_args!(
            "batch \"{}\" starts its current run again; pages that finished since its last continue-as-new run \
             again, and are counted once",
            self.batch_id
        ));
        connected.close().await?;
        Ok(Exit::Done)
    }
}
