//! The environment of a stride that runs as an activity.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecuteUpdateOptions, WorkflowExecutionDescription,
    WorkflowHandle, WorkflowSignalOptions,
    errors::{WorkflowInteractionError, WorkflowUpdateError},
    tonic::{IntoRequest as _, Status},
};
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution, workflowservice::v1::ResetStickyTaskQueueRequest,
};
use temporalio_sdk::activities::ActivityContext;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    heartbeats::{Heartbeats, timeout_of},
    memo_watch::{ControlWatch, Found, found_in},
    throttle_gate::Gate,
    user_threads::Obstruction,
};
use crate::{
    base::error::text::words,
    decisions::pacing::Earned,
    engine::{client::is_unanswered, controller::Controller},
    metrics::{PageInFlight, ProcessorMetrics},
    page::token::PageToken,
    processor::{
        item::{ItemHost, Permits},
        stop_signal::{StopSignal, until},
    },
    protocol::{
        AcceptedEnd, AcceptedEndRequest, Checkpoint, ItemMark, NextPage, RunningPage, StrideOrder,
        StrideReport,
    },
    stride::{Go, HostError, PageEvent, StrideHost, WaitFor, page_blocked, rate_share::RateShare},
};

/// Time limit for the controller to tell where a stride ends.
const ASK_FOR: Duration = Duration::from_secs(30);
/// Interval between such questions, if a continue-as-new intervenes or the answer is lost.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Interval between checks whether a throttle still holds, in addition to notifications.
const LOOK_AT_GATE: Duration = Duration::from_secs(1);
/// Total time of being held after which a stride returns its slot. The controller dispatches it again when it
/// may run.
const HELD_AT_MOST: Duration = Duration::from_secs(30);

/// Time that a page gets to release its thread after its time limit.
const BLOCKED_FOR: Duration = Duration::from_secs(1);

pub(super) struct ActivityHost {
    controller: WorkflowHandle<Client, Controller>,
    batch_run: String,
    stride: u64,
    repeat: bool,
    rate: Option<Arc<RateShare>>,
    page_rate: Option<RateShare>,
    page_pause: Option<Duration>,
    gate: Arc<dyn Gate>,
    held_for: Mutex<Duration>,
    metrics: ProcessorMetrics,
    checkpoint: Arc<Mutex<Checkpoint>>,
    /// The page of an earlier attempt.
    lost_page: Option<RunningPage>,
    told: watch::Receiver<StopSignal>,
    in_flight: Mutex<Option<PageInFlight>>,
    in_hand: Mutex<Option<InHand>>,
    page_timeout: Duration,
    may_repeat: bool,
    attendance: Arc<Mutex<Attendance>>,
    /// The identity of this attempt to Temporal: the run, the activity and the number.
    identity: Identity,
}

/// Sends signs of life and passes orders to the stride while it exists. When it is dropped, the stride is told
/// to end: its code may block its thread and outlive this value.
pub(super) struct Attended {
    _heartbeats: Heartbeats,
    listening: JoinHandle<()>,
    tell: watch::Sender<StopSignal>,
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.listening.abort();
        self.tell.send_modify(|told| {
            told.stop = true;
            told.cancelled = true;
        });
    }
}

/// The page that is being worked on.
struct InHand {
    since: Instant,
    /// The end of the page, once known.
    end: Option<PageToken>,
    is_last: bool,
}

/// The surroundings of a stride in its worker.
pub(super) struct Surroundings {
    pub metrics: ProcessorMetrics,
    pub draining: watch::Receiver<bool>,
    pub control: ControlWatch,
    /// The throttles of the order.
    pub gate: Arc<dyn Gate>,
    /// True if a page may run again after an attempt at it has started.
    pub may_repeat: bool,
    pub permits: Permits,
}

struct Identity {
    /// The workflow that scheduled it: the controller, or the owner.
    workflow: WorkflowHandle<Client, Controller>,
    run_id: String,
    dispatch: u64,
    owner: Option<String>,
    activity_id: String,
    /// The start of the attempt. It distinguishes attempts of different dispatches, whose numbers start over.
    started: Option<SystemTime>,
}

/// Detects that this process was suspended, such as a virtual machine that was moved or a stopped process.
/// After a heartbeat timeout Temporal gives its work to another worker.
struct Attendance {
    last_seen: Seen,
    timeout: Duration,
    overslept: bool,
}

/// A moment by both clocks.
#[derive(Clone, Copy)]
struct Seen {
    monotonic: Instant,
    wall: SystemTime,
}

impl Seen {
    fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The time since an earlier moment. The monotonic clock stops while a machine is suspended, and the wall
    /// clock can be set back, so the larger difference counts. A wall clock that is set forward only costs a
    /// query.
    fn since(&self, earlier: &Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        self.monotonic
            .saturating_duration_since(earlier.monotonic)
            .max(wall)
    }
}

impl Attendance {
    /// A process may be suspended between accepting a task and starting it. `started` is the time at which the
    /// server assigned the task. If the clocks differ, that only costs a query.
    fn new(timeout: Duration, started: Option<SystemTime>) -> Self {
        let age = started.and_then(|started| started.elapsed().ok());
        Self {
            last_seen: Seen::now(),
            timeout,
            overslept: age.is_some_and(|age| age > timeout),
        }
    }

    fn notice(&mut self, now: Seen) -> bool {
        self.overslept |= now.since(&self.last_seen) > self.timeout;
        self.last_seen = now;
        self.overslept
    }
}

impl ActivityHost {
    pub fn new(
        ctx: &ActivityContext,
        order: &StrideOrder,
        hint: Checkpoint,
        surroundings: Surroundings,
    ) -> (Self, Attended) {
        let Surroundings {
            metrics,
            draining,
            control,
            gate,
            may_repeat,
            permits,
        } = surroundings;
        // The activity's own handle is bound to one run, and the batch may continue as new at any time.
        let client = ctx.client();
        let controller = client.get_workflow_handle::<Controller>(order.controller());
        let checkpoint = Arc::new(Mutex::new(Checkpoint {
            done: hint.done,
            ..Checkpoint::default()
        }));
        let info = ctx.info();
        let attendance = Attendance::new(timeout_of(ctx), info.started_time);
        let attendance = Arc::new(Mutex::new(attendance));
        let workflow_id = info.workflow_id.clone();
        let workflow_id = workflow_id.unwrap_or_else(|| order.batch_id.clone());
        let identity = Identity {
            workflow: client.get_workflow_handle(workflow_id),
            dispatch: order.dispatch,
            owner: order.owner.clone(),
            run_id: info.workflow_run_id.clone().unwrap_or_default(),
            activity_id: info.activity_id.clone(),
            started: info.started_time,
        };
        let (tell, told) = watch::channel(StopSignal {
            stop: *draining.borrow(),
            stop_now: false,
            cancelled: ctx.is_cancelled(),
            gone: false,
        });
        let details = details(Arc::clone(&checkpoint), Arc::clone(&attendance));
        let attended = Attended {
            _heartbeats: Heartbeats::with(ctx, details),
            listening: tokio::spawn(listen(ctx.clone(), draining, control, tell.clone())),
            tell,
        };
        let earned = |ready, owed| Earned {
            // A worker that was lost may have used the permits.
            ready: if info.attempt > 1 { 0 } else { ready },
            owed,
        };
        let unit = match permits {
            Permits::PerPage => order.page_size,
            Permits::PerItem => 1,
        };
        let host = Self {
            controller,
            batch_run: order.batch_run.clone(),
            stride: order.stride,
            repeat: ctx.info().attempt > 1 || order.attempt > 1,
            rate: order.rate_share.map(|share| {
                let earned = earned(order.rate_ready, order.rate_owed);
                Arc::new(RateShare::new(share, unit, earned))
            }),
            page_rate: order.page_share.map(|share| {
                let earned = earned(order.page_rate_ready, order.page_rate_owed);
                RateShare::new(share, 1, earned)
            }),
            page_pause: order.page_pause.filter(|pause| !pause.is_zero()),
            gate,
            held_for: Mutex::default(),
            metrics,
            checkpoint,
            lost_page: hint.page,
            told,
            in_flight: Mutex::default(),
            in_hand: Mutex::default(),
            page_timeout: order.page_timeout,
            may_repeat,
            attendance,
            identity,
        };
        (host, attended)
    }

    /// The report of a stride that cannot continue because threads are blocked, if it is time to give it up.
    /// The next attempt at the stride continues after the finished pages.
    pub fn gives_up(&self, trouble: Obstruction) -> Option<StrideReport> {
        let in_hand = lock(&self.in_hand);
        let in_hand = in_hand.as_ref();
        let limit = self.page_timeout.saturating_add(BLOCKED_FOR);
        let is_over = match trouble {
            Obstruction::Blocks(lasts) => lasts >= limit,
            // A page that has started must not start again, and may still be running.
            Obstruction::Starves => match in_hand {
                Some(page) if !self.may_repeat => page.since.elapsed() >= limit,
                _ => {
                    tracing::info!(
                        "returning the stride, because other pages block all of its threads"
                    );
                    self.observe(PageEvent::Stopped);
                    return Some(lock(&self.checkpoint).done.clone());
                }
            },
        };
        if !is_over {
            return None;
        }
        let took = in_hand.map_or(limit, |page| page.since.elapsed());
        self.observe(PageEvent::Failed { took });
        let mut failure = page_blocked(self.page_timeout);
        if let Some(page) = in_hand {
            failure.page_end.clone_from(&page.end);
            failure.last_page = page.is_last;
        }
        let mut report = lock(&self.checkpoint).done.clone();
        report.failure = Some(failure);
        Some(report)
    }

    /// Takes the permits that the stride has earned and not used, and adds them to its report.
    pub fn give_back_rates(&self, report: &mut StrideReport) {
        if let Some(rate) = &self.rate {
            (report.rate_left, report.rate_untouched) = rate.take_rest();
        }
        if let Some(rate) = &self.page_rate {
            (report.page_rate_left, report.page_rate_untouched) = rate.take_rest();
        }
    }

    /// Waits, unless the stride is told to stop.
    async fn wait<T>(&self, wait: impl Future<Output = T>) -> Result<T, Go> {
        tokio::select! {
            biased;
            waited = wait => Ok(waited),
            () = until(self.told.clone(), StopSignal::must_stop) => Err(Go::Stop),
        }
    }

    fn timed(&self, for_what: WaitFor) -> Waiting<'_> {
        Waiting {
            host: self,
            for_what,
            since: Instant::now(),
        }
    }

    async fn page_may_begin(&self) -> Go {
        if let Some(pause) = self.page_pause {
            let _waiting = self.timed(WaitFor::Pause);
            tokio::time::sleep(pause).await;
        }
        if let Some(rate) = &self.page_rate {
            let _waiting = self.timed(WaitFor::PageRate);
            rate.take(1).await;
        }
        // The gate comes last, so that its answer is no older than the page.
        self.gate_opens().await
    }

    /// Waits while a throttle holds.
    async fn gate_opens(&self) -> Go {
        let Some(held) = self.gate.held() else {
            return Go::On;
        };
        tracing::info!(throttle = held.by, reason = held.reason, "held");
        let waiting = self.timed(WaitFor::Throttle);
        let patience = HELD_AT_MOST.saturating_sub(*lock(&self.held_for));
        let opened = async {
            while self.gate.held().is_some() {
                // A change between the check and the wait may go unnoticed.
                let _ = tokio::time::timeout(LOOK_AT_GATE, self.gate.changed()).await;
            }
        };
        let opened = tokio::time::timeout(patience, opened).await;
        *lock(&self.held_for) += waiting.since.elapsed();
        match opened {
            Ok(()) => Go::On,
            Err(_) => Go::Stop,
        }
    }
}

/// Limits the items of a stride to its rate.
struct Paced {
    rate: Option<Arc<RateShare>>,
    checkpoint: Arc<Mutex<Checkpoint>>,
    metrics: ProcessorMetrics,
}

#[async_trait]
impl ItemHost for Paced {
    async fn permit(&self) {
        if let Some(rate) = &self.rate {
            let since = Instant::now();
            rate.take(1).await;
            self.metrics.rate_waited(since.elapsed());
        }
    }

    async fn back_off(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }

    fn marks(&self, done: usize, of: usize) {
        if let Some(page) = &mut lock(&self.checkpoint).page {
            page.items = Some(ItemMark {
                done: done as u64,
                of: of as u64,
            });
        }
    }
}

/// A wait in progress, which is recorded when it is dropped.
struct Waiting<'a> {
    host: &'a ActivityHost,
    for_what: WaitFor,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.host.observe(PageEvent::Waited {
            for_what: self.for_what,
            took: self.since.elapsed(),
        });
    }
}

/// The details of each sign of life: the finished work. Between two of them the process may have been suspended.
fn details(
    checkpoint: Arc<Mutex<Checkpoint>>,
    attendance: Arc<Mutex<Attendance>>,
) -> impl Fn() -> Checkpoint + Send {
    move || {
        lock(&attendance).notice(Seen::now());
        let mut checkpoint = lock(&checkpoint).clone();
        checkpoint.at = SystemTime::now().into();
        checkpoint
    }
}

/// Merges the signals from all sources. A pause at once is never withdrawn, because the page may already have
/// seen it.
async fn listen(
    ctx: ActivityContext,
    mut draining: watch::Receiver<bool>,
    mut control: ControlWatch,
    tell: watch::Sender<StopSignal>,
) {
    let mut drains = *draining.borrow_and_update();
    loop {
        tokio::select! {
            () = ctx.cancelled(), if !tell.borrow().cancelled => {
                tracing::debug!("told to stop at the end of the page");
                tell.send_modify(|told| told.cancelled = true);
            }
            Ok(()) = draining.changed(), if !drains => {
                drains = *draining.borrow_and_update();
                tell.send_modify(|told| told.stop |= drains);
            }
            next = control.next() => {
                tell.send_if_modified(|told| {
                    let before = *told;
                    told.stop = drains || next.stop;
                    told.stop_now |= next.stop_now;
                    told.gone |= next.gone;
                    before != *told
                });
            }
        }
    }
}

async fn described(
    workflow: &WorkflowHandle<Client, Controller>,
) -> Result<WorkflowExecutionDescription, HostError> {
    let description = workflow.describe(WorkflowDescribeOptions::default());
    description.await.map_err(|error| match error {
        WorkflowInteractionError::NotFound(_) => HostError::Gone,
        error => HostError::Unavailable(format!(
            "the server did not say whether this attempt is still current: {}",
            words(&error)
        )),
    })
}

/// Makes the server forget which worker has a controller in memory. Otherwise the next query would first wait a
/// second for that worker, even if it is gone.
async fn forget_worker(controller: &WorkflowHandle<Client, Controller>) -> Result<(), Status> {
    let info = controller.info();
    let request = ResetStickyTaskQueueRequest {
        namespace: info.namespace.clone(),
        execution: Some(WorkflowExecution {
            workflow_id: info.workflow_id.clone(),
            run_id: info.run_id.clone().unwrap_or_default(),
        }),
    };
    let mut service = controller.client().connection().workflow_service();
    let reset = service.reset_sticky_task_queue(request.into_request());
    reset.await.map(|_| ())
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
            dispatch: self.identity.dispatch,
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
        let request = AcceptedEndRequest {
            batch_run: self.batch_run.clone(),
            stride: self.stride,
        };
        // This question is only asked after a worker was lost, which probably also had the controller.
        if let Err(error) = forget_worker(&self.controller).await {
            tracing::debug!(%error, "asking the controller through the worker that had it");
        }
        let asking = async {
            loop {
                let options = WorkflowExecuteUpdateOptions::default();
                let answer = self
                    .controller
                    .execute_update(Controller::accepted_end, request.clone(), options)
                    .await;
                match answer {
                    Ok(accepted) => return Ok(accepted),
                    // A run that continues as new before it can answer also ends up here.
                    Err(WorkflowUpdateError::NotFound(_)) => {
                        let found = found_in(&described(&self.controller).await?);
                        if found == Found::Gone {
                            return Err(HostError::Gone);
                        }
                        tokio::time::sleep(ASK_AGAIN).await;
                    }
                    Err(error) if is_unanswered(&error) => tokio::time::sleep(ASK_AGAIN).await,
                    Err(error) => {
                        return Err(HostError::Unavailable(format!(
                            "the controller did not say where the stride ends: {}",
                            words(&error)
                        )));
                    }
                }
            }
        };
        let unavailable = || {
            Err(HostError::Unavailable(format!(
                "the controller did not say within {ASK_FOR:?} where the stride ends"
            )))
        };
        let answer = tokio::time::timeout(ASK_FOR, asking).await;
        answer.unwrap_or_else(|_| unavailable())
    }

    async fn still_counts(&self) -> Result<(), HostError> {
        if !lock(&self.attendance).notice(Seen::now()) {
            return Ok(());
        }
        let mine = &self.identity;
        let description = described(&mine.workflow).await?;
        let description = description.raw();
        let info = description.workflow_execution_info.as_ref();
        let run = info.and_then(|info| info.execution.as_ref());
        let same_run = run.is_some_and(|run| run.run_id == mine.run_id);
        let counts = same_run
            && description.pending_activities.iter().any(|pending| {
                let started = pending.last_started_time;
                let started = started.and_then(|time| SystemTime::try_from(time).ok());
                pending.activity_id == mine.activity_id && started == mine.started
            });
        if !counts {
            tracing::warn!(
                "this attempt was suspended for too long, and another one has taken over"
            );
            return Err(HostError::Gone);
        }
        if mine.owner.is_some() {
            // The owner continues without asking; the batch may not.
            let batch = found_in(&described(&self.controller).await?);
            let signal = batch.signal(&self.batch_run, mine.dispatch, mine.owner.as_deref());
            if signal.gone {
                return Err(HostError::Gone);
            }
        }
        lock(&self.attendance).overslept = false;
        Ok(())
    }

    async fn clear_to_go(&self) -> Go {
        match self.wait(self.page_may_begin()).await {
            Ok(go) | Err(go) => go,
        }
    }

    fn item_host(&self) -> Arc<dyn ItemHost> {
        Arc::new(Paced {
            rate: self.rate.clone(),
            checkpoint: Arc::clone(&self.checkpoint),
            metrics: self.metrics.clone(),
        })
    }

    async fn rate_permits(&self, items: usize) -> Go {
        let Some(rate) = &self.rate else {
            return Go::On;
        };
        let _waiting = self.timed(WaitFor::Rate);
        match self.wait(rate.take(items)).await {
            Ok(()) => Go::On,
            Err(go) => go,
        }
    }

    fn works_on(&self, page: Option<RunningPage>) {
        *lock(&self.in_hand) = page.as_ref().map(|_| InHand {
            since: Instant::now(),
            end: None,
            is_last: false,
        });
        lock(&self.checkpoint).page = page;
    }

    fn page_ends(&self, end: Option<&PageToken>, is_last: bool) {
        if let Some(page) = &mut *lock(&self.in_hand) {
            page.end = end.cloned();
            page.is_last = is_last;
        }
        if let Some(page) = &mut lock(&self.checkpoint).page {
            page.end = end.cloned();
        }
    }

    fn lost_page(&self) -> Option<RunningPage> {
        self.lost_page.clone()
    }

    fn checkpoint(&self, report: &StrideReport) {
        lock(&self.checkpoint).done.clone_from(report);
    }

    fn stop_signal(&self) -> watch::Receiver<StopSignal> {
        self.told.clone()
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
            PageEvent::NoPage | PageEvent::Stopped => {
                lock(&self.in_flight).take();
            }
            PageEvent::Fetched { took } => self.metrics.page_fetched(took),
            PageEvent::Claimed(outcome) => self.metrics.ledger_claim(outcome),
            PageEvent::Processed { took } => {
                self.metrics.page_processed(took);
                let rates = [self.rate.as_deref(), self.page_rate.as_ref()];
                for rate in rates.into_iter().flatten() {
                    rate.page_took(took);
                }
            }
            PageEvent::Waited { for_what, took } => match for_what {
                WaitFor::Rate | WaitFor::PageRate => self.metrics.rate_waited(took),
                WaitFor::Throttle => self.metrics.throttle_waited(took),
                WaitFor::Pause => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);
    const LONG: Duration = Duration::from_secs(3_600);

    /// Returns whether an attempt detects a suspension after the clocks have advanced like this.
    fn overslept(monotonic: Duration, wall: impl FnOnce(SystemTime) -> SystemTime) -> bool {
        let mut attendance = Attendance::new(TIMEOUT, None);
        let before = attendance.last_seen;
        attendance.notice(Seen {
            monotonic: before.monotonic + monotonic,
            wall: wall(before.wall),
        })
    }

    #[test]
    fn a_machine_that_was_suspended_is_noticed_by_the_wall_clock() {
        assert!(overslept(Duration::from_millis(5), |wall| wall + LONG));
    }

    #[test]
    fn a_process_that_was_stopped_is_noticed_whatever_the_wall_clock_says() {
        assert!(overslept(LONG, |wall| wall + LONG));
        assert!(overslept(LONG, |wall| wall - LONG));
    }

    #[test]
    fn a_wall_clock_that_is_set_back_is_no_sleep() {
        let second = Duration::from_secs(1);
        assert!(!overslept(second, |wall| wall - LONG));
        assert!(!overslept(second, |wall| wall + second));
        assert!(!overslept(TIMEOUT, |wall| wall + TIMEOUT));
    }
}
