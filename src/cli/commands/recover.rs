//! `recover`: starts the current run of a batch again.

use clap::Args;

use crate::cli::{
    args::temporal_server::ConnectionArgs,
    exit::{CliResult, Exit},
    output,
};

#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// The reason, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Recover even a batch whose pages must be tried only once
    #[arg(long)]
    force: bool,
}

impl RecoverArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        let (connected, handle) = connection.open_batch(&self.batch_id).await?;
        if self.force {
            handle.recover_by_force(&self.reason).await?;
        } else {
            handle.recover(&self.reason).await?;
        }
        output::result(format_args!(
            "batch \"{}\" restarts its current run; pages that finished since its last continue-as-new run again, \
             and are counted once",
            self.batch_id
        ));
        connected.close().await?;
        Ok(Exit::Done)
    }
}
