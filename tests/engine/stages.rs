//! Batches with stages, which stop at the end of each stage until it is checked or approved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use temporal_batch::{
    CheckContext, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, PageToken,
    ProcessorSettings, SkipAhead,
    errors::{AcceptError, ControlError},
    progress::{Check, FailedRange, HeldBy, Phase, StageState},
    settings::{Limit, RetryPolicy, Stage, Tolerance},
};

use crate::{
    numbers_processor::{NumbersProcessor, Shared, UpTo, gated_where, page_of},
    replay::replays,
    support::{TestEnv, number_pages::skip, progress_shows, report},
};

/// A processor over numbers, whose check finds those that a test has declared wrong.
#[derive(Clone)]
struct Checked {
    numbers: NumbersProcessor,
    wrong: Shared<Vec<u64>>,
    /// The last number of the range of each check.
    looked: Shared<Vec<Option<u64>>>,
    errors: Arc<AtomicU32>,
    never: bool,
}

impl Checked {
    fn new(numbers: NumbersProcessor) -> Self {
        Self {
            numbers,
            wrong: Shared::default(),
            looked: Shared::default(),
            errors: Arc::default(),
            never: false,
        }
    }
}

#[async_trait]
impl PageProcessor for Checked {
    const NAME: &'static str = "checked";
    type Args = UpTo;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        page_of(ctx)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        self.numbers.process_as(ctx.attempt(), items).await
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        Ok(skip(ctx, pages, ctx.args().n))
    }

    async fn size_hint(&self, args: &UpTo) -> Result<Option<u64>, PageError> {
        Ok(Some(args.n))
    }

    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        if self.never {
            ctx.cancelled().await;
            return Err(PageError::retryable("told to end"));
        }
        if self.errors.load(Ordering::SeqCst) > 0 {
            self.errors.fetch_sub(1, Ordering::SeqCst);
            return Err(PageError::retryable("no connection").with_type("NoConnection"));
        }
        let to = ctx.covered_to().copied();
        self.looked.lock().push(to);
        let mut check = Check::default();
        let done = self.numbers.record().processed();
        for n in 1..=to.unwrap_or(ctx.args().n) {
            assert!(done.contains(&n), "{n} is not finished, but is checked");
        }
        let wrong = self.wrong.lock().clone();
        match wrong.iter().find(|n| to.is_none_or(|to| **n <= to)) {
            None => check.passes(done.len() as u64),
            Some(n) => check.fails(FailedRange {
                start: None,
                end: Some(PageToken::encode(n)?),
                items: 1,
                message: format!("{n} is wrong"),
            }),
        }
        Ok(Some(check))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default()
                .initial_interval(Duration::from_millis(20))
                .extended(None),
            heartbeat_timeout: Duration::from_secs(2),
            ..ProcessorSettings::default()
        }
    }
}

fn processed(checked: &Checked) -> Vec<u64> {
    checked.numbers.record().processed()
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_exact_to_the_item_and_continue_by_themselves_where_the_check_passes() {
    let env = TestEnv::new("stages").await;
    let checked = Checked::new(NumbersProcessor::new());
    checked.errors.store(1, Ordering::SeqCst);
    let _worker = env.worker(checked.clone()).await;
    let batch = env
        .batch::<Checked>(UpTo { n: 1_000 })
        .page_size(30)
        .stride(2)
        .max_parallelism(4)
        .stages([Stage::Items(47), Stage::Percent(10.0), Stage::All]);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(processed(&checked), (1..=1_000).collect::<Vec<_>>());
    assert_eq!(*checked.looked.lock(), [Some(47), Some(100), None]);
    assert!(report.is_verified());
    let stage = report.progress.stage.unwrap();
    assert_eq!((stage.number, stage.of), (3, 3));
    replays(&env, batch.id(), "stages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_check_holds_the_batch_until_an_operator_approves() {
    let env = TestEnv::new("stage-fails").await;
    // The last stage waits at the gate.
    let (numbers, gate) = gated_where(|seen| seen.start >= 80);
    let checked = Checked::new(numbers);
    checked.wrong.lock().push(20);
    let worker = env.worker(checked.clone()).await;
    let batch = env
        .batch::<Checked>(UpTo { n: 200 })
        .page_size(15)
        .stages([Stage::Items(40), Stage::Items(80)])
        .pages_per_run(2);
    let handle = env.start(&batch).await;
    let held = progress_shows(&handle, "the stage failed", |p| {
        p.stage
            .as_ref()
            .is_some_and(|s| s.state == StageState::Failed)
    });
    let held = held.await;
    assert_eq!(processed(&checked), (1..=40).collect::<Vec<_>>());
    assert_eq!(
        (held.phase, held.held_by),
        (Phase::Held, Some(HeldBy::Stage))
    );
    let why = &held.explanation;
    assert!(
        why.contains("stage 1 of 3 (40items) is done, but the check does not hold"),
        "{why}"
    );
    assert!(why.contains("20 is wrong"), "{why}");
    assert!(held.runs > 1, "the batch was never handed over");

    // Another worker takes over, and the stage is still held.
    worker.stop().await.unwrap();
    let _worker = env.worker(checked.clone()).await;
    checked.wrong.lock().clear();
    handle.because("looked at it").approve().await.unwrap();
    progress_shows(&handle, "the last stage runs", |p| {
        p.stage.as_ref().is_some_and(|s| s.number == 3) && p.pages_in_flight > 0
    })
    .await;
    let refused = handle.approve().await.unwrap_err();
    assert!(matches!(refused, ControlError::Refused { .. }), "{refused}");
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(processed(&checked), (1..=200).collect::<Vec<_>>());
    assert_eq!(*checked.looked.lock(), [Some(40), Some(80), None]);
    let audit: Vec<_> = report
        .progress
        .audit
        .iter()
        .map(|e| e.action.as_str())
        .collect();
    assert!(
        audit.contains(&"approve stage 1 of 3 (40items)"),
        "{audit:?}"
    );
    replays(&env, batch.id(), "stage-fails").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_can_wait_for_approval_and_be_cancelled_there() {
    let env = TestEnv::new("stage-approved").await;
    let checked = Checked::new(NumbersProcessor::new());
    let _worker = env.worker(checked.clone()).await;
    let batch = env
        .batch::<Checked>(UpTo { n: 200 })
        .page_size(15)
        .stages([Stage::Items(10), Stage::Items(20)])
        .approve_stages(true);
    let handle = env.start(&batch).await;
    let waits = |number| {
        move |p: &temporal_batch::progress::Progress| {
            p.stage
                .as_ref()
                .is_some_and(|s| s.number == number && s.state == StageState::WaitingForApproval)
        }
    };
    progress_shows(&handle, "stage 1 waits", waits(1)).await;
    handle.approve().await.unwrap();
    progress_shows(&handle, "stage 2 waits", waits(2)).await;
    assert_eq!(processed(&checked), (1..=20).collect::<Vec<_>>());
    handle.cancel("not today").await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert_eq!(processed(&checked).len(), 20);
    replays(&env, batch.id(), "stage-cancelled").await;

    // The continued batch is where the cancelled one ended, and still waits.
    let continuation = temporal_batch::client::Continuation::of(handle.id());
    let handle = env.client.continue_batch(&continuation).await.unwrap();
    progress_shows(&handle, "stage 2 waits again", waits(2)).await;
    handle.approve().await.unwrap();
    assert_eq!(
        crate::support::report(&handle).await.outcome,
        Outcome::Completed
    );
    assert_eq!(processed(&checked), (1..=200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_stage_are_compared_with_the_tolerance() {
    let env = TestEnv::new("stage-tolerance").await;
    let numbers = NumbersProcessor::new().on_process(|seen| async move {
        let mut report = PageReport::all_processed();
        if seen.items.contains(&3) {
            report.fail(0, "Bad", "made to fail");
        }
        Ok(report)
    });
    let checked = Checked::new(numbers);
    let _worker = env.worker(checked).await;
    for tolerance in [None, Some(Limit::percent(5.0))] {
        let mut batch = env
            .batch::<Checked>(UpTo { n: 100 })
            .page_size(5)
            .stages([Stage::Items(10)]);
        if let Some(items) = tolerance {
            batch = batch.tolerate(Tolerance::new().items(items));
        }
        let handle = env.start(&batch).await;
        let failed = progress_shows(&handle, "the stage failed", |p| {
            p.stage
                .as_ref()
                .is_some_and(|s| s.state == StageState::Failed)
        });
        let reason = failed.await.stage.unwrap().reason.unwrap();
        let expected = if tolerance.is_some() {
            "tolerated"
        } else {
            "1 item was given up"
        };
        assert!(reason.contains(expected), "{reason}");
        handle.approve().await.unwrap();
        assert_eq!(
            report(&handle).await.outcome,
            Outcome::CompletedWithFailures
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_after_the_last_page_decides_how_the_batch_ends() {
    let env = TestEnv::new("check-at-end").await;
    let checked = Checked::new(NumbersProcessor::new());
    let _worker = env.worker(checked.clone()).await;
    let batch = || {
        env.batch::<Checked>(UpTo { n: 20 })
            .page_size(15)
            .check_at_end(true)
    };
    let good = env.run(&batch()).await;
    assert!(good.is_verified(), "{good:#?}");
    checked.wrong.lock().push(7);
    let wrong = batch();
    let report = env.run(&wrong).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    assert!(!report.is_verified());
    let reason = report.reason.unwrap();
    assert_eq!(
        reason,
        "the check does not hold: 1 of 1 range does not hold, 1 item: 7 is wrong"
    );
    replays(&env, wrong.id(), "check-fails").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_cancelled_while_it_is_checked() {
    let env = TestEnv::new("check-cancelled").await;
    let mut checked = Checked::new(NumbersProcessor::new());
    checked.never = true;
    let worker = env.worker(checked.clone()).await;
    let batch = env.batch::<Checked>(UpTo { n: 20 }).check_at_end(true);
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the batch is being checked", |p| {
        p.explanation
            .contains("every page is finished, and being checked")
    })
    .await;
    handle.cancel("").await.unwrap();
    let cancelled = report(&handle).await;
    assert_eq!(cancelled.outcome, Outcome::Cancelled);
    assert!(cancelled.reason.unwrap().contains("every page is finished"));
    replays(&env, batch.id(), "check-cancelled").await;
    worker.stop().await.unwrap();

    checked.never = false;
    let _worker = env.worker(checked.clone()).await;
    let continuation = temporal_batch::client::Continuation::of(handle.id());
    let handle = env.client.continue_batch(&continuation).await.unwrap();
    assert!(report(&handle).await.is_verified());
}

/// The check never ends, or fails at every attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_check_after_the_last_page() {
    for (never, errors) in [(true, 0), (false, u32::MAX)] {
        let env = TestEnv::new("check-late").await;
        let mut checked = Checked::new(NumbersProcessor::new());
        checked.never = never;
        checked.errors.store(errors, Ordering::SeqCst);
        let worker = env.worker(checked.clone()).await;
        let batch = env.batch::<Checked>(UpTo { n: 20 }).check_at_end(true);
        let handle = env.start(&batch.deadline(Duration::from_secs(8))).await;
        let late = report(&handle).await;
        assert_eq!(late.outcome, Outcome::Stopped);
        assert_eq!(
            late.reason.unwrap(),
            "the deadline is over while it was checked; every page is finished"
        );
        assert_eq!(late.progress.items.processed, 20);
        assert_eq!(late.progress.audit.last().unwrap().action, "stop");
        replays(&env, handle.id(), "check-late").await;
        worker.stop().await.unwrap();

        checked.never = false;
        checked.errors.store(0, Ordering::SeqCst);
        let _worker = env.worker(checked.clone()).await;
        let continuation = temporal_batch::client::Continuation::of(handle.id());
        let continuation = continuation.deadline(Duration::from_secs(3_600));
        let handle = env.client.continue_batch(&continuation).await.unwrap();
        assert!(report(&handle).await.is_verified());
    }
}

#[tokio::test]
async fn stages_in_percent_of_an_unknown_total_are_refused() {
    let env = TestEnv::new("stage-unknown").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 20 })
        .stages([Stage::Percent(1.0)]);
    let refused = env.start(&batch).await.accepted().await.unwrap_err();
    assert!(matches!(refused, AcceptError::Refused { .. }), "{refused}");
    let message = refused.to_string();
    assert!(
        message.contains("does not say how many there are"),
        "{message}"
    );
    let handle = env
        .start(
            &env.batch::<NumbersProcessor>(UpTo { n: 5 })
                .max_parallelism(0),
        )
        .await;
    let refused = handle.approve().await.unwrap_err().to_string();
    assert!(refused.contains("the batch has no stages"), "{refused}");
}

/// The source gives each page its successor and some pages fail, but stages are still exact.
#[tokio::test]
async fn failed_pages_keep_their_place_in_the_stage() {
    let env = TestEnv::new("stage-retries").await;
    let numbers = NumbersProcessor::new().on_process(|seen| async move {
        match seen.start % 3 == 0 && seen.times == 1 {
            true => Err(PageError::retryable("made to fail")),
            false => Ok(PageReport::all_processed()),
        }
    });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(7)
        .stages([Stage::Items(24), Stage::Items(60)])
        .approve_stages(true);
    let handle = env.start(&batch).await;
    for (number, mark) in [(1, 24), (2, 60)] {
        progress_shows(&handle, "the stage waits", |p| {
            let stage = p.stage.as_ref();
            stage.is_some_and(|s| s.number == number && s.state == StageState::WaitingForApproval)
        })
        .await;
        assert_eq!(numbers.record().processed(), (1..=mark).collect::<Vec<_>>());
        handle.approve().await.unwrap();
    }
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), (1..=100).collect::<Vec<_>>());
}
