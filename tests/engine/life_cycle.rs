//! Batch ids that are in use, continuations, the audit of requests, and Temporal's own controls.

use std::{sync::Arc, time::Duration};

use temporal_batch::{
    BatchHandle, BatchReport, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    client::Continuation,
    errors::{RecoverError, StartError},
    settings::{IfRunning, OnExceeded, RetryMode, RetryPolicy, Tolerance},
    store::{DeadLetter, DeadLetters, LetterFilter, PageTransaction},
};
use temporalio_client::{UntypedQuery, UntypedWorkflow, WorkflowQueryOptions};
use temporalio_common::data_converters::RawValue;

use crate::{
    control::Patient,
    numbers_processor::{NumbersProcessor, Shared, UpTo, gated, gated_where},
    replay::replays,
    support::{TestEnv, eventually, progress_shows, report},
};

fn rows(n: u64) -> Vec<u64> {
    (1..=n).collect()
}

#[tokio::test]
async fn starting_attaches_only_to_the_same_batch() {
    let env = TestEnv::new("attach").await;
    let (numbers, gate) = gated_where(|seen| seen.start >= 60);
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .pages_per_run(2);
    let handle = env.start(&batch).await;
    // The fields that are compared are still there after a continue-as-new.
    progress_shows(&handle, "a later run", |p| p.runs > 1).await;

    let refused = env.client.start(&batch).await.unwrap_err();
    assert!(
        matches!(refused, StartError::AlreadyRunning { .. }),
        "{refused}"
    );
    let attaching = batch.clone().if_running(IfRunning::Attach);
    let attached = env.client.start(&attaching).await.unwrap();
    let run = |handle: BatchHandle| async move { handle.progress().await.unwrap().batch_run };
    assert_eq!(run(attached).await, run(handle.clone()).await);
    let other = temporal_batch::Batch::of::<NumbersProcessor>(batch.id(), UpTo { n: 99 })
        .task_queue(&env.queue)
        .if_running(IfRunning::Attach);
    let refused = env.client.start(&other).await.unwrap_err();
    assert!(
        refused.to_string().contains("its arguments are different"),
        "{refused}"
    );
    gate.open();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), rows(100));
}

#[tokio::test]
async fn a_cancelled_batch_continues_exactly_where_it_ended() {
    let env = TestEnv::new("continue").await;
    let (numbers, gate) = gated();
    let numbers = numbers
        .skipping_ahead()
        .settings(|s| s.heartbeat_timeout = Duration::from_secs(2));
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 200 })
        .page_size(10)
        .max_parallelism(3);
    let handle = env.start(&batch).await;
    gate.let_through(4);
    numbers
        .shows("four are done, three run", |r| {
            r.done.len() == 4 && r.in_flight == 3
        })
        .await;
    handle.cancel("lunch").await.unwrap();
    progress_shows(&handle, "cancelling", |p| {
        p.phase == temporal_batch::progress::Phase::Cancelling
    })
    .await;
    gate.open();
    let first = report(&handle).await;
    assert_eq!(first.outcome, Outcome::Cancelled);
    assert_eq!(first.progress.pages_completed, 7);

    let continuation = Continuation::of(batch.id())
        .max_parallelism(5)
        .because("lunch is over");
    let handle = env.client.continue_batch(&continuation).await.unwrap();
    let second = report(&handle).await;
    assert_eq!(second.outcome, Outcome::Completed);
    assert_eq!(second.progress.batch_run, first.progress.batch_run);
    assert_eq!(second.progress.started_at, first.progress.started_at);
    assert_eq!(second.progress.max_parallelism, 5);
    assert_eq!(second.progress.pages_completed, 20);
    assert_eq!(second.progress.items.processed, 200);
    assert_eq!(numbers.record().processed(), rows(200), "each row once");
    let audit = &second.progress.audit;
    let actions: Vec<_> = audit.iter().map(|e| e.action.as_str()).collect();
    assert_eq!(actions, ["start", "cancel", "continue"]);
    assert_eq!(audit[1].why.as_deref(), Some("lunch"));
    assert_eq!(audit[2].why.as_deref(), Some("lunch is over"));
    replays(&env, batch.id(), "continued").await;

    let again = env.client.continue_batch(&continuation).await.unwrap_err();
    assert!(again.to_string().contains("it is completed"), "{again}");
}

#[tokio::test]
async fn a_batch_whose_coverage_stopped_continues_once_the_cause_is_gone() {
    let env = TestEnv::new("continue-failed").await;
    let gone = Shared::<bool>::default();
    *gone.lock() = true;
    let is_gone = gone.clone();
    let numbers = NumbersProcessor::new().on_fetch(move |seen| {
        let gone = *is_gone.lock();
        async move {
            if gone && seen.start == 20 {
                return Err(PageError::non_retryable("Gone", "the table is gone"));
            }
            Ok(())
        }
    });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 50 }).page_size(10);
    let first = env.run(&batch).await;
    assert_eq!(first.outcome, Outcome::Failed);
    assert_eq!(first.progress.pages_failed, 1);
    let refused = env.client.start(&batch).await.unwrap_err().to_string();
    assert!(
        refused.contains("has already ended (failed); continue it"),
        "{refused}"
    );

    // The cause is still there: the batch fails at the same place, and nothing is counted twice.
    let continues = batch.clone().continues(true);
    let second = env.run(&continues).await;
    assert_eq!(second.outcome, Outcome::Failed);
    assert_eq!(second.progress.pages_failed, 1);
    assert_eq!(second.progress.pages_completed, 2);

    *gone.lock() = false;
    let third = env.run(&continues).await;
    assert_eq!(third.outcome, Outcome::Completed, "{third:#?}");
    assert_eq!(third.progress.batch_run, first.progress.batch_run);
    assert_eq!(third.progress.pages_completed, 5);
    assert_eq!(third.progress.pages_failed, 0);
    assert_eq!(numbers.record().processed(), rows(50));
    let refused = env.client.start(&continues).await.unwrap_err();
    assert!(refused.to_string().contains("it is completed"), "{refused}");
}

#[tokio::test]
async fn a_stopped_batch_continues_with_new_limits() {
    let env = TestEnv::new("continue-stopped").await;
    let down = Shared::<bool>::default();
    *down.lock() = true;
    let is_down = down.clone();
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(move |seen| {
            let down = *is_down.lock();
            async move {
                if down && seen.start >= 500 {
                    return Err(PageError::retryable("503"));
                }
                Ok(PageReport::all_processed())
            }
        });
    let _worker = env.worker(numbers.clone()).await;
    let strict = Tolerance::new().consecutive(1).then(OnExceeded::Stop);
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1_000 })
        .page_size(10)
        .stride(5)
        .max_parallelism(1)
        .deadline(Duration::from_secs(600))
        .tolerate(strict);
    let handle = env.start(&batch).await;
    let first = report(&handle).await;
    assert_eq!(first.outcome, Outcome::Stopped, "{first:#?}");
    *down.lock() = false;
    let lenient = Continuation::of(batch.id())
        .tolerate(Tolerance::new().consecutive(50))
        .deadline(Duration::from_secs(300));
    let handle = env.client.continue_batch(&lenient).await.unwrap();
    let second = report(&handle).await;
    assert_eq!(second.outcome, Outcome::Completed);
    assert_eq!(second.progress.pages_completed, 100);
    assert_eq!(numbers.record().processed(), rows(1_000));
    let left = second.progress.deadline.unwrap().since(first.ended_at);
    assert!(left >= Duration::from_secs(300) && left < Duration::from_secs(360));
}

#[tokio::test]
async fn a_batch_without_a_report_is_not_continued_and_the_message_says_what_is_possible() {
    let env = TestEnv::new("continue-not").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 5 })
        .max_parallelism(0);
    let handle = env.start(&batch).await;
    handle.accepted().await.unwrap();
    let continuation = Continuation::of(batch.id());
    let running = env.client.continue_batch(&continuation).await.unwrap_err();
    assert!(
        matches!(running, StartError::AlreadyRunning { .. }),
        "{running}"
    );
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    workflow.terminate(Default::default()).await.unwrap();
    let refused = env.client.continue_batch(&continuation).await.unwrap_err();
    let refused = refused.to_string();
    for part in ["terminated", "left no report", "rerun", "reset"] {
        assert!(refused.contains(part), "{refused}");
    }
    let unknown = Continuation::of(env.new_id());
    let unknown = env.client.continue_batch(&unknown).await.unwrap_err();
    assert!(unknown.to_string().contains("no such batch"), "{unknown}");
    let bad = Continuation::of(batch.id()).max_parallelism(5_000);
    let bad = env.client.continue_batch(&bad).await.unwrap_err();
    assert!(matches!(bad, StartError::Invalid(_)), "{bad}");
}

#[tokio::test]
async fn every_request_is_kept_with_who_when_and_why() {
    let env = TestEnv::new("audit").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(0)
        .pages_per_run(2);
    let ann = env.client.clone().operator("ann@db1");
    let bob = env
        .client
        .clone()
        .operator("bob")
        .handle(batch.id())
        .unwrap();
    let handle = ann.start(&batch).await.unwrap();
    handle.accepted().await.unwrap();
    handle.pause("the replica lags").await.unwrap();
    bob.because("it has caught up").resume().await.unwrap();
    bob.because("at night")
        .set_max_parallelism(2)
        .await
        .unwrap();
    let report = report(&handle).await;
    assert!(report.progress.runs > 1, "the batch was never handed over");
    let audit = report.progress.audit;
    let kept: Vec<_> = audit
        .iter()
        .map(|e| (e.action.as_str(), e.who.as_deref(), e.why.as_deref()))
        .collect();
    assert_eq!(
        kept,
        [
            ("start", Some("ann@db1"), None),
            ("pause", Some("ann@db1"), Some("the replica lags")),
            ("resume", Some("bob"), Some("it has caught up")),
            ("set max_parallelism to 2", Some("bob"), Some("at night")),
        ]
    );
    assert!(audit.is_sorted_by_key(|e| e.at));
    assert!(audit[0].at >= report.progress.started_at);
}

#[tokio::test]
async fn temporals_web_ui_shows_the_position_of_a_batch() {
    let env = TestEnv::new("details").await;
    let (numbers, gate) = gated_where(|seen| seen.start >= 30);
    let _worker = env.worker(numbers).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 100 }).page_size(10);
    let handle = env.start(&batch).await;
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    let shown = eventually("the details show three pages", || async {
        let query = UntypedQuery::new("__temporal_workflow_metadata");
        let options = WorkflowQueryOptions::default();
        let answer = workflow.query(query, RawValue::new(Vec::new()), options);
        let answer = answer.await.ok()?;
        let text = String::from_utf8_lossy(&answer.payloads[0].data).into_owned();
        text.contains("3 pages, 30 items").then_some(text)
    });
    let shown = shown.await;
    assert!(shown.contains("**running**"), "{shown}");
    assert!(shown.contains("finished up to `30`"), "{shown}");
    gate.open();
    report(&handle).await;
}

/// A recovered batch continues from the state that its current run was handed. Later progress is lost, so those pages
/// are done again, and counted once.
#[tokio::test]
async fn a_recovered_batch_starts_its_run_again_and_counts_correctly() {
    let env = TestEnv::new("recover").await;
    let (numbers, gate) = gated_where(|seen| seen.start >= 50);
    let numbers = numbers.settings(|s| s.heartbeat_timeout = Duration::from_secs(2));
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(2)
        .pages_per_run(3);
    let handle = env.start(&batch).await;
    let half =
        |p: &temporal_batch::progress::Progress| p.pages_completed == 5 && p.pages_in_flight == 2;
    let before = progress_shows(&handle, "half of the pages are done", half).await;
    assert!(before.runs > 1, "no page was handed over");
    handle.set_max_parallelism(3).await.unwrap();

    handle.recover("to see what happens").await.unwrap();
    // A recovered run can be recovered again.
    progress_shows(&handle, "the batch is again where its run began", |p| {
        p.pages_completed == 5 && p.max_parallelism == 3
    })
    .await;
    handle.recover("once more").await.unwrap();
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(report.progress.batch_run, before.batch_run);
    assert_eq!(report.progress.started_at, before.started_at);
    assert_eq!(
        report.progress.max_parallelism, 3,
        "an update is applied again"
    );
    assert_eq!(report.progress.pages_completed, 10);
    assert_eq!(report.progress.items.processed, 100);
    assert_eq!(report.progress.pages_failed, 0);
    let mut processed = numbers.record().processed();
    let handed_over = processed.iter().filter(|row| **row <= 30).count();
    assert_eq!(handed_over, 30, "finished pages ran again");
    assert!(processed.len() > 100, "no page was done again");
    processed.dedup();
    assert_eq!(processed, rows(100));

    let ended = handle.recover("too late").await.unwrap_err();
    assert!(matches!(ended, RecoverError::NotRunning { .. }), "{ended}");
    let unknown = env.client.handle(env.new_id()).unwrap();
    let unknown = unknown.recover("").await.unwrap_err();
    assert!(
        matches!(unknown, RecoverError::NotFound { .. }),
        "{unknown}"
    );
}

#[tokio::test]
async fn at_most_once_a_batch_is_recovered_only_by_force() {
    // The retry mode is known from the report of the processor's settings, or from the state that the run was handed.
    for (name, pages_per_run) in [("recover-once", 100), ("recover-once-handed", 1)] {
        is_recovered_only_by_force(&TestEnv::new(name).await, pages_per_run).await;
    }
}

async fn is_recovered_only_by_force(env: &TestEnv, pages_per_run: u32) {
    let (numbers, gate) = gated_where(|seen| seen.start >= 20);
    let once = numbers.clone().settings(|s| {
        s.retry_mode = RetryMode::AtMostOnce;
        s.retry = RetryPolicy::never();
        s.heartbeat_timeout = Duration::from_secs(2);
    });
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 50 })
        .page_size(10)
        .max_parallelism(1)
        .pages_per_run(pages_per_run);
    let handle = env.start(&batch).await;
    let not_yet = handle.recover("").await.unwrap_err();
    assert!(
        matches!(not_yet, RecoverError::NotBegun { .. }),
        "{not_yet}"
    );
    let _worker = env.worker(once).await;
    let waits =
        |p: &temporal_batch::progress::Progress| p.pages_completed == 2 && p.pages_in_flight == 1;
    progress_shows(&handle, "two pages are done", waits).await;
    let refused = handle.recover("").await.unwrap_err();
    assert!(
        matches!(refused, RecoverError::AtMostOnce { .. }),
        "{refused}"
    );
    handle.recover_by_force("they are harmless").await.unwrap();
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.progress.items.processed, 50, "{report:#?}");
    let mut processed = numbers.record().processed();
    assert!(processed.len() > 50, "no page ran twice");
    processed.dedup();
    assert_eq!(processed, rows(50));
}

/// An operator who pauses the activity of a running stride ends it after its page, as a cancellation does. The rest of
/// the stride is dispatched again, so this is no way to pause a batch, but it harms nothing.
#[tokio::test]
async fn a_paused_activity_ends_after_its_page_and_the_batch_continues() {
    use temporalio_client::tonic::IntoRequest as _;
    use temporalio_common::protos::temporal::api::{
        common::v1::WorkflowExecution,
        workflowservice::v1::{PauseActivityRequest, pause_activity_request::Activity},
    };
    let env = TestEnv::new("pause-activity").await;
    // The only page runs until it is cancelled.
    let _worker = env.worker(Patient).await;
    let batch = env.batch::<Patient>(()).max_parallelism(1);
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the page runs", |p| p.pages_in_flight == 1).await;
    let pause = PauseActivityRequest {
        namespace: "default".to_owned(),
        execution: Some(WorkflowExecution {
            workflow_id: batch.id().to_owned(),
            run_id: String::new(),
        }),
        activity: Some(Activity::Id("stride-0".to_owned())),
        ..Default::default()
    };
    let mut service = env.client.temporal().connection().workflow_service();
    service.pause_activity(pause.into_request()).await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 1);
    assert_eq!(report.progress.retries, 0);
}

/// A store that keeps reports, but fails at its first call.
#[derive(Clone, Default)]
struct Reports {
    kept: Shared<Vec<BatchReport>>,
    asked: Shared<u32>,
}

#[async_trait::async_trait]
impl DeadLetters for Reports {
    async fn put(&self, _: &[DeadLetter]) -> Result<(), PageError> {
        Ok(())
    }

    async fn list(
        &self,
        _: &LetterFilter,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<DeadLetter>, PageError> {
        Ok(Vec::new())
    }

    async fn take(&self, _: &DeadLetter) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        Ok(None)
    }

    async fn keep_report(&self, report: &BatchReport) -> Result<(), PageError> {
        *self.asked.lock() += 1;
        if *self.asked.lock() == 1 {
            return Err(PageError::retryable("locked"));
        }
        self.kept.lock().push(report.clone());
        Ok(())
    }
}

/// A processor without data, but with a store.
struct Kept(Reports);

#[async_trait::async_trait]
impl PageProcessor for Kept {
    const NAME: &'static str = "kept";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        Ok(Page::empty())
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<u64>) -> Result<PageReport, PageError> {
        Ok(PageReport::all_processed())
    }

    fn dead_letters(&self, _: &Self::Args) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::new(self.0.clone()))
    }
}

/// Temporal forgets a batch after its retention; the user's store does not.
#[tokio::test]
async fn the_final_report_is_kept_with_the_dead_letters() {
    let env = TestEnv::new("kept").await;
    let reports = Reports::default();
    let _worker = env.worker(Kept(reports.clone())).await;
    let batch = env.batch::<Kept>(());
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.hooks_failed, 0);
    assert_eq!(*reports.asked.lock(), 2, "one call failed");
    let kept = reports.kept.lock().clone();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].outcome, Outcome::Completed);
    assert_eq!(kept[0].progress.batch_run, report.progress.batch_run);
    replays(&env, batch.id(), "kept").await;
}
