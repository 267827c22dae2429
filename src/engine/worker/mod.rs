//! A worker, which polls a task queue and runs batches and their pages.

pub mod background;
pub(crate) mod readiness;
mod recovering;
pub(crate) mod tuning;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use temporalio_client::{Client, NamespacedClient as _};
use temporalio_sdk::{
    Runtime, WorkerOptions,
    runtime::{
        PollerBehavior, RuntimeOptions,
        worker_tuner::{FixedSizeSlotSupplier, TunerHolder, WorkerTuner},
    },
};
use tokio::sync::watch;

use crate::{
    base::text::exactly,
    batch::MAX_PARALLELISM,
    engine::{
        activity::{
            Abandonment, ControlWatches, HEARTBEATS_PER_TIMEOUT, PageActivities, SideActivities,
            UserThreads,
        },
        client::{BatchClient, WorkerSeen, Workers, outage::Outages},
        controller::{Bridge, Controller, PartitionParent},
    },
    metrics::Metrics,
    processor::{
        PageProcessor,
        hooks::{CompletionHook, FailureHandler, Hooks, RegisterHookError, Tracker},
        settings::HEARTBEAT_TIMEOUT,
        throttle::{RegisterThrottleError, Throttle, Throttles},
    },
    protocol::aside_queue,
    stride::registry::{RegisterError, Registry},
};
use background::Background;
use tuning::Tuning;

/// Time after which a workflow task or query in the queue of a killed worker moves to another one. The SDK's 10
/// s would slow every recovery by that much. If a worker is merely too busy to answer in time, the cost is a
/// replay of the history.
const STICKY_TIMEOUT: Duration = Duration::from_secs(1);
const WORKFLOW_SLOTS: usize = 100;
/// Slots for hooks, throttles and locks of all batches. Long-running ones among them only wait.
const ASIDE_SLOTS: usize = 100;
/// Pollers for activities other than pages. There are few such activities, and each poll is an open call at the
/// server.
const ASIDE_POLLERS: usize = 2;
/// Time for cancelled pages to finish before the worker abandons them.
const GRACE: Duration = Duration::from_secs(5);

/// Polls a task queue and runs the batches and pages of its processors.
///
/// All other activities (looking up processors, hooks, throttles, locks) use a second task queue, whose name
/// has the suffix `.aside`, and slots of their own, so that pages cannot delay them.
///
/// | setting | default |
/// |---|---|
/// | `max_pages` | 500 concurrent pages |
/// | `drain_timeout` | 30 s, plus 5 s for cancelled pages to finish |
/// | `queue_rate` | no limit |
/// | `workflow_pollers`, `stride_pollers` | 5 each |
/// | `eager_strides` | 3 |
/// | `cached_batches` | 1,000 |
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
/// let client = BatchClient::connect(&ConnectOptions::new()).await?;
/// Worker::new(&client, "migrations").processor(HashEmails).run().await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Worker {
    client: Client,
    task_queue: String,
    registry: Result<Registry, RegisterError>,
    hooks: Result<Hooks, RegisterHookError>,
    throttles: Result<Throttles, RegisterThrottleError>,
    metrics: Metrics,
    max_pages: u32,
    drain_timeout: Duration,
    queue_rate: Option<f64>,
    tuning: Tuning,
}

/// The reason why a worker did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// A processor could not be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A failure handler, tracker or completion hook could not be registered.
    #[error(transparent)]
    RegisterHook(#[from] RegisterHookError),
    /// A throttle could not be registered.
    #[error(transparent)]
    RegisterThrottle(#[from] RegisterThrottleError),
    /// The worker has no processors.
    #[error("no processor is registered; add one with `Worker::processor`")]
    NoProcessor,
    /// The number of concurrent pages is out of range.
    #[error("max pages is {given}; it must be from 1 to {MAX_PARALLELISM}")]
    MaxPages {
        /// The number that was given.
        given: u32,
    },
    /// The limit on strides per second is not a positive number.
    #[error(
        "queue rate is {given} strides per second; it must be more than 0 (leave it out for no limit)"
    )]
    QueueRate {
        /// The rate that was given.
        given: f64,
    },
    /// A tuning setting is out of range.
    #[error("{setting} is {given}; it must be from {lowest} to {highest}")]
    Tuning {
        /// The setting.
        setting: &'static str,
        /// The number that was given.
        given: u32,
        /// The lowest allowed value.
        lowest: u32,
        /// The highest allowed value.
        highest: u32,
    },
    /// The worker was told to stop, and some cancelled pages did not end.
    #[error(
        "{pages} {} abandoned after {} while still running; other workers will run {} again",
        if *pages == 1 { "page was" } else { "pages were" },
        exactly(*after),
        if *pages == 1 { "it" } else { "them" }
    )]
    Abandoned {
        /// The number of pages.
        pages: u32,
        /// The time since the worker was told to stop: the drain timeout plus 5 s, or less after a second
        /// signal.
        after: Duration,
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
impl Worker {
    /// Creates a worker that polls `task_queue` over the connection of `client`.
    pub fn new(client: &BatchClient, task_queue: impl Into<String>) -> Self {
        Self {
            client: client.temporal().clone(),
            task_queue: task_queue.into(),
            registry: Ok(Registry::new()),
            hooks: Ok(Hooks::default()),
            throttles: Ok(Throttles::default()),
            metrics: Metrics::new(),
            max_pages: MAX_PARALLELISM,
            drain_timeout: Duration::from_secs(30),
            queue_rate: None,
            tuning: Tuning::default(),
        }
    }

    /// Adds a processor. Invalid settings are reported when the worker is started.
    pub fn processor<P: PageProcessor>(mut self, processor: P) -> Self {
        self.registry = self.registry.and_then(|mut registry| {
            registry.register(processor)?;
            Ok(registry)
        });
        self
    }

    /// Replaces the processors by those of a registry.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Ok(registry);
        self
    }

    /// Replaces the hooks.
    #[cfg(feature = "cli")]
    pub(crate) fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = Ok(hooks);
        self
    }

    /// Adds a failure handler, which batches select by its name. An invalid name is reported when the worker is
    /// started.
    pub fn failure_handler<H: FailureHandler>(mut self, handler: H) -> Self {
        self.hooks = self.hooks.and_then(|mut hooks| {
            hooks.failure_handler(handler)?;
            Ok(hooks)
        });
        self
    }

    /// Adds a tracker, which batches select by its name.
    pub fn tracker<T: Tracker>(mut self, tracker: T) -> Self {
        self.hooks = self.hooks.and_then(|mut hooks| {
            hooks.tracker(tracker)?;
            Ok(hooks)
        });
        self
    }

    /// Adds a completion hook, which batches select by its name.
    pub fn completion_hook<C: CompletionHook>(mut self, hook: C) -> Self {
        self.hooks = self.hooks.and_then(|mut hooks| {
            hooks.completion_hook(hook)?;
            Ok(hooks)
        });
        self
    }

    /// Adds a throttle, which batches select by its name. All workers of a task queue should have the same
    /// throttles, because pages are held where they run. An invalid name is reported when the worker is
    /// started.
    pub fn throttle<T: Throttle>(mut self, throttle: T) -> Self {
        self.throttles = self.throttles.and_then(|mut throttles| {
            throttles.add(throttle)?;
            Ok(throttles)
        });
        self
    }

    /// Replaces the throttles.
    #[cfg(feature = "cli")]
    pub(crate) fn throttles(mut self, throttles: Throttles) -> Self {
        self.throttles = Ok(throttles);
        self
    }

    /// Records into these metrics, for example to serve them with a
    /// [`MetricsServer`](crate::metrics::MetricsServer).
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Limits the pages that this worker runs at the same time. The batch limits its pages over all workers.
    pub fn max_pages(mut self, pages: u32) -> Self {
        self.max_pages = pages;
        self
    }

    /// Sets how long a stopping worker waits for its pages. After that they are cancelled
    /// ([`PageContext::is_cancelled`](crate::PageContext::is_cancelled)). A page that has not ended 5 s later
    /// is abandoned: it is dropped, reports nothing, and runs again on another worker after the heartbeat
    /// timeout. A page that blocks its thread cannot be dropped and continues until the process ends.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Limits the strides per second that the server dispatches from this task queue, over all workers and
    /// batches. It is an outer limit in addition to the rates of the batches, and counts strides, not items or
    /// pages. Set the same value on every worker of the queue, because the server uses the latest one.
    pub fn queue_rate(mut self, strides_per_second: f64) -> Self {
        self.queue_rate = Some(strides_per_second);
        self
    }
}

/// # Tune
///
/// The defaults are those of the SDK. Change them for workers with hundreds of batches, or with a distant
/// server. `cargo bench --bench engine -- tuning` compares settings.
impl Worker {
    /// Sets the number of concurrent polls for workflow tasks, from 2 to 100. The default is 5, and the SDK
    /// adjusts it if the server supports that.
    pub fn workflow_pollers(mut self, pollers: u32) -> Self {
        self.tuning.workflow_pollers = Some(pollers);
        self
    }

    /// Sets the number of concurrent polls for strides, from 1 to 100. The default is 5, and the SDK adjusts it
    /// if the server supports that. A poll returns one stride, so a worker starts at most pollers / (round trip
    /// to the server) strides per second.
    pub fn stride_pollers(mut self, pollers: u32) -> Self {
        self.tuning.stride_pollers = Some(pollers);
        self
    }

    /// Sets how many strides a controller passes directly to its own worker with each workflow task, bypassing
    /// the task queue, while slots are free. From 0 to 100; the default is 3, as in the SDK. Such strides start
    /// sooner, but all of them go to the worker that has the controller. With 100, short strides are two to
    /// three times as fast if a queue has one worker. With 0, several workers share the strides evenly. With a
    /// [`queue_rate`](Self::queue_rate) no strides are passed directly.
    pub fn eager_strides(mut self, strides: u32) -> Self {
        self.tuning.eager_strides = Some(strides);
        self
    }

    /// Sets the number of controllers that are kept in memory, from 1 to 10,000. The default is 1,000. A batch
    /// that is not in memory costs a replay of its history for each of its workflow tasks.
    pub fn cached_batches(mut self, batches: u32) -> Self {
        self.tuning.cached_batches = Some(batches);
        self
    }
}

/// # Run
impl Worker {
    /// Runs until SIGTERM or Ctrl-C, then drains: running pages finish, and no new ones start. A second signal
    /// ends the worker at once.
    ///
    /// # Errors
    /// The worker cannot start, the connection is permanently lost, or pages had to be
    /// [abandoned](WorkerError::Abandoned).
    pub async fn run(self) -> Result<(), WorkerError> {
        let stop = shutdown_signal().map_err(WorkerError::Signals)?;
        let mut worker = self.start()?;
        tokio::select! {
            ended = worker.ended() => return ended,
            () = stop => {}
        }
        tracing::info!("draining: running pages finish, no new ones start");
        let again = shutdown_signal().map_err(WorkerError::Signals)?;
        let (abandonment, began) = (worker.abandonment.clone(), Instant::now());
        tokio::select! {
            stopped = worker.stop() => stopped,
            () = again => Err(WorkerError::Abandoned {
                pages: abandonment.abandon(),
                after: began.elapsed(),
            }),
        }
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
                tracing::info!("draining: running pages finish, no new ones start");
                worker.stop().await
            }
        }
    }

    /// Starts the worker in the background.
    ///
    /// # Errors
    /// A processor or a setting is not allowed, or the SDK cannot be set up.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub fn start(self) -> Result<RunningWorker, WorkerError> {
        let (registry, hooks, throttles) = (self.registry?, self.hooks?, self.throttles?);
        if registry.names().is_empty() {
            return Err(WorkerError::NoProcessor);
        }
        if self.max_pages == 0 || self.max_pages > MAX_PARALLELISM {
            return Err(WorkerError::MaxPages {
                given: self.max_pages,
            });
        }
        if let Some(given) = self.queue_rate
            && !(given.is_finite() && given > 0.0)
        {
            return Err(WorkerError::QueueRate { given });
        }
        self.tuning.check()?;
        for name in hooks.names() {
            self.metrics.hook_registered(name);
        }
        throttles.measure(&self.metrics);
        let create = |e: Box<dyn std::error::Error + Send + Sync>| WorkerError::Create(e);
        let (drain, draining) = watch::channel(false);
        let drained = draining.clone();
        let abandonment = Abandonment::default();
        let threads = UserThreads::of_process().map_err(|e| create(e.into()))?;
        let heartbeats = registry.shortest_heartbeat_timeout() / HEARTBEATS_PER_TIMEOUT;
        let watches = ControlWatches::new({
            let metrics = self.metrics.clone();
            move |progress| metrics.batch_seen(progress)
        });
        let aside = SideActivities::new(
            registry.clone(),
            hooks,
            throttles.clone(),
            self.metrics.clone(),
            Arc::clone(&watches),
            draining.clone(),
            threads,
        );
        let aside = WorkerOptions::new(aside_queue(&self.task_queue))
            .register_activities(aside)
            .tuner(slots(ASIDE_SLOTS))
            .activity_task_poller_behavior(PollerBehavior::SimpleMaximum(ASIDE_POLLERS))
            .max_heartbeat_throttle_interval(HEARTBEAT_TIMEOUT / HEARTBEATS_PER_TIMEOUT)
            .graceful_shutdown_period(self.drain_timeout)
            .build();
        let pages = PageActivities {
            registry,
            throttles,
            metrics: self.metrics.clone(),
            watches,
            draining,
            abandonment: abandonment.clone(),
            threads,
        };
        let (sightings, made) = recovering::sightings();
        let recovering = recovering::watch(
            self.client.clone(),
            self.metrics.clone(),
            made,
            drained.clone(),
        );
        let task_queue = self.task_queue.clone();
        let pages = WorkerOptions::new(self.task_queue)
            .workflow_interceptor(sightings)
            .register_workflow::<Controller>()
            .map_err(|e| create(e.into()))?
            .register_workflow::<PartitionParent>()
            .map_err(|e| create(e.into()))?
            .register_workflow::<Bridge>()
            .map_err(|e| create(e.into()))?
            .register_activities(pages)
            .tuner(slots(self.max_pages as usize))
            .maybe_workflow_task_poller_behavior(self.tuning.workflow_polling())
            .maybe_activity_task_poller_behavior(self.tuning.stride_polling())
            .maybe_max_eager_activity_reservations_per_workflow_task(self.tuning.eager())
            .max_cached_workflows(self.tuning.cached())
            .sticky_queue_schedule_to_start_timeout(STICKY_TIMEOUT)
            .max_heartbeat_throttle_interval(heartbeats)
            .maybe_max_task_queue_activities_per_second(self.queue_rate)
            .graceful_shutdown_period(self.drain_timeout)
            .build();
        let runtime = RuntimeOptions::builder()
            .telemetry_options(self.metrics.telemetry_options())
            .build()
            .map_err(|e| create(e.into()))?;
        let runtime = Runtime::from_current_tokio(runtime).map_err(|e| create(e.into()))?;
        let worker = |options| {
            temporalio_sdk::Worker::new(&runtime, self.client.clone(), options)
                .map_err(|e| create(e.into()))
        };
        let halves = Halves {
            client: self.client.clone(),
            pages: worker(pages)?,
            aside: worker(aside)?,
            drain,
            abandonment,
            give_up_after: self.drain_timeout.saturating_add(GRACE),
        };
        let health = self.metrics.health();
        let polls = Polls {
            client: self.client.clone(),
            task_queue,
            stops: drained.clone(),
        };
        tokio::spawn(readiness::watch(self.client.clone(), health, drained));
        tokio::spawn(recovering);
        RunningWorker::spawn(runtime, halves, polls).map_err(|e| create(e.into()))
    }
}

/// Returns a tuner that runs up to `activities` activities at a time.
pub fn slots(activities: usize) -> WorkerTuner {
    let fixed = FixedSizeSlotSupplier::new;
    TunerHolder::builder()
        .workflow_task_slot_supplier(fixed(WORKFLOW_SLOTS))
        .activity_task_slot_supplier(fixed(activities))
        .local_activity_task_slot_supplier(fixed(1))
        .nexus_task_slot_supplier(fixed(1))
        .build()
        .into()
}

/// The two SDK workers of a worker: one for pages and workflows, one for all other activities. They end
/// together.
struct Halves {
    client: Client,
    pages: temporalio_sdk::Worker,
    aside: temporalio_sdk::Worker,
    drain: watch::Sender<bool>,
    abandonment: Abandonment,
    give_up_after: Duration,
}

impl Halves {
    /// Returns a function that stops both.
    fn stop(&self) -> impl Fn() + Send + Sync + use<> {
        let (pages, aside) = (self.pages.shutdown_handle(), self.aside.shutdown_handle());
        let drain = self.drain.clone();
        move || {
            // The SDK is told only once, because a second shutdown of its core may not be safe.
            if !drain.send_replace(true) {
                pages();
                aside();
            }
        }
    }

    async fn run(&mut self, stop: &(dyn Fn() + Send + Sync)) -> Result<(), WorkerError> {
        let mut draining = self.drain.subscribe();
        // The SDK repeats every call during an outage except for its first one.
        let outages = Outages::default();
        tokio::select! {
            // The SDK itself will report the error.
            _ = outages.through(|| readiness::answers(&self.client)) => {}
            // The SDK also reports how a worker ends that never started. The sender is a field of `self`.
            _ = draining.wait_for(|draining| *draining) => {}
        }
        let both = async {
            futures::join!(
                async {
                    let ended = self.pages.run().await;
                    stop();
                    ended
                },
                async {
                    let ended = self.aside.run().await;
                    stop();
                    ended
                },
            )
        };
        let too_long = async {
            // The sender is a field of `self`.
            let _ = draining.wait_for(|draining| *draining).await;
            tokio::time::sleep(self.give_up_after).await;
        };
        tokio::select! {
            (pages, aside) = both => pages.and(aside).map_err(|e| WorkerError::Run(e.into())),
            () = too_long => Err(WorkerError::Abandoned {
                pages: self.abandonment.abandon(),
                after: self.give_up_after,
            }),
        }
    }
}

/// The client and the names for asking the server whether a worker polls.
struct Polls {
    client: Client,
    task_queue: String,
    stops: watch::Receiver<bool>,
}

/// Interval at which the server is asked.
const ASK_AGAIN: Duration = Duration::from_millis(100);

impl Polls {
    async fn are_known(&self) {
        let aside = aside_queue(&self.task_queue);
        loop {
            let asked = futures::future::try_join(
                Workers::of(&self.client, &self.task_queue),
                Workers::of(&self.client, &aside),
            );
            if let Ok((pages, aside)) = asked.await
                && self.sees(&pages, |seen| seen.workflows && seen.pages)
                && self.sees(&aside, |seen| seen.pages)
            {
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn sees(&self, workers: &Workers, polls: impl Fn(&WorkerSeen) -> bool) -> bool {
        let mine = self.client.identity();
        let mut seen = workers.polling.iter();
        seen.any(|worker| worker.identity == mine && polls(worker))
    }
}

/// A worker that runs in the background. Dropping it stops polling without waiting for its pages.
pub struct RunningWorker {
    background: Background<WorkerError>,
    abandonment: Abandonment,
    polls: Polls,
}

impl RunningWorker {
    fn spawn(runtime: Runtime, halves: Halves, polls: Polls) -> std::io::Result<Self> {
        let begin_stop: Arc<dyn Fn() + Send + Sync> = Arc::new(halves.stop());
        let stop = Arc::clone(&begin_stop);
        let abandonment = halves.abandonment.clone();
        let run = async move |(halves, _): &mut (Halves, Runtime)| halves.run(&*stop).await;
        let state = (halves, runtime);
        let failed = WorkerError::Run;
        Ok(Self {
            background: Background::spawn("temporal-batch-worker", begin_stop, state, run, failed)?,
            abandonment,
            polls,
        })
    }

    /// Resolves to true once the server knows that this worker polls for batches, pages and all other
    /// activities, so that a new batch will find it. Resolves to false if the worker is told to stop, or ends,
    /// before that.
    ///
    /// The server identifies workers by their [identity](crate::ConnectOptions::identity). If several workers
    /// on one queue have the same identity, the first of them answers for all.
    pub async fn polling(&self) -> bool {
        let mut stops = self.polls.stops.clone();
        tokio::select! {
            biased;
            // An error means that the worker is gone.
            _ = stops.wait_for(|stops| *stops) => false,
            () = self.polls.are_known() => true,
        }
    }

    /// Drains and stops: strides end at their next page boundary, and no new ones start.
    ///
    /// # Errors
    /// Pages had to be [abandoned](WorkerError::Abandoned), or the worker had already stopped with an error
    /// that [`ended`](Self::ended) has not returned.
    pub async fn stop(self) -> Result<(), WorkerError> {
        self.background.stop().await
    }

    /// Resolves when the worker has ended. Unless it is told to stop, it only ends with an error.
    ///
    /// # Errors
    /// The error that ended the worker. Only the first call returns it; later calls return `Ok` at once.
    pub async fn ended(&mut self) -> Result<(), WorkerError> {
        self.background.ended().await
    }
}

/// Resolves at the first SIGTERM or Ctrl-C.
///
/// # Errors
/// The program cannot listen for signals.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_pages_are_named_by_their_number() {
        let message = |pages| {
            let after = Duration::from_secs(35);
            WorkerError::Abandoned { pages, after }.to_string()
        };
        assert_eq!(
            message(1),
            "1 page was abandoned after 35s while still running; other workers will run it again"
        );
        assert!(message(7).starts_with("7 pages were abandoned"));
    }
}
