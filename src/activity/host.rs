//! The outside world of a stride that runs as an activity.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use temporalio_client::{
    Client, WorkflowHandle, WorkflowQueryOptions, WorkflowSignalOptions,
    errors::{WorkflowInteractionError, WorkflowQueryError},
};
use temporalio_sdk::activities::ActivityContext;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    HEARTBEATS_PER_TIMEOUT,
    control_watch::{ControlWatch, ControlWatches},
};
use crate::{
    controller::Controller,
    metrics::{PageInFlight, ProcessorMetrics},
    page::PageToken,
    protocol::{AcceptedEnd, AcceptedEndQuery, Checkpoint, NextPage, StrideOrder, StrideReport},
    rate::RateShare,
    stride::{HostError, PageEvent, StrideHost},
};

/// Longest wait for the controller to say where a stride ends.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
const FALLBACK_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) struct ActivityHost {
    controller: WorkflowHandle<Client, Controller>,
    batch_run: String,
    stride: u64,
    repeat: bool,
    rate: Option<RateShare>,
    metrics: ProcessorMetrics,
    checkpoint: Arc<Mutex<StrideReport>>,
    cancelled: watch::Receiver<bool>,
    draining: watch::Receiver<bool>,
    control: ControlWatch,
    in_flight: Mutex<Option<PageInFlight>>,
    heartbeats: JoinHandle<()>,
}

impl ActivityHost {
    pub fn new(
        ctx: &ActivityContext,
        order: &StrideOrder,
        resume: StrideReport,
        metrics: ProcessorMetrics,
        draining: watch::Receiver<bool>,
        watches: &Arc<ControlWatches>,
    ) -> Self {
        // The activity's own handle is pinned to one run; the batch may continue as new at any time.
        let client = ctx.client();
        let controller = client.get_workflow_handle::<Controller>(order.batch_id.clone());
        let checkpoint = Arc::new(Mutex::new(resume));
        let (cancel, cancelled) = watch::channel(false);
        let heartbeats = tokio::spawn(heartbeat(ctx.clone(), Arc::clone(&checkpoint), cancel));
        Self {
            control: watches.watch(&client, order),
            controller,
            batch_run: order.batch_run.clone(),
            stride: order.stride,
            repeat: ctx.info().attempt > 1 || order.attempt > 1,
            rate: order.rate_share.map(RateShare::new),
            metrics,
            checkpoint,
            cancelled,
            draining,
            in_flight: Mutex::new(None),
            heartbeats,
        }
    }
}

impl Drop for ActivityHost {
    fn drop(&mut self) {
        self.heartbeats.abort();
    }
}

/// Sends signs of life beside the user's code, and passes a cancellation on.
async fn heartbeat(
    ctx: ActivityContext,
    checkpoint: Arc<Mutex<StrideReport>>,
    cancel: watch::Sender<bool>,
) {
    let timeout = ctx
        .info()
        .heartbeat_timeout
        .unwrap_or(FALLBACK_HEARTBEAT_TIMEOUT);
    let mut tick = tokio::time::interval(timeout / HEARTBEATS_PER_TIMEOUT);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let done = lock(&checkpoint).clone();
                if let Err(error) = ctx.record_heartbeat(Checkpoint { done }).await {
                    tracing::warn!(%error, "heartbeat not sent");
                }
            }
            () = ctx.cancelled(), if !*cancel.borrow() => {
                tracing::debug!("told to stop at the end of the page");
                cancel.send_replace(true);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl StrideHost for ActivityHost {
    async fn announce(&self, starts: &[PageToken]) -> Result<(), HostError> {
        let next = NextPage {
            batch_run: self.batch_run.clone(),
            stride: self.stride,
            starts: starts.to_vec(),
        };
        let options = WorkflowSignalOptions::default();
        let sent = self
            .controller
            .signal(Controller::next_page, next, options)
            .await;
        self.metrics.announced();
        sent.map_err(|error| match error {
            WorkflowInteractionError::NotFound(_) => HostError::Gone,
            other => HostError::Unavailable(format!("the next page was not announced: {other}")),
        })
    }

    fn is_repeat(&self) -> bool {
        self.repeat
    }

    async fn accepted_end(&self) -> Result<AcceptedEnd, HostError> {
        let query = AcceptedEndQuery {
            batch_run: self.batch_run.clone(),
            stride: self.stride,
        };
        let options = WorkflowQueryOptions::default();
        let answer = self
            .controller
            .query(Controller::accepted_end, query, options);
        match tokio::time::timeout(QUERY_TIMEOUT, answer).await {
            Ok(Ok(accepted)) => Ok(accepted),
            Ok(Err(WorkflowQueryError::NotFound(_))) => Err(HostError::Gone),
            Ok(Err(error)) => Err(HostError::Unavailable(format!(
                "the controller did not say where the stride ends: {error}"
            ))),
            Err(_) => Err(HostError::Unavailable(format!(
                "the controller did not say within {QUERY_TIMEOUT:?} where the stride ends"
            ))),
        }
    }

    async fn rate_permits(&self, items: usize) {
        if let Some(rate) = &self.rate {
            let started = Instant::now();
            rate.take(items).await;
            self.metrics.rate_waited(started.elapsed());
        }
    }

    fn checkpoint(&self, report: &StrideReport) {
        lock(&self.checkpoint).clone_from(report);
    }

    fn should_stop(&self) -> bool {
        *self.cancelled.borrow() || *self.draining.borrow() || self.control.should_stop()
    }

    fn cancelled(&self) -> watch::Receiver<bool> {
        self.cancelled.clone()
    }

    fn observe(&self, event: PageEvent) {
        match event {
            PageEvent::Started { attempt } => {
                *lock(&self.in_flight) = Some(self.metrics.page_started());
                if attempt > 1 {
                    self.metrics.page_retried();
                }
            }
            PageEvent::Completed { took, items } => {
                lock(&self.in_flight).take();
                let (processed, skipped) = (items.processed, items.skipped);
                self.metrics
                    .page_completed(took, processed, skipped, items.failed);
            }
            PageEvent::Failed { took } => {
                lock(&self.in_flight).take();
                self.metrics.page_failed(took);
            }
            PageEvent::NoPage => {
                lock(&self.in_flight).take();
            }
        }
    }
}
