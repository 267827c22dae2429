//! `pause`: keeps a batch from starting pages.

use std::time::{Duration, Instant};

use clap::Args;

use crate::{
    base::time::Timestamp,
    cli::{
        args::{
            temporal_server::ConnectionArgs,
            values::{length, moment},
        },
        exit::{CliError, CliResult, Exit},
        output::{self, note},
        render::steered::tell_unless_applied,
        shell::Program,
    },
    engine::{
        client::{BatchHandle, PauseOptions},
        worker::shutdown_signal,
    },
};

#[derive(Args, Debug)]
pub(crate) struct PauseArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// The reason, for people who look at the batch
    #[arg(long, default_value = "")]
    reason: String,

    /// Stop running pages whose work is rolled back and safely repeated, instead of waiting for them
    #[arg(long)]
    now: bool,

    /// Continue at this time: 2026-11-22T06:00:00Z, "2026-11-22 06:00" (UTC), "2026-11-22 06:00 Europe/Berlin"
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "lasting")]
    until: Option<Timestamp>,

    /// Continue after this long, from 1s to 366d
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    lasting: Option<Duration>,

    /// Wait until the running pages have ended
    #[arg(long)]
    wait: bool,
}

impl PauseArgs {
    fn options(&self) -> PauseOptions {
        let mut options = PauseOptions::new().reason(&self.reason);
        if self.now {
            options = options.now();
        }
        if let Some(until) = self.until {
            options = options.until(until);
        }
        if let Some(lasting) = self.lasting {
            options = options.lasting(lasting);
        }
        options
    }

    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        let options = self.options();
        options.validate()?;
        let (connected, handle) = connection.open_batch(&self.batch_id).await?;
        let asked = Instant::now();
        let steered = handle.pause_with(options).await?;
        if tell_unless_applied(&handle, &steered, program).await {
            let pages = match self.now {
                true => "running ones stop where that is safe",
                false => "running ones are finished",
            };
            let end = match (self.until, self.lasting) {
                (Some(until), _) => format!("; it continues at {}", output::time(until)),
                (_, Some(lasting)) => {
                    format!("; it continues after {}", output::exactly(lasting))
                }
                _ => String::new(),
            };
            output::result(format_args!(
                "batch \"{}\" pauses: no new pages, {pages}{end}",
                self.batch_id
            ));
        }
        let exit = match self.wait {
            true => self.until_paused(&handle, asked).await?,
            false => Exit::Done,
        };
        connected.close().await?;
        Ok(exit)
    }

    async fn until_paused(&self, handle: &BatchHandle, asked: Instant) -> CliResult {
        let stop =
            shutdown_signal().map_err(|e| CliError::caused("cannot listen for signals", &e))?;
        tokio::select! {
            paused = handle.wait_until_paused() => {
                paused?;
                let took = output::duration(asked.elapsed());
                output::result(format_args!("batch \"{}\" is paused, after {took}", self.batch_id));
                Ok(Exit::Done)
            }
            () = stop => {
                note("stopped waiting; the pause stays");
                Ok(Exit::Interrupted)
            }
        }
    }
}
