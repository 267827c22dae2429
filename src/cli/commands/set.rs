//! `set`: changes the limits of a running batch.

use clap::Args;

use crate::{
    cli::{
        args::{
            pacing::{PacingArgs, in_force},
            temporal_server::ConnectionArgs,
        },
        exit::{CliError, CliResult, Exit},
        output::{self, note},
        render::steered::tell_unless_applied,
        shell::Program,
    },
    engine::client::ControlError,
};

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// The reason, for the audit of the batch
    #[arg(long, default_value = "")]
    reason: String,

    #[command(flatten)]
    pacing: PacingArgs,
}

impl SetArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        let settings = self.pacing.settings();
        if settings.is_empty() {
            let error = CliError::from(ControlError::NothingToSet);
            return Err(error.hint(format!("`{} set --help` lists them", program.name)));
        }
        settings.validate()?;
        let (connected, handle) = connection.open_batch(&self.batch_id).await?;
        let steered = handle.because(&self.reason).set(settings).await?;
        if tell_unless_applied(&handle, &steered, program).await {
            let limits = match handle.progress().await {
                Ok(progress) => in_force(&progress),
                // The limits are set, even if they cannot be read back.
                Err(error) => {
                    note(CliError::from(error));
                    "set".to_owned()
                }
            };
            output::result(format_args!("batch \"{}\": {limits}", self.batch_id));
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}
