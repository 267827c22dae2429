//! Strides with a tuned length: they become long, stay short where the pages require it, and return pages that they
//! have not begun.

use std::time::Duration;

use temporal_batch::{
    Batch, Outcome, PageReport,
    errors::{InvalidBatch, StartError},
    progress::{HeldBy, Phase},
    settings::Settings,
    settings::{AutoStride, RetryMode, RetryPolicy},
};
use tokio::time::sleep;

use crate::{
    numbers_processor::{Gate, NumbersProcessor, UpTo, gated, gated_where},
    replay::replays,
    support::{TestEnv, progress_shows, report},
};

/// A target that no test reaches, so that only a request ends a stride early.
const LONG: Duration = Duration::from_secs(600);

fn all(n: u64) -> Vec<u64> {
    (1..=n).collect()
}

/// The ids of the stride activities that a batch has scheduled.
async fn dispatched(env: &TestEnv, batch: &Batch) -> Vec<String> {
    let mut ids = Vec::new();
    for history in env.histories(batch.id()).await {
        let history: serde_json::Value = serde_json::from_slice(&history).unwrap();
        for event in history["events"].as_array().unwrap() {
            let scheduled = &event["attributes"]["ActivityTaskScheduledEventAttributes"];
            let id = scheduled["activity_id"].as_str().unwrap_or_default();
            if id.starts_with("stride-") {
                ids.push(id.to_owned());
            }
        }
    }
    ids
}

#[tokio::test]
async fn a_batch_whose_source_can_skip_has_tuned_strides_without_asking() {
    let env = TestEnv::new("stride-default").await;
    let numbers = NumbersProcessor::new().skipping_ahead().with_size_hint();
    let _worker = env.worker(numbers.clone()).await;
    let batch = Batch::of::<NumbersProcessor>(env.new_id(), UpTo { n: 2_000 });
    let batch = batch.task_queue(&env.queue).page_size(10);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(2_000));
    assert_eq!(report.progress.auto_stride.as_deref(), Some("5s"));
    let strides = dispatched(&env, &batch).await.len();
    assert!(strides < 100, "{strides} activities for 200 pages");
}

/// A lost worker would cost the other pages of a long stride.
#[tokio::test]
async fn without_a_source_that_skips_and_at_most_once_a_stride_has_one_page() {
    let env = TestEnv::new("stride-one").await;
    for (numbers, why) in [
        (NumbersProcessor::new(), "the source cannot skip ahead"),
        (
            NumbersProcessor::new().skipping_ahead().settings(|s| {
                s.retry_mode = RetryMode::AtMostOnce;
                s.retry = RetryPolicy::never();
            }),
            "a lost worker would cost all pages of its stride",
        ),
    ] {
        let worker = env.worker(numbers.clone()).await;
        let batch = Batch::of::<NumbersProcessor>(env.new_id(), UpTo { n: 200 });
        let batch = batch.task_queue(&env.queue).page_size(10);
        let report = env.run(&batch).await;
        assert_eq!(report.outcome, Outcome::Completed);
        // One more may find that there is no further page.
        assert!(dispatched(&env, &batch).await.len() >= 20, "{why}");
        let because = report.progress.stride_because;
        assert_eq!(because.as_deref(), Some(why));
        worker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn strides_of_short_pages_become_long_and_stay_long_over_continue_as_new() {
    let env = TestEnv::new("stride-auto").await;
    // Pages from 6,000 on wait at the gate. No stride of the first run gets that far: a hand-over is due once the first
    // stride has reported its 16 pages, and later strides outlive the run.
    let (numbers, gate) = gated_where(|page| page.start >= 6_000);
    let numbers = numbers.skipping_ahead().with_size_hint();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 8_000 })
        .page_size(10)
        .max_parallelism(2)
        .pages_per_run(10)
        .stride(AutoStride::default());
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the batch has continued as new", |p| p.runs > 1).await;
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(8_000));
    assert_eq!(report.progress.auto_stride.as_deref(), Some("5s"));
    let strides = dispatched(&env, &batch).await.len();
    assert!(strides < 200, "{strides} strides for 800 pages");
    replays(&env, batch.id(), "stride_auto").await;
}

#[tokio::test]
async fn a_stride_whose_pages_became_slow_returns_its_remaining_pages() {
    let env = TestEnv::new("stride-slow").await;
    let target = Duration::from_millis(100);
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(move |page| async move {
            if page.start >= 200 {
                sleep(target * 3).await;
            }
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 250 })
        .page_size(10)
        .max_parallelism(1)
        .stride(AutoStride::of(target).beginning_with(25));
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(250));
    let slow = 5;
    let strides = dispatched(&env, &batch).await;
    assert!(strides.len() >= slow, "{strides:?}");
    let mut numbers = strides.clone();
    numbers.sort();
    numbers.dedup();
    assert!(numbers.len() < strides.len(), "no repeats: {strides:?}");
    let because = report.progress.stride_because.unwrap();
    assert_eq!(report.progress.stride, 1, "{because}");
    replays(&env, batch.id(), "stride_given_back").await;
}

#[tokio::test]
async fn a_source_that_cannot_skip_ahead_has_strides_of_one_page_and_progress_says_why() {
    let env = TestEnv::new("stride-opaque").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .stride(AutoStride::default().beginning_with(5));
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the given stride is used", |p| p.stride == 5).await;
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(100));
    assert_eq!(report.progress.stride, 1);
    let because = report.progress.stride_because.as_deref();
    assert_eq!(because, Some("the source cannot skip ahead"));
    // The last stride finds no more rows.
    assert_eq!(dispatched(&env, &batch).await.len(), 11);
}

#[tokio::test]
async fn the_length_is_set_and_tuned_while_the_batch_runs() {
    let env = TestEnv::new("stride-set").await;
    let (numbers, gate) = gated();
    let numbers = numbers.skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1_000 })
        .page_size(10)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    numbers
        .shows("two pages are in flight", |r| r.in_flight == 2)
        .await;
    let fixed = handle.progress().await.unwrap();
    assert_eq!((fixed.stride, fixed.auto_stride), (1, None));

    handle.set(Settings::new().stride(7)).await.unwrap();
    let fixed = handle.progress().await.unwrap();
    assert_eq!((fixed.stride, fixed.auto_stride), (7, None));
    let auto = AutoStride::of(Duration::from_secs(2));
    handle.set(Settings::new().stride(auto)).await.unwrap();
    let tuned = handle.progress().await.unwrap();
    assert_eq!(tuned.auto_stride.as_deref(), Some("2s"));
    let actions: Vec<_> = tuned.audit.iter().map(|entry| &*entry.action).collect();
    assert_eq!(
        actions,
        ["start", "set stride to 7", "set stride to auto 2s"]
    );
    for bad in [
        Settings::new().stride(0),
        Settings::new().stride(AutoStride::of(Duration::ZERO)),
    ] {
        assert!(handle.set(bad).await.is_err());
    }

    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(1_000));
    let strides = dispatched(&env, &batch).await.len();
    assert!(strides < 60, "{strides} strides for 100 pages");
    replays(&env, batch.id(), "stride_set").await;
}

/// Lets pages through one by one until a condition holds.
async fn until(gate: &Gate, so: impl AsyncFn() -> bool) {
    while !so().await {
        gate.let_through(1);
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn long_strides_end_after_their_page_on_pause_less_parallelism_and_cancellation() {
    let env = TestEnv::new("stride-yield").await;
    let (numbers, gate) = gated();
    let numbers = numbers.skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 10_000 })
        .page_size(10)
        .max_parallelism(2)
        .stride(AutoStride::of(LONG).beginning_with(200));
    let handle = env.start(&batch).await;
    let in_flight = |n| numbers.shows("pages are in flight", move |r| r.in_flight == n);
    in_flight(2).await;

    handle.pause("a look").await.unwrap();
    let paused = async || handle.progress().await.unwrap().phase == Phase::Paused;
    until(&gate, paused).await;
    let given_back = numbers.record();
    assert_eq!(given_back.in_flight, 0);
    assert!(given_back.done.len() < 200, "{}", given_back.done.len());

    handle.resume().await.unwrap();
    in_flight(2).await;
    handle.set_max_parallelism(1).await.unwrap();
    until(&gate, async || numbers.record().in_flight == 1).await;
    let progress = progress_shows(&handle, "one stride is returned", |p| {
        p.pages_in_flight == 1
    })
    .await;
    assert_eq!(progress.held_by, Some(HeldBy::Parallelism));
    assert!(numbers.record().done.len() < 300);

    handle.cancel("enough").await.unwrap();
    until(&gate, async || numbers.record().in_flight == 0).await;
    let cancelled = report(&handle).await;
    assert_eq!(cancelled.outcome, Outcome::Cancelled);
    let record = numbers.record();
    assert!(record.done.len() < 400, "{}", record.done.len());
    let done = u64::try_from(record.done.len()).unwrap();
    assert_eq!(cancelled.progress.pages_completed, done);

    // Pages of returned strides are neither lost nor done twice.
    gate.open();
    let again = batch.clone().continues(true);
    let report = env.run(&again).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(10_000));
    replays(&env, batch.id(), "stride_yield").await;
}

#[tokio::test]
async fn bad_targets_are_refused_before_the_batch_starts() {
    let env = TestEnv::new("stride-refused").await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1 })
        .stride(AutoStride::of(Duration::from_millis(1)));
    let refused = env.client.start(&batch).await.unwrap_err();
    let text = refused.to_string();
    assert!(
        matches!(refused, StartError::Invalid(InvalidBatch::AutoStride(_))),
        "{text}"
    );
    assert!(text.contains("from 100ms to 10m"), "{text}");
}
