//! The running server, from its start to its end.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use temporalio_client::ConnectionOptions;
use tokio::time::{sleep, timeout};
use url::Url;

use super::{
    DevServerError, DevServerOptions, TemporalCli, output::Output, ports::Ports, watchdog::Watchdog,
};
use crate::base::private_files;

/// The longest wait for a server that starts, which usually needs less than one second.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The longest wait for a server that stops. The watchdog kills it after 5 s.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// The number of attempts to start a server when another process takes one of its ports.
const START_TRIES: usize = 3;
/// The time during which an answer may come from another server on the port; see [`Starting::ready`].
const ANNOUNCEMENT_LIMIT: Duration = Duration::from_secs(1);

/// A running dev server, which stops with its owner.
///
/// [`stop`](Self::stop) is the way to end it. A value that is merely dropped lets the server end in the
/// background, within about a second; so does an owner that is killed.
#[derive(Debug)]
#[must_use = "the dev server stops when this is dropped"]
pub struct DevServer {
    watchdog: Watchdog,
    ports: Ports,
    namespace: String,
    cli: TemporalCli,
}

/// # Look
impl DevServer {
    /// Returns the address that clients and workers connect to, as `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.server)
    }

    /// Returns the address of the web UI, if the web UI is on.
    #[must_use]
    pub fn ui_url(&self) -> Option<String> {
        self.ports.ui.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// Returns the URL of the server's metrics, if a port was set for them.
    #[must_use]
    pub fn metrics_url(&self) -> Option<String> {
        self.ports
            .metrics
            .map(|port| format!("http://127.0.0.1:{port}/metrics"))
    }

    /// Returns the namespace that was asked for, or `default`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the process id of the server itself, not of its watchdog; `None` once it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self.watchdog.exit_status() {
            None => Some(self.watchdog.pid()),
            Some(_) => None,
        }
    }

    /// Returns the Temporal CLI that runs the server.
    #[must_use]
    pub fn cli(&self) -> &TemporalCli {
        &self.cli
    }
}

/// # End
impl DevServer {
    /// Ends the server. The server is asked to end, and killed after 5 s. A server that has already ended is no error.
    ///
    /// # Errors
    ///
    /// [`DevServerError::NotStopped`] if the process does not even end then.
    pub async fn stop(mut self) -> Result<(), DevServerError> {
        self.watchdog.let_go();
        match timeout(STOP_LIMIT, self.watchdog.exit()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(DevServerError::NotStopped {
                pid: self.watchdog.pid(),
                waited: STOP_LIMIT,
            }),
        }
    }

    /// Resolves when the server ends by itself or is stopped from outside. Cancel safe, so it can be awaited together
    /// with Ctrl-C.
    ///
    /// # Errors
    ///
    /// [`DevServerError::Exited`] unless its exit status is 0, which is what a plain `kill` leads to.
    pub async fn wait(&mut self) -> Result<(), DevServerError> {
        match self.watchdog.exit().await {
            0 => Ok(()),
            status => Err(DevServerError::Exited {
                status,
                output: self.watchdog.output().excerpt(),
            }),
        }
    }
}

impl DevServer {
    pub(super) fn start(
        options: DevServerOptions,
    ) -> BoxFuture<'static, Result<Self, DevServerError>> {
        Box::pin(async move {
            options.check()?;
            // A port in use is reported before a long download.
            options.choose_ports()?;
            let cli = TemporalCli::find_or_fetch().await?;
            tracing::debug!(path = %cli.path().display(), origin = %cli.origin(), "found the Temporal CLI");

            let mut tries = 0;
            loop {
                tries += 1;
                // The ports are chosen again each time, so that a given port that has been taken meanwhile is reported.
                let ports = options.choose_ports()?;
                let mut starting = Starting::launch(&options, ports, &cli).await?;
                match starting.ready().await {
                    Ok(()) => {
                        return Ok(Self {
                            watchdog: starting.watchdog,
                            ports,
                            namespace: options.namespace_name().to_owned(),
                            cli,
                        });
                    }
                    Err(_) if starting.lost_a_port() && tries < START_TRIES => {}
                    Err(error) => return Err(error),
                }
            }
        })
    }
}

/// A server between its launch and its first answer. Dropping it ends the server.
struct Starting {
    watchdog: Watchdog,
    ports: Ports,
}

impl Starting {
    async fn launch(
        options: &DevServerOptions,
        ports: Ports,
        cli: &TemporalCli,
    ) -> Result<Self, DevServerError> {
        let log = options
            .log_path()
            .map(|path| {
                private_files::file()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|source| DevServerError::LogFile {
                        path: path.to_owned(),
                        source,
                    })
            })
            .transpose()?;
        let output = Output::of_server_on(ports.server);
        let args = options.args(ports);
        let executable = cli.path().to_owned();
        let watchdog =
            tokio::task::spawn_blocking(move || Watchdog::launch(&executable, &args, output, log))
                .await
                .map_err(std::io::Error::other)
                .and_then(|launched| launched)
                .map_err(|source| DevServerError::Launch { source })?;
        Ok(Self { watchdog, ports })
    }

    /// Waits until the server answers a client.
    ///
    /// Another server may have taken the port after the check. Then that server answers, until ours ends with an error.
    /// An answer therefore counts only once our server has announced itself, or, in case its announcement is worded
    /// differently, after a second in which it did not end.
    async fn ready(&mut self) -> Result<(), DevServerError> {
        let url = Url::parse(&format!("http://127.0.0.1:{}", self.ports.server))
            .expect("an address and a port make a valid URL");
        let started = Instant::now();
        let mut answered: Option<Instant> = None;
        while started.elapsed() < START_LIMIT {
            if let Some(status) = self.watchdog.exit_status() {
                return Err(DevServerError::Exited {
                    status,
                    output: self.watchdog.output().excerpt(),
                });
            }
            match answered {
                None if answers(&url).await => answered = Some(Instant::now()),
                Some(at)
                    if self.watchdog.output().announced() || at.elapsed() > ANNOUNCEMENT_LIMIT =>
                {
                    return Ok(());
                }
                _ => sleep(Duration::from_millis(25)).await,
            }
        }
        let output = self.watchdog.output().excerpt();
        Err(DevServerError::NotReady {
            waited: START_LIMIT,
            output,
        })
    }

    fn lost_a_port(&self) -> bool {
        self.watchdog.exit_status().is_some() && self.watchdog.output().address_in_use()
    }
}

async fn answers(url: &Url) -> bool {
    let options = ConnectionOptions::new(url.clone())
        .identity("temporal-batch-dev-server")
        .build();
    // A port that accepts connections but never answers must not use up the whole wait.
    matches!(
        timeout(
            Duration::from_secs(2),
            temporal_batch_connection::connection(options)
        )
        .await,
        Ok(Ok(_))
    )
}
