//! A shard whose workers are away is not filled until Temporal ends it.

use std::time::Duration;

use temporal_batch_batcher::{BatcherError, Refusal, Request};

use crate::{requesters::answer, support::within, town::Town};

fn large(i: usize) -> Request {
    Request::new(format!("large-{i:05}"), "x".repeat(95_000))
}

#[tokio::test]
async fn a_shard_that_no_worker_reads_is_not_filled_until_the_server_ends_it() {
    let town = Town::new("backlog").await;
    let client = town.client();
    let mut sent = 0;
    let error = loop {
        assert!(sent < 450, "Temporal ends a workflow at 50 MB");
        let some = (sent..sent + 20).map(large).collect();
        let submitted = within("requests are submitted", client.submit_all(some));
        match submitted.await {
            Ok(()) => sent += 20,
            Err(error) => break error,
        }
    };
    let BatcherError::Refused { reason, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(reason, Refusal::Backlog { .. }), "{reason}");
    assert!(sent > 120, "only {sent} requests of 95 kB were taken");

    // A workflow is told the same.
    let requesters = town.requesters().await;
    let refused = requesters.request(&town.batcher, large(99_999), Duration::from_secs(150));
    let refused = answer(&refused.await).await;
    assert!(
        refused.starts_with("Refused: ") && refused.contains("backlog"),
        "{refused}"
    );
}
