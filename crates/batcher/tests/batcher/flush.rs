//! When a batch is written, and what is in it.

use std::time::Duration;

use temporal_batch_batcher::{FlushReason, Outcome, Refusal, Request};

use crate::{
    sink::Sink,
    support::eventually,
    town::{Town, request, requests},
};

#[tokio::test]
async fn requests_that_wait_are_written_together_after_max_wait() {
    let wait = Duration::from_secs(2);
    let town = Town::new("time").await.with(|b| b.max_wait(wait));
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 5)).await;
    assert_eq!(town.outcome("r00004").await, Outcome::Written);
    assert_eq!(sink.sizes(), [5]);
    let stats = town.shut_down().await;
    assert_eq!(stats.flushes[&FlushReason::Time], 1, "{stats:?}");
    // The clock of the server is in the history: the timer started with the first request and lasted for max_wait.
    let (timers, waited) = timers(&town).await;
    assert_eq!(timers, 1);
    assert!(waited >= wait, "{waited:?}");
}

/// The number of timers of the first shard, and the time from the start of the first one to its end.
async fn timers(town: &Town) -> (usize, Duration) {
    let histories = town.env.histories(&town.batcher.workflow_id(0)).await;
    let history: serde_json::Value = serde_json::from_slice(&histories[0]).unwrap();
    let time_of = |kind: &str| -> Vec<f64> {
        let attributes = format!("{kind}EventAttributes");
        let events = history["events"].as_array().unwrap();
        let events = events
            .iter()
            .filter(|e| e["attributes"].get(&attributes).is_some());
        events.map(|event| seconds(&event["event_time"])).collect()
    };
    let (started, fired) = (time_of("TimerStarted"), time_of("TimerFired"));
    let waited = fired
        .first()
        .map_or(0.0, |fired| (fired - started[0]).rem_euclid(86_400.0));
    // The server rounds to milliseconds.
    (started.len(), Duration::from_secs_f64(waited + 0.002))
}

/// The seconds of a time such as `2026-12-01T00:49:49.108810734Z` since midnight.
fn seconds(time: &serde_json::Value) -> f64 {
    let (_, time) = time.as_str().unwrap().split_once('T').unwrap();
    let parts = time.trim_end_matches('Z').split(':');
    parts.fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

#[tokio::test]
async fn the_hundredth_request_is_written_at_once() {
    let town = Town::new("count").await;
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 99)).await;
    town.stats_show("99 requests wait", |stats| stats.pending == 99)
        .await;
    assert!(sink.calls().is_empty());
    town.submit(vec![request(99)]).await;
    assert_eq!(town.outcome("r00099").await, Outcome::Written);
    assert_eq!(sink.sizes(), [100]);
}

#[tokio::test]
async fn a_batch_never_has_more_than_max_batch_requests() {
    let town = Town::new("max").await;
    let sink = Sink::new();
    // All requests have arrived before the first decision.
    town.submit(requests(0, 250)).await;
    let _worker = town.worker(sink.clone()).await;
    town.outcome("r00000").await;
    let stats = town.shut_down().await;
    let mut sizes = sink.sizes();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    assert_eq!(stats.flushes[&FlushReason::Size], 2);
    assert_eq!(stats.flushes[&FlushReason::Shutdown], 1);
    assert_eq!(sink.written().len(), 250);
}

#[tokio::test]
async fn large_requests_make_small_batches_and_a_too_large_one_is_refused() {
    let town = Town::new("bytes")
        .await
        .with(|b| b.max_batch_bytes(100_000));
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    let large = |i: usize, bytes: usize| Request::new(format!("r{i:05}"), "x".repeat(bytes));
    town.submit((0..10).map(|i| large(i, 30_000)).collect())
        .await;
    let refused = town.client().submit(large(99, 100_000)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            temporal_batch_batcher::BatcherError::Refused {
                reason: Refusal::TooLarge {
                    max_batch_bytes: 100_000,
                    ..
                },
                ..
            }
        ),
        "{refused}"
    );
    let stats = town.shut_down().await;
    assert_eq!(stats.flushes[&FlushReason::Bytes], 3, "{stats:?}");
    let calls = sink.calls();
    assert!(calls.iter().all(|call| call.bytes < 100_100), "{calls:?}");
    assert_eq!(sink.written().len(), 10);
}

#[tokio::test]
async fn an_idle_batcher_adds_no_events() {
    let town = Town::new("idle").await.with(|b| b.max_batch(2));
    let _worker = town.worker(Sink::new()).await;
    // The second one flushes, so the timer of the first is no longer needed.
    town.submit(vec![request(0)]).await;
    town.stats_show("one request waits", |stats| stats.pending == 1)
        .await;
    town.submit(vec![request(1)]).await;
    town.outcome("r00001").await;
    let id = town.batcher.workflow_id(0);
    town.shut_down().await;
    let started = town.env.events(&id, "TimerStarted").await;
    assert_eq!(
        started, 1,
        "a timer is started with the first request of a batch only"
    );
    assert_eq!(town.env.events(&id, "TimerCanceled").await, 1);
    assert_eq!(town.env.events(&id, "TimerFired").await, 0);
}

#[tokio::test]
async fn a_shutdown_writes_what_waits_and_completes() {
    let town = Town::new("shutdown").await;
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 7)).await;
    let stats = town.shut_down().await;
    assert_eq!(sink.sizes(), [7]);
    assert_eq!((stats.written, stats.pending, stats.held), (7, 0, 0));
    assert_eq!(stats.flushes[&FlushReason::Shutdown], 1);
}

/// A cancellation by Temporal's own tools is a shutdown: it drops nothing either.
#[tokio::test]
async fn a_cancelled_batcher_writes_what_waits() {
    let town = Town::new("cancel").await;
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 3)).await;
    let handle = town
        .env
        .client
        .temporal()
        .get_workflow_handle::<temporalio_client::UntypedWorkflow>(town.batcher.workflow_id(0));
    handle
        .cancel(temporalio_client::WorkflowCancelOptions::default())
        .await
        .unwrap();
    eventually("the requests are written", || async {
        (sink.sizes() == [3]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn several_batches_are_written_at_the_same_time() {
    let town = Town::new("parallel")
        .await
        .with(|b| b.max_batch(1).max_writes(3));
    let sink = Sink::closed();
    let _worker = town.worker(sink.clone()).await;
    town.submit(requests(0, 5)).await;
    let stats = town
        .stats_show("three batches are being written", |stats| {
            stats.writing == 3
        })
        .await;
    assert_eq!(stats.pending, 2, "{stats:?}");
    sink.let_through(5);
    assert_eq!(town.shut_down().await.writes, 5);
}
