//! The outside world of a stride that runs as an activity.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowHandle, WorkflowQueryOptions, WorkflowSignalOptions,
    errors::{WorkflowInteractionError, WorkflowQueryError},
};
use temporalio_sdk::activities::ActivityContext;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    HEARTBEATS_PER_TIMEOUT,
    control_watch::{ControlWatch, ControlWatches},
    quiet::is_quiet,
};
use crate::{
    controller::Controller,
    metrics::{PageInFlight, ProcessorMetrics},
    page::PageToken,
    protocol::{AcceptedEnd, AcceptedEndQuery, Checkpoint, NextPage, StrideOrder, StrideReport},
    rate::RateShare,
    stride::{HostError, PageEvent, StrideHost},
};

/// Longest wait for one answer. Asked again, because a worker that is stopped in its tracks swallows the
/// questions that it was polling for.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the controller to say where a stride ends.
const ASK_FOR: Duration = Duration::from_secs(30);
/// How soon to look again whether the controller can be asked.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
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
    attendance: Arc<Mutex<Attendance>>,
    /// Which attempt this is to Temporal: the run, the activity and the number.
    identity: Identity,
    heartbeats: JoinHandle<()>,
}

struct Identity {
    run_id: String,
    activity_id: String,
    /// Tells attempts apart also when the controller has dispatched the stride again: their numbers begin
    /// anew then.
    started: Option<SystemTime>,
}

/// Whether this process was asleep, and for how long: a virtual machine that was moved, a stopped process.
/// After a heartbeat timeout Temporal gives its work to another worker.
struct Attendance {
    last_seen: Instant,
    timeout: Duration,
    overslept: bool,
}

impl Attendance {
    /// A task can be taken by a process that is stopped before it can begin with it: `started` is when the
    /// server gave it away. If the clocks differ, that only costs a question.
    fn new(timeout: Duration, started: Option<SystemTime>) -> Self {
        let age = started.and_then(|started| started.elapsed().ok());
        Self {
            last_seen: Instant::now(),
            timeout,
            overslept: age.is_some_and(|age| age > timeout),
        }
    }

    fn notice(&mut self) -> bool {
        self.overslept |= self.last_seen.elapsed() > self.timeout;
        self.last_seen = Instant::now();
        self.overslept
    }
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
        let info = ctx.info();
        let timeout = info.heartbeat_timeout.unwrap_or(FALLBACK_HEARTBEAT_TIMEOUT);
        let attendance = Arc::new(Mutex::new(Attendance::new(timeout, info.started_time)));
        let identity = Identity {
            run_id: info.workflow_run_id.clone().unwrap_or_default(),
            activity_id: info.activity_id.clone(),
            started: info.started_time,
        };
        let beats = heartbeat(
            ctx.clone(),
            timeout,
            Arc::clone(&checkpoint),
            Arc::clone(&attendance),
            cancel,
        );
        let heartbeats = tokio::spawn(beats);
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
            attendance,
            identity,
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
    timeout: Duration,
    checkpoint: Arc<Mutex<StrideReport>>,
    attendance: Arc<Mutex<Attendance>>,
    cancel: watch::Sender<bool>,
) {
    let mut tick = tokio::time::interval(timeout / HEARTBEATS_PER_TIMEOUT);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                lock(&attendance).notice();
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
        let asking = Instant::now();
        while asking.elapsed() < ASK_FOR {
            match is_quiet(&self.controller).await {
                Ok(true) => {}
                Err(WorkflowInteractionError::NotFound(_)) => return Err(HostError::Gone),
                Ok(false) | Err(_) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            }
            let options = WorkflowQueryOptions::default();
            let query = query.clone();
            let answer = self
                .controller
                .query(Controller::accepted_end, query, options);
            match tokio::time::timeout(QUERY_TIMEOUT, answer).await {
                Ok(Ok(accepted)) => return Ok(accepted),
                Ok(Err(WorkflowQueryError::NotFound(_))) => return Err(HostError::Gone),
                Ok(Err(error)) => {
                    return Err(HostError::Unavailable(format!(
                        "the controller did not say where the stride ends: {error}"
                    )));
                }
                Err(_) => {}
            }
        }
        Err(HostError::Unavailable(format!(
            "the controller did not say within {ASK_FOR:?} where the stride ends"
        )))
    }

    async fn still_counts(&self) -> Result<(), HostError> {
        if !lock(&self.attendance).notice() {
            return Ok(());
        }
        let options = WorkflowDescribeOptions::default();
        let description = self.controller.describe(options).await;
        let description = match &description {
            Ok(description) => description.raw(),
            Err(WorkflowInteractionError::NotFound(_)) => return Err(HostError::Gone),
            Err(error) => {
                return Err(HostError::Unavailable(format!(
                    "the server did not say whether this attempt still counts: {error}"
                )));
            }
        };
        let info = description.workflow_execution_info.as_ref();
        let run = info.and_then(|info| info.execution.as_ref());
        let mine = &self.identity;
        let same_run = run.is_some_and(|run| run.run_id == mine.run_id);
        let counts = same_run
            && description.pending_activities.iter().any(|pending| {
                let started = pending.last_started_time;
                let started = started.and_then(|time| SystemTime::try_from(time).ok());
                pending.activity_id == mine.activity_id && started == mine.started
            });
        if !counts {
            tracing::warn!("this attempt was asleep for too long, and another one has its work");
            return Err(HostError::Gone);
        }
        lock(&self.attendance).overslept = false;
        Ok(())
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
            PageEvent::DeadLetters { letters } => self.metrics.dead_letters_kept(letters),
            PageEvent::NoPage => {
                lock(&self.in_flight).take();
            }
        }
    }
}
