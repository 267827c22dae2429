//! The activities of a worker: strides of pages, and all others.
//!
//! | file | contents |
//! |---|---|
//! | here | the activity that runs a stride |
//! | `stride_host`, `memo_watch`, `throttle_gate` | the environment of a stride |
//! | `arguments` | arguments that an order refers to |
//! | `side` | all activities other than strides, which have their own slots |
//! | `heartbeats` | the signs of life of activities |
//! | `ended_workflows` | detecting workflows that have ended |
//! | `combining` | combining outputs of pages, on separate threads |
//! | `lock` | taking and releasing a named lock |
//! | `partitions` | reporting the partitions of a batch |
//! | `throttles` | reporting the verdicts of throttles to a batch |
//! | `waiting` | reporting to a batch what its preparation or check waits for |
//! | `abandon` | abandoning strides that do not end when the worker does |
//! | `user_threads` | threads that user code may block |

mod abandon;
mod arguments;
mod combining;
mod ended_workflows;
pub mod heartbeats;
mod lock;
mod memo_watch;
mod partitions;
mod side;
mod stride_host;
mod throttle_gate;
mod throttles;
mod user_threads;
mod waiting;

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
    base::error::{PageError, truncate},
    batch::retry::RetryMode,
    engine::controller::StrideActivity,
    metrics::{Metrics, StrideOutcome},
    page::token::PageToken,
    processor::throttle::Throttles,
    protocol::{Checkpoint, StrideOrder, StrideReport, UNKNOWN_PROCESSOR},
    stride::registry::Registry,
};
use side::retry;
use stride_host::{ActivityHost, Surroundings};
use throttle_gate::{AlwaysOpen, Gate, Throttled};

pub(crate) use abandon::Abandonment;
pub(crate) use heartbeats::HEARTBEATS_PER_TIMEOUT;
pub(crate) use memo_watch::ControlWatches;
pub(crate) use side::SideActivities;
pub(crate) use user_threads::UserThreads;

/// Maximum length of a token in a log line.
const MAX_TOKEN_CHARS: usize = 24;

/// The activity of the pages, with its dependencies.
pub(crate) struct PageActivities {
    pub registry: Registry,
    pub throttles: Throttles,
    pub metrics: Metrics,
    pub watches: Arc<ControlWatches>,
    pub draining: watch::Receiver<bool>,
    pub abandonment: Abandonment,
    pub threads: UserThreads,
}

#[temporalio_macros::activities]
impl PageActivities {
    /// Runs the pages of a stride. A failed page is part of a normal result. The activity itself fails only if
    /// the worker cannot do the work at all.
    #[activity(definition = StrideActivity)]
    async fn stride(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: StrideOrder,
    ) -> Result<StrideReport, ActivityError> {
        let workflow_run = ctx.info().workflow_run_id.as_deref();
        let span = span_of(&order, workflow_run.unwrap_or_default());
        let run = self.run(ctx, order).instrument(span);
        self.abandonment.unless_abandoned(run).await
    }
}

// The controller calls the activity by its definition, so this constant is otherwise unused.
const _: () = {
    let _ = PageActivities::stride;
};

impl PageActivities {
    /// Returns the gate of pages of a batch with these throttles.
    fn gate(&self, throttles: &[String]) -> Arc<dyn Gate> {
        if throttles.is_empty() {
            return Arc::new(AlwaysOpen);
        }
        // The throttles are polled on threads where they cannot block pages.
        let _beside = self.threads.enter();
        match Throttled::by(&self.throttles, throttles) {
            Ok(gate) => Arc::new(gate),
            Err(unknown) => {
                // Another worker polls this throttle for the batch, so the batch is held anyway.
                tracing::debug!(%unknown, "a throttle is unknown here; pages are not held by this worker");
                Arc::new(AlwaysOpen)
            }
        }
    }

    async fn run(
        &self,
        ctx: ActivityContext,
        mut order: StrideOrder,
    ) -> Result<StrideReport, ActivityError> {
        arguments::fetch(&ctx.client(), &mut order.args).await?;
        // The error is retryable, because another worker on the queue may have the processor.
        if let Some(lacks) = self
            .registry
            .lacks(&order.processor, &ctx.info().task_queue)
        {
            return Err(elsewhere(&lacks, ctx.info().attempt));
        }
        let processor = self.registry.of_batch(&order.processor, order.redrive);
        let processor = processor.map_err(|refused| retry(refused, UNKNOWN_PROCESSOR))?;
        let hint = if ctx.info().attempt > 1 {
            let hint = ctx.heartbeat_details().deserialize::<Checkpoint>();
            hint.ok().flatten().unwrap_or_default()
        } else {
            Checkpoint::default()
        };
        let resume = hint.done.clone();
        let metrics = self.metrics.for_processor(&order.processor);
        let settings = processor.settings();
        let (host, _attended) = ActivityHost::new(
            &ctx,
            &order,
            hint,
            Surroundings {
                metrics: metrics.clone(),
                draining: self.draining.clone(),
                control: self.watches.watch(&ctx.client(), &order),
                gate: self.gate(&order.throttles),
                may_repeat: settings.retry_mode == RetryMode::AtLeastOnce,
                permits: settings.permits,
            },
        );
        let (host, order) = (Arc::new(host), Arc::new(order));
        let started = Instant::now();
        tracing::debug!(
            start = shown(order.start.as_ref()),
            end = shown(order.end.as_ref()),
            "stride started"
        );
        let stride = {
            let (host, order) = (Arc::clone(&host), Arc::clone(&order));
            async move { processor.run(&order, resume, &*host).await }
        };
        let stride = self.threads.run(stride);
        let report = stride
            .ended(|trouble| host.gives_up(trouble).map(Some))
            .await;
        match report {
            Some(mut report) => {
                host.give_back_rates(&mut report);
                log_end(&order, &report, started.elapsed());
                metrics.stride_ended(outcome(&order, &report));
                Ok(report)
            }
            None => {
                tracing::info!("the batch run is gone; its stride ends");
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

/// Longest wait before another worker is asked for a processor that this one does not have.
const ASK_ELSEWHERE: Duration = Duration::from_secs(5);

/// Fails the attempt so that Temporal retries soon, on any worker of the queue.
fn elsewhere(lacks: &PageError, attempt: u32) -> ActivityError {
    let doubled = Duration::from_millis(100) * 2u32.pow(attempt.min(8));
    ActivityError::from(
        ApplicationFailure::builder(lacks.message().to_owned())
            .type_name(UNKNOWN_PROCESSOR.to_owned())
            .next_retry_delay(doubled.min(ASK_ELSEWHERE))
            .build(),
    )
}

/// Shortens a token for the log, because it may contain a key of user data.
fn shown(token: Option<&PageToken>) -> String {
    token.map_or_else(String::new, |token| {
        truncate(token.as_str(), MAX_TOKEN_CHARS)
    })
}

/// Returns the span of a stride. The attempt is a field of each page in it: a second one here would stand twice in a
/// line.
fn span_of(order: &StrideOrder, workflow_run: &str) -> tracing::Span {
    tracing::info_span!(
        "stride",
        batch = order.batch_id,
        batch_run = order.batch_run,
        processor = order.processor,
        stride = order.stride,
        workflow_run,
    )
}

/// Returns which attempt at its last page a failed stride made. Only the first page of a stride may have failed before.
fn attempt_of(order: &StrideOrder, report: &StrideReport) -> u32 {
    match report.covered_to {
        None => order.attempt,
        Some(_) => 1,
    }
}

fn log_end(order: &StrideOrder, report: &StrideReport, took: Duration) {
    match &report.failure {
        Some(failure) => tracing::warn!(
            error_type = failure.error_type,
            error = failure.message,
            retryable = failure.retryable,
            attempt = attempt_of(order, report),
            start = shown(report.covered_to.as_ref().or(order.start.as_ref())),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stride::tests::order;

    #[test]
    fn a_line_about_a_page_has_its_attempt_once() {
        let span = span_of(&order(), "run");
        assert!(span.has_field("stride"));
        assert!(!span.has_field("attempt"), "the span of the page has it");
    }

    #[test]
    fn a_failed_page_behind_finished_ones_was_attempted_once() {
        let order = StrideOrder {
            attempt: 3,
            ..order()
        };
        let mut report = StrideReport::default();
        assert_eq!(attempt_of(&order, &report), 3);
        report.covered_to = Some(PageToken::encode(&10).unwrap());
        assert_eq!(attempt_of(&order, &report), 1);
    }
}
