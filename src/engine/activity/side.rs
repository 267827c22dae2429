//! The activities other than strides. They have their own task queue and slots, so that pages which occupy
//! every slot of a worker do not delay them.

use std::{sync::Arc, time::Duration};

use temporalio_sdk::{
    ApplicationFailure,
    activities::{ActivityContext, ActivityError},
};
use tokio::sync::watch;

use super::{
    arguments, combining::Combining, elsewhere, ended_workflows, heartbeats::Heartbeats, lock,
    memo_watch::ControlWatches, partitions, throttles, user_threads::UserThreads,
    waiting::WaitTeller,
};
use crate::{
    base::{
        error::{MAX_MESSAGE_CHARS, PageError, truncate},
        text::exactly,
    },
    decisions::pacing::Openings,
    engine::controller::{
        CheckActivity, CombineActivity, HookActivity, KeepReportActivity, LockActivity,
        PartitionsActivity, PrepareActivity, SplitActivity, ThrottleActivity, UnlockActivity,
        WatchWorkflowsActivity, WindowsActivity,
    },
    metrics::Metrics,
    processor::{
        hooks::{Hooks, UNKNOWN_HOOK},
        stop_signal::{Interruption, StopSignal},
        throttle::Throttles,
        waiting,
    },
    progress::check::Check,
    protocol::{
        ASIDE_SUFFIX, CheckAnswer, CheckOrder, CombineOrder, Combined, HookOrder, KeepReport,
        LockOrder, PartitionsOrder, PrepareInput, Prepared, REFUSED, SplitAnswer, SplitOrder,
        ThrottleOrder, UNKNOWN_PROCESSOR, WaitsFor, WatchOrder, WindowsOrder,
    },
    stride::registry::{NotPrepared, Registry},
};

/// Time that a check gets to end after it was told to.
const CHECK_GRACE: Duration = Duration::from_secs(5);

/// Number of workers that are asked for a processor before the batch reports that it waits for one. Two
/// programs may share a queue.
const ASKED_OFTEN: u32 = 4;

/// The activities other than strides, with their dependencies.
pub(crate) struct SideActivities {
    registry: Registry,
    hooks: Hooks,
    throttles: Throttles,
    metrics: Metrics,
    watches: Arc<ControlWatches>,
    draining: watch::Receiver<bool>,
    threads: UserThreads,
    combining: Combining,
}

impl SideActivities {
    pub fn new(
        registry: Registry,
        hooks: Hooks,
        throttles: Throttles,
        metrics: Metrics,
        watches: Arc<ControlWatches>,
        draining: watch::Receiver<bool>,
        threads: UserThreads,
    ) -> Self {
        Self {
            registry,
            hooks,
            throttles,
            metrics,
            watches,
            draining,
            threads,
            combining: Combining::default(),
        }
    }
}

#[temporalio_macros::activities]
impl SideActivities {
    /// Describes a processor or refuses the batch, and has the processor complete the arguments, which may take
    /// long.
    #[activity(definition = PrepareActivity)]
    async fn prepare(
        self: Arc<Self>,
        ctx: ActivityContext,
        mut input: PrepareInput,
    ) -> Result<Prepared, ActivityError> {
        arguments::fetch(&ctx.client(), &mut input.args).await?;
        let batch = (input.batch_id.clone(), input.batch_run.clone());
        let news = WaitTeller::of(&ctx, (&batch.0, &batch.1), WaitsFor::Prepare);
        // The processor is checked first: a worker without it is another program, with other hooks.
        if let Some(lacks) = self.registry.lacks(&input.processor, queue_of(&ctx)) {
            let attempt = ctx.info().attempt;
            if attempt >= ASKED_OFTEN {
                news.tell_unknown(&lacks).await;
            }
            return Err(elsewhere(&lacks, attempt));
        }
        self.hooks.check(&input.hooks).map_err(refuse)?;
        self.throttles.check(&input.throttles).map_err(refuse)?;
        let (says, doing) = watch::channel(None);
        let preparing = async {
            let registry = self.registry.clone();
            let name = format!("prepare {}", input.processor);
            let prepared = self.threads.beside(&name, async move {
                waiting::told(says, registry.prepare(&input)).await
            });
            match prepared.await.map_err(NotPrepared::Retry).flatten() {
                Ok(prepared) => Ok(prepared),
                Err(NotPrepared::Refused(refused)) => Err(refuse(refused)),
                Err(NotPrepared::Retry(error)) => {
                    news.tell_error(&error).await;
                    Err(retry(error.message().to_owned(), error.error_type()))
                }
            }
        };
        tokio::select! {
            biased;
            prepared = preparing => prepared,
            never = news.tell_of_wait(doing) => match never {},
            () = ctx.cancelled() => Err(ActivityError::cancelled()),
            () = self.stops(&ctx) => Err(retry(STOPS, WORKER_STOPS)),
        }
    }

    /// Calls a hook of the user. A worker that is ending does not wait for it.
    #[activity(definition = HookActivity)]
    async fn hook(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: HookOrder,
    ) -> Result<(), ActivityError> {
        let attempt = ctx.info().attempt;
        let order = Arc::new(order);
        let calling = {
            let (hooks, order) = (self.hooks.clone(), Arc::clone(&order));
            async move { hooks.call(&order.name, &order.call).await }
        };
        let name = format!("hook {}", order.name);
        let calling = self.threads.beside(&name, calling);
        let called = tokio::select! {
            called = tokio::time::timeout(order.timeout, calling) => match called {
                Ok(called) => called.flatten(),
                Err(_) => {
                    let limit = order.timeout;
                    let late = PageError::retryable(format_args!("not done after {}", exactly(limit)));
                    Err(late.with_type("HookTimeout"))
                }
            },
            () = ctx.cancelled() => Err(PageError::retryable(STOPS).with_type(WORKER_STOPS)),
        };
        called.map_err(|error| {
            // Names come from batches, so only registered ones become labels.
            let known = error.error_type() != UNKNOWN_HOOK;
            self.metrics
                .hook_failed(if known { &order.name } else { "unknown" });
            not_told(&order.name, attempt, error)
        })
    }

    /// Stores the final report of a batch with its dead letters.
    #[activity(definition = KeepReportActivity)]
    async fn keep_report(
        self: Arc<Self>,
        ctx: ActivityContext,
        mut order: KeepReport,
    ) -> Result<(), ActivityError> {
        arguments::fetch(&ctx.client(), &mut order.args).await?;
        let attempt = ctx.info().attempt;
        let failed = |error| not_told(&order.processor, attempt, error);
        let unknown = |refused| failed(PageError::retryable(refused));
        let processor = self.registry.of_batch(&order.processor, false);
        let processor = processor.map_err(unknown)?;
        let name = format!("keep the report of {}", order.processor);
        let (args, report) = (order.args.clone(), order.report.clone());
        let keeping = async move { processor.keep_report(&args, &report).await };
        let kept = self.threads.beside(&name, keeping).await;
        kept.flatten().map_err(failed)
    }

    /// Has the processor check the work done, which may take long.
    #[activity(definition = CheckActivity)]
    async fn check(
        self: Arc<Self>,
        ctx: ActivityContext,
        mut order: CheckOrder,
    ) -> Result<CheckAnswer, ActivityError> {
        arguments::fetch(&ctx.client(), &mut order.args).await?;
        let batch = (order.batch_id.clone(), order.batch_run.clone());
        let news = WaitTeller::of(&ctx, (&batch.0, &batch.1), WaitsFor::Check);
        let (told, interruption) = watch::channel(StopSignal::default());
        let (_says, doing) = watch::channel(None);
        let checking = async {
            // Another worker may have the processor.
            let processor = self.registry.of_batch(&order.processor, order.redrive);
            let processor = processor.map_err(|unknown| retry(unknown, UNKNOWN_PROCESSOR))?;
            let interruption = Interruption::new(interruption, false);
            let name = format!("check of {}", order.processor);
            let check = async move { processor.check(&order, interruption).await };
            match self.threads.beside(&name, check).await.flatten() {
                Ok(found) => Ok(CheckAnswer {
                    found: found.map(Check::shortened),
                }),
                Err(error) if error.is_retryable() => {
                    news.tell_error(&error).await;
                    Err(retry(error.message().to_owned(), error.error_type()))
                }
                Err(error) => Err(for_good(&error)),
            }
        };
        let mut checking = std::pin::pin!(checking);
        let ended = tokio::select! {
            biased;
            answer = &mut checking => return answer,
            never = news.tell_of_wait(doing) => match never {},
            () = ctx.cancelled() => ActivityError::cancelled(),
            () = self.stops(&ctx) => retry(STOPS, WORKER_STOPS),
        };
        told.send_modify(|told| told.cancelled = true);
        // The check may finish what it has started, but its answer is no longer needed.
        let _ = tokio::time::timeout(CHECK_GRACE, checking).await;
        Err(ended)
    }

    /// Combines outputs of pages. Errors are permanent, except for code that does not return, and for a worker
    /// with different code.
    #[activity(definition = CombineActivity)]
    async fn combine(
        self: Arc<Self>,
        ctx: ActivityContext,
        mut order: CombineOrder,
    ) -> Result<Combined, ActivityError> {
        arguments::fetch(&ctx.client(), &mut order.args).await?;
        let processor = self.registry.of_batch(&order.processor, false);
        let processor = processor.map_err(|unknown| retry(unknown, UNKNOWN_PROCESSOR))?;
        let name = order.processor.clone();
        let workflow = ctx.info().workflow_id.clone().unwrap_or_default();
        let combining = self
            .combining
            .run((&name, &workflow), move || processor.combine(order));
        let combined = tokio::select! {
            combined = combining => combined,
            () = self.stops(&ctx) => return Err(retry(STOPS, WORKER_STOPS)),
        };
        match combined {
            Ok(part) => Ok(Combined { part }),
            Err(error) if error.is_retryable() => {
                Err(retry(error.message().to_owned(), error.error_type()))
            }
            Err(error) => Err(for_good(&error)),
        }
    }

    /// Reports the verdicts of its throttles to the batch, while both the batch and this worker run.
    #[activity(definition = ThrottleActivity)]
    async fn throttle(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: ThrottleOrder,
    ) -> Result<(), ActivityError> {
        let _heartbeats = Heartbeats::of(&ctx);
        let client = ctx.client();
        let told = async {
            let monitor = {
                // The throttles are polled on threads where they cannot block pages.
                let _beside = self.threads.enter();
                self.throttles.monitor(&order.throttles)
            };
            match monitor {
                Ok(monitor) => throttles::relay(&client, &order, monitor).await,
                Err(unknown) => throttles::relay_unknown(&client, &order, &unknown).await,
            }
        };
        tokio::select! {
            told = told => told,
            never = throttles::observe(&client, &order, &self.metrics) => match never {},
            () = self.stops(&ctx) => Ok(()),
        }
    }

    /// Reports the progress of its partitions to the batch, while both the batch and this worker run.
    #[activity(definition = PartitionsActivity)]
    async fn partitions(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: PartitionsOrder,
    ) -> Result<(), ActivityError> {
        let _heartbeats = Heartbeats::of(&ctx);
        let client = ctx.client();
        tokio::select! {
            told = partitions::relay(&client, &order, &self.watches) => told,
            () = self.stops(&ctx) => Ok(()),
        }
    }

    /// Asks the processor where to split a range.
    #[activity(definition = SplitActivity)]
    async fn split(
        self: Arc<Self>,
        ctx: ActivityContext,
        mut order: SplitOrder,
    ) -> Result<SplitAnswer, ActivityError> {
        arguments::fetch(&ctx.client(), &mut order.args).await?;
        let _heartbeats = Heartbeats::of(&ctx);
        // Another worker may have the processor.
        let processor = self.registry.of_batch(&order.processor, false);
        let processor = processor.map_err(|unknown| retry(unknown, UNKNOWN_PROCESSOR))?;
        let name = format!("split of {}", order.processor);
        let splitting = async move { processor.split(&order).await };
        tokio::select! {
            at = self.threads.beside(&name, splitting) => match at.flatten() {
                Ok(at) => Ok(SplitAnswer { at }),
                Err(error) => Err(split_failed(&error)),
            },
            () = self.stops(&ctx) => Err(retry(STOPS, WORKER_STOPS)),
        }
    }

    /// Computes when operating windows open and close.
    #[activity(definition = WindowsActivity)]
    async fn windows(
        self: Arc<Self>,
        _ctx: ActivityContext,
        order: WindowsOrder,
    ) -> Result<Openings, ActivityError> {
        for window in &order.windows {
            // The error is retryable, because another worker may have newer time zone data.
            let known = window.validate();
            known.map_err(|unknown| retry(unknown, UNKNOWN_WINDOW))?;
        }
        Ok(Openings::of(&order.windows, order.from))
    }

    /// Takes a named lock for a batch, waiting for it if the order says so.
    #[activity(definition = LockActivity)]
    async fn lock(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: LockOrder,
    ) -> Result<(), ActivityError> {
        let _heartbeats = Heartbeats::of(&ctx);
        let client = ctx.client();
        tokio::select! {
            biased;
            taken = lock::take(&client, &order, &ctx.info().task_queue) => taken,
            () = ctx.cancelled() => Err(ActivityError::cancelled()),
            () = self.stops(&ctx) => Err(retry(STOPS, WORKER_STOPS)),
        }
    }

    /// Releases a named lock if the batch holds it.
    #[activity(definition = UnlockActivity)]
    async fn unlock(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: LockOrder,
    ) -> Result<(), ActivityError> {
        lock::give_back(&ctx.client(), &order).await
    }

    /// Waits until workflows have ended, and returns those.
    #[activity(definition = WatchWorkflowsActivity)]
    async fn watch_workflows(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: WatchOrder,
    ) -> Result<Vec<String>, ActivityError> {
        let _heartbeats = Heartbeats::of(&ctx);
        let client = ctx.client();
        tokio::select! {
            biased;
            gone = ended_workflows::gone(&client, &order) => Ok(gone),
            () = ctx.cancelled() => Err(ActivityError::cancelled()),
            () = self.stops(&ctx) => Err(retry(STOPS, WORKER_STOPS)),
        }
    }
}

// The controller calls the activities by their definitions, so these constants are otherwise unused.
const _: () = {
    let _ = (SideActivities::prepare, SideActivities::hook);
    let _ = (SideActivities::keep_report, SideActivities::throttle);
    let _ = (SideActivities::check, SideActivities::combine);
    let _ = (SideActivities::partitions, SideActivities::split);
    let _ = (
        SideActivities::lock,
        SideActivities::unlock,
        SideActivities::windows,
        SideActivities::watch_workflows,
    );
};

/// The error type of a window whose zone is missing in the time zone data.
const UNKNOWN_WINDOW: &str = "UnknownTimeZone";
const WORKER_STOPS: &str = "WorkerStops";
const STOPS: &str = "its worker is stopping";

/// The task queue of the pages.
fn queue_of(ctx: &ActivityContext) -> &str {
    let own = &ctx.info().task_queue;
    own.strip_suffix(ASIDE_SUFFIX).unwrap_or(own)
}

impl SideActivities {
    /// Resolves when the worker drains, or when the activity is told to end.
    async fn stops(&self, ctx: &ActivityContext) {
        let mut draining = self.draining.clone();
        tokio::select! {
            // A worker that is gone closes the channel, which also resolves this.
            _ = draining.wait_for(|draining| *draining) => {}
            () = ctx.cancelled() => {}
        }
    }
}

/// The error that ends a batch before its first page.
fn refuse(reason: impl std::error::Error + Send + Sync + 'static) -> ActivityError {
    ActivityError::from(
        ApplicationFailure::builder(reason)
            .type_name(REFUSED.to_owned())
            .non_retryable(true)
            .build(),
    )
}

/// An error that is not retried.
fn for_good(error: &PageError) -> ActivityError {
    ActivityError::from(
        ApplicationFailure::builder(truncate(error.message(), MAX_MESSAGE_CHARS))
            .type_name(error.error_type().to_owned())
            .non_retryable(true)
            .build(),
    )
}

/// The error of a partition that cannot be split, which continues as it is.
fn split_failed(error: &PageError) -> ActivityError {
    let (message, error_type) = (error.message().to_owned(), error.error_type());
    tracing::warn!(
        error_type,
        error = message,
        "no place to split the partition"
    );
    ActivityError::from(
        ApplicationFailure::builder(truncate(&message, MAX_MESSAGE_CHARS))
            .type_name(error_type.to_owned())
            .non_retryable(!error.is_retryable())
            .build(),
    )
}

/// An error after which Temporal retries, here or on another worker.
pub(super) fn retry(
    reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    error_type: &str,
) -> ActivityError {
    let message = reason.into().to_string();
    ActivityError::from(
        ApplicationFailure::builder(message)
            .type_name(error_type.to_owned())
            .build(),
    )
}

/// Logs a failed call that is not part of a page. The controller retries it a few times and then continues
/// without it.
fn not_told(name: &str, attempt: u32, error: PageError) -> ActivityError {
    tracing::warn!(
        name,
        attempt,
        error_type = error.error_type(),
        error = error.message(),
        "call failed"
    );
    retry(error.message().to_owned(), error.error_type())
}
