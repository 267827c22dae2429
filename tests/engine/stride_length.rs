//! Strides whose length is tuned: they become long, stay short where they have to, and give back what they
//! have not done.

use std::time::Duration;

use temporal_batch::{
    Batch, Outcome, PageReport,
    client::Settings,
    errors::{InvalidBatch, StartError},
    progress::{HeldBy, Phase},
    settings::AutoStride,
};
use tokio::time::sleep;

use crate::{
    numbers_processor::{Gate, NumbersProcessor, UpTo, gated, gated_where},
    replay::replays,
    support::{TestEnv, progress_shows, report},
};

/// Never reached in a test, so that only what is told ends a stride early.
const LONG: Duration = Duration::from_secs(600);

fn all(n: u64) -> Vec<u64> {
    (1..=n).collect()
}

/// The ids of the activities that were given a stride.
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
async fn strides_of_short_pages_become_long_and_stay_so_over_continue_as_new() {
    let env = TestEnv::new("stride-auto").await;
    // The rest waits for another run, and no stride that begins before one is due comes to it.
    let (numbers, gate) = gated_where(|page| page.start >= 6_000);
    let numbers = numbers.skipping_ahead().with_size_hint();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 8_000 })
        .page_size(10)
        .max_parallelism(2)
        .pages_per_run(30)
        .stride(AutoStride::default());
    let handle = env.start(&batch).await;
    progress_shows(&handle, "it has continued as new", |p| p.runs > 1).await;
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
async fn a_stride_whose_pages_became_slow_gives_the_rest_back() {
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
    assert!(numbers.len() < strides.len(), "none twice: {strides:?}");
    let because = report.progress.stride_because.unwrap();
    assert_eq!(report.progress.stride, 1, "{because}");
    replays(&env, batch.id(), "stride_given_back").await;
}

#[tokio::test]
async fn a_source_that_cannot_skip_ahead_has_strides_of_one_page_and_it_is_said() {
    let env = TestEnv::new("stride-opaque").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .stride(AutoStride::default().beginning_with(5));
    let handle = env.start(&batch).await;
    progress_shows(&handle, "it begins as set", |p| p.stride == 5).await;
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(100));
    assert_eq!(report.progress.stride, 1);
    let because = report.progress.stride_because.as_deref();
    assert_eq!(because, Some("the source cannot skip ahead"));
    // The last one finds that there is nothing more.
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

/// Lets pages through one by one until something is so.
async fn until(gate: &Gate, so: impl AsyncFn() -> bool) {
    while !so().await {
        gate.let_through(1);
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn long_strides_hear_of_a_pause_of_less_parallelism_and_of_the_end_at_their_page() {
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
    let progress = progress_shows(&handle, "one was given back", |p| p.pages_in_flight == 1).await;
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

    // Nothing of what was given back is lost or done twice.
    gate.open();
    let again = batch.clone().continues(true);
    let report = env.run(&again).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(10_000));
    replays(&env, batch.id(), "stride_yield").await;
}

#[tokio::test]
async fn bad_targets_are_refused_before_anything_starts() {
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
