//! A worker that polls the queue of batchers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use temporal_batch::{BatchClient, metrics::Metrics, of_crates::Background};
use temporalio_client::Client;
use temporalio_sdk::{Runtime, WorkerOptions, runtime::RuntimeOptions};

use crate::{
    activities::BatcherActivities,
    metrics::BatcherMetrics,
    workflow::BatcherWorkflow,
    writer::{AnyWriter, BatchWriter},
};

/// Time after which a workflow task in the queue of a killed worker moves to another one.
const STICKY_TIMEOUT: Duration = Duration::from_secs(1);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Polls a task queue, and runs the shards and the writes of batchers.
///
/// | setting | default |
/// |---|---|
/// | `metrics` | collected, not served |
/// | `drain_timeout` | 30 s |
///
/// ```no_run
/// # use std::sync::Arc;
/// # use temporal_batch::{BatchClient, ConnectOptions, PageError, async_trait, store::{DeadLetters, JsonlDeadLetters}};
/// # use temporal_batch_batcher::{BatcherWorker, BatchWriter, Request, WriteContext, Written};
/// # struct Emails;
/// # #[async_trait]
/// # impl BatchWriter for Emails {
/// #     const NAME: &'static str = "emails";
/// #     async fn write(&self, _: &WriteContext, requests: &[Request]) -> Result<Vec<Written>, PageError> {
/// #         Ok(vec![Written::Now; requests.len()])
/// #     }
/// #     fn dead_letters(&self) -> Arc<dyn DeadLetters> { Arc::new(JsonlDeadLetters::new("dead.jsonl")) }
/// # }
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = BatchClient::connect(&ConnectOptions::new()).await?;
/// let worker = BatcherWorker::new(&client, "batcher-queue").writer(Emails).start()?;
/// tokio::signal::ctrl_c().await?;
/// worker.stop().await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct BatcherWorker {
    client: Client,
    task_queue: String,
    writers: Vec<(&'static str, Arc<dyn AnyWriter>)>,
    metrics: Metrics,
    drain_timeout: Duration,
}

/// The reason why a worker did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatcherWorkerError {
    /// The worker has no writer.
    #[error("no writer is registered; add one with `BatcherWorker::writer`")]
    NoWriter,
    /// Two writers have the same name.
    #[error("two writers are named {name:?}")]
    SameName {
        /// The name.
        name: &'static str,
    },
    /// The metrics of batchers are in the registry already: one process has one worker for each [`Metrics`].
    #[error("the metrics of batchers could not be registered")]
    Metrics(#[source] Cause),
    /// The Temporal SDK could not be set up.
    #[error("the Temporal worker could not be created")]
    Create(#[source] Cause),
    /// The Temporal SDK stopped with an error.
    #[error("the Temporal worker stopped by itself")]
    Run(#[source] Cause),
}

impl BatcherWorker {
    /// Creates a worker that polls `task_queue` over the connection of `client`.
    pub fn new(client: &BatchClient, task_queue: impl Into<String>) -> Self {
        Self {
            client: client.temporal().clone(),
            task_queue: task_queue.into(),
            writers: Vec::new(),
            metrics: Metrics::new(),
            drain_timeout: Duration::from_secs(30),
        }
    }

    /// Adds a writer.
    pub fn writer<W: BatchWriter>(mut self, writer: W) -> Self {
        self.writers.push((W::NAME, Arc::new(writer)));
        self
    }

    /// Records into these metrics, for example to serve them with a `MetricsServer`.
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Sets how long a stopping worker waits for its writes. Writes that take longer are done again by another worker.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Starts the worker in the background.
    ///
    /// # Errors
    /// There is no writer, two have the same name, or the SDK cannot be set up.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub fn start(self) -> Result<RunningBatcherWorker, BatcherWorkerError> {
        let mut writers = BTreeMap::new();
        for (name, writer) in self.writers {
            if writers.insert(name, writer).is_some() {
                return Err(BatcherWorkerError::SameName { name });
            }
        }
        if writers.is_empty() {
            return Err(BatcherWorkerError::NoWriter);
        }
        let metrics = BatcherMetrics::new(&self.metrics)
            .map_err(|error| BatcherWorkerError::Metrics(error.into()))?;
        let options = WorkerOptions::new(self.task_queue)
            .register_workflow::<BatcherWorkflow>()
            .map_err(|error| BatcherWorkerError::Create(error.into()))?
            .register_activities(BatcherActivities { writers, metrics })
            .sticky_queue_schedule_to_start_timeout(STICKY_TIMEOUT)
            .graceful_shutdown_period(self.drain_timeout)
            .build();
        let create = |error: Cause| BatcherWorkerError::Create(error);
        let runtime = RuntimeOptions::builder()
            .telemetry_options(self.metrics.telemetry_options())
            .build()
            .map_err(|error| create(error.into()))?;
        let runtime = Runtime::from_current_tokio(runtime).map_err(|error| create(error.into()))?;
        let worker = temporalio_sdk::Worker::new(&runtime, self.client, options)
            .map_err(|error| create(error.into()))?;
        let (name, failed) = ("temporal-batch-batcher", BatcherWorkerError::Run);
        Background::of_workers(name, runtime, vec![worker], failed)
            .map(RunningBatcherWorker)
            .map_err(|error| create(error.into()))
    }
}

/// A worker that runs in the background. Dropping it stops polling without waiting for its writes.
pub struct RunningBatcherWorker(Background<BatcherWorkerError>);

impl RunningBatcherWorker {
    /// Waits until the worker stops by itself.
    ///
    /// # Errors
    /// The connection is permanently lost. Only the first call returns the error; later calls return `Ok` at once.
    pub async fn ended(&mut self) -> Result<(), BatcherWorkerError> {
        self.0.ended().await
    }

    /// Stops polling, and waits for the writes that are running.
    ///
    /// # Errors
    /// The worker had stopped with an error.
    pub async fn stop(self) -> Result<(), BatcherWorkerError> {
        self.0.stop().await
    }
}
