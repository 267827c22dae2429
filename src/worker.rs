//! A worker: polls a task queue and runs batches and their pages.

use std::{future::Future, time::Duration};

use temporalio_client::Client;
use temporalio_sdk::{
    Runtime, WorkerOptions,
    runtime::{
        RuntimeOptions,
        worker_tuner::{FixedSizeSlotSupplier, TunerHolder},
    },
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    activity::{HEARTBEATS_PER_TIMEOUT, PageActivities},
    batch::MAX_PARALLELISM,
    controller::Controller,
    hooks::{CompletionHook, FailureHandler, Hooks, RegisterHookError, Tracker},
    metrics::Metrics,
    processor::PageProcessor,
    registry::{RegisterError, Registry},
};

/// A workflow task or a query that waits on the queue of a killed worker moves to another one after this
/// long. The SDK's 10 s would make every recovery that much slower. A worker that is merely too busy to
/// answer in time costs a replay of the history.
const STICKY_TIMEOUT: Duration = Duration::from_secs(1);
const WORKFLOW_SLOTS: usize = 100;

/// Polls a task queue and runs the batches and pages of its processors.
///
/// | setting | default |
/// |---|---|
/// | `max_pages` | 500 pages at once |
/// | `drain_timeout` | 30 s |
/// | `metrics` | collected, not served |
///
/// ```no_run
/// # use async_trait::async_trait;
/// # use temporal_batch::*;
/// # struct HashEmails;
/// # #[async_trait]
/// # impl PageProcessor for HashEmails {
/// #     const NAME: &'static str = "hash-emails";
/// #     type Args = ();
/// #     type Cursor = i64;
/// #     type Item = i64;
/// #     async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> { Ok(Page::empty()) }
/// #     async fn process(&self, _: &PageContext<Self>, _: Vec<i64>) -> Result<PageReport, PageError> {
/// #         Ok(PageReport::all_processed())
/// #     }
/// # }
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = connect(&ConnectOptions::new()).await?;
/// Worker::new(client, "migrations").processor(HashEmails).run().await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Worker {
    client: Client,
    task_queue: String,
    registry: Result<Registry, RegisterError>,
    hooks: Result<Hooks, RegisterHookError>,
    metrics: Metrics,
    max_pages: u32,
    drain_timeout: Duration,
}

/// Why a worker did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// A processor could not be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A failure handler, tracker or completion hook could not be registered.
    #[error(transparent)]
    RegisterHook(#[from] RegisterHookError),
    /// There is nothing that it could do.
    #[error("no processor is registered; add one with `Worker::processor`")]
    NoProcessor,
    /// It cannot hold so many pages.
    #[error("max pages is {given}; it must be from 1 to {MAX_PARALLELISM}")]
    MaxPages {
        /// The number that was given.
        given: u32,
    },
    /// The Temporal SDK could not set itself up.
    #[error("the Temporal worker could not be created")]
    Create(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The Temporal SDK gave up.
    #[error("the Temporal worker stopped by itself")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The program could not listen for the signals that stop it.
    #[error("signals cannot be listened for")]
    Signals(#[source] std::io::Error),
}

/// # Construct
impl Worker {
    /// A worker that polls `task_queue`.
    pub fn new(client: Client, task_queue: impl Into<String>) -> Self {
        Self {
            client,
            task_queue: task_queue.into(),
            registry: Ok(Registry::new()),
            hooks: Ok(Hooks::default()),
            metrics: Metrics::new(),
            max_pages: MAX_PARALLELISM,
            drain_timeout: Duration::from_secs(30),
        }
    }

    /// Adds a processor. A mistake in its settings is reported when the worker is started.
    pub fn processor<P: PageProcessor>(mut self, processor: P) -> Self {
        self.registry = self.registry.and_then(|mut registry| {
            registry.register(processor)?;
            Ok(registry)
        });
        self
    }

    /// Takes over a whole registry in place of the processors so far.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Ok(registry);
        self
    }

    /// Takes over hooks in place of those so far.
    #[cfg(feature = "cli")]
    pub(crate) fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = Ok(hooks);
        self
    }

    /// Adds a failure handler, which batches ask for by its name. A mistake in the name is reported when the
    /// worker is started.
    pub fn failure_handler<H: FailureHandler>(mut self, handler: H) -> Self {
        self.hooks = self.hooks.and_then(|mut hooks| {
            hooks.failure_handler(handler)?;
            Ok(hooks)
        });
        self
    }

    /// Adds a tracker, which batches ask for by its name.
    pub fn tracker<T: Tracker>(mut self, tracker: T) -> Self {
        self.hooks = self.hooks.and_then(|mut hooks| {
            hooks.tracker(tracker)?;
            Ok(hooks)
        });
        self
    }

    /// Adds a completion hook, which batches ask for by its name.
    pub fn completion_hook<C: CompletionHook>(mut self, hook: C) -> Self {
        self.hooks = self.hooks.and_then(|mut hooks| {
            hooks.completion_hook(hook)?;
            Ok(hooks)
        });
        self
    }

    /// Collects into these metrics, for instance to serve them with a
    /// [`MetricsServer`](crate::metrics::MetricsServer).
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Pages that this worker runs at once. How many a batch runs over all workers is up to the batch.
    pub fn max_pages(mut self, pages: u32) -> Self {
        self.max_pages = pages;
        self
    }

    /// How long a stopping worker waits for its pages. After it they are cancelled; a page that does not
    /// listen keeps the worker until its page timeout.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }
}

/// # Run
impl Worker {
    /// Runs until SIGTERM or Ctrl-C, then drains: pages that run are finished, nothing new is begun.
    ///
    /// # Errors
    /// When it cannot start, or the connection is lost for good.
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
            ended = worker.ended() => ended,
            () = stop => {
                tracing::info!("draining: pages that run are finished, nothing new is begun");
                worker.stop().await
            }
        }
    }

    /// Starts it beside the caller.
    ///
    /// # Errors
    /// When a processor, a setting or the SDK's set-up is at fault.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(self) -> Result<RunningWorker, WorkerError> {
        let (registry, hooks) = (self.registry?, self.hooks?);
        if registry.names().is_empty() {
            return Err(WorkerError::NoProcessor);
        }
        if self.max_pages == 0 || self.max_pages > MAX_PARALLELISM {
            return Err(WorkerError::MaxPages {
                given: self.max_pages,
            });
        }
        let (drain, draining) = watch::channel(false);
        let throttle = registry.shortest_heartbeat_timeout() / HEARTBEATS_PER_TIMEOUT;
        for name in hooks.names() {
            self.metrics.hook_registered(name);
        }
        let activities = PageActivities::new(registry, hooks, self.metrics.clone(), draining);
        let fixed = FixedSizeSlotSupplier::new;
        let tuner = TunerHolder::builder()
            .workflow_task_slot_supplier(fixed(WORKFLOW_SLOTS))
            .activity_task_slot_supplier(fixed(self.max_pages as usize))
            .local_activity_task_slot_supplier(fixed(1))
            .nexus_task_slot_supplier(fixed(1))
            .build();
        let options = WorkerOptions::new(self.task_queue)
            .register_workflow::<Controller>()
            .map_err(|e| WorkerError::Create(e.into()))?
            .register_activities(activities)
            .tuner(tuner)
            .sticky_queue_schedule_to_start_timeout(STICKY_TIMEOUT)
            .max_heartbeat_throttle_interval(throttle)
            .graceful_shutdown_period(self.drain_timeout)
            .build();
        let runtime = RuntimeOptions::builder()
            .telemetry_options(self.metrics.telemetry_options())
            .build()
            .map_err(|e| WorkerError::Create(e.into()))?;
        let runtime =
            Runtime::from_current_tokio(runtime).map_err(|e| WorkerError::Create(e.into()))?;
        let worker = temporalio_sdk::Worker::new(&runtime, self.client, options)
            .map_err(|e| WorkerError::Create(e.into()))?;
        Ok(RunningWorker::spawn(runtime, worker, drain))
    }
}

/// A worker that runs beside its owner. Dropping it stops polling but waits for nothing.
pub struct RunningWorker {
    drain: watch::Sender<bool>,
    shut_down: Box<dyn Fn() + Send + Sync>,
    ended: JoinHandle<Result<(), WorkerError>>,
}

impl RunningWorker {
    /// The SDK's worker is not `Send`, so it gets a thread; its activities run on the tokio runtime of
    /// the caller.
    fn spawn(
        runtime: Runtime,
        mut worker: temporalio_sdk::Worker,
        drain: watch::Sender<bool>,
    ) -> Self {
        let shut_down = Box::new(worker.shutdown_handle());
        let (sender, receiver) = oneshot::channel();
        let tokio = tokio::runtime::Handle::current();
        let spawned = std::thread::Builder::new()
            .name("temporal-batch-worker".to_owned())
            .spawn(move || {
                let result = tokio.block_on(worker.run());
                drop(runtime);
                // Nobody waits for it when the owner was dropped.
                let _ = sender.send(result);
            });
        let ended = tokio::spawn(async move {
            spawned.map_err(|e| WorkerError::Create(e.into()))?;
            match receiver.await {
                Ok(result) => result.map_err(|e| WorkerError::Run(e.into())),
                Err(_) => Err(WorkerError::Run("its thread panicked".into())),
            }
        });
        Self {
            drain,
            shut_down,
            ended,
        }
    }

    /// Drains and stops: strides end at their next page boundary, nothing new is begun.
    ///
    /// # Errors
    /// When the worker had already stopped because of an error.
    pub async fn stop(mut self) -> Result<(), WorkerError> {
        self.begin_stop();
        self.ended().await
    }

    /// Resolves when the worker has ended, which by itself it only does on an error.
    ///
    /// # Errors
    /// What made it end.
    pub async fn ended(&mut self) -> Result<(), WorkerError> {
        match (&mut self.ended).await {
            Ok(result) => result,
            Err(e) => Err(WorkerError::Run(e.into())),
        }
    }

    fn begin_stop(&self) {
        self.drain.send_replace(true);
        (self.shut_down)();
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

/// Resolves at the first SIGTERM or Ctrl-C.
pub(crate) fn shutdown_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
