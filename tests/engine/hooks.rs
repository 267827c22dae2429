//! Failure handlers, trackers and completion hooks.

use std::time::Duration;

use async_trait::async_trait;
use temporal_batch::{
    BatchReport, Outcome, PageError, PageReport, Worker,
    errors::AcceptError,
    hooks::{CompletionHook, Failure, FailureHandler, FailureNotice, HookResult, Tracker},
    metrics::Metrics,
    progress::{Phase, Progress},
    settings::{ExtendedRetries, Limit, Tolerance},
};

use crate::{
    numbers_processor::{Gate, NumbersProcessor, Seen, Shared, UpTo, gated, quick_retries},
    replay::replays,
    support::{TestEnv, progress_shows, report},
};

/// A failure handler, tracker and completion hook that keeps all notices.
#[derive(Clone, Default)]
pub struct Told {
    pub failures: Shared<Vec<FailureNotice>>,
    progress: Shared<Vec<Progress>>,
    completed: Shared<Vec<BatchReport>>,
    failed: Shared<Vec<BatchReport>>,
}

impl Told {
    pub fn register(&self, worker: Worker) -> Worker {
        worker
            .failure_handler(self.clone())
            .tracker(self.clone())
            .completion_hook(self.clone())
    }
}

#[async_trait]
impl FailureHandler for Told {
    const NAME: &'static str = "told";

    async fn on_failure(&self, notice: &FailureNotice) -> HookResult {
        self.failures.lock().push(notice.clone());
        Ok(())
    }
}

#[async_trait]
impl Tracker for Told {
    const NAME: &'static str = "told";

    async fn track(&self, progress: &Progress) -> HookResult {
        self.progress.lock().push(progress.clone());
        Ok(())
    }
}

#[async_trait]
impl CompletionHook for Told {
    const NAME: &'static str = "told";

    async fn completed(&self, report: &BatchReport) -> HookResult {
        self.completed.lock().push(report.clone());
        Ok(())
    }

    async fn failed(&self, report: &BatchReport) -> HookResult {
        self.failed.lock().push(report.clone());
        Ok(())
    }
}

/// A handler, tracker and completion hook that panics, hangs or fails.
struct Bad<const HOW: char>;

impl<const HOW: char> Bad<HOW> {
    const NAME: &'static str = match HOW {
        'p' => "panics",
        'h' => "hangs",
        _ => "fails",
    };

    async fn act(&self) -> HookResult {
        match HOW {
            'p' => panic!("made to panic"),
            'h' => std::future::pending().await,
            _ => Err("made to fail".into()),
        }
    }
}

#[async_trait]
impl<const HOW: char> FailureHandler for Bad<HOW> {
    const NAME: &'static str = Self::NAME;

    async fn on_failure(&self, _: &FailureNotice) -> HookResult {
        self.act().await
    }
}

#[async_trait]
impl<const HOW: char> Tracker for Bad<HOW> {
    const NAME: &'static str = Self::NAME;

    async fn track(&self, _: &Progress) -> HookResult {
        self.act().await
    }
}

#[async_trait]
impl<const HOW: char> CompletionHook for Bad<HOW> {
    const NAME: &'static str = Self::NAME;

    async fn completed(&self, _: &BatchReport) -> HookResult {
        self.act().await
    }

    async fn failed(&self, _: &BatchReport) -> HookResult {
        self.act().await
    }
}

/// A processor whose page after 10 gets stuck and recovers, and whose page after 30 is given up.
fn troubled() -> NumbersProcessor {
    let act = |seen: Seen| async move {
        match seen.start {
            10 if seen.times <= 3 => Err(PageError::retryable("slow").with_type("Slow")),
            30 => Err(PageError::non_retryable("Poison", "never")),
            _ => Ok(PageReport::all_processed()),
        }
    };
    NumbersProcessor::new()
        .settings(|s| {
            s.retry = quick_retries()
                .max_attempts(2)
                .extended(Some(ExtendedRetries {
                    interval: Duration::from_secs(1),
                    max_attempts: None,
                }));
        })
        .on_process(act)
}

fn start_of(failure: &Failure) -> String {
    match failure {
        Failure::PageStuck(page) => format!("stuck {}", page.start.as_ref().unwrap().as_str()),
        Failure::PageFailed(page) => format!("failed {}", page.start.as_ref().unwrap().as_str()),
        Failure::ToleranceExceeded { paused, .. } => format!("exceeded, paused: {paused}"),
        Failure::Ended(report) => format!("ended {}", report.outcome),
        _ => "something else".to_owned(),
    }
}

#[tokio::test]
async fn a_handler_hears_of_each_failure_once_over_all_runs() {
    let env = TestEnv::new("handler").await;
    let told = Told::default();
    let numbers = troubled();
    let _worker = env.worker_with(numbers, |w| told.register(w)).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 200 })
        .page_size(10)
        .pages_per_run(2)
        .on_failure("told");
    let handle = env.start(&batch).await;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    assert!(report.progress.runs >= 4, "{} runs", report.progress.runs);
    assert_eq!(report.progress.hooks_failed, 0);
    let failures = told.failures.lock().clone();
    let mut what: Vec<_> = failures.iter().map(|n| start_of(&n.failure)).collect();
    assert_eq!(what.pop().unwrap(), "ended completed with failures");
    what.sort();
    assert_eq!(what, ["failed 30", "stuck 10"]);
    let numbers: Vec<_> = failures.iter().map(|n| n.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(failures.iter().all(|n| n.batch_id == batch.id()));
    assert!(
        failures
            .iter()
            .all(|n| n.batch_run == report.progress.batch_run)
    );
    assert!(failures.iter().all(|n| n.processor == "numbers"));
    replays(&env, handle.id(), "told").await;
}

#[tokio::test]
async fn a_handler_hears_when_more_fails_than_is_tolerated() {
    let env = TestEnv::new("handler-trip").await;
    let told = Told::default();
    let _worker = env.worker_with(troubled(), |w| told.register(w)).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(1)
        .tolerate(Tolerance::new().pages(Limit::count(0)))
        .on_failure("told");
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the batch pauses", |p| p.phase == Phase::Paused).await;
    handle.resume().await.unwrap();
    report(&handle).await;
    let failures = told.failures.lock().clone();
    let what: Vec<_> = failures.iter().map(|n| start_of(&n.failure)).collect();
    let exceeded = what.iter().filter(|w| *w == "exceeded, paused: true");
    assert_eq!(exceeded.count(), 1, "{what:?}");
}

/// A handler that waits at a gate.
struct Slow(Gate);

#[async_trait]
impl FailureHandler for Slow {
    const NAME: &'static str = "slow";

    async fn on_failure(&self, _: &FailureNotice) -> HookResult {
        self.0.pass().await;
        Ok(())
    }
}

#[tokio::test]
async fn a_slow_handler_holds_up_no_page_but_the_end_waits_for_it() {
    let env = TestEnv::new("slow-hook").await;
    let gate = Gate::closed();
    let slow = Slow(gate.clone());
    let numbers = troubled();
    let _worker = env
        .worker_with(numbers.clone(), |w| w.failure_handler(slow))
        .await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(1)
        .on_failure("slow");
    let handle = env.start(&batch).await;
    let finishing = progress_shows(&handle, "only the handler is left", |p| {
        p.phase == Phase::Finishing
    });
    let finishing = finishing.await;
    assert_eq!((finishing.pages_completed, finishing.pages_failed), (9, 1));
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.progress.hooks_failed, 0);
    assert_eq!(report.progress.phase, Phase::Ended);
}

async fn a_bad_hook_is_harmless<const HOW: char>(env: &TestEnv) {
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .pages_per_run(3)
        .hook_timeout(Duration::from_millis(300))
        .on_failure(Bad::<HOW>::NAME)
        .track(Bad::<HOW>::NAME)
        .on_completion(Bad::<HOW>::NAME);
    let handle = env.start(&batch).await;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    assert_eq!(report.progress.pages_completed, 9);
    assert_eq!(report.progress.pages_failed, 1);
    // Two pages and the end for the handler; the start and the end for the tracker; the end for the completion hook.
    assert_eq!(report.progress.hooks_failed, 6, "{}", Bad::<HOW>::NAME);
    replays(env, handle.id(), Bad::<HOW>::NAME).await;
}

#[tokio::test]
async fn hooks_that_panic_hang_or_fail_change_nothing_but_a_counter() {
    let env = TestEnv::new("bad-hooks").await;
    let metrics = Metrics::new();
    let collected = metrics.clone();
    let register = |worker: Worker| {
        worker
            .metrics(collected)
            .failure_handler(Bad::<'p'>)
            .failure_handler(Bad::<'h'>)
            .failure_handler(Bad::<'f'>)
            .tracker(Bad::<'p'>)
            .tracker(Bad::<'h'>)
            .tracker(Bad::<'f'>)
            .completion_hook(Bad::<'p'>)
            .completion_hook(Bad::<'h'>)
            .completion_hook(Bad::<'f'>)
    };
    let _worker = env.worker_with(troubled_in_every_batch(), register).await;
    tokio::join!(
        a_bad_hook_is_harmless::<'p'>(&env),
        a_bad_hook_is_harmless::<'h'>(&env),
        a_bad_hook_is_harmless::<'f'>(&env),
    );
    let metrics = metrics.render();
    for name in ["panics", "hangs", "fails"] {
        let series = format!("temporal_batch_hook_failures_total{{hook=\"{name}\"}} 18");
        assert!(
            metrics.contains(&series),
            "three attempts at each: {metrics}"
        );
    }
}

/// The same processor, but which attempts fail depends on the attempt's number, so that every batch of a worker has the
/// same failures.
fn troubled_in_every_batch() -> NumbersProcessor {
    troubled().on_process(|seen| async move {
        match seen.start {
            10 if seen.attempt <= 3 => Err(PageError::retryable("slow")),
            30 => Err(PageError::non_retryable("Poison", "never")),
            _ => Ok(PageReport::all_processed()),
        }
    })
}

#[tokio::test]
async fn a_tracker_hears_of_start_and_end_without_delaying_the_end() {
    let env = TestEnv::new("tracker").await;
    let told = Told::default();
    let _worker = env
        .worker_with(NumbersProcessor::new(), |w| told.register(w))
        .await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 50 })
        .page_size(10)
        .track("told")
        .track_every(Duration::from_secs(60));
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(report.duration() < Duration::from_secs(20));
    let progress = told.progress.lock().clone();
    assert_eq!(progress.len(), 2);
    assert_eq!(
        (progress[0].pages_completed, progress[0].phase),
        (0, Phase::Running)
    );
    assert_eq!(
        (progress[1].pages_completed, progress[1].phase),
        (5, Phase::Ended)
    );
    replays(&env, batch.id(), "tracked").await;
}

#[tokio::test]
async fn a_tracker_is_called_every_interval_over_all_runs_and_in_pauses() {
    let env = TestEnv::new("tracker-often").await;
    let told = Told::default();
    let numbers = NumbersProcessor::new().on_process(|_| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(PageReport::all_processed())
    });
    let _worker = env.worker_with(numbers, |w| told.register(w)).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(1)
        .pages_per_run(3)
        .track("told")
        .track_every(Duration::from_secs(1));
    let handle = env.start(&batch).await;
    progress_shows(&handle, "half is done", |p| p.pages_completed >= 5).await;
    handle.pause("to see it wait").await.unwrap();
    let paused = progress_shows(&handle, "paused", |p| p.phase == Phase::Paused).await;
    let before = told.progress.lock().len();
    crate::support::eventually("the tracker is called twice more", || async {
        (told.progress.lock().len() >= before + 2).then_some(())
    })
    .await;
    handle.resume().await.unwrap();
    let report = report(&handle).await;
    let progress = told.progress.lock().clone();
    let seconds = report.duration().as_secs() as usize;
    assert!(
        progress.len() >= 4 && progress.len() <= seconds + 3,
        "{}",
        progress.len()
    );
    assert!(progress.is_sorted_by_key(|p| p.pages_completed));
    assert_eq!(progress.last().unwrap().phase, Phase::Ended);
    // Every run of the controller calls the tracker, and the first run is over.
    assert!(paused.runs > 1, "the batch was never handed over");
    let while_paused = progress.iter().filter(|p| p.phase == Phase::Paused);
    let runs: Vec<_> = while_paused.map(|p| p.runs).collect();
    assert!(runs.len() >= 2, "{progress:#?}");
    assert!(runs.iter().all(|run| *run == paused.runs), "{runs:?}");
    assert!(report.progress.runs > paused.runs);
}

#[tokio::test]
async fn a_completion_hook_hears_once_how_the_batch_ended() {
    let env = TestEnv::new("completion").await;
    let told = Told::default();
    let (numbers, gate) = gated();
    let numbers = numbers
        .on_fetch(|seen| async move {
            if seen.start >= 1_000 {
                return Err(PageError::non_retryable("Gone", "the table is gone"));
            }
            Ok(())
        })
        .settings(|s| s.heartbeat_timeout = Duration::from_secs(2));
    let _worker = env.worker_with(numbers.clone(), |w| told.register(w)).await;
    let batch = |n| {
        env.batch::<NumbersProcessor>(UpTo { n })
            .page_size(500)
            .on_completion("told")
            .on_failure("told")
    };

    let cancelled = batch(50).max_parallelism(1);
    let handle = env.start(&cancelled).await;
    numbers
        .shows("a page is in flight", |r| r.in_flight == 1)
        .await;
    handle.cancel("not today").await.unwrap();
    progress_shows(&handle, "cancelling", |p| p.phase == Phase::Cancelling).await;
    gate.open();
    let end = report(&handle).await;
    assert_eq!(end.outcome, Outcome::Cancelled);
    replays(&env, handle.id(), "told-cancelled").await;

    let completed = env.run(&batch(50)).await;
    assert_eq!(completed.outcome, Outcome::Completed);
    let failed = env.run(&batch(2_000)).await;
    assert_eq!(failed.outcome, Outcome::Failed);

    let outcomes = |reports: &Shared<Vec<BatchReport>>| {
        let reports = reports.lock();
        reports.iter().map(|r| r.outcome).collect::<Vec<_>>()
    };
    assert_eq!(outcomes(&told.completed), [Outcome::Completed]);
    assert_eq!(
        outcomes(&told.failed),
        [Outcome::Cancelled, Outcome::Failed]
    );
    let what: Vec<_> = told
        .failures
        .lock()
        .iter()
        .map(|n| start_of(&n.failure))
        .collect();
    assert_eq!(what, ["ended cancelled", "failed 1000", "ended failed"]);
}

#[tokio::test]
async fn a_hook_that_no_worker_knows_is_refused_before_the_first_page() {
    let env = TestEnv::new("unknown-hook").await;
    let numbers = NumbersProcessor::new();
    let _worker = env
        .worker_with(numbers.clone(), |w| Told::default().register(w))
        .await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 5 })
        .on_failure("mail");
    let handle = env.start(&batch).await;
    let refused = handle.accepted().await.unwrap_err();
    let AcceptError::Refused { reason } = refused else {
        panic!("{refused}");
    };
    assert_eq!(
        reason,
        "failure handler \"mail\" is not registered; registered are: told"
    );
    assert!(numbers.record().fetches.is_empty());
}
