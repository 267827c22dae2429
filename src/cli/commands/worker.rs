//! `worker`: runs batches until it is told to stop.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use crate::{
    batch::{MAX_PARALLELISM, default_task_queue},
    cli::{
        args::{temporal_server::ConnectionArgs, worker::TuningArgs},
        exit::{CliError, CliResult, Exit},
        processors::Processors,
        render::output::note,
    },
    engine::worker::{Worker, WorkerError, shutdown_signal},
    metrics::{Metrics, MetricsServer},
    processor::{hooks::Hooks, throttle::Throttles},
};

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::sql::Connections;

/// A program without any database has none to name.
#[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
struct Connections;

#[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
impl Connections {
    async fn watch(&self) {
        std::future::pending::<()>().await;
    }

    #[allow(clippy::unused_async, reason = "it has to wait elsewhere")]
    async fn close(&self) {}
}

#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    /// The task queue to poll
    #[arg(long, default_value = default_task_queue(), value_name = "QUEUE", value_parser = task_queue)]
    task_queue: String,

    /// Pages that this worker runs at once
    #[arg(
        long,
        default_value_t = MAX_PARALLELISM,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PARALLELISM))
    )]
    max_pages: u32,

    /// Strides per second that the server hands out on the task queue at most, to all workers together
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    queue_rate: Option<f64>,

    /// How long a stopping worker waits for its pages before it cancels them
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// Serve Prometheus metrics here, for example at 127.0.0.1:9464
    #[arg(long, value_name = "IP:PORT", value_parser = listen_address)]
    metrics_address: Option<SocketAddr>,

    #[command(flatten)]
    tuning: TuningArgs,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    connections: crate::cli::args::databases::ConnectionsArgs,

    #[cfg(feature = "postgres")]
    #[command(flatten)]
    throttle: crate::cli::args::throttle::ThrottleArgs,
}

pub(crate) fn task_queue(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the task queue is empty".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let wanted = "write an IP address and a port, such as 127.0.0.1:9464";
    text.parse().map_err(|_| wanted.to_owned())
}

/// Serves metrics, if that was asked for.
pub(crate) async fn serve(
    address: Option<SocketAddr>,
    metrics: &Metrics,
) -> CliResult<Option<MetricsServer>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let server = MetricsServer::bind(address, metrics.clone()).await?;
    note(format_args!(
        "metrics at http://{}/metrics",
        server.address()
    ));
    Ok(Some(server))
}

impl WorkerArgs {
    /// Those of the program, and the one that was asked for here.
    #[cfg(feature = "postgres")]
    async fn throttles(&self, of_the_program: &Throttles) -> CliResult<Throttles> {
        let mut throttles = of_the_program.clone();
        if let Some(database) = self.throttle.build().await? {
            throttles.add(database).map_err(WorkerError::from)?;
        }
        Ok(throttles)
    }

    #[cfg(not(feature = "postgres"))]
    #[allow(clippy::unused_async, reason = "it has to ask a database elsewhere")]
    async fn throttles(&self, of_the_program: &Throttles) -> CliResult<Throttles> {
        Ok(of_the_program.clone())
    }

    /// Opens the connections that batches may name, and adds what works on them.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    async fn open(&self, processors: &mut Processors) -> CliResult<Connections> {
        let Some(connections) = self.connections.open(self.max_pages).await? else {
            return Ok(Connections::new());
        };
        let opened = crate::cli::args::databases::SqlConnections::opened(connections.clone());
        crate::cli::sql_processors::add_sql_processors(processors, &opened);
        Ok(connections)
    }

    #[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
    #[allow(clippy::unused_async, reason = "it has to connect elsewhere")]
    async fn open(&self, _: &mut Processors) -> CliResult<Connections> {
        Ok(Connections)
    }

    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        mut processors: Processors,
        hooks: &Hooks,
        throttles: &Throttles,
    ) -> CliResult {
        let stop = shutdown_signal().map_err(WorkerError::Signals)?;
        let mut stop = std::pin::pin!(stop);
        let start = async {
            // What is wrong on this machine is told before anybody else is bothered.
            let connections = self.open(&mut processors).await?;
            let throttles = self.throttles(throttles).await?;
            let (registry, names) = processors.build().await?;
            let metrics = Metrics::new();
            let serving = serve(self.metrics_address, &metrics).await?;
            let connected = connection.connect_with(&metrics).await?;
            let client = connected.client.temporal().clone();
            let mut worker = Worker::new(client, &self.task_queue)
                .registry(registry)
                .hooks(hooks.clone())
                .throttles(throttles)
                .metrics(metrics)
                .max_pages(self.max_pages)
                .drain_timeout(self.drain_timeout);
            if let Some(rate) = self.queue_rate {
                worker = worker.queue_rate(rate);
            }
            worker = self.tuning.apply(worker);
            let started = (worker.start()?, connected, serving);
            Ok::<_, CliError>((started, connections, names))
        };
        let ((mut worker, connected, _serving), connections, names) = tokio::select! {
            started = start => started?,
            () = &mut stop => return Ok(Exit::Interrupted),
        };
        note(format_args!(
            "worker polls task queue \"{}\" for: {}",
            self.task_queue, names
        ));
        tokio::select! {
            ended = worker.ended() => {
                ended?;
                return Err(CliError::failure("the worker ended by itself"));
            }
            () = connections.watch() => {}
            () = stop => {}
        }
        note(format_args!(
            "draining: running pages are finished, for at most {}; a second Ctrl-C stops at once",
            humantime::format_duration(self.drain_timeout)
        ));
        let again = shutdown_signal().map_err(WorkerError::Signals)?;
        let drain = async {
            worker.stop().await?;
            connections.close().await;
            connected.close().await
        };
        tokio::select! {
            drained = drain => {
                drained?;
                note("drained");
                Ok(Exit::Done)
            }
            () = again => {
                note("stopped without waiting; pages that ran are run again by another worker");
                Ok(Exit::Interrupted)
            }
        }
    }
}
