//! Batches of calls beside a plain loop, and below a hidden quota.
//!
//! `HTTP_CALLS` sets the number of calls (1,000). A measurement wants 10,000, an idle machine and optimized code:
//! `HTTP_CALLS=10000 cargo test --release --workspace --test http measure -- --nocapture`.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use futures::StreamExt as _;

use crate::{
    processor::CallNumbers,
    support::{
        TestEnv,
        mock_api::{MockApi, Reply},
    },
};

fn calls() -> u64 {
    std::env::var("HTTP_CALLS").map_or(1_000, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_20_ms_at_50_in_flight_as_a_share_of_the_ideal() {
    const LATENCY: Duration = Duration::from_millis(20);
    let all = calls();
    let env = TestEnv::new("http-measure").await;
    let api = MockApi::start(|_| Reply::of(200, "{}").after(LATENCY)).await;
    let mut processor = CallNumbers::new(&api.url, all);
    processor.concurrency = 10;
    let worker = env.worker(processor).await;
    let batch = env
        .batch::<CallNumbers>(())
        .stride(10)
        .page_size(200)
        .max_parallelism(5);
    let ended = env.run(&batch).await;
    assert_eq!(ended.progress.items.processed, all);
    let ours = time_of(&api);
    worker.stop().await.unwrap();

    // The machine may be busy, so a plain loop calls the same API in the same way.
    let plain = MockApi::start(|_| Reply::of(200, "{}").after(LATENCY)).await;
    let client = reqwest::Client::new();
    let calls = futures::stream::iter(1..=all).map(|number| {
        let request = client.post(format!("{}/n/{number}", plain.url));
        async move {
            request
                .body("1")
                .send()
                .await
                .unwrap()
                .bytes()
                .await
                .unwrap()
        }
    });
    calls.buffer_unordered(50).for_each(|_| async {}).await;
    let loop_took = time_of(&plain);

    let ideal = LATENCY * (all as u32) / 50;
    let share = |of: Duration, by: Duration| of.as_secs_f64() / by.as_secs_f64() * 100.0;
    println!(
        "ideal {ideal:?}; batch {ours:?}, {:.1} % of it; loop {loop_took:?}, {:.1} % of it; batch to loop {:.1} %",
        share(ideal, ours),
        share(ideal, loop_took),
        share(loop_took, ours)
    );
}

/// The time from the first call to the last answer.
fn time_of(api: &MockApi) -> Duration {
    let calls = api.calls();
    calls[calls.len() - 1].at - calls[0].at + Duration::from_millis(20)
}

/// Calls a second that the API allows, by the time since its first call.
fn quota(since: Duration) -> f64 {
    match since.as_secs() {
        0..30 => 100.0,
        30..60 => 60.0,
        _ => 150.0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_quota_that_changes_is_used_with_few_refusals() {
    let all = calls();
    let env = TestEnv::new("http-quota").await;
    let bucket = Mutex::new((None::<Instant>, Instant::now(), 0.0_f64));
    let used = std::sync::Arc::new(Mutex::new((0_u64, 0_u64, 0.0_f64)));
    let counted = std::sync::Arc::clone(&used);
    let api = MockApi::start(move |_| {
        let mut bucket = bucket.lock().unwrap();
        let (first, before, ready) = &mut *bucket;
        let now = Instant::now();
        let quota = quota(now - *first.get_or_insert(now));
        let earned = quota * (now - *before).as_secs_f64();
        *before = now;
        *ready = (*ready + earned).min(quota / 5.0);
        let mut used = counted.lock().unwrap();
        used.2 += earned;
        if *ready >= 1.0 {
            *ready -= 1.0;
            used.0 += 1;
            return Reply::of(200, "{}").after(Duration::from_millis(20));
        }
        used.1 += 1;
        Reply::of(429, "")
    })
    .await;
    let mut processor = CallNumbers::new(&api.url, all);
    processor.concurrency = 10;
    let worker = env.worker(processor).await;
    let batch = env
        .batch::<CallNumbers>(())
        .stride(10)
        .page_size(100)
        .max_parallelism(5);
    let ended = env.run(&batch).await;
    assert_eq!(ended.progress.items.processed, all);
    let (accepted, refused, allowed) = *used.lock().unwrap();
    println!(
        "{accepted} accepted, {refused} refused ({:.2} %), {:.1} % of the quota used",
        refused as f64 / (accepted + refused) as f64 * 100.0,
        accepted as f64 / allowed * 100.0
    );
    worker.stop().await.unwrap();
}
