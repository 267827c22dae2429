//! `approve`: lets a batch go on after a stage.

use clap::Args;

use crate::{
    batch::validate::validate_id,
    cli::{
        args::temporal_server::ConnectionArgs,
        commands::control::told,
        exit::{CliResult, Exit},
        render::output,
        shell::Program,
    },
};

#[derive(Args, Debug)]
pub(crate) struct ApproveArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for the audit of the batch
    #[arg(long, default_value = "")]
    reason: String,
}

impl ApproveArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        validate_id(&self.batch_id)?;
        let connected = connection.connect().await?;
        let handle = connected.client.handle(&self.batch_id)?;
        let steered = handle.because(&self.reason).approve().await?;
        if told(&handle, &steered, program).await {
            output::result(format_args!(
                "batch \"{}\" goes on with its next stage",
                self.batch_id
            ));
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}
