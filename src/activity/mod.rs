//! The activities of a worker: looking up a processor, and running a stride of pages.

mod control_watch;
mod host;
mod quiet;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use temporalio_sdk::{
    ApplicationFailure,
    activities::{ActivityContext, ActivityError},
};
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::{
    controller::{HookActivity, KeepReportActivity, PrepareActivity, StrideActivity},
    error::PageError,
    hooks::{Hooks, UNKNOWN_HOOK},
    metrics::{Metrics, StrideOutcome},
    protocol::{
        Checkpoint, HookOrder, KeepReport, PrepareInput, Prepared, StrideOrder, StrideReport,
        UNKNOWN_PROCESSOR,
    },
    registry::Registry,
};
use control_watch::ControlWatches;
use host::ActivityHost;

/// Signs of life per heartbeat timeout.
pub(crate) const HEARTBEATS_PER_TIMEOUT: u32 = 5;

/// What a processor may take to say how large its data is.
const SIZE_HINT_TIMEOUT: Duration = Duration::from_secs(5);

/// The activities, with what they need.
pub(crate) struct PageActivities {
    registry: Registry,
    hooks: Hooks,
    metrics: Metrics,
    watches: Arc<ControlWatches>,
    draining: watch::Receiver<bool>,
}

impl PageActivities {
    pub fn new(
        registry: Registry,
        hooks: Hooks,
        metrics: Metrics,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            registry,
            hooks,
            metrics,
            watches: Arc::default(),
            draining,
        }
    }
}

#[temporalio_macros::activities]
impl PageActivities {
    /// Says what this worker knows of a processor, or why it refuses the batch.
    #[activity(definition = PrepareActivity)]
    async fn prepare(
        self: Arc<Self>,
        _ctx: ActivityContext,
        input: PrepareInput,
    ) -> Result<Prepared, ActivityError> {
        self.hooks.check(&input.hooks).map_err(refuse)?;
        let processor = self.registry.of_batch(&input.processor, input.redrive);
        let processor = processor.map_err(refuse)?;
        match tokio::time::timeout(SIZE_HINT_TIMEOUT, processor.prepare(&input)).await {
            Ok(prepared) => prepared.map_err(refuse),
            Err(_) => {
                tracing::warn!(processor = input.processor, "the size hint took too long");
                Ok(processor.prepared())
            }
        }
    }

    /// Runs the pages of a stride. A page that fails is part of a normal result; only a worker that
    /// cannot do the work at all fails the activity.
    #[activity(definition = StrideActivity)]
    async fn stride(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: StrideOrder,
    ) -> Result<StrideReport, ActivityError> {
        let span = tracing::info_span!(
            "stride",
            batch = order.batch_id,
            batch_run = order.batch_run,
            processor = order.processor,
            stride = order.stride,
            attempt = order.attempt,
            workflow_run = ctx.info().workflow_run_id.as_deref().unwrap_or_default(),
        );
        self.run(ctx, order).instrument(span).await
    }

    /// Calls a hook of the user's.
    #[activity(definition = HookActivity)]
    async fn hook(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: HookOrder,
    ) -> Result<(), ActivityError> {
        let called = self.hooks.call(&order.name, &order.call, order.timeout);
        let attempt = ctx.info().attempt;
        called.await.map_err(|error| {
            // Names come from batches; only registered ones become labels.
            let known = error.error_type() != UNKNOWN_HOOK;
            self.metrics
                .hook_failed(if known { &order.name } else { "unknown" });
            not_told(&order.name, attempt, error)
        })
    }

    /// Keeps the final report of a batch with its dead letters.
    #[activity(definition = KeepReportActivity)]
    async fn keep_report(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: KeepReport,
    ) -> Result<(), ActivityError> {
        let attempt = ctx.info().attempt;
        let failed = |error| not_told(&order.processor, attempt, error);
        let unknown = |refused| failed(PageError::retryable(refused));
        let processor = self.registry.of_batch(&order.processor, false);
        let processor = processor.map_err(unknown)?;
        processor.keep_report(&order.report).await.map_err(failed)
    }
}

/// The batch ends before its first page.
fn refuse(reason: impl std::error::Error + Send + Sync + 'static) -> ActivityError {
    ActivityError::from(
        ApplicationFailure::builder(reason)
            .type_name("Refused".to_owned())
            .non_retryable(true)
            .build(),
    )
}

/// Says what went wrong beside the pages. The controller tries again a few times and goes on.
fn not_told(name: &str, attempt: u32, error: PageError) -> ActivityError {
    tracing::warn!(
        name,
        attempt,
        error_type = error.error_type(),
        error = error.message(),
        "not told"
    );
    let error_type = error.error_type().to_owned();
    ActivityError::from(
        ApplicationFailure::builder(error.message().to_owned())
            .type_name(error_type)
            .build(),
    )
}

// The controller calls the activities by their definitions, so nobody else needs these constants.
const _: () = {
    let _ = (PageActivities::prepare, PageActivities::stride);
    let _ = (PageActivities::hook, PageActivities::keep_report);
};

impl PageActivities {
    async fn run(
        &self,
        ctx: ActivityContext,
        order: StrideOrder,
    ) -> Result<StrideReport, ActivityError> {
        // Retryable: another worker on the queue may know it.
        let processor = self.registry.of_batch(&order.processor, order.redrive);
        let processor = processor.map_err(|refused| {
            ActivityError::from(
                ApplicationFailure::builder(refused)
                    .type_name(UNKNOWN_PROCESSOR.to_owned())
                    .build(),
            )
        })?;
        let resume = if ctx.info().attempt > 1 {
            let hint = ctx.heartbeat_details().deserialize::<Checkpoint>();
            hint.ok().flatten().unwrap_or_default().done
        } else {
            StrideReport::default()
        };
        let metrics = self.metrics.for_processor(&order.processor);
        let host = ActivityHost::new(
            &ctx,
            &order,
            resume.clone(),
            metrics.clone(),
            self.draining.clone(),
            &self.watches,
        );
        let started = Instant::now();
        tracing::debug!(start = ?order.start, end = ?order.end, "stride started");
        let report = processor.run(&order, resume, &host).await;
        match report {
            Ok(report) => {
                log_end(&order, &report, started.elapsed());
                metrics.stride_ended(outcome(&order, &report));
                Ok(report)
            }
            Err(_) => {
                tracing::info!("the batch run is gone; nothing more is done for it");
                metrics.stride_ended(StrideOutcome::Yielded);
                Err(ActivityError::from(
                    ApplicationFailure::builder("the batch run is gone")
                        .type_name("BatchRunGone".to_owned())
                        .non_retryable(true)
                        .build(),
                ))
            }
        }
    }
}

fn outcome(order: &StrideOrder, report: &StrideReport) -> StrideOutcome {
    if report.failure.is_some() {
        StrideOutcome::Failed
    } else if report.end_of_data
        || (order.end.is_some() && report.covered_to == order.end)
        || (order.end.is_none() && report.pages >= order.pages)
    {
        StrideOutcome::Completed
    } else {
        StrideOutcome::Yielded
    }
}

fn log_end(order: &StrideOrder, report: &StrideReport, took: Duration) {
    match &report.failure {
        Some(failure) => tracing::warn!(
            error_type = failure.error_type,
            error = failure.message,
            retryable = failure.retryable,
            start = ?report.covered_to.as_ref().or(order.start.as_ref()),
            "page failed"
        ),
        None => tracing::debug!(
            pages = report.pages,
            items = report.items.total(),
            took_ms = took.as_millis(),
            "stride ended"
        ),
    }
}
