//! `status`: one look at a batch.

use clap::Args;

use super::{
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

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        validate_id(&self.batch_id)?;
        let connected = connection.connect().await?;
        let handle = connected.client.handle(&self.batch_id)?;
        show(&handle, self.json).await?;
        connected.close().await?;
        Ok(Exit::Done)
    }
}

/// Prints one look. Without a worker it is what the server knows.
pub(crate) async fn show(handle: &BatchHandle, json: bool) -> CliResult<()> {
    let look = Look::at(handle).await?;
    if look.lacks_worker() {
        output::note(format_args!(
            "no worker answered for batch \"{}\", so its progress is unknown; start one on its task queue",
            handle.id()
        ));
    }
    if json {
        output::json(&look);
    } else {
        output::result(look.table());
    }
    Ok(())
}
