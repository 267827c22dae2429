//! `status`: one look at a batch.

use clap::Args;

use super::{
    audit,
    connection::ConnectionArgs,
    exit::{CliResult, Exit},
    look::Look,
    output,
};
use crate::{batch::validate_id, client::BatchHandle};

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Show who did what to the batch, when and why, instead
    #[arg(long)]
    audit: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &str) -> CliResult {
        validate_id(&self.batch_id)?;
        let connected = connection.connect().await?;
        let handle = connected.client.handle(&self.batch_id)?;
        if self.audit {
            audit::show(&look(&handle).await?, self.json);
        } else {
            show(&handle, self.json, program).await?;
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}

/// Prints one look. Without a worker it is what the server knows.
pub(crate) async fn show(handle: &BatchHandle, json: bool, program: &str) -> CliResult<()> {
    let look = look(handle).await?.with_next(program);
    if json {
        output::json(&look);
    } else {
        output::result(look.table());
        look.hint(program);
    }
    Ok(())
}

/// Takes one look, and says why the progress is unknown if it is.
async fn look(handle: &BatchHandle) -> CliResult<Look> {
    let look = Look::at(handle).await?;
    if let Some(trouble) = look.trouble() {
        output::note(format_args!("its progress is unknown: {trouble}"));
    }
    Ok(look)
}
