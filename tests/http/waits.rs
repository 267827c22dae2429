//! Rates and waits, kept by the whole batch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use temporal_batch::{Batch, Outcome};

use crate::{
    processor::CallNumbers,
    support::{
        TestEnv,
        mock_api::{Call, MockApi, Reply},
        progress_shows, report,
    },
};

/// The largest number of calls in any window of this length.
fn most_within(calls: &[Call], window: Duration) -> usize {
    let starts = calls.iter().enumerate();
    let within = starts.map(|(first, call)| {
        let inside = calls[first..]
            .iter()
            .take_while(|c| c.at - call.at < window);
        inside.count()
    });
    within.max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_has_more_calls_than_the_rate_whatever_the_pages() {
    let env = TestEnv::new("http-rate").await;
    let api = MockApi::start(|_| Reply::of(200, "{}")).await;
    let worker = env.worker(CallNumbers::new(&api.url, 160)).await;
    let (rate, pages) = (40.0, 4);
    let batch = env
        .batch::<CallNumbers>(())
        .rate(rate)
        .page_size(20)
        .max_parallelism(pages);
    let ended = env.run(&batch).await;
    assert_eq!(ended.outcome, Outcome::Completed);
    let calls = api.calls();
    assert_eq!(calls.len(), 160);
    let most = most_within(&calls, Duration::from_secs(1));
    // The documented bound: the rate, and one more for each page in flight.
    assert!(
        most <= rate as usize + pages as usize,
        "{most} calls in a second"
    );
    worker.stop().await.unwrap();
}

/// An API that says 429 to the first call that is not the first, and notes when it did.
async fn pausing_api(retry_after: impl Fn() -> String + Send + Sync + 'static) -> MockApi {
    let told = Arc::new(AtomicBool::new(false));
    MockApi::start(move |call| {
        let late = call.path == "/n/13";
        if late && !told.swap(true, Ordering::SeqCst) {
            return Reply::of(429, "slow down").header("retry-after", retry_after());
        }
        Reply::of(200, "{}").after(Duration::from_millis(20))
    })
    .await
}

async fn every_page_waits(
    retry_after: impl Fn() -> String + Send + Sync + 'static,
    least: Duration,
) {
    let env = TestEnv::new("http-429").await;
    let api = pausing_api(retry_after).await;
    let processor = CallNumbers::new(&api.url, 400);
    let throttle = processor.api.throttle();
    let worker = env
        .worker_with(processor, |worker| worker.throttle(throttle))
        .await;
    let batch = env
        .batch::<CallNumbers>(())
        .page_size(10)
        .max_parallelism(4)
        .throttle("numbers");
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the batch is held by its throttle", |progress| {
        let pace = serde_json::to_string(progress).unwrap();
        pace.contains("asks to wait for")
    })
    .await;
    let ended = report(&handle).await;
    assert_eq!(ended.outcome, Outcome::Completed);
    assert_eq!(
        (ended.progress.items.processed, ended.progress.retries),
        (400, 0)
    );
    let calls = api.calls();
    assert_eq!(calls.len(), 401, "only the refused call was repeated");
    let mut starts: Vec<_> = calls.iter().map(|call| call.at).collect();
    starts.sort_unstable();
    let pause = starts.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(pause >= Some(least), "no call started for {pause:?}");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_the_batch_waits_as_long_as_one_answer_asks() {
    // A call that was on its way when the answer came arrives after it.
    every_page_waits(|| "5".to_owned(), Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_the_batch_waits_until_the_date_of_one_answer() {
    let date = || httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(6));
    // A date has whole seconds.
    every_page_waits(date, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_refused_by_an_api_that_tells_how_many_are_left() {
    const EACH: u64 = 20;
    const WINDOW: Duration = Duration::from_millis(1_500);
    let env = TestEnv::new("http-left").await;
    let window = std::sync::Mutex::new((Instant::now(), 0));
    let api = MockApi::start(move |_| {
        let mut window = window.lock().unwrap();
        if window.0.elapsed() >= WINDOW {
            *window = (Instant::now(), 0);
        }
        window.1 += 1;
        let reset = (WINDOW.saturating_sub(window.0.elapsed())).as_secs_f64() + 0.05;
        let left = EACH.saturating_sub(window.1);
        let status = if window.1 > EACH { 429 } else { 200 };
        Reply::of(status, "{}")
            .header("ratelimit-remaining", left)
            .header("ratelimit-reset", reset)
    })
    .await;
    let worker = env.worker(CallNumbers::new(&api.url, 100)).await;
    let batch: Batch = env
        .batch::<CallNumbers>(())
        .page_size(25)
        .max_parallelism(2);
    let ended = env.run(&batch).await;
    assert_eq!(ended.progress.items.processed, 100);
    // Calls that start before the first answer do not know of the quota.
    let calls = api.calls().len();
    assert_eq!(calls, 100, "{} calls were refused", calls - 100);
    worker.stop().await.unwrap();
}
