//! `worker`: runs batches until it is stopped.

use std::time::Duration;

use clap::Args;

use crate::{
    batch::{MAX_PARALLELISM, default_task_queue},
    cli::{
        args::{
            database_throttle::ThrottleArgs, metrics::MetricsArgs, temporal_server::ConnectionArgs,
            values::task_queue, worker_tuning::TuningArgs,
        },
        exit::{CliError, CliResult, Exit},
        output::{exactly, note},
        processors::Processors,
    },
    engine::worker::{Worker, WorkerError, shutdown_signal},
    metrics::Metrics,
    processor::{hooks::Hooks, throttle::Throttles},
};

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::sql::Connections;

/// A stand-in for a program that is built without databases.
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

    /// The most strides per second that the server hands out on the task queue, to all workers together
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    queue_rate: Option<f64>,

    /// Wait this long for running pages when stopped, before they are cancelled
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    #[command(flatten)]
    metrics: MetricsArgs,

    #[command(flatten)]
    tuning: TuningArgs,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    connections: crate::cli::args::databases::connections::ConnectionsArgs,

    #[command(flatten)]
    throttle: ThrottleArgs,
}

impl WorkerArgs {
    /// Opens the connections that batches may name, and adds the processors that work on them.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    async fn open(&self, processors: &mut Processors) -> CliResult<Connections> {
        let Some(connections) = self.connections.open(self.max_pages).await? else {
            return Ok(Connections::new());
        };
        let opened = crate::cli::args::databases::sql_connections::SqlConnections::opened(
            connections.clone(),
        );
        opened.add_processors(processors);
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
            // Mistakes on this machine are reported before the server is asked.
            let connections = self.open(&mut processors).await?;
            let throttles = self.throttle.added_to(throttles).await?;
            let (registry, names) = processors.build().await?;
            let metrics = Metrics::new();
            let serving = self.metrics.serve(&metrics).await?;
            let connected = connection.connect_with(&metrics).await?;
            let mut worker = Worker::new(&connected.client, &self.task_queue)
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
            "draining: waiting up to {} for running pages; a second Ctrl-C stops at once",
            exactly(self.drain_timeout)
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
                note("stopped without waiting; interrupted pages are run again by another worker");
                Ok(Exit::Interrupted)
            }
        }
    }
}
