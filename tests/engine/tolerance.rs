//! Batches that pause or stop themselves: too many failures, a deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use temporal_batch::{
    Outcome, PageError, PageReport,
    client::BatchStatus,
    progress::Phase,
    settings::{ExtendedRetries, Limit, OnExceeded, Tolerance},
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, quick_retries},
    replay::replays,
    support::{TestEnv, progress_shows, report},
};

/// A processor over numbers that calls a service, which can be down.
fn behind_a_service() -> (NumbersProcessor, Arc<AtomicBool>) {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(move |_| {
            let down = is_down.load(Ordering::SeqCst);
            async move {
                if down {
                    return Err(PageError::retryable("503").with_type("Unavailable"));
                }
                Ok(PageReport::all_processed())
            }
        });
    (numbers, down)
}

#[tokio::test]
async fn a_service_that_is_down_pauses_the_batch_before_any_page_is_given_up() {
    let env = TestEnv::new("down").await;
    let (numbers, down) = behind_a_service();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 400 })
        .page_size(10)
        .max_parallelism(4)
        .tolerate(Tolerance::new().consecutive(10));
    let handle = env.start(&batch).await;
    let paused = progress_shows(&handle, "the batch pauses", |p| p.phase == Phase::Paused).await;
    let reason = paused.pause_reason.unwrap();
    // Pages that run beside each other may fail together.
    let told = |n| format!("tolerated failures exceeded: {n} attempts failed in a row");
    let said = (11..=14).any(|n| reason.starts_with(&told(n)));
    assert!(
        said && reason.ends_with("at most 10 are tolerated"),
        "{reason}"
    );
    assert_eq!((paused.pages_completed, paused.pages_failed), (0, 0));

    // The service is still down: the batch pauses again, and counts from zero.
    handle.resume().await.unwrap();
    let paused = progress_shows(&handle, "the batch pauses again", |p| {
        p.phase == Phase::Paused && p.audit.iter().filter(|e| e.action == "pause").count() == 2
    });
    let paused = paused.await;
    assert!(paused.consecutive_failures < 20, "{paused:#?}");
    let itself = paused.audit.last().unwrap();
    assert_eq!(itself.who.as_deref(), Some("the batch itself"));

    down.store(false, Ordering::SeqCst);
    handle.because("it is up again").resume().await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.consecutive_failures, 0);
    assert_eq!(numbers.record().processed(), (1..=400).collect::<Vec<_>>());
    replays(&env, handle.id(), "tripped").await;
}

#[tokio::test]
async fn a_batch_may_stop_itself_instead() {
    let env = TestEnv::new("down-stop").await;
    let (numbers, _down) = behind_a_service();
    let _worker = env.worker(numbers.clone()).await;
    let tolerance = Tolerance::new().consecutive(3).then(OnExceeded::Stop);
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 400 })
        .page_size(10)
        .max_parallelism(4)
        .tolerate(tolerance);
    let handle = env.start(&batch).await;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Stopped);
    let reason = report.reason.unwrap();
    assert!(
        reason.contains("failed in a row; at most 3 are tolerated"),
        "{reason}"
    );
    assert!(
        reason.contains("everything up to the beginning is finished"),
        "{reason}"
    );
    assert_eq!(report.progress.pages_in_flight, 0);
    assert_eq!(handle.state().await.unwrap(), BatchStatus::Failed);
    replays(&env, handle.id(), "stopped").await;
}

#[tokio::test]
async fn a_share_of_failed_items_counts_once_enough_items_are_done() {
    let env = TestEnv::new("share").await;
    let numbers = NumbersProcessor::new().on_process(|_| async move {
        let mut report = PageReport::all_processed();
        report.fail(0, "Unlucky", "the first of its page");
        Ok(report)
    });
    let _worker = env.worker(numbers.clone()).await;
    let tolerance = Tolerance::new().items(Limit::percent(9.5).min_sample(50));
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 200 })
        .page_size(10)
        .max_parallelism(1)
        .tolerate(tolerance);
    let handle = env.start(&batch).await;
    let paused = progress_shows(&handle, "the batch pauses", |p| p.phase == Phase::Paused).await;
    assert_eq!(
        paused.pause_reason.as_deref(),
        Some(
            "tolerated failures exceeded: 5 of 50 items failed (10.00 %); at most 9.5 % are tolerated"
        )
    );
    assert_eq!(paused.items.total(), 50);
    handle.resume().await.unwrap();
    progress_shows(&handle, "the batch pauses again", |p| {
        p.phase == Phase::Paused && p.items.total() == 100
    })
    .await;
    handle.cancel("seen enough").await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
}

/// Each page has an item that fails, and each stride has hundreds of pages.
#[tokio::test]
async fn long_strides_exceed_the_tolerance_by_their_shares_and_the_pages_in_flight_at_most() {
    let env = TestEnv::new("long-strides").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(|_| async {
            let mut report = PageReport::all_processed();
            report.fail(0, "Unlucky", "the first of its page");
            Ok(report)
        });
    let _worker = env.worker(numbers.clone()).await;
    for tolerated in [1, 9] {
        let tolerance = Tolerance::new()
            .items(Limit::count(tolerated))
            .then(OnExceeded::Stop);
        let batch = env
            .batch::<NumbersProcessor>(UpTo { n: 10_000 })
            .page_size(10)
            .stride(250)
            .max_parallelism(3)
            .tolerate(tolerance);
        let report = env.run(&batch).await;
        assert_eq!(report.outcome, Outcome::Stopped);
        let reason = report.reason.unwrap();
        assert!(reason.contains("items failed; at most"), "{reason}");
        let failed = report.progress.items.failed;
        // The report of one stride is one failure too many while each of two others withholds its share, and its page in
        // flight fails.
        let withheld = 2 * (tolerated / 3 + 1);
        let expected = tolerated + 1..=tolerated + 1 + withheld;
        assert!(expected.contains(&failed), "{failed} of {tolerated}");
        replays(&env, &report.progress.batch_id, "long-strides").await;
    }
}

#[tokio::test]
async fn exactly_as_many_pages_may_fail_as_are_tolerated() {
    let env = TestEnv::new("pages").await;
    let numbers = NumbersProcessor::new().on_process(|seen| async move {
        if [10, 30].contains(&seen.start) {
            return Err(PageError::non_retryable("Poison", "never"));
        }
        Ok(PageReport::all_processed())
    });
    let _worker = env.worker(numbers.clone()).await;
    let tolerating = |pages| {
        let tolerance = Tolerance::new()
            .pages(Limit::count(pages))
            .then(OnExceeded::Stop);
        env.batch::<NumbersProcessor>(UpTo { n: 100 })
            .page_size(10)
            .max_parallelism(1)
            .tolerate(tolerance)
    };
    let enough = env.run(&tolerating(2)).await;
    assert_eq!(enough.outcome, Outcome::CompletedWithFailures);
    assert_eq!(enough.progress.pages_failed, 2);
    let stopped = env.run(&tolerating(1)).await;
    assert_eq!(stopped.outcome, Outcome::Stopped);
    assert_eq!(stopped.progress.pages_failed, 2);
    assert_eq!(stopped.progress.low_water_mark.unwrap().as_str(), "40");
}

#[tokio::test]
async fn a_deadline_stops_running_strides_after_their_page() {
    let env = TestEnv::new("deadline").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(|_| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100_000 })
        .page_size(10)
        .stride(20)
        .pages_per_run(10)
        .max_parallelism(1)
        .deadline(Duration::from_secs(4));
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Stopped);
    let reason = report.reason.as_ref().unwrap();
    assert!(
        reason.starts_with("the deadline is over; everything up to "),
        "{reason}"
    );
    assert!(report.duration() >= Duration::from_secs(4));
    assert!(report.duration() < Duration::from_secs(8), "{report:#?}");
    assert!(report.progress.runs > 1, "the batch was never handed over");
    let done = numbers.record().done.len() as u64;
    assert_eq!(report.progress.pages_completed, done);
}

#[tokio::test]
async fn a_deadline_ends_a_pause_and_a_wait() {
    let env = TestEnv::new("deadline-paused").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .max_parallelism(0)
        .deadline(Duration::from_secs(2));
    let handle = env.start(&batch).await;
    handle.pause("for ever").await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Stopped);
    assert!(numbers.record().fetches.is_empty());
    let last = report.progress.audit.last().unwrap();
    assert_eq!(last.action, "stop");
    replays(&env, handle.id(), "late").await;
}

#[tokio::test]
async fn a_page_in_extended_retries_counts_as_failed() {
    let env = TestEnv::new("only-retries").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(|seen| async move {
            match seen.start {
                10 => Err(PageError::retryable("busy")),
                _ => Ok(PageReport::all_processed()),
            }
        })
        .settings(|s| {
            let extended = Some(ExtendedRetries::default());
            s.retry = quick_retries().max_attempts(2).extended(extended);
        });
    let _worker = env.worker(numbers.clone()).await;
    let tolerance = Tolerance::new()
        .pages(Limit::count(0))
        .then(OnExceeded::Stop);
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 40 })
        .page_size(10)
        .tolerate(tolerance);
    let handle = env.start(&batch).await;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Stopped);
    let reason = report.reason.unwrap();
    assert!(
        reason.contains("1 page failed; at most 0 are tolerated"),
        "{reason}"
    );
    assert_eq!(numbers.record().times_begun(10), 2);
    let failing = &report.progress.failing[0];
    let gives_up_at = failing.gives_up_at.expect("its retries have an end");
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(gives_up_at.since(failing.last_at), week);
    replays(&env, handle.id(), "only-retries").await;
}

#[tokio::test]
async fn a_batch_that_is_done_before_its_deadline_does_not_wait_for_it() {
    let env = TestEnv::new("deadline-far").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .deadline(Duration::from_secs(3_600));
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(
        report
            .progress
            .deadline
            .unwrap()
            .since(report.progress.started_at),
        Duration::from_secs(3_600)
    );
}
