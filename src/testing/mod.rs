//! Tests of a processor without a server, and replays of recorded histories.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, Notify, watch};

use crate::{
    base::{error::PageError, time::Timestamp},
    batch::{Batch, spec::BatchSpec, validate::InvalidBatch},
    decisions::{
        chain::{Event, StrideChain},
        scheduler::{self, Decision, Dispatch, Limits},
    },
    page::{size::Size, token::PageToken},
    processor::{
        PageProcessor,
        item::{ItemHost, Timeless},
        reducer::{Fold, Reducer},
        settings::ProcessorSettings,
        stop_signal::StopSignal,
        store::page_ledger::StrideTotals,
    },
    progress::{ItemCounts, failures::PageFailure, phase::Outcome},
    protocol::{AcceptedEnd, FailedAttempt, RunningPage, StrideOrder, StrideReport},
    stride::{Go, HostError, PageEvent, StrideHost, prepared, registry::complete, run_stride},
};

#[cfg(feature = "temporal")]
pub use crate::engine::replay::{ReplayError, replay_history};

/// The result of one page.
#[derive(Clone, Debug, PartialEq)]
pub struct PageRun<C> {
    /// The number of items that were fetched.
    pub items: u64,
    /// The number of items by outcome.
    pub counts: ItemCounts,
    /// The start of the next page. `None` at the end of the data.
    pub next: Option<C>,
    /// The result of the processor's reducer for this page, if it has one.
    pub output: Option<Value>,
}

/// Prepares a batch and runs one page of 1,000 items after `start`: `fetch`, the engine's checks, `process`.
///
/// # Errors
/// The error of the page, with the type and the message that a listing would show.
pub async fn run_page<P: PageProcessor>(
    processor: &P,
    args: P::Args,
    start: Option<P::Cursor>,
) -> Result<PageRun<P::Cursor>, PageError> {
    let mut batch = Batch::of::<P>("test", args);
    if let Some(cursor) = &start {
        batch = batch.first_cursor(cursor);
    }
    let args = P::Args::deserialize(&batch.spec.args).map_err(|e| {
        let message = format_args!("the arguments do not survive being stored: {e}");
        PageError::non_retryable("ArgsNotReadable", message)
    })?;
    let (args, completed) = complete(processor, args).await?;
    if let Some(completed) = completed {
        batch.spec.args = completed;
    }
    let mut order = order(
        &batch.spec,
        &new_batch_run(),
        &processor.settings(),
        0,
        start_token(&start)?,
    );
    let mut fold = fold(processor, &args)?;
    order.reducer = fold.as_ref().map(|fold| fold.plan().clone());
    let host = InMemory::default();
    let report = run_stride(processor, &order, StrideReport::default(), &host)
        .await
        .ok_or_else(|| PageError::retryable("the batch run is gone"))?;
    if let Some(failure) = report.failure {
        let (error_type, message) = (failure.error_type, failure.message);
        return Err(match (failure.not_the_page, failure.retryable) {
            (true, _) => PageError::environment(message).with_type(error_type),
            (false, true) => PageError::retryable(message).with_type(error_type),
            (false, false) => PageError::non_retryable(error_type, message),
        });
    }
    if let (Some(fold), Some(output)) = (&mut fold, report.output) {
        fold.merge(output);
    }
    let next = report.covered_to.filter(|_| !report.end_of_data);
    Ok(PageRun {
        output: fold.as_ref().and_then(Fold::so_far).cloned(),
        items: report.items.total(),
        counts: report.items,
        next: next.map(|token| token.decode()).transpose()?,
    })
}

/// The result of a batch before any page, if the processor has a reducer.
fn fold<P: PageProcessor>(processor: &P, args: &P::Args) -> Result<Option<Fold>, PageError> {
    let reducer = processor.reducer(args);
    let plan = reducer.map(|reducer| reducer.validate().map(|()| reducer.plan().clone()));
    let plan = plan.transpose().map_err(|invalid| {
        PageError::non_retryable(
            "InvalidReducer",
            format_args!("the reducer is not allowed: {invalid}"),
        )
    })?;
    Ok(plan.map(Fold::new))
}

fn start_token<C: Serialize>(start: &Option<C>) -> Result<Option<PageToken>, PageError> {
    start.as_ref().map(PageToken::encode).transpose()
}

/// Runs a whole batch in memory with the engine's own decisions and page loop, one page at a time. Its clock is
/// virtual, so hours of waiting between retries take no time. The arguments are completed; stages and checks
/// are omitted.
///
/// ```
/// # use async_trait::async_trait;
/// # use temporal_batch::*;
/// # struct Greet;
/// # #[async_trait]
/// # impl PageProcessor for Greet {
/// #     const NAME: &'static str = "greet";
/// #     type Args = ();
/// #     type Cursor = u32;
/// #     type Item = u32;
/// #     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
/// #         let first = ctx.range().start().map_or(1, |last| last + 1);
/// #         let last = ctx.range().end().copied().unwrap_or(100);
/// #         Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)
/// #     }
/// #     async fn process(&self, _: &PageContext<Self>, _: Vec<u32>) -> Result<PageReport, PageError> {
/// #         Ok(PageReport::all_processed())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let batch = Batch::of::<Greet>("greet-all", ()).page_size(10);
/// let run = testing::Simulator::new().lose_worker_every(3).run(&Greet, &batch).await.unwrap();
/// assert_eq!(run.outcome, Outcome::Completed);
/// assert_eq!((run.pages, run.items.processed), (10, 100));
/// assert!(run.lost_workers > 0);
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Simulator {
    lose_every: Option<u64>,
    duplicate_announcements: bool,
    interruptions: Interruptions,
}

/// Maximum number of attempts to prepare a batch. A real batch has no such limit.
const MOST_PREPARATIONS: u32 = 100;
/// Maximum number of interruptions of one kind in a simulated batch. Failures and interruptions at regular
/// intervals may coincide, and some page would then never finish.
const MOST_INTERRUPTIONS: u64 = 200;

/// The interruptions by a simulated operator, each at every nth page.
#[derive(Clone, Copy, Debug, Default)]
struct Interruptions {
    stop_before: Option<u64>,
    stop_while_waiting: Option<u64>,
    pause_now: Option<(u64, Duration)>,
}

/// The result of a simulated batch.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedRun {
    /// The outcome.
    pub outcome: Outcome,
    /// The reason why the batch ended early. `None` if it completed.
    pub reason: Option<String>,
    /// Pages that are finished.
    pub pages: u64,
    /// The number of items by outcome.
    pub items: ItemCounts,
    /// Failed attempts that were followed by another.
    pub retries: u64,
    /// Pages that were given up.
    pub failed: Vec<PageFailure>,
    /// The number of workers that were lost.
    pub lost_workers: u64,
    /// Strides that ended early because they were told to.
    pub told_to_stop: u64,
    /// The virtual time from start to end.
    pub duration: Duration,
    /// The result of the processor's reducer for all finished pages, if it has one.
    pub output: Option<Value>,
    /// The reason why there is no output although the processor has a reducer.
    pub output_error: Option<String>,
}

impl Simulator {
    /// A simulator without faults other than those of the processor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses the worker of every nth stride after its work is done and before it is reported. The stride then
    /// runs again, or is given up in [`RetryMode::AtMostOnce`](crate::settings::RetryMode::AtMostOnce). Like all
    /// interruptions, this happens at most 200 times.
    #[must_use]
    pub fn lose_worker_every(mut self, strides: u64) -> Self {
        self.lose_every = Some(strides.max(1));
        self
    }

    /// Delivers every announcement twice.
    #[must_use]
    pub fn duplicate_announcements(mut self) -> Self {
        self.duplicate_announcements = true;
        self
    }

    /// Tells a stride to stop before every nth page begins and continues it later, as a pause or a
    /// continue-as-new does. `pages` is at least 2, so that there is progress.
    #[must_use]
    pub fn stop_before_every(mut self, pages: u64) -> Self {
        self.interruptions.stop_before = Some(pages.max(2));
        self
    }

    /// Tells a stride to stop while every nth page has been fetched and waits for the rate. `pages` is at least
    /// 2.
    #[must_use]
    pub fn stop_while_every_waits(mut self, pages: u64) -> Self {
        self.interruptions.stop_while_waiting = Some(pages.max(2));
        self
    }

    /// Pauses the batch at once while every nth page is in `process`, after this much real time, and resumes it
    /// when its stride has ended. `pages` is at least 2. A page that finishes earlier is not interrupted.
    #[must_use]
    pub fn pause_now_every(mut self, pages: u64, after: Duration) -> Self {
        self.interruptions.pause_now = Some((pages.max(2), after));
        self
    }

    /// Runs the batch to its end.
    ///
    /// # Errors
    /// The batch is not allowed.
    pub async fn run<P: PageProcessor>(
        &self,
        processor: &P,
        batch: &Batch,
    ) -> Result<SimulatedRun, InvalidBatch> {
        batch.validate()?;
        if batch.spec.partitioned {
            let what = "the simulator";
            return Err(InvalidBatch::Partitioned { what });
        }
        let settings = processor.settings();
        let args = P::Args::deserialize(&batch.spec.args).map_err(|e| InvalidBatch::Args {
            message: e.to_string(),
        })?;
        let mut now = Timestamp(0);
        let (args, completed) = self.prepare(processor, batch, args, &mut now).await?;
        let prepared = prepared(processor, &args, Size::Unknown);
        let spec = &BatchSpec {
            args: completed.unwrap_or_else(|| batch.spec.args.clone()),
            ..batch.spec.clone()
        };
        let limits = Limits {
            max_parallelism: spec.max_parallelism.max(1),
            paused: false,
            cancelled: false,
            rate: None,
            must_hand_over: false,
            ..Limits::default()
        };
        let batch_run = new_batch_run();
        let mut chain = StrideChain::new(spec.first_cursor.clone(), 0);
        let reducer = processor.reducer(&args);
        if let Some(fold) = fold(processor, &args).map_err(|invalid| InvalidBatch::Prepare {
            message: invalid.to_string(),
        })? {
            chain.reduce_by(fold.plan().clone());
        }
        let (mut strides, mut lost_workers, mut told_to_stop) = (0u64, 0u64, 0u64);
        let pages = Arc::default();
        loop {
            match scheduler::decide(&chain, &limits, now) {
                Decision::Dispatch(dispatch) => {
                    strides += 1;
                    let lose = lost_workers < MOST_INTERRUPTIONS
                        && self.lose_every.is_some_and(|n| strides.is_multiple_of(n));
                    let mut order =
                        self.dispatch(&mut chain, &dispatch, spec, &batch_run, &settings);
                    let attempts = order.attempts_at_lost_workers(settings.retry_mode);
                    let mut attempt = 1;
                    let (report, told) = loop {
                        let repeat = attempt > 1;
                        let ran = self
                            .run_order(processor, &mut chain, &order, repeat, &pages)
                            .await;
                        let seen = match ran {
                            Ok(ran) if repeat || !lose => break ran,
                            Ok(_) => StrideReport::default(),
                            Err(seen) => seen,
                        };
                        lost_workers += 1;
                        if attempt == attempts {
                            break (lost(seen), false);
                        }
                        attempt += 1;
                        order.end = None;
                    };
                    told_to_stop += u64::from(told);
                    let reported = Event::Reported {
                        stride: dispatch.stride,
                        report: Box::new(report),
                        policy: &settings.retry,
                        dead_letters: prepared.dead_letters,
                        now,
                    };
                    chain.record(reported).expect("the stride runs");
                }
                Decision::WaitUntil(until) => {
                    now = until.expect("an idle batch waits for a time");
                }
                Decision::HandOver => unreachable!("a continue-as-new is never due here"),
                Decision::Finish(ending) => {
                    combine_rest(&mut chain, reducer.as_ref());
                    let fold = chain.fold();
                    return Ok(SimulatedRun {
                        output: fold.and_then(Fold::so_far).cloned(),
                        output_error: fold.and_then(Fold::error).map(str::to_owned),
                        outcome: ending.outcome,
                        reason: ending.reason,
                        pages: chain.totals.pages_completed,
                        items: chain.totals.items,
                        retries: chain.totals.retries,
                        failed: chain.failed().to_vec(),
                        lost_workers,
                        told_to_stop,
                        duration: now.since(Timestamp(0)),
                    });
                }
            }
        }
    }

    /// Completes the arguments, as a batch does before its first page.
    async fn prepare<P: PageProcessor>(
        &self,
        processor: &P,
        batch: &Batch,
        args: P::Args,
        now: &mut Timestamp,
    ) -> Result<(P::Args, Option<serde_json::Value>), InvalidBatch> {
        let read = || P::Args::deserialize(&batch.spec.args);
        let mut args = Some(args);
        let mut attempts = 0;
        loop {
            let given = match args.take() {
                Some(args) => args,
                None => read().expect("they could be read before"),
            };
            match complete(processor, given).await {
                Ok(completed) => return Ok(completed),
                Err(error) if error.is_retryable() && attempts < MOST_PREPARATIONS => {
                    attempts += 1;
                    *now = now.plus(Duration::from_secs(60));
                }
                Err(error) => {
                    return Err(InvalidBatch::Prepare {
                        message: error.to_string(),
                    });
                }
            }
        }
    }

    fn dispatch(
        &self,
        chain: &mut StrideChain,
        dispatch: &Dispatch,
        spec: &BatchSpec,
        batch_run: &str,
        settings: &ProcessorSettings,
    ) -> StrideOrder {
        let stride = chain.stride(dispatch.stride).expect("it is open");
        let mut order = order(
            spec,
            batch_run,
            settings,
            dispatch.stride,
            stride.at.clone(),
        );
        order.end.clone_from(&stride.end);
        order.look_ahead = dispatch.look_ahead;
        order.reducer = chain.fold().map(|fold| fold.plan().clone());
        order.attempt = stride.next_attempt();
        order.done = stride.done;
        order.is_kept = chain.is_kept(dispatch.stride);
        order.attempts_allowed = settings.retry.attempts_allowed();
        order.failing_since = stride.trouble.as_ref().map(|t| t.first_at);
        order.take_apart = stride.trouble.as_ref().is_some_and(|t| t.take_apart);
        order.give_up = stride.give_up.as_deref().cloned();
        let event = Event::Dispatched {
            stride: dispatch.stride,
            rate_share: None,
            page_share: None,
            items: None,
            now: Timestamp(0),
        };
        chain.record(event).expect("it does not run");
        order.dispatch = chain.dispatches();
        order
    }

    /// Runs a stride and returns its report and whether it was told to stop. If the worker is lost, returns the
    /// last sign of life.
    async fn run_order<P: PageProcessor>(
        &self,
        processor: &P,
        chain: &mut StrideChain,
        order: &StrideOrder,
        repeat: bool,
        pages: &Arc<Pages>,
    ) -> Result<(StrideReport, bool), StrideReport> {
        let host = InMemory {
            chain: Mutex::new(chain.clone()),
            stride: order.stride,
            dispatch: order.dispatch,
            repeat,
            twice: self.duplicate_announcements,
            // A repeated stride is not interrupted: a batch whose every worker is lost might otherwise never
            // finish.
            interruptions: if repeat {
                Interruptions::default()
            } else {
                self.interruptions
            },
            pages: Arc::clone(pages),
            told: watch::Sender::default(),
            checkpoint: Mutex::default(),
        };
        let crash = Arc::new(Notify::new());
        let running = run_stride(processor, order, StrideReport::default(), &host);
        let running = CRASH.scope(Arc::clone(&crash), running);
        let report = tokio::select! {
            biased;
            () = crash.notified() => Err(host.checkpoint.lock().await.clone()),
            report = running => Ok(report.expect("the batch run is never gone")),
        };
        let told = host.told.borrow().must_stop();
        *chain = host.chain.into_inner();
        report.map(|report| (report, told))
    }
}

tokio::task_local! {
    /// The worker of the stride that runs in this task, in a simulator.
    static CRASH: Arc<Notify>;
}

/// Loses the worker if called in `fetch`, `process` or `skip_ahead` of a processor in a [`Simulator`]. The call
/// never returns, and the work done on the current page is not reported. Outside a simulator it waits forever.
pub async fn lose_worker() -> std::convert::Infallible {
    // Outside a simulator there is no worker to lose.
    let _ = CRASH.try_with(|crash| crash.notify_one());
    std::future::pending().await
}

/// The controller's view of a stride whose worker was lost after this sign of life.
fn lost(seen: StrideReport) -> StrideReport {
    let failure = FailedAttempt::lost("WorkerLost".to_owned(), "its worker was lost");
    StrideReport {
        failure: Some(failure),
        ..seen
    }
}

/// Combines the remaining outputs. In a real batch an activity does this.
fn combine_rest(chain: &mut StrideChain, reducer: Option<&Reducer>) {
    let (Some(fold), Some(reducer)) = (chain.fold_mut(), reducer) else {
        return;
    };
    while let Some(parts) = fold.to_combine(true) {
        let parts = parts.to_vec();
        match (parts.len(), reducer.all(parts)) {
            (parts, Ok(one)) => fold.combined(parts, one),
            (_, Err(error)) => fold.fail(error.of_page().to_string()),
        }
    }
}

/// A unique batch run for every call, because a chain remembers what was applied.
fn new_batch_run() -> String {
    format!("test-{}", uuid::Uuid::new_v4())
}

fn order(
    spec: &BatchSpec,
    batch_run: &str,
    settings: &ProcessorSettings,
    stride: u64,
    start: Option<PageToken>,
) -> StrideOrder {
    StrideOrder {
        batch_run: batch_run.to_owned(),
        batch_id: spec.batch_id.clone(),
        processor: spec.processor.clone(),
        args: spec.args.clone(),
        stride,
        start,
        end: None,
        pages: spec.stride,
        look_ahead: 0,
        page_size: spec.page_size,
        attempt: 1,
        rate_share: None,
        page_timeout: settings.page_timeout,
        done: StrideTotals::default(),
        attempts_allowed: None,
        failing_since: None,
        take_apart: false,
        give_up: None,
        redrive: false,
        is_kept: false,
        dispatch: 1,
        page_share: None,
        page_pause: None,
        throttles: Vec::new(),
        max_items: None,
        reducer: None,
        time_limit: None,
        min_pages_per_stride: 1,
        controller: None,
        partition: None,
        last: None,
        bridge: None,
        rate_ready: 0,
        page_rate_ready: 0,
        rate_owed: 0,
        page_rate_owed: 0,
        tolerance: None,
    }
}

/// A controller that consists of a chain in memory.
struct InMemory {
    chain: Mutex<StrideChain>,
    stride: u64,
    dispatch: u64,
    repeat: bool,
    twice: bool,
    interruptions: Interruptions,
    pages: Arc<Pages>,
    told: watch::Sender<StopSignal>,
    checkpoint: Mutex<StrideReport>,
}

/// The pages that were or could have been interrupted, by kind of interruption. The parts of a split page are
/// not counted: if every second part were interrupted, the page would never finish.
#[derive(Default)]
struct Pages {
    stopped_before: AtomicU64,
    stopped_in_wait: AtomicU64,
    paused: AtomicU64,
    /// The interruption of the current page, or of the next page if the current one is empty.
    stop_in_wait: AtomicBool,
    pause_in_process: AtomicBool,
}

/// Counts a page, and returns whether it is an nth one.
fn is_due(counter: &AtomicU64, every: Option<u64>) -> bool {
    let n = counter.fetch_add(1, Ordering::Relaxed) + 1;
    every.is_some_and(|every| {
        n.is_multiple_of(every) && n <= every.saturating_mul(MOST_INTERRUPTIONS)
    })
}

impl InMemory {
    fn stop(&self) -> Go {
        self.told.send_modify(|told| told.stop = true);
        Go::Stop
    }
}

impl Default for InMemory {
    fn default() -> Self {
        Self {
            chain: Mutex::new(StrideChain::new(None, 0)),
            stride: 0,
            dispatch: 1,
            repeat: false,
            twice: false,
            interruptions: Interruptions::default(),
            pages: Arc::default(),
            told: watch::Sender::default(),
            checkpoint: Mutex::default(),
        }
    }
}

#[async_trait]
impl StrideHost for InMemory {
    async fn announce(&self, starts: &[PageToken]) -> Result<(), HostError> {
        let mut chain = self.chain.lock().await;
        for _ in 0..=u32::from(self.twice) {
            let (by, dispatch) = (self.stride, self.dispatch);
            chain
                .record(Event::Announced {
                    by,
                    dispatch,
                    starts,
                })
                .map_err(|e| HostError::Unavailable(e.to_string()))?;
        }
        Ok(())
    }

    fn is_repeat(&self) -> bool {
        self.repeat
    }

    async fn accepted_end(&self) -> Result<AcceptedEnd, HostError> {
        let chain = self.chain.lock().await;
        let stride = chain.stride(self.stride);
        Ok(AcceptedEnd {
            open: stride.is_some(),
            end: stride.and_then(|s| s.end.clone()),
        })
    }

    async fn still_counts(&self) -> Result<(), HostError> {
        Ok(())
    }

    async fn clear_to_go(&self) -> Go {
        let Interruptions {
            stop_before,
            stop_while_waiting,
            pause_now,
        } = self.interruptions;
        let pages = &self.pages;
        if is_due(&pages.stopped_before, stop_before) {
            return self.stop();
        }
        if is_due(&pages.stopped_in_wait, stop_while_waiting) {
            pages.stop_in_wait.store(true, Ordering::Relaxed);
        }
        if is_due(&pages.paused, pause_now.map(|(every, _)| every)) {
            pages.pause_in_process.store(true, Ordering::Relaxed);
        }
        Go::On
    }

    fn item_host(&self) -> Arc<dyn ItemHost> {
        Arc::new(Timeless)
    }

    async fn rate_permits(&self, _items: usize) -> Go {
        if self.repeat {
            return Go::On;
        }
        if self.pages.stop_in_wait.swap(false, Ordering::Relaxed) {
            return self.stop();
        }
        if let Some((_, after)) = self.interruptions.pause_now
            && self.pages.pause_in_process.swap(false, Ordering::Relaxed)
        {
            let told = self.told.clone();
            let started = Instant::now();
            tokio::spawn(async move {
                // Timers are too coarse for a page in memory.
                while started.elapsed() < after {
                    tokio::task::yield_now().await;
                }
                told.send_modify(|told| told.stop_now = true);
            });
        }
        Go::On
    }

    fn works_on(&self, _page: Option<RunningPage>) {}

    fn checkpoint(&self, report: &StrideReport) {
        let checkpoint = self.checkpoint.try_lock();
        *checkpoint.expect("it is read when the stride has ended") = report.clone();
    }

    fn stop_signal(&self) -> watch::Receiver<StopSignal> {
        self.told.subscribe()
    }

    fn observe(&self, _event: PageEvent) {}
}
