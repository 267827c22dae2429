//! Measurements, which are run by hand: `cargo test --test http measure -- --ignored --nocapture`.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{
    processor::CallNumbers,
    support::{
        TestEnv,
        mock_api::{MockApi, Reply},
    },
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a measurement"]
async fn calls_of_20_ms_at_50_in_flight_as_a_share_of_the_ideal() {
    const CALLS: u64 = 10_000;
    const LATENCY: Duration = Duration::from_millis(20);
    let env = TestEnv::new("http-measure").await;
    let api = MockApi::start(|_| Reply::of(200, "{}").after(LATENCY)).await;
    let mut processor = CallNumbers::new(&api.url, CALLS);
    processor.concurrency = 10;
    let worker = env.worker(processor).await;
    let batch = env
        .batch::<CallNumbers>(())
        .stride(10)
        .page_size(200)
        .max_parallelism(5);
    let ended = env.run(&batch).await;
    assert_eq!(ended.progress.items.processed, CALLS);
    let calls = api.calls();
    let (first, last) = (calls[0].at, calls[calls.len() - 1].at);
    let took = last - first + LATENCY;
    let ideal = LATENCY * (CALLS as u32) / 50;
    println!(
        "{took:?}, ideal {ideal:?}: {:.1} %",
        ideal.as_secs_f64() / took.as_secs_f64() * 100.0
    );
    worker.stop().await.unwrap();
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
#[ignore = "it is a measurement"]
async fn a_hidden_quota_that_changes_is_used_with_few_refusals() {
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
    let mut processor = CallNumbers::new(&api.url, 9_000);
    processor.concurrency = 10;
    let worker = env.worker(processor).await;
    let batch = env
        .batch::<CallNumbers>(())
        .stride(10)
        .page_size(100)
        .max_parallelism(5);
    let ended = env.run(&batch).await;
    assert_eq!(ended.progress.items.processed, 9_000);
    let (accepted, refused, allowed) = *used.lock().unwrap();
    println!(
        "{accepted} accepted, {refused} refused ({:.2} %), {:.1} % of the quota used",
        refused as f64 / (accepted + refused) as f64 * 100.0,
        accepted as f64 / allowed * 100.0
    );
    worker.stop().await.unwrap();
}
