//! `dev-server`: runs a local Temporal server in the foreground.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::{
        args::temporal_server::ConnectionArgs,
        exit::{CliError, CliResult, Exit},
        output::{note, result},
        render::web_ui::Noted,
    },
    dev_server::DevServerOptions,
    engine::worker::shutdown_signal,
};

#[derive(Args, Debug)]
pub(crate) struct DevServerArgs {
    /// The port that clients and workers connect to; 0 takes a free one
    #[arg(long, default_value_t = 7233)]
    port: u16,

    /// The port of the web UI; 0 takes a free one
    #[arg(long, default_value_t = 8233, conflicts_with = "headless")]
    ui_port: u16,

    /// Run without a web UI
    #[arg(long)]
    headless: bool,

    /// Keep all state in this SQLite file; without it, all state is lost at the end
    #[arg(long, value_name = "FILE")]
    db_filename: Option<PathBuf>,

    /// The port of the server's own Prometheus metrics; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
}

impl DevServerArgs {
    pub(crate) async fn run(&self, connection: &ConnectionArgs) -> CliResult {
        if let Some(flag) = connection.first_given() {
            return Err(CliError::usage(format_args!(
                "{flag} describes a server to connect to, but dev-server starts one; leave it out"
            )));
        }
        let stop =
            shutdown_signal().map_err(|e| CliError::caused("cannot listen for signals", &e))?;
        let mut options = DevServerOptions::new().port(self.port);
        if !self.headless {
            options = options.ui_port(self.ui_port);
        }
        if let Some(path) = &self.db_filename {
            options = options.db_filename(path);
        }
        if let Some(port) = self.metrics_port {
            options = options.metrics_port(port);
        }
        let mut stop = std::pin::pin!(stop);
        let mut server = tokio::select! {
            server = options.start() => server?,
            () = &mut stop => return Ok(Exit::Interrupted),
        };
        result(format_args!("Temporal dev server at {}", server.address()));
        let _noted = Noted::of_server(&server);
        if let Some(url) = server.ui_url() {
            result(format_args!("web UI at {url}"));
        }
        if let Some(url) = server.metrics_url() {
            result(format_args!("metrics at {url}"));
        }
        match &self.db_filename {
            Some(path) => note(format_args!(
                "state is kept in {}; Ctrl-C stops it",
                path.display()
            )),
            None => note("all state is lost when it stops; Ctrl-C stops it"),
        }
        tokio::select! {
            ended = server.wait() => {
                ended?;
                Err(CliError::failure("the dev server was stopped from outside"))
            }
            () = stop => {
                server.stop().await?;
                Ok(Exit::Done)
            }
        }
    }
}
