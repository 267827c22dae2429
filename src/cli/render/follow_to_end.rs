//! Follows a batch to its end, and prints how it ended.

use std::pin::pin;

use crate::{
    base::error::text::words,
    cli::{
        exit::{CliError, CliResult, Exit},
        output::note,
        render::{
            batch_view::BatchView,
            follow::{Followed, Style, follow},
            screen, web_ui,
        },
        shell::Program,
    },
    engine::{client::BatchHandle, worker::shutdown_signal},
};

/// Returns the commands that follow and end a batch which is left to workers.
pub(crate) fn followed_by(batch_id: &str, program: &Program) -> String {
    format!(
        "`{}` follows it, `{}` ends it",
        program.of_batch("watch", batch_id),
        program.of_batch("cancel", batch_id)
    )
}

/// The place where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// The full screen.
    Screen,
    /// Bars or lines among the other output.
    Flow(Style),
}

/// Follows the batch and prints how it ended. Ctrl-C detaches.
pub(crate) async fn to_the_end(
    handle: &BatchHandle,
    json: bool,
    no_worker: &str,
    program: &Program,
) -> CliResult {
    follow_as(handle, View::Flow(Style::new(json)), no_worker, program).await
}

pub(crate) async fn follow_as(
    handle: &BatchHandle,
    view: View,
    no_worker: &str,
    program: &Program,
) -> CliResult {
    let stop = shutdown_signal().map_err(|e| CliError::caused("cannot listen for signals", &e))?;
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
            BatchView::ended(*report).print(json, program);
            Ok(exit)
        }
        Followed::Lost(error) => Err(error.into()),
        Followed::Detached => {
            let id = handle.id();
            note(format_args!(
                "detached; batch \"{id}\" continues: {}",
                followed_by(id, program)
            ));
            Ok(Exit::Interrupted)
        }
    }
}
