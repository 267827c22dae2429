//! `watch`: follows a batch to its end.

use std::pin::pin;

use clap::Args;

use crate::{
    base::error::text::words,
    batch::validate::validate_id,
    cli::{
        args::temporal_server::ConnectionArgs,
        exit::{CliError, CliResult, Exit},
        render::{
            batch_view::Look,
            follow::{Followed, Style, follow},
            output::{self, note},
            screen, web_ui,
        },
        session::run::followed_by,
        shell::Program,
    },
    engine::{client::BatchHandle, worker::shutdown_signal},
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
        validate_id(&self.batch_id)?;
        let connected = connection.connect().await?;
        let handle = connected.client.handle(&self.batch_id)?;
        // A batch that does not exist is told at once.
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

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// On the whole terminal.
    Screen,
    /// Among the other output.
    Flow(Style),
}

/// Follows the batch, prints how it ended, and says what that means. Ctrl-C detaches.
pub(crate) async fn to_the_end(
    handle: &BatchHandle,
    json: bool,
    no_worker: &str,
    program: &Program,
) -> CliResult {
    follow_as(handle, View::Flow(Style::new(json)), no_worker, program).await
}

async fn follow_as(
    handle: &BatchHandle,
    view: View,
    no_worker: &str,
    program: &Program,
) -> CliResult {
    let stop =
        shutdown_signal().map_err(|e| CliError::caused("signals cannot be listened for", &e))?;
    let mut stop = pin!(stop);
    if view != View::Flow(Style::Json) {
        web_ui::tell(handle.id());
    }
    let followed = match view {
        View::Flow(style) => follow(handle, style, no_worker, program, stop).await,
        View::Screen => match screen::follow(handle, no_worker, stop.as_mut()).await {
            Ok(followed) => followed,
            Err(error) => {
                note(format_args!(
                    "the screen cannot be drawn: {}",
                    words(&error)
                ));
                follow(handle, Style::Lines, no_worker, program, stop).await
            }
        },
    };
    let json = view == View::Flow(Style::Json);
    match followed {
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
                "detached; batch \"{id}\" goes on: {}",
                followed_by(id, program)
            ));
            Ok(Exit::Interrupted)
        }
    }
}
