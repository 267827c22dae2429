//! The activities of a batcher's workers: writing batches, and telling requesters.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures::{FutureExt as _, StreamExt as _};
use temporal_batch::{PageError, Timestamp, of_crates::Heartbeats};
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowSignalOptions, errors::WorkflowInteractionError,
};
use temporalio_common::SignalDefinition;
use temporalio_sdk::{
    ApplicationFailure,
    activities::{ActivityContext, ActivityError},
};
use tokio::time::timeout;

use crate::{
    bisect::write_all,
    letters::letter,
    metrics::BatcherMetrics,
    protocol::{self, ConfirmOrder, ConfirmReport, WriteOrder, WriteReport},
    request::{Confirmation, Outcome},
    workflow::{ConfirmActivity, WriteActivity},
    writer::{AnyWriter, WriteContext, Written, wrong_count},
};

/// Signals to requesters that are under way at the same time.
const SIGNALS_AT_ONCE: usize = 16;

/// The activities with the writers of their worker.
pub(crate) struct BatcherActivities {
    pub writers: BTreeMap<&'static str, Arc<dyn AnyWriter>>,
    pub metrics: BatcherMetrics,
}

#[temporalio_macros::activities]
impl BatcherActivities {
    /// Writes a batch.
    #[activity(definition = WriteActivity)]
    async fn write(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: WriteOrder,
    ) -> Result<WriteReport, ActivityError> {
        let _heartbeats = Heartbeats::of(&ctx);
        let written = self.write_batch(&ctx, &order).await;
        written.map_err(|error| {
            tracing::warn!(
                batcher = order.batcher,
                batch_key = order.batch_key,
                attempt = ctx.info().attempt,
                error_type = error.error_type(),
                error = error.message(),
                "a batch was not written; it is tried again"
            );
            retry(&error)
        })
    }

    /// Tells requesters the outcomes of their requests. One that is gone does not keep the others from being told.
    #[activity(definition = ConfirmActivity)]
    async fn confirm(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: ConfirmOrder,
    ) -> Result<ConfirmReport, ActivityError> {
        let client = ctx.client();
        let told = futures::stream::iter(order.confirmations)
            .map(|(to, confirmation)| tell(&client, to, confirmation))
            .buffer_unordered(SIGNALS_AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        let mut report = ConfirmReport::default();
        let mut failed = Vec::new();
        for told in told {
            match told {
                Ok(true) => report.confirmed += 1,
                Ok(false) => report.gone += 1,
                Err(error) => failed.push(error),
            }
        }
        let retried = failed.len() as u64;
        match failed.pop() {
            None => {
                self.metrics.confirmed(&order.batcher, report, 0);
                Ok(report)
            }
            Some(error) => {
                let none = ConfirmReport::default();
                self.metrics.confirmed(&order.batcher, none, retried);
                let error = PageError::retryable(format_args!(
                    "{retried} requesters could not be told: {error}"
                ));
                Err(retry(&error.with_type("NotConfirmed")))
            }
        }
    }
}

// The workflow calls the activities by their definitions, so these constants are otherwise unused.
const _: () = {
    let _ = BatcherActivities::write;
    let _ = BatcherActivities::confirm;
};

impl BatcherActivities {
    async fn write_batch(
        &self,
        ctx: &ActivityContext,
        order: &WriteOrder,
    ) -> Result<WriteReport, PageError> {
        let Some(writer) = self.writers.get(order.writer.as_str()) else {
            let known: Vec<_> = self.writers.keys().collect();
            return Err(PageError::environment(format_args!(
                "the worker has no writer \"{}\"; it has {known:?}",
                order.writer
            ))
            .with_type("UnknownWriter"));
        };
        let attempt = ctx.info().attempt;
        let gives_up = attempt >= order.max_attempts;
        let began = Instant::now();
        let written = write_all(order.requests.len(), gives_up, |part| {
            write_part(&**writer, order, part, attempt)
        })
        .await;
        let stored = match written {
            Ok(written) => self
                .keep_letters(&**writer, order, &written, attempt)
                .await
                .map(|()| written),
            Err(error) => Err(error),
        };
        self.metrics.attempted(
            &order.batcher,
            began.elapsed().as_secs_f64(),
            stored.is_err(),
        );
        let outcomes: Vec<_> = stored?.iter().map(Outcome::from).collect();
        let now = Timestamp::from(SystemTime::now());
        let waits = order.received_at.iter();
        let waits: Vec<_> = waits.map(|at| now.since(*at).as_secs_f64()).collect();
        self.metrics.written(order, &outcomes, &waits);
        tracing::info!(
            batcher = order.batcher,
            shard = order.shard,
            batch_key = order.batch_key,
            requests = outcomes.len(),
            failed = outcomes.iter().filter(|outcome| !outcome.is_done()).count(),
            reason = order.reason.as_str(),
            "batch written"
        );
        Ok(WriteReport { outcomes })
    }

    /// Stores the requests that were given up. Nobody is told that a request has failed before its letter is stored.
    async fn keep_letters(
        &self,
        writer: &dyn AnyWriter,
        order: &WriteOrder,
        written: &[Written],
        attempts: u32,
    ) -> Result<(), PageError> {
        let mut letters = Vec::new();
        for (position, written) in written.iter().enumerate() {
            if let Written::Failed {
                error_type,
                message,
            } = written
            {
                letters.push(letter(order, position, (error_type, message), attempts)?);
            }
        }
        if letters.is_empty() {
            return Ok(());
        }
        writer.dead_letters().put(&letters).await
    }
}

/// Calls the writer for a part of a batch.
async fn write_part(
    writer: &dyn AnyWriter,
    order: &WriteOrder,
    part: std::ops::Range<usize>,
    attempt: u32,
) -> Result<Vec<Written>, PageError> {
    let requests = &order.requests[part.clone()];
    let batch_key = match part.len() == order.requests.len() {
        true => order.batch_key.clone(),
        false => format!("{}/{}-{}", order.batch_key, part.start, part.end),
    };
    let context = WriteContext {
        batch_key,
        batcher: order.batcher.clone(),
        attempt,
    };
    let writing = AssertUnwindSafe(writer.write(&context, requests)).catch_unwind();
    let written = match timeout(order.write_timeout, writing).await {
        Ok(Ok(written)) => written?,
        Ok(Err(panic)) => return Err(panicked(&*panic)),
        Err(_) => {
            let limit = order.write_timeout;
            let late = PageError::retryable(format_args!("the write took longer than {limit:?}"));
            return Err(late.with_type("WriteTimeout"));
        }
    };
    match written.len() == requests.len() {
        true => Ok(written),
        false => Err(wrong_count(written.len(), requests.len())),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> PageError {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    PageError::non_retryable(
        "Panic",
        text.unwrap_or_else(|| "the writer panicked".to_owned()),
    )
}

/// The signal that confirms a request, for a workflow of any type.
struct Confirmed;

impl SignalDefinition for Confirmed {
    type Workflow = UntypedWorkflow;
    type Input = Confirmation;

    fn name(&self) -> &str {
        protocol::CONFIRMED
    }
}

/// Tells a requester. Returns false if it is gone.
async fn tell(
    client: &Client,
    to: String,
    confirmation: Confirmation,
) -> Result<bool, WorkflowInteractionError> {
    // By its workflow id alone: the requester may have continued as new.
    let requester = client.get_workflow_handle::<UntypedWorkflow>(to);
    let options = WorkflowSignalOptions::default();
    match requester.signal(Confirmed, confirmation, options).await {
        Ok(()) => Ok(true),
        Err(WorkflowInteractionError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn retry(error: &PageError) -> ActivityError {
    let message: String = error.message().chars().take(1_000).collect();
    let failure = ApplicationFailure::builder(message).type_name(error.error_type().to_owned());
    ActivityError::from(match error.delay() {
        Some(delay) => failure.next_retry_delay(delay).build(),
        None => failure.build(),
    })
}
