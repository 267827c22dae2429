//! `watch`: follows a batch to its end.

use clap::Args;

use super::{
    connection::ConnectionArgs,
    exit::{CliError, CliResult, Exit},
    follow::{Followed, Style, follow},
    look::Look,
    output::{self, note},
};
use crate::{batch::validate_id, client::BatchHandle, worker::shutdown_signal};

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Print JSON: one line per second, and a last one when the batch has ended
    #[arg(long)]
    json: bool,
}

impl WatchArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &str) -> CliResult {
        validate_id(&self.batch_id)?;
        let connected = connection.connect().await?;
        let handle = connected.client.handle(&self.batch_id)?;
        // A batch that does not exist is told at once.
        handle.state().await?;
        let no_worker = "no worker answers; start one on the batch's task queue";
        let exit = to_the_end(&handle, self.json, no_worker, program).await?;
        connected.close().await?;
        Ok(exit)
    }
}

/// Follows the batch, prints how it ended, and says what that means. Ctrl-C detaches.
pub(crate) async fn to_the_end(
    handle: &BatchHandle,
    json: bool,
    no_worker: &str,
    program: &str,
) -> CliResult {
    let stop =
        shutdown_signal().map_err(|e| CliError::caused("signals cannot be listened for", &e))?;
    match follow(handle, Style::new(json), no_worker, stop).await {
        Followed::Ended(report) => {
            let exit = Exit::of(&report);
            let look = Look::ended(*report);
            if json {
                output::json(&look);
            } else {
                output::result(look.table());
                look.hint(program);
            }
            Ok(exit)
        }
        Followed::Lost(error) => Err(error.into()),
        Followed::Detached => {
            let id = handle.id();
            note(format_args!(
                "detached; batch \"{id}\" goes on: `{program} watch {id}` follows it again, \
                 `{program} cancel {id}` ends it"
            ));
            Ok(Exit::Interrupted)
        }
    }
}
