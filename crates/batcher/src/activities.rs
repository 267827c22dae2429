//! The activities of a batcher's workers: writing batches, and telling requesters.
//!
//! | file | content |
//! |---|---|
//! | here | writing |
//! | `confirm` | telling requesters |
//! | `progress` | what an attempt leaves to the next one |

mod confirm;
mod progress;

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::{Instant, SystemTime},
};

use futures::FutureExt as _;
use temporal_batch::{
    PageError, Timestamp,
    of_crates::{Heartbeats, is_of_the_moment},
};
use temporalio_sdk::{
    ApplicationFailure,
    activities::{ActivityContext, ActivityError},
};
use tokio::time::timeout;

use crate::{
    bisect::write_all,
    letters::letter,
    metrics::BatcherMetrics,
    protocol::{ConfirmOrder, ConfirmReport, WriteOrder, WriteReport},
    request::Outcome,
    workflow::{ConfirmActivity, WriteActivity},
    writer::{AnyWriter, WriteContext, Written, wrong_count},
};
use confirm::{PAUSES, confirm_all, tell};
use progress::Progress;

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
        let mut failures = Progress::of(&ctx).failures;
        let heartbeats = Heartbeats::with(&ctx, move || Progress::failed(failures));
        let written = self.write_batch(&ctx, &order, failures + 1).await;
        drop(heartbeats);
        let error = match written {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        if !is_of_the_moment(&error) {
            failures += 1;
        }
        tracing::warn!(
            batcher = order.batcher,
            batch_key = order.batch_key,
            attempt = ctx.info().attempt,
            failures,
            error_type = error.error_type(),
            error = error.message(),
            "a batch was not written; it is tried again"
        );
        // The failure takes the last details along, and the next attempt reads them.
        if let Err(error) = ctx.record_heartbeat(Progress::failed(failures)).await {
            tracing::warn!(%error, "the failures of a batch were not noted");
        }
        Err(retry(&error))
    }

    /// Tells requesters the outcomes of their requests. One that is gone does not keep the others from being told.
    #[activity(definition = ConfirmActivity)]
    async fn confirm(
        self: Arc<Self>,
        ctx: ActivityContext,
        order: ConfirmOrder,
    ) -> Result<ConfirmReport, ActivityError> {
        let progress = Progress::of(&ctx);
        let client = ctx.client();
        let told = Arc::new(Mutex::new(progress.told));
        let _heartbeats = Heartbeats::with(&ctx, {
            let told = Arc::clone(&told);
            move || Progress::told(&told)
        });
        let report = confirm_all(
            &order.confirmations,
            &told,
            &PAUSES,
            |(to, confirmation)| tell(&client, to.clone(), confirmation.clone()),
        )
        .await;
        self.metrics.confirmed(&order.batcher, &report);
        Ok(report)
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
        attempts: u32,
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
        let gives_up = attempts >= order.max_attempts;
        let began = Instant::now();
        let written = write_all(order.requests.len(), gives_up, |part| {
            write_part(&**writer, order, part, attempt)
        })
        .await;
        let stored = match written {
            Ok(written) => self
                .keep_letters(&**writer, order, &written, attempts)
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
        let store = writer.dead_letters();
        let limit = order.write_timeout;
        timeout(limit, store.put(&letters))
            .await
            .unwrap_or_else(|_| {
                let late = format_args!("the dead letters took longer than {limit:?}");
                Err(PageError::environment(late).with_type("WriteTimeout"))
            })
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

fn retry(error: &PageError) -> ActivityError {
    let message: String = error.message().chars().take(1_000).collect();
    let failure = ApplicationFailure::builder(message).type_name(error.error_type().to_owned());
    ActivityError::from(match error.delay() {
        Some(delay) => failure.next_retry_delay(delay).build(),
        None => failure.build(),
    })
}
