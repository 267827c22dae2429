//! Pages that fail: retried, stuck, given up.

use std::time::Duration;

use temporal_batch::{
    Outcome, PageError, PageReport,
    progress::{FailureState, PageFailure, Phase},
    settings::{ExtendedRetries, RetryMode, RetryPolicy},
};

use tokio::sync::watch;

use crate::{
    numbers_processor::{Gate, NumbersProcessor, Record, Seen, Shared, UpTo, quick_retries},
    replay::replays,
    support::{TestEnv, progress_shows, report},
};

fn extended_every_second() -> Option<ExtendedRetries> {
    Some(ExtendedRetries {
        interval: Duration::from_secs(1),
        max_attempts: None,
    })
}

/// A processor whose page after 10 fails the first `times` times.
fn failing(times: usize) -> NumbersProcessor {
    NumbersProcessor::new().on_process(move |seen| async move { fail_at_10(&seen, times) })
}

fn fail_at_10(seen: &Seen, times: usize) -> Result<PageReport, PageError> {
    if seen.start == 10 && seen.times <= times {
        return Err(PageError::retryable("made to fail").with_type("Flaky"));
    }
    Ok(PageReport::all_processed())
}

#[tokio::test]
async fn a_transient_failure_is_retried_to_completion() {
    let env = TestEnv::new("transient").await;
    let numbers = failing(3);
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 50 }).page_size(10);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 5);
    assert_eq!(report.progress.retries, 3);
    let record = numbers.record();
    assert_eq!(record.processed(), (1..=50).collect::<Vec<_>>());
    let attempts: Vec<_> = record.begun.iter().filter(|s| s.start == 10).collect();
    assert_eq!(
        attempts.iter().map(|s| s.attempt).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    // The end of the page is known once the next page is, so a retry sees it.
    assert!(attempts.iter().skip(1).all(|s| s.end == Some(20)));
    // A retry does not announce the next page again.
    let signals = env.signals(batch.id(), "next_page");
    assert_eq!(signals.await, 5);
}

#[tokio::test]
async fn a_stuck_page_completes_in_extended_retries_while_other_pages_run() {
    let env = TestEnv::new("stuck").await;
    let numbers = failing(3).settings(|s| {
        s.retry = quick_retries()
            .max_attempts(2)
            .extended(extended_every_second());
    });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 50 })
        .page_size(10)
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    let progress = progress_shows(&handle, "only the stuck page is left", |p| {
        p.pages_stuck == 1 && p.pages_completed == 4
    });
    let progress = progress.await;
    assert_eq!(progress.failing[0].error_type, "Flaky");
    assert_eq!(progress.failing[0].message, "made to fail");
    assert_eq!(progress.failing[0].state, FailureState::Stuck);
    assert!(progress.failing[0].attempts >= 2);
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 5);
    assert_eq!(numbers.record().times_begun(10), 4);
    replays(&env, handle.id(), "stuck").await;
}

/// Eight pages are stuck and due, and six of eight slots are free.
#[tokio::test]
async fn slow_retries_hold_at_most_a_quarter_of_the_slots_while_other_pages_run() {
    const STUCK: u64 = 8;
    const PAGES: u64 = 24;
    let env = TestEnv::new("slow-lane").await;
    let gate = Gate::closed();
    let held = gate.clone();
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .settings(|s| {
            s.retry = quick_retries()
                .max_attempts(1)
                .extended(extended_every_second());
        })
        .on_process(move |seen| {
            let held = held.clone();
            async move {
                if seen.start < STUCK && seen.times == 1 {
                    return Err(PageError::retryable("made to fail").with_type("Flaky"));
                }
                if seen.start < STUCK {
                    held.pass().await;
                }
                Ok(PageReport::all_processed())
            }
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: PAGES })
        .page_size(1)
        .stride(1)
        .max_parallelism(8);
    let handle = env.start(&batch).await;
    let progress = progress_shows(
        &handle,
        "only stuck pages are left, and all of them are due",
        |p| {
            let due =
                |failing: &PageFailure| p.as_of.since(failing.last_at) > Duration::from_secs(3);
            p.pages_completed == PAGES - STUCK
                && p.failing.len() as u64 == STUCK
                && p.failing.iter().all(due)
        },
    );
    let progress = progress.await;
    assert_eq!(progress.pages_in_flight, 2, "a quarter of eight");
    let slow = |r: &Record| r.begun.iter().filter(|s| s.times > 1).count();
    assert_eq!(slow(&numbers.record()), 2);
    // Each page that ends makes room for one more.
    gate.let_through(1);
    numbers.shows("the next page runs", |r| slow(r) == 3).await;
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, PAGES);
}

#[tokio::test]
async fn a_fetch_that_fails_once_announces_when_it_succeeds() {
    let env = TestEnv::new("fetch-fails").await;
    let calls = Shared::<u32>::default();
    let counted = calls.clone();
    let numbers = NumbersProcessor::new().on_fetch(move |_| {
        let calls = counted.clone();
        async move {
            *calls.lock() += 1;
            let first = *calls.lock() == 1;
            if first {
                return Err(PageError::retryable("no connection"));
            }
            Ok(())
        }
    });
    let _worker = env.worker(numbers.clone()).await;
    let report = env
        .run(&env.batch::<NumbersProcessor>(UpTo { n: 20 }).page_size(10))
        .await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 2);
    assert_eq!(report.progress.retries, 1);
}

#[tokio::test]
async fn at_most_once_a_failed_page_is_given_up_and_the_batch_continues() {
    let env = TestEnv::new("at-most-once").await;
    let numbers = failing(usize::MAX).settings(|s| {
        s.retry_mode = RetryMode::AtMostOnce;
        s.retry = RetryPolicy::never();
    });
    let _worker = env.worker(numbers.clone()).await;
    let report = env
        .run(&env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10))
        .await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    assert_eq!(report.progress.pages_completed, 2);
    assert_eq!(report.progress.pages_failed, 1);
    assert_eq!(numbers.record().times_begun(10), 1);
    let failed = &report.progress.failed[0];
    assert_eq!(failed.start.as_ref().unwrap().as_str(), "10");
    assert_eq!(failed.end.as_ref().unwrap().as_str(), "20");
    assert_eq!((failed.error_type.as_str(), failed.attempts), ("Flaky", 1));
}

/// With a single attempt for each page, so that any other error would give the page up.
#[tokio::test]
async fn a_page_whose_environment_is_at_fault_blocks_its_batch_and_uses_up_no_attempts() {
    let env = TestEnv::new("environment").await;
    let (mounted, is_mounted) = watch::channel(false);
    let numbers = NumbersProcessor::new()
        .settings(|s| s.retry = quick_retries().max_attempts(1))
        .on_process(move |seen| {
            let is_mounted = *is_mounted.borrow();
            async move {
                match seen.start {
                    10 if !is_mounted => Err(PageError::environment("/data is not mounted")),
                    _ => Ok(PageReport::all_processed()),
                }
            }
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 20 }).page_size(10);
    let handle = env.start(&batch).await;
    let blocked = progress_shows(&handle, "it is blocked after several tries", |p| {
        p.phase == Phase::Blocked && p.retries > 2
    });
    let blocked = blocked.await;
    assert!(
        blocked
            .explanation
            .contains("Environment: /data is not mounted"),
        "{}",
        blocked.explanation
    );
    let [page] = &blocked.failing[..] else {
        panic!("{:?}", blocked.failing)
    };
    assert_eq!((page.attempts, blocked.pages_failed), (0, 0));
    mounted.send_replace(true);
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
    assert_eq!(report.progress.pages_completed, 2);
    replays(&env, handle.id(), "environment").await;
}

/// Whatever the error says of its cause, the effects of the page may be there.
#[tokio::test]
async fn at_most_once_an_error_that_is_not_the_fault_of_the_page_does_not_repeat_it_either() {
    let env = TestEnv::new("at-most-once-ever").await;
    let numbers = NumbersProcessor::new()
        .settings(|s| {
            s.retry_mode = RetryMode::AtMostOnce;
            s.retry = RetryPolicy::never();
        })
        .on_process(|seen| async move {
            let mut report = PageReport::all_processed();
            match seen.start {
                10 => return Err(PageError::environment("no connection")),
                20 => report.fail(1_000, "Wrong", "there is no such item"),
                _ => {}
            }
            Ok(report)
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 40 }).page_size(10);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    assert_eq!(report.progress.pages_completed, 2);
    let record = numbers.record();
    assert_eq!((record.times_begun(10), record.times_begun(20)), (1, 1));
    let failed = report.progress.failed.iter();
    let mut failed: Vec<_> = failed.map(|f| (&*f.error_type, f.attempts)).collect();
    failed.sort_unstable();
    assert_eq!(failed, [("Environment", 1), ("PageReportMismatch", 1)]);
}

#[tokio::test]
async fn non_retryable_failures_are_given_up_at_once() {
    let env = TestEnv::new("non-retryable").await;
    let numbers = NumbersProcessor::new()
        .settings(|s| s.non_retryable_types = vec!["BadRow".to_owned()])
        .on_process(|seen| async move {
            match seen.start {
                10 => Err(PageError::retryable("by its type").with_type("BadRow")),
                20 => Err(PageError::non_retryable("Flagged", "by its flag")),
                _ => Ok(PageReport::all_processed()),
            }
        });
    let _worker = env.worker(numbers.clone()).await;
    let report = env
        .run(&env.batch::<NumbersProcessor>(UpTo { n: 40 }).page_size(10))
        .await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    assert_eq!(report.progress.pages_failed, 2);
    let record = numbers.record();
    assert_eq!((record.times_begun(10), record.times_begun(20)), (1, 1));
    assert_eq!(record.done.len(), 2);
    let mut types: Vec<_> = report
        .progress
        .failed
        .iter()
        .map(|f| &f.error_type)
        .collect();
    types.sort();
    assert_eq!(types, ["BadRow", "Flagged"]);
}

/// The rest of the data is not skipped silently when the next page is unknown.
#[tokio::test]
async fn a_page_given_up_before_its_successor_is_known_fails_the_batch_with_its_position() {
    let env = TestEnv::new("coverage").await;
    let numbers = NumbersProcessor::new().on_fetch(|seen| async move {
        if seen.start == 20 {
            return Err(PageError::non_retryable("Gone", "the table is gone"));
        }
        Ok(())
    });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 50 }).page_size(10);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let reason = report.reason.unwrap();
    assert!(reason.contains("coverage stops at 20"), "{reason}");
    assert!(reason.contains("the table is gone"), "{reason}");
    assert!(!report.progress.end_of_data);
    assert_eq!(report.progress.pages_failed, 1);
    assert_eq!(report.progress.low_water_mark.unwrap().as_str(), "20");
    replays(&env, batch.id(), "failed").await;
}

#[tokio::test]
async fn without_extended_retries_a_page_is_given_up_when_its_attempts_are_spent() {
    let env = TestEnv::new("spent").await;
    let numbers = failing(usize::MAX).settings(|s| s.retry = quick_retries().max_attempts(2));
    let _worker = env.worker(numbers.clone()).await;
    let report = env
        .run(&env.batch::<NumbersProcessor>(UpTo { n: 20 }).page_size(10))
        .await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    assert_eq!(report.progress.pages_failed, 1);
    assert_eq!(report.progress.failed[0].attempts, 2);
    assert_eq!(numbers.record().times_begun(10), 2);
}

/// The slow lane retries a page for as long as the batch runs.
#[tokio::test]
async fn extended_retries_continue_until_the_batch_is_cancelled() {
    let env = TestEnv::new("for-ever").await;
    let numbers = failing(usize::MAX).settings(|s| {
        s.retry = quick_retries()
            .max_attempts(1)
            .extended(extended_every_second());
    });
    let _worker = env.worker(numbers.clone()).await;
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10))
        .await;
    numbers
        .shows("four attempts at the page", |r| r.times_begun(10) >= 4)
        .await;
    let progress = progress_shows(&handle, "only the stuck page is left", |p| {
        p.phase == Phase::WaitingForStuckPages
    });
    assert_eq!(progress.await.pages_stuck, 1);
    handle.cancel("enough").await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert_eq!(report.progress.low_water_mark.unwrap().as_str(), "10");
    assert_eq!(report.progress.pages_completed, 2);
}

/// The timeout is the page's own, and the worker enforces it.
#[tokio::test]
async fn a_page_that_takes_too_long_fails_and_is_retried() {
    let env = TestEnv::new("timeout").await;
    let numbers = NumbersProcessor::new()
        .settings(|s| {
            s.page_timeout = Duration::from_millis(300);
            s.retry = quick_retries()
                .max_attempts(1)
                .extended(extended_every_second());
        })
        .on_process(|seen| async move {
            if seen.start == 10 && seen.times == 1 {
                std::future::pending::<()>().await;
            }
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers.clone()).await;
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 20 }).page_size(10))
        .await;
    let progress = progress_shows(&handle, "the page is stuck", |p| p.pages_stuck == 1).await;
    assert_eq!(progress.failing[0].error_type, "PageTimeout");
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_failed, 0);
    assert_eq!(numbers.record().times_begun(10), 2);
}

#[tokio::test]
async fn a_panic_is_a_failure_with_its_message() {
    let env = TestEnv::new("panic").await;
    let numbers = NumbersProcessor::new()
        .settings(|s| s.retry = quick_retries().max_attempts(2))
        .on_process(|seen| async move {
            assert!(seen.start != 10, "number {} is unlucky", seen.start);
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers.clone()).await;
    let report = env
        .run(&env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10))
        .await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    let failed = &report.progress.failed[0];
    assert_eq!(failed.error_type, "Panic");
    assert_eq!(failed.message, "panicked: number 10 is unlucky");
    assert_eq!(numbers.record().times_begun(10), 2);
}

#[tokio::test]
async fn failed_and_skipped_items_are_counted_and_listed() {
    let env = TestEnv::new("items").await;
    let numbers = NumbersProcessor::new().on_process(|seen| async move {
        let mut report = PageReport::all_processed();
        for (position, n) in seen.items.iter().enumerate() {
            match n % 10 {
                3 => report.skip("ends in three"),
                7 => report.fail(position, "Unlucky", "contains a seven"),
                _ => {}
            }
        }
        Ok(report)
    });
    let _worker = env.worker(numbers.clone()).await;
    let report = env
        .run(&env.batch::<NumbersProcessor>(UpTo { n: 40 }).page_size(10))
        .await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    let items = report.progress.items;
    assert_eq!((items.processed, items.skipped, items.failed), (32, 4, 4));
    assert_eq!(report.progress.skip_reasons["ends in three"], 4);
    assert_eq!(report.progress.pages_failed, 0);
    let mut keys: Vec<_> = report
        .progress
        .failed_items
        .iter()
        .map(|f| &*f.key)
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["17", "27", "37", "7"]);
}

#[tokio::test]
async fn an_error_can_set_the_delay_before_the_next_attempt() {
    let env = TestEnv::new("retry-after").await;
    let began = Shared::<Vec<std::time::Instant>>::default();
    let times = began.clone();
    let numbers = NumbersProcessor::new().on_process(move |_| {
        let began = times.clone();
        async move {
            began.lock().push(std::time::Instant::now());
            let first = began.lock().len() == 1;
            if first {
                return Err(PageError::retry_after(
                    Duration::from_secs(1),
                    "too many requests",
                ));
            }
            Ok(PageReport::all_processed())
        }
    });
    let _worker = env.worker(numbers.clone()).await;
    let report = env.run(&env.batch::<NumbersProcessor>(UpTo { n: 5 })).await;
    assert_eq!(report.outcome, Outcome::Completed);
    let began = began.lock();
    assert!(began[1] - began[0] >= Duration::from_millis(950));
}

#[tokio::test]
async fn a_failure_in_a_stride_costs_only_its_own_page() {
    let env = TestEnv::new("stride-fails").await;
    let numbers = failing(2).skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .stride(5);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 10);
    let record = numbers.record();
    assert_eq!(record.processed(), (1..=100).collect::<Vec<_>>());
    assert_eq!(
        record.times_begun(0),
        1,
        "the page before the failed one ran again"
    );
    assert_eq!(record.times_begun(10), 3);
}
