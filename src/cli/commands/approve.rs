//! `approve`: lets a batch continue after a stage.

use clap::Args;

use crate::cli::{
    args::temporal_server::ConnectionArgs,
    exit::{CliResult, Exit},
    output,
    render::steered::tell_unless_applied,
    shell::Program,
};

#[derive(Args, Debug)]
pub(crate) struct ApproveArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// The reason, for the audit of the batch
    #[arg(long, default_value = "")]
    reason: String,
}

impl ApproveArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        let (connected, handle) = connection.open_batch(&self.batch_id).await?;
        let steered = handle.because(&self.reason).approve().await?;
        if tell_unless_applied(&handle, &steered, program).await {
            output::result(format_args!(
                "batch \"{}\" continues with its next stage",
                self.batch_id
            ));
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}
