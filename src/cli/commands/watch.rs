//! `watch`: follows a batch to its end.

use clap::Args;

use crate::cli::{
    args::temporal_server::ConnectionArgs,
    exit::CliResult,
    output,
    render::{
        follow::Style,
        follow_to_end::{View, follow_as},
    },
    shell::Program,
};

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Print JSON: one line per second, and a last one when the batch has ended
    #[arg(long)]
    json: bool,

    /// Print a line every few seconds, also on a terminal
    #[arg(long, conflicts_with = "json")]
    plain: bool,
}

impl WatchArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        let (connected, handle) = connection.open_batch(&self.batch_id).await?;
        // A batch that does not exist is refused at once.
        handle.state().await?;
        let no_worker = "no worker answers; start one on the batch's task queue";
        let exit = follow_as(&handle, self.view(), no_worker, program).await?;
        connected.close().await?;
        Ok(exit)
    }

    fn view(&self) -> View {
        if self.plain {
            View::Flow(Style::Lines)
        } else if !self.json && output::has_screen() {
            View::Screen
        } else {
            View::Flow(Style::new(self.json))
        }
    }
}
