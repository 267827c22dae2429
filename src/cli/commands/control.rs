//! `pause`, `resume`, `set`, `cancel` and `recover`: steer a batch that runs.

use std::time::{Duration, Instant};

use clap::Args;

use crate::{
    base::time::Timestamp,
    batch::validate::validate_id,
    cli::{
        args::{
            pacing::{PacingArgs, in_force},
            temporal_server::{Connected, ConnectionArgs},
            time::moment,
            tolerance::length,
        },
        commands::watch::to_the_end,
        exit::{CliError, CliResult, Exit},
        render::{
            batch_view::Look,
            output::{self, note},
        },
        shell::Program,
    },
    engine::{
        client::{BatchHandle, ControlError, PauseOptions, Steered},
        worker::shutdown_signal,
    },
    progress::phase::Outcome,
};

#[derive(Args, Debug)]
pub(crate) struct PauseArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for whoever looks at the batch
    #[arg(long, default_value = "")]
    reason: String,

    /// Do not wait for running pages where their work is undone and repeated without harm
    #[arg(long)]
    now: bool,

    /// Go on at this time: 2026-11-22T06:00:00Z, "2026-11-22 06:00" (UTC), "2026-11-22 06:00 Europe/Berlin"
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "lasting")]
    until: Option<Timestamp>,

    /// Go on after this long, from 1s to 366d
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    lasting: Option<Duration>,

    /// Wait until the running pages have ended
    #[arg(long)]
    wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for the audit of the batch
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for the audit of the batch
    #[arg(long, default_value = "")]
    reason: String,

    #[command(flatten)]
    pacing: PacingArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Wait until the running pages have ended, and print where the batch stood
    #[arg(long)]
    wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    /// Why, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Do it even where each page should be tried once only
    #[arg(long)]
    force: bool,
}

async fn open(connection: &ConnectionArgs, id: &str) -> CliResult<(Connected, BatchHandle)> {
    validate_id(id)?;
    let connected = connection.connect().await?;
    let handle = connected.client.handle(id)?;
    Ok((connected, handle))
}

/// Tells what became of a request; whether it is in force.
pub(crate) async fn told(handle: &BatchHandle, steered: &Steered, program: &Program) -> bool {
    if !steered.is_applied() {
        output::result(format_args!("batch \"{}\": {steered}", handle.id()));
        // The request is kept, whatever the server says now.
        if let Ok(look) = Look::at(handle, program).await {
            tell_next(&look);
        }
    }
    steered.is_applied()
}

fn tell_next(look: &Look) {
    if let Some(next) = look.next() {
        note(format_args!("next: `{next}`"));
    }
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
        let (connected, handle) = open(connection, &self.batch_id).await?;
        let asked = Instant::now();
        let steered = handle.pause_with(options).await?;
        if told(&handle, &steered, program).await {
            let pages = match self.now {
                true => "running ones stop where that is safe",
                false => "running ones are finished",
            };
            let end = match (self.until, self.lasting) {
                (Some(until), _) => format!("; it goes on at {}", output::time(until)),
                (_, Some(lasting)) => {
                    format!("; it goes on after {}", humantime::format_duration(lasting))
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
        let stop = shutdown_signal()
            .map_err(|e| CliError::caused("signals cannot be listened for", &e))?;
        tokio::select! {
            paused = handle.wait_until_paused() => {
                paused?;
                let took = output::duration(asked.elapsed());
                output::result(format_args!("batch \"{}\" is paused, after {took}", self.batch_id));
                Ok(Exit::Done)
            }
            () = stop => {
                note("not waited for any longer; the pause stays");
                Ok(Exit::Interrupted)
            }
        }
    }
}

impl ResumeArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        let (connected, handle) = open(connection, &self.batch_id).await?;
        let steered = handle.because(&self.reason).resume().await?;
        if told(&handle, &steered, program).await {
            output::result(format_args!("batch \"{}\" goes on", self.batch_id));
        }
        connected.close().await?;
        Ok(Exit::Done)
    }
}

impl SetArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        let settings = self.pacing.settings();
        if settings.is_empty() {
            let error = CliError::from(ControlError::NothingToSet);
            return Err(error.hint(format!("`{} set --help` lists them", program.name)));
        }
        settings.validate()?;
        let (connected, handle) = open(connection, &self.batch_id).await?;
        let steered = handle.because(&self.reason).set(settings).await?;
        if told(&handle, &steered, program).await {
            let limits = match handle.progress().await {
                Ok(progress) => in_force(&progress),
                // It is set all the same.
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

impl CancelArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs, program: &Program) -> CliResult {
        let (connected, handle) = open(connection, &self.batch_id).await?;
        handle.cancel(&self.reason).await?;
        let exit = if self.wait {
            let no_worker = "no worker answers; the batch ends when one comes back";
            match to_the_end(&handle, false, no_worker, program).await? {
                // It is what was asked for.
                Exit::Stopped if self.was_cancelled(&handle).await => Exit::Done,
                exit => exit,
            }
        } else {
            self.tell(&handle, program).await;
            Exit::Done
        };
        connected.close().await?;
        Ok(exit)
    }

    /// Tells when the batch ends. The cancellation is kept, whatever the server says now.
    async fn tell(&self, handle: &BatchHandle, program: &Program) {
        let id = &self.batch_id;
        match Look::at(handle, program).await {
            Ok(look) if look.lets_cancellation_wait() => {
                output::result(format_args!(
                    "batch \"{id}\": the cancellation is kept, and waits for a worker that ends the batch"
                ));
                tell_next(&look);
            }
            Ok(_) | Err(_) => {
                output::result(format_args!(
                    "batch \"{id}\" is being cancelled: it ends as soon as its running pages have"
                ));
            }
        }
    }

    async fn was_cancelled(&self, handle: &BatchHandle) -> bool {
        let report = handle.result().await;
        report.is_ok_and(|report| report.outcome == Outcome::Cancelled)
    }
}

impl RecoverArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        let (connected, handle) = open(connection, &self.batch_id).await?;
        if self.force {
            handle.recover_by_force(&self.reason).await?;
        } else {
            handle.recover(&self.reason).await?;
        }
        output::result(format_args!(
            "batch \"{}\" starts its current run again; pages that finished since its last continue-as-new run \
             again, and are counted once",
            self.batch_id
        ));
        connected.close().await?;
        Ok(Exit::Done)
    }
}
