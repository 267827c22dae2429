//! A worker, which polls a task queue and runs fan-outs, their children, and the attempts at items.

use std::{future::Future, time::Duration};

use serde::Serialize;
use temporal_batch::{
    BatchClient, PageProcessor,
    of_crates::{Background, shutdown_signal, slots},
};
use temporalio_client::Client;
use temporalio_sdk::{Runtime, WorkerOptions, runtime::RuntimeOptions};

use crate::{
    activities::{AsideActivities, ItemActivities},
    item::ItemProcessor,
    protocol::aside_queue,
    registry::Registry,
    workflow::{FanoutWorkflow, ItemWorkflow},
};

/// Slots for reading, aggregating and looking at children. A watch has a slot only while it looks.
const ASIDE_SLOTS: usize = 100;
/// Time after which a workflow task in the queue of a killed worker moves to another one. The SDK's 10 s would slow every
/// recovery by that much.
const STICKY_TIMEOUT: Duration = Duration::from_secs(1);
const LARGEST_MAX_ITEMS: u32 = 10_000;
/// The workflows that are kept in memory: a window of children and their parents.
const CACHED: usize = 2_000;

/// Polls a task queue and runs the fan-outs, children and items of its processors.
///
/// The task queue must not be polled by a [`temporal_batch::Worker`], which does not know fan-outs. Reading, aggregating
/// and watching use a second task queue, whose name has the suffix `.fanout`, so that items cannot delay them.
///
/// | setting | default |
/// |---|---|
/// | [`max_items`](Self::max_items) | 500 items at the same time |
/// | [`drain_timeout`](Self::drain_timeout) | 30 s |
#[must_use]
pub struct FanoutWorker {
    client: Client,
    task_queue: String,
    registry: Registry,
    max_items: u32,
    drain_timeout: Duration,
}

/// The reason why a worker did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The worker has no processors.
    #[error("no processor is registered; add one with `FanoutWorker::processor`")]
    NoProcessor,
    /// Two processors or two sources have the same name.
    #[error("\"{name}\" is registered twice")]
    RegisteredTwice {
        /// The name.
        name: &'static str,
    },
    /// The number of items at the same time is out of range.
    #[error("max items is {given}; it must be from 1 to {LARGEST_MAX_ITEMS}")]
    MaxItems {
        /// The given number.
        given: u32,
    },
    /// The Temporal SDK could not be set up.
    #[error("the Temporal worker could not be created")]
    Create(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The Temporal SDK stopped with an error.
    #[error("the Temporal worker stopped by itself")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The program could not listen for stop signals.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

/// # Construct
impl FanoutWorker {
    /// Creates a worker that polls `task_queue` over the connection of `client`.
    pub fn new(client: &BatchClient, task_queue: impl Into<String>) -> Self {
        Self {
            client: client.temporal().clone(),
            task_queue: task_queue.into(),
            registry: Registry::default(),
            max_items: 500,
            drain_timeout: Duration::from_secs(30),
        }
    }

    /// Adds a processor.
    pub fn processor<P: ItemProcessor>(mut self, processor: P) -> Self {
        self.registry.processor(processor);
        self
    }

    /// Adds a source of items: a processor of pages, of which only `prepare` and `fetch` are called.
    pub fn source<S: PageProcessor<Item: Serialize + Sync>>(mut self, source: S) -> Self {
        self.registry.source(source);
        self
    }

    /// Limits the items that this worker processes at the same time, from 1 to 10,000. The window limits those of a fan-out
    /// over all workers.
    pub fn max_items(mut self, items: u32) -> Self {
        self.max_items = items;
        self
    }

    /// Sets how long a stopping worker waits for its items. An item that is cut off is tried again on another worker, after
    /// its heartbeat timeout at the latest.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }
}

/// # Run
impl FanoutWorker {
    /// Runs until SIGTERM or Ctrl-C, then drains.
    ///
    /// # Errors
    /// The worker cannot start, or the connection is permanently lost.
    pub async fn run(self) -> Result<(), WorkerError> {
        let stop = shutdown_signal().map_err(WorkerError::Signals)?;
        self.run_until(stop).await
    }

    /// Runs until `stop` resolves, then drains.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub async fn run_until(self, stop: impl Future<Output = ()> + Send) -> Result<(), WorkerError> {
        let mut worker = self.start()?;
        tokio::select! {
            ended = worker.ended() => return ended,
            () = stop => {}
        }
        tracing::info!("draining: running items finish, no new ones start");
        worker.stop().await
    }

    /// Starts the worker in the background.
    ///
    /// # Errors
    /// A processor or a setting is not allowed, or the SDK cannot be set up.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub fn start(self) -> Result<RunningFanoutWorker, WorkerError> {
        if let Some(name) = self.registry.given_twice() {
            return Err(WorkerError::RegisteredTwice { name });
        }
        if self.registry.is_empty() {
            return Err(WorkerError::NoProcessor);
        }
        if !(1..=LARGEST_MAX_ITEMS).contains(&self.max_items) {
            return Err(WorkerError::MaxItems {
                given: self.max_items,
            });
        }
        let create = |e: Box<dyn std::error::Error + Send + Sync>| WorkerError::Create(e);
        let aside = WorkerOptions::new(aside_queue(&self.task_queue))
            .register_activities(AsideActivities(self.registry.clone()))
            .tuner(slots(ASIDE_SLOTS))
            .graceful_shutdown_period(self.drain_timeout)
            .build();
        let items = WorkerOptions::new(self.task_queue)
            .register_workflow::<FanoutWorkflow>()
            .map_err(|e| create(e.into()))?
            .register_workflow::<ItemWorkflow>()
            .map_err(|e| create(e.into()))?
            .register_activities(ItemActivities(self.registry))
            .tuner(slots(self.max_items as usize))
            .max_cached_workflows(CACHED)
            .sticky_queue_schedule_to_start_timeout(STICKY_TIMEOUT)
            .graceful_shutdown_period(self.drain_timeout)
            .build();
        let runtime = RuntimeOptions::builder()
            .build()
            .map_err(|e| create(e.into()))?;
        let runtime = Runtime::from_current_tokio(runtime).map_err(|e| create(e.into()))?;
        let worker = |options| {
            temporalio_sdk::Worker::new(&runtime, self.client.clone(), options)
                .map_err(|e| create(e.into()))
        };
        let (items, aside) = (worker(items)?, worker(aside)?);
        let (name, failed) = ("temporal-batch-fanout", WorkerError::Run);
        Background::of_workers(name, runtime, vec![items, aside], failed)
            .map(RunningFanoutWorker)
            .map_err(|e| create(e.into()))
    }
}

/// A worker that runs in the background. Dropping it stops polling without waiting for its items.
pub struct RunningFanoutWorker(Background<WorkerError>);

impl RunningFanoutWorker {
    /// Drains and stops: running items finish within the drain timeout, and no new ones start.
    ///
    /// # Errors
    /// The worker had already stopped with an error.
    pub async fn stop(self) -> Result<(), WorkerError> {
        self.0.stop().await
    }

    /// Resolves when the worker has ended. Unless it is told to stop, it only ends with an error.
    ///
    /// # Errors
    /// The error that ended the worker. Only the first call returns it; later calls return `Ok` at once.
    pub async fn ended(&mut self) -> Result<(), WorkerError> {
        self.0.ended().await
    }
}
