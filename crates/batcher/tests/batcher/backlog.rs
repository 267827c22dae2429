//! A shard whose workers are away is not filled until Temporal ends it.

use std::time::Duration;

use futures::StreamExt as _;
use temporal_batch_batcher::{BatcherError, Refusal, Request};
use temporalio_client::{UntypedSignal, UntypedWorkflow, WorkflowSignalOptions};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

use crate::{
    requesters::answer,
    support::within,
    town::{Town, request},
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_no_worker_reads_refuses_before_the_server_takes_no_more_signals() {
    let town = Town::new("signals").await;
    let client = town.client();
    client.submit(request(0)).await.unwrap();
    // Signals of others, which fill the history faster than submissions, of which each looks at it before.
    let shard = town
        .env
        .client
        .temporal()
        .get_workflow_handle::<UntypedWorkflow>(town.batcher.workflow_id(0));
    let signal = |_| async {
        let nothing = RawValue::from_value(&(), &PayloadConverter::default());
        let options = WorkflowSignalOptions::default();
        shard
            .signal(UntypedSignal::new("other"), nothing, options)
            .await
            .unwrap();
    };
    let fill = futures::stream::iter(0..8_990).map(signal);
    let fill = fill.buffer_unordered(32).collect::<Vec<_>>();
    within("the history is filled", fill).await;
    let refused = async {
        for i in 1..100 {
            if let Err(error) = client.submit(request(i)).await {
                return Some(error);
            }
        }
        None
    };
    let error = within("a request is refused", refused).await;
    let Some(BatcherError::Refused { reason, .. }) = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(reason, Refusal::Backlog { .. }), "{reason}");
}
