//! The workflow that holds a batch's state and dispatches its strides.
//!
//! It only translates: a Temporal event becomes a fact in the [`Ledger`], [`decide`] says what follows,
//! and the decision becomes a Temporal command. Nothing here may look at a clock, at random numbers, at
//! the order of a hash map, or do I/O: a worker replays this code from the history.
//!
//! ```text
//!   signal next_page ─┐                        ┌─> schedule a stride activity
//!   activity result ──┼─> Ledger ──> decide ───┼─> start a timer
//!   update, cancel ───┘                        ├─> continue as new
//!                                              └─> complete, fail, cancel
//! ```

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{future::Future, pin::Pin, task::Poll, time::Duration};

use futures::future::FusedFuture;
use temporalio_common::{
    Priority, RetryPolicy as TemporalRetryPolicy,
    error::{IncomingError, TimeoutType},
};
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, ApplicationFailure,
    CancellableFuture, ContinueAsNewOptions, SyncWorkflowContext, TimerResult,
    WaitConditionOptions, WorkflowCancellationToken, WorkflowContext, WorkflowContextView,
    WorkflowResult, WorkflowTermination, activities::ActivityError,
};

use crate::{
    batch::validate_max_parallelism,
    error::{MAX_MESSAGE_CHARS, truncate},
    ledger::{Broken, Event, Ledger},
    progress::{BatchReport, Outcome, Phase, Progress, Timestamp},
    protocol::{
        self, AcceptedEnd, AcceptedEndQuery, Carry, Checkpoint, ControlState, ControllerInput,
        Controls, FailedAttempt, NextPage, PauseRequest, PrepareInput, Prepared, SetRequest,
        StrideOrder, StrideReport,
    },
    retry::RetryMode,
    scheduler::{self, Decision, Dispatch, Ending, Limits, decide},
};

/// The activities that the controller calls.
pub(crate) struct Orders;

#[temporalio_macros::activity_definitions]
impl Orders {
    #[activity(name = protocol::PREPARE)]
    pub(crate) fn prepare(_input: PrepareInput) -> Result<Prepared, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::STRIDE)]
    pub(crate) fn stride(_order: StrideOrder) -> Result<StrideReport, ActivityError> {
        unimplemented!()
    }
}

// The definitions that the activities of a worker have to match.
pub(crate) use orders::{Prepare as PrepareActivity, Stride as StrideActivity};

/// Temporal's own attempts at a stride whose worker is lost, before the controller counts a failure.
const ATTEMPTS_AT_LOST_WORKERS: u32 = 3;
/// Longest time for a worker to say what it knows of a processor.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);
/// Limits of a Temporal run are 51,200 events, 10,000 signals and 2,000 updates (Temporal Cloud limits,
/// the defaults of a self-hosted server). A continue-as-new is due at the first figure of each pair, and
/// dispatching stops at the second.
const SIGNALS: (u32, u32) = (4_000, 8_000);
const UPDATES: (u32, u32) = (1_000, 1_500);
/// With the largest arguments and tokens this many events still fit into 50 MB.
const MUST_HAND_OVER_EVENTS: u32 = 20_000;
/// A pause reason is shown in one line.
const MAX_REASON_CHARS: usize = 500;
/// Failing pages that a progress query lists.
const MAX_FAILING_SHOWN: usize = 20;

/// See the [module documentation](self).
#[temporalio_macros::workflow]
pub(crate) struct Controller {
    input: ControllerInput,
    prepared: Option<Prepared>,
    ledger: Ledger,
    controls: Controls,
    cancelled: bool,
    ended: bool,
    must_hand_over: bool,
    started_at: Timestamp,
    /// Server time of the last decision.
    now: Timestamp,
    /// Continue-as-new before this run.
    runs: u32,
    signals: u32,
    updates: u32,
    /// Counts changes, so that the main loop notices them.
    version: u64,
}

#[temporalio_macros::workflow_methods]
impl Controller {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: ControllerInput) -> Self {
        let mut input = input;
        let carry = input.carry.take();
        let spec = &input.spec;
        let controls = Controls {
            max_parallelism: spec.max_parallelism,
            paused: false,
            pause_reason: None,
        };
        let fresh = || Ledger::new(spec.first_cursor.clone(), seed(&input.batch_run));
        let (ledger, prepared, controls, started_at, runs) = match carry {
            Some(carry) => (
                carry.ledger,
                Some(carry.prepared),
                carry.controls,
                carry.started_at,
                carry.runs,
            ),
            None => (fresh(), None, controls, Timestamp(0), 0),
        };
        Self {
            input,
            prepared,
            ledger,
            controls,
            cancelled: false,
            ended: false,
            must_hand_over: false,
            started_at,
            now: started_at,
            runs,
            signals: 0,
            updates: 0,
            version: 0,
        }
    }

    #[run(name = protocol::CONTROLLER)]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<BatchReport> {
        refuse_newer(ctx).await;
        let now = now(ctx);
        let first = ctx.state_mut(|s| {
            s.now = now;
            let first = s.runs == 0;
            if first {
                s.started_at = now;
            }
            first
        });
        if first {
            log(ctx, "batch started");
        }
        prepare(ctx).await?;
        let ending = run_batch(ctx).await?;
        finish(ctx, ending)
    }

    /// Starts of the strides that follow one that is running.
    #[signal(name = protocol::NEXT_PAGE)]
    pub(crate) fn next_page(&mut self, _ctx: &mut SyncWorkflowContext<Self>, next: NextPage) {
        self.signals += 1;
        self.version += 1;
        if next.batch_run != self.input.batch_run {
            self.ledger.dropped();
            return;
        }
        let event = Event::Announced {
            by: next.stride,
            starts: &next.starts,
        };
        self.record(event);
    }

    #[query(name = protocol::PROGRESS)]
    pub(crate) fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.look()
    }

    #[query(name = protocol::ACCEPTED_END)]
    pub(crate) fn accepted_end(
        &self,
        _ctx: &WorkflowContextView,
        query: AcceptedEndQuery,
    ) -> AcceptedEnd {
        let stride = (query.batch_run == self.input.batch_run)
            .then(|| self.ledger.stride(query.stride))
            .flatten();
        AcceptedEnd {
            open: stride.is_some(),
            end: stride.and_then(|s| s.end.clone()),
        }
    }

    #[query(name = protocol::CONTROL)]
    pub(crate) fn control(&self, _ctx: &WorkflowContextView) -> ControlState {
        ControlState {
            batch_run: self.input.batch_run.clone(),
            stop_at_page_boundary: scheduler::stop_at_page_boundary(
                &self.ledger,
                &self.limits(),
                self.now,
            ),
        }
    }

    /// Stops dispatching; running pages finish. Pausing what is paused changes the reason only.
    #[update(name = protocol::PAUSE)]
    pub(crate) fn pause(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        request: PauseRequest,
    ) -> Controls {
        self.control_changed(|controls| {
            controls.paused = true;
            controls.pause_reason = request.reason.map(|r| truncate(&r, MAX_REASON_CHARS));
        })
    }

    /// Goes on dispatching. Resuming what runs changes nothing.
    #[update(name = protocol::RESUME)]
    pub(crate) fn resume(&mut self, _ctx: &mut SyncWorkflowContext<Self>) -> Controls {
        self.control_changed(|controls| {
            controls.paused = false;
            controls.pause_reason = None;
        })
    }

    #[update_validator(set)]
    fn validate_set(
        &self,
        _ctx: &WorkflowContextView,
        request: &SetRequest,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(pages) = request.max_parallelism {
            validate_max_parallelism(pages)?;
        }
        Ok(())
    }

    /// Changes limits; what is absent stays as it is.
    #[update(name = protocol::SET)]
    pub(crate) fn set(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        request: SetRequest,
    ) -> Controls {
        self.control_changed(|controls| {
            if let Some(pages) = request.max_parallelism {
                controls.max_parallelism = pages;
            }
        })
    }
}

impl Controller {
    fn control_changed(&mut self, change: impl FnOnce(&mut Controls)) -> Controls {
        self.updates += 1;
        self.version += 1;
        change(&mut self.controls);
        self.controls.clone()
    }

    fn limits(&self) -> Limits {
        Limits {
            max_parallelism: self.controls.max_parallelism,
            paused: self.controls.paused,
            cancelled: self.cancelled,
            rate: self.input.spec.rate,
            must_hand_over: self.must_hand_over,
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.ledger, &self.limits(), self.now)
    }

    /// Keeps a fact; one that cannot be ends the batch rather than being ignored.
    fn record(&mut self, event: Event<'_>) {
        if let Err(e) = self.ledger.record(event) {
            self.ledger.break_off(Broken::Impossible {
                what: e.to_string(),
            });
        }
    }

    fn look(&self) -> Progress {
        let spec = &self.input.spec;
        let totals = &self.ledger.totals;
        let phase = if self.ended {
            Phase::Ended
        } else if self.prepared.is_none() {
            Phase::Preparing
        } else {
            scheduler::phase(&self.ledger, &self.limits())
        };
        Progress {
            batch_id: spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            processor: spec.processor.clone(),
            phase,
            pause_reason: self.controls.pause_reason.clone(),
            pages_completed: totals.pages_completed,
            pages_failed: totals.pages_failed,
            pages_in_flight: self.ledger.running(),
            pages_stuck: self.ledger.stuck(),
            strides_waiting: self.ledger.ready(),
            items: totals.items,
            items_expected: self.prepared.as_ref().and_then(|p| p.items_expected),
            retries: totals.retries,
            max_parallelism: self.controls.max_parallelism,
            max_parallelism_achieved: totals.max_parallelism_achieved,
            rate: spec.rate,
            low_water_mark: self.ledger.low_water_mark().cloned(),
            end_of_data: self.ledger.end_of_data(),
            failing: self.ledger.failing().take(MAX_FAILING_SHOWN).collect(),
            failed: self.ledger.failed().to_vec(),
            failed_items: self.ledger.failed_items().to_vec(),
            started_at: self.started_at,
            as_of: self.now,
            runs: self.runs + 1,
            announcements_dropped: totals.announcements_dropped,
        }
    }

    /// Takes note of the time and of how near the limits of a run are.
    fn refresh(&mut self, now: Timestamp, suggested: bool, events: u32) {
        self.now = now;
        let pages = self.input.spec.pages_per_run.map(u64::from);
        let due = suggested
            || pages.is_some_and(|pages| self.ledger.pages_this_run() >= pages)
            || self.signals >= SIGNALS.0
            || self.updates >= UPDATES.0;
        if due {
            self.record(Event::HandOverDue { now });
        }
        self.must_hand_over = events >= MUST_HAND_OVER_EVENTS
            || self.signals >= SIGNALS.1
            || self.updates >= UPDATES.1;
    }

    fn order(&self, dispatch: &Dispatch) -> Option<StrideOrder> {
        let spec = &self.input.spec;
        let stride = self.ledger.stride(dispatch.stride)?;
        Some(StrideOrder {
            batch_run: self.input.batch_run.clone(),
            batch_id: spec.batch_id.clone(),
            processor: spec.processor.clone(),
            args: spec.args.clone(),
            stride: dispatch.stride,
            start: stride.at.clone(),
            end: stride.end.clone(),
            pages: spec.stride,
            look_ahead: dispatch.look_ahead,
            page_size: spec.page_size,
            attempt: stride.next_attempt(),
            rate_share: dispatch.rate_share,
            page_timeout: self.prepared.as_ref()?.page_timeout,
        })
    }
}

/// The same for every run of a batch run, and different for others.
fn seed(batch_run: &str) -> u64 {
    // FNV-1a (Fowler, Noll and Vo).
    batch_run.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A batch that a newer version started or handed over waits for a worker of that version.
async fn refuse_newer(ctx: &WorkflowContext<Controller>) {
    let version = ctx.state(|s| s.input.version);
    if version > protocol::VERSION {
        ctx.force_task_fail(format!(
            "the batch was written by protocol version {version}; this worker knows up to {}",
            protocol::VERSION
        ));
        std::future::pending::<()>().await;
    }
}

/// Says it once: a replay has been logged before.
fn log(ctx: &WorkflowContext<Controller>, what: &str) {
    if ctx.is_replaying() {
        return;
    }
    ctx.state(|s| {
        let spec = &s.input.spec;
        tracing::info!(
            batch = spec.batch_id,
            batch_run = s.input.batch_run,
            processor = spec.processor,
            workflow_run = ctx.run_id(),
            run = s.runs + 1,
            pages = s.ledger.totals.pages_completed,
            items = s.ledger.totals.items.total(),
            "{what}"
        );
    });
}

fn now(ctx: &WorkflowContext<Controller>) -> Timestamp {
    ctx.workflow_time().map_or(Timestamp(0), Timestamp::from)
}

/// Asks a worker about the processor, once per batch run.
async fn prepare(ctx: &WorkflowContext<Controller>) -> WorkflowResult<()> {
    if ctx.state(|s| s.prepared.is_some()) {
        return Ok(());
    }
    let input = ctx.state(|s| PrepareInput {
        processor: s.input.spec.processor.clone(),
        args: s.input.spec.args.clone(),
        first_cursor: s.input.spec.first_cursor.clone(),
    });
    let options = ActivityOptions::with_start_to_close_timeout(PREPARE_TIMEOUT)
        .summary("look up the processor")
        .build();
    match ctx.execute_activity(Orders::prepare, input, options).await {
        Ok(prepared) => {
            ctx.state_mut(|s| s.prepared = Some(prepared));
            Ok(())
        }
        Err(ActivityExecutionError::Cancelled(_)) => {
            ctx.state_mut(|s| s.cancelled = true);
            let ending = Ending {
                outcome: Outcome::Cancelled,
                reason: Some("cancelled before the first page".to_owned()),
            };
            finish(ctx, ending).map(|_| ())
        }
        Err(error) => {
            let (_, message) = describe(&error);
            Err(refused(message))
        }
    }
}

fn refused(message: String) -> WorkflowTermination {
    ApplicationFailure::builder(message)
        .type_name(protocol::BATCH_REFUSED.to_owned())
        .non_retryable(true)
        .build()
        .into()
}

type StrideResult = Result<StrideReport, ActivityExecutionError>;
type Activity<'a> = Pin<Box<dyn Future<Output = StrideResult> + 'a>>;

/// Decides and acts until the batch is over.
async fn run_batch(ctx: &WorkflowContext<Controller>) -> WorkflowResult<Ending> {
    // In the order of their dispatch; a set that is polled in the order of wake-ups would not replay.
    let mut running: Vec<(u64, Activity<'_>)> = Vec::new();
    let mut alarm = Alarm::default();
    loop {
        let (suggested, events) = (ctx.continue_as_new_suggested(), ctx.history_length());
        let now = now(ctx);
        ctx.state_mut(|s| s.refresh(now, suggested, events));
        match ctx.state(Controller::decide) {
            Decision::Dispatch(dispatch) => {
                let stride = dispatch.stride;
                match start(ctx, &dispatch) {
                    Some(activity) => running.push((stride, activity)),
                    None => ctx.state_mut(|s| {
                        s.ledger.break_off(Broken::Impossible {
                            what: format!("stride {stride} cannot be dispatched"),
                        });
                    }),
                }
            }
            Decision::WaitUntil(until) => {
                alarm.set(ctx, until, now);
                for (stride, result) in something_happens(ctx, &mut running, &mut alarm).await {
                    record_result(ctx, stride, result);
                }
            }
            Decision::HandOver => hand_over(ctx)?,
            Decision::Finish(ending) => return Ok(ending),
        }
    }
}

/// Records the dispatch and schedules the activity.
fn start<'a>(ctx: &'a WorkflowContext<Controller>, dispatch: &Dispatch) -> Option<Activity<'a>> {
    let (order, options) = ctx.state_mut(|s| {
        let order = s.order(dispatch)?;
        s.record(Event::Dispatched {
            stride: dispatch.stride,
            rate_share: dispatch.rate_share,
        });
        let options = activity_options(s.prepared.as_ref()?, &order);
        Some((order, options))
    })?;
    Some(Box::pin(ctx.execute_activity(
        Orders::stride,
        order,
        options,
    )))
}

fn activity_options(prepared: &Prepared, order: &StrideOrder) -> ActivityOptions {
    let attempts = match prepared.retry_mode {
        RetryMode::AtLeastOnce => ATTEMPTS_AT_LOST_WORKERS,
        RetryMode::AtMostOnce => 1,
    };
    let retry = TemporalRetryPolicy::builder()
        .initial_interval(Duration::from_millis(200))
        .maximum_interval(Duration::from_secs(10))
        .maximum_attempts(attempts)
        .build();
    // The activity limits its pages itself and says which one took too long. This limit is for a worker
    // that is alive but stuck in code that never yields; twice what the pages may take.
    let per_page = prepared.page_timeout.as_secs_f64()
        + order
            .rate_share
            .map_or(0.0, |share| f64::from(order.page_size) / share);
    let limit = (per_page * f64::from(order.pages) * 2.0 + 60.0).min(30.0 * 86_400.0);
    let mut priority = Priority::default();
    priority.fairness_key = Some(order.batch_run.clone());
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs_f64(limit))
        // A replay compares ids, so that it notices another choice of stride.
        .activity_id(format!("stride-{}", order.stride))
        .heartbeat_timeout(prepared.heartbeat_timeout)
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .retry_policy(retry)
        .summary(format!("stride {} attempt {}", order.stride, order.attempt))
        .priority(priority)
        .build()
}

/// Turns what an activity came back with into facts.
fn record_result(ctx: &WorkflowContext<Controller>, stride: u64, result: StrideResult) {
    let report = match result {
        Ok(report) => report,
        // The activity was still waiting for a worker when the batch was cancelled.
        Err(ActivityExecutionError::Cancelled(_)) => StrideReport::default(),
        Err(error) => lost(&error),
    };
    ctx.state_mut(|s| {
        let Some(policy) = s.prepared.as_ref().map(|p| p.retry.clone()) else {
            return;
        };
        let now = s.now;
        s.record(Event::Reported {
            stride,
            report,
            policy: &policy,
            now,
        });
    });
}

/// What a stride is known to have done whose activity never reported.
fn lost(error: &ActivityExecutionError) -> StrideReport {
    let checkpoint = error
        .as_timeout()
        .and_then(|t| t.last_heartbeat_details::<Checkpoint>().ok().flatten());
    let mut report = checkpoint.unwrap_or_default().done;
    let (error_type, message) = describe(error);
    report.failure = Some(FailedAttempt {
        page_end: None,
        last_page: false,
        error_type,
        message: truncate(&message, MAX_MESSAGE_CHARS),
        retryable: true,
        retry_after: None,
    });
    report
}

fn describe(error: &ActivityExecutionError) -> (String, String) {
    if let Some(timeout) = error.as_timeout() {
        return match timeout.timeout_type() {
            TimeoutType::Heartbeat => (
                "WorkerLost".to_owned(),
                "no heartbeat from its worker for longer than the timeout".to_owned(),
            ),
            _ => (
                "StrideTimeout".to_owned(),
                "the worker was alive but the stride never came back".to_owned(),
            ),
        };
    }
    match error.reason() {
        Some(IncomingError::Application(failure)) => (
            failure.type_name().unwrap_or("ActivityFailed").to_owned(),
            failure.source_error().to_string(),
        ),
        _ => ("ActivityFailed".to_owned(), error.to_string()),
    }
}

/// Waits for results, for a change of the state, for the alarm or for a cancellation.
async fn something_happens(
    ctx: &WorkflowContext<Controller>,
    running: &mut Vec<(u64, Activity<'_>)>,
    alarm: &mut Alarm<'_>,
) -> Vec<(u64, StrideResult)> {
    let (seen, cancelled) = ctx.state(|s| (s.version, s.cancelled));
    // Its own token: a cancelled batch still waits for its last pages.
    let options = WaitConditionOptions::builder()
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    let mut change =
        std::pin::pin!(ctx.wait_condition_with_options(|s| s.version != seen, options));
    let mut cancel = std::pin::pin!(ctx.cancelled());
    let mut results = Vec::new();
    std::future::poll_fn(|cx| {
        let mut i = 0;
        while i < running.len() {
            match running[i].1.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    let (stride, _) = running.remove(i);
                    results.push((stride, result));
                }
                Poll::Pending => i += 1,
            }
        }
        let mut awake = !results.is_empty();
        awake |= alarm.poll(cx).is_ready();
        awake |= change.as_mut().poll(cx).is_ready();
        if !cancelled && !cancel.is_terminated() && cancel.as_mut().poll(cx).is_ready() {
            ctx.state_mut(|s| s.cancelled = true);
            awake = true;
        }
        if awake {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    results
}

type Timer<'a> = Pin<Box<dyn CancellableFuture<Output = TimerResult> + 'a>>;

/// At most one timer, so that decisions that only differ in when to look again cost no history.
#[derive(Default)]
struct Alarm<'a> {
    timer: Option<(Timestamp, Timer<'a>)>,
}

impl<'a> Alarm<'a> {
    fn set(
        &mut self,
        ctx: &'a WorkflowContext<Controller>,
        until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let Some(until) = until else {
            return;
        };
        match &self.timer {
            // Waking up too early only means deciding again.
            Some((at, _)) if *at <= until => return,
            Some((_, timer)) => timer.cancel(),
            None => {}
        }
        let wait = until.since(now).max(Duration::from_millis(1));
        self.timer = Some((until, Box::pin(ctx.timer(wait))));
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let Some((_, timer)) = &mut self.timer else {
            return Poll::Pending;
        };
        match timer.as_mut().poll(cx) {
            Poll::Ready(_) => {
                self.timer = None;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Ends this run and begins the next with the same batch run.
fn hand_over(ctx: &WorkflowContext<Controller>) -> WorkflowResult<()> {
    let input = ctx.state(|s| ControllerInput {
        carry: s.prepared.clone().map(|prepared| Carry {
            ledger: s.ledger.clone(),
            prepared,
            controls: s.controls.clone(),
            started_at: s.started_at,
            runs: s.runs + 1,
        }),
        ..s.input.clone()
    });
    log(ctx, "continuing as new");
    ctx.continue_as_new(input, ContinueAsNewOptions::default())?;
    Ok(())
}

fn finish(ctx: &WorkflowContext<Controller>, ending: Ending) -> WorkflowResult<BatchReport> {
    log(ctx, &format!("batch {}", ending.outcome));
    let report = ctx.state_mut(|s| {
        s.ended = true;
        BatchReport {
            outcome: ending.outcome,
            reason: ending.reason.clone(),
            progress: s.look(),
            ended_at: s.now,
        }
    });
    match ending.outcome {
        Outcome::Completed | Outcome::CompletedWithFailures => Ok(report),
        Outcome::Cancelled => Err(WorkflowTermination::cancelled_with_details(report)),
        Outcome::Failed => {
            let reason = ending.reason.unwrap_or_default();
            Err(ApplicationFailure::builder(reason)
                .type_name(protocol::BATCH_FAILED.to_owned())
                .non_retryable(true)
                .details(report)
                .build()
                .into())
        }
    }
}
