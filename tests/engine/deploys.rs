//! A running batch that meets workers with other code.

use std::time::Duration;

use async_trait::async_trait;
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    progress::{FailureState, Phase},
    settings::{ExtendedRetries, RetryPolicy},
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, gated_where, quick_retries},
    support::{TestEnv, eventually, progress_shows, report},
};

/// A deploy is enough: the stuck page is retried by itself.
#[tokio::test]
async fn a_deploy_of_repaired_code_finishes_the_batch() {
    let env = TestEnv::new("deploy").await;
    let extended = ExtendedRetries {
        interval: Duration::from_secs(1),
        max_attempts: None,
    };
    let retry = quick_retries().max_attempts(2).extended(Some(extended));
    let settings = |numbers: NumbersProcessor| numbers.settings(|s| s.retry = retry.clone());
    let broken = NumbersProcessor::new().on_process(|seen| async move {
        match seen.start {
            20 => panic!("division by zero"),
            _ => Ok(PageReport::all_processed()),
        }
    });
    let worker = env.worker(settings(broken)).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 50 }).page_size(10);
    let handle = env.start(&batch).await;
    let stuck = progress_shows(&handle, "only the page that panics is left", |p| {
        p.phase == Phase::WaitingForStuckPages && p.pages_completed == 4
    });
    assert_eq!(stuck.await.failing[0].error_type, "Panic");
    worker.stop().await.unwrap();

    let repaired = settings(NumbersProcessor::new());
    let _worker = env.worker(repaired.clone()).await;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 5);
    assert_eq!(repaired.record().processed(), (21..=30).collect::<Vec<_>>());
}

/// A processor of the same name whose cursors have another type.
struct NamedNumbers;

#[async_trait]
impl PageProcessor for NamedNumbers {
    const NAME: &'static str = NumbersProcessor::NAME;
    type Args = UpTo;
    type Cursor = String;
    type Item = ();

    async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<String, ()>, PageError> {
        Ok(Page::empty())
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<()>) -> Result<PageReport, PageError> {
        Ok(PageReport::all_processed())
    }
}

/// Each page has a single attempt, so that only the code of the worker can save it.
#[tokio::test]
async fn a_worker_that_cannot_read_the_cursors_uses_up_no_attempts() {
    let env = TestEnv::new("other-cursor").await;
    let (numbers, gate) = gated_where(|seen| seen.start == 10);
    let numbers = numbers.settings(|s| s.retry = RetryPolicy::never());
    let worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 50 })
        .page_size(10)
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    numbers
        .shows("the second page has begun", |r| r.begun.len() == 2)
        .await;
    gate.let_through(1);
    worker.stop().await.unwrap();

    let other = env.worker(NamedNumbers).await;
    let waiting = progress_shows(&handle, "a page waits for other code", |p| {
        p.failing
            .iter()
            .any(|page| page.error_type == "CursorNotReadable")
    });
    let waiting = waiting.await;
    assert_eq!(waiting.failing[0].attempts, 0);
    other.stop().await.unwrap();

    gate.open();
    let _worker = env.worker(numbers.clone()).await;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
    eventually("every page was processed once", || async {
        (numbers.record().processed() == (1..=50).collect::<Vec<_>>()).then_some(())
    })
    .await;
}

/// An unreadable page holds up no other page where the source can skip ahead.
#[tokio::test]
async fn discovery_continues_behind_a_page_that_cannot_be_read() {
    let env = TestEnv::new("unreadable").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .settings(|s| {
            s.retry = quick_retries()
                .max_attempts(2)
                .extended(Some(ExtendedRetries::default()));
        })
        .on_fetch(|seen| async move {
            match seen.start {
                20 => Err(PageError::retryable("checksum mismatch")),
                _ => Ok(()),
            }
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    let progress = progress_shows(&handle, "all other pages are done", |p| {
        p.pages_completed == 9 && p.phase == Phase::WaitingForStuckPages
    });
    let progress = progress.await;
    assert_eq!(
        (progress.pages_stuck, progress.pages_in_flight),
        (1, 0),
        "the unreadable page holds a slot"
    );
    assert!(progress.end_of_data);
    handle.cancel("seen enough").await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
}

/// The batch reports that it is blocked, and at which page, where the source cannot skip ahead.
#[tokio::test]
async fn a_batch_whose_source_cannot_skip_ahead_is_blocked_at_an_unreadable_page() {
    let env = TestEnv::new("blocked").await;
    let numbers = NumbersProcessor::new()
        .settings(|s| {
            s.retry = quick_retries()
                .max_attempts(2)
                .extended(Some(ExtendedRetries::default()));
        })
        .on_fetch(|seen| async move {
            match seen.start {
                20 => Err(PageError::retryable("checksum mismatch").with_type("Checksum")),
                _ => Ok(()),
            }
        });
    let _worker = env.worker(numbers.clone()).await;
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 100 }).page_size(10))
        .await;
    let progress = progress_shows(&handle, "the batch blocks", |p| p.phase == Phase::Blocked);
    let progress = progress.await;
    assert_eq!(progress.pages_completed, 2);
    let failing = &progress.failing[0];
    assert_eq!(
        (failing.error_type.as_str(), failing.attempts),
        ("Checksum", 2)
    );
    assert_eq!(failing.state, FailureState::Blocked);
    assert_eq!(failing.start.as_ref().unwrap().as_str(), "20");
    assert_eq!(progress.low_water_mark.unwrap().as_str(), "20");
    handle.cancel("seen enough").await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
}
