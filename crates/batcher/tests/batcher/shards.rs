//! Several shards share the requests of a batcher.

use std::time::Duration;

use temporal_batch_batcher::{BatcherClient, BatcherError};
use temporalio_client::{UntypedWorkflow, WorkflowDescribeOptions};

use crate::{
    sink::Sink,
    town::{Town, request, requests},
};

#[tokio::test]
async fn four_shards_share_the_requests_and_lose_none() {
    let town = Town::new("shards")
        .await
        .with(|b| b.shards(4).max_wait(Duration::from_millis(200)));
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    let started = town.client().start().await.unwrap();
    assert_eq!((started.started, started.running), (4, 0));
    town.submit(requests(0, 400)).await;
    let stats = town.shut_down().await;
    assert_eq!(stats.written, 400);
    let written = sink.written();
    assert_eq!(written.len(), 400);
    assert!(written.values().all(|times| *times == 1));
    // Each call of the writer has requests of one shard.
    let mut of_shards = [0; 4];
    for call in sink.calls() {
        let shard = |id: &String| town.batcher.shard_of(id);
        let first = shard(&call.ids[0]);
        assert!(call.ids.iter().all(|id| shard(id) == first));
        of_shards[first as usize] += call.ids.len();
    }
    assert!(of_shards.iter().all(|n| *n > 50), "{of_shards:?}");
}

#[tokio::test]
async fn starting_a_batcher_that_runs_attaches_to_it() {
    let town = Town::new("again").await.with(|b| b.shards(2));
    let first = town.client().start().await.unwrap();
    assert_eq!(
        (first.started, first.running, first.other_limits),
        (2, 0, false)
    );
    let again = town.client().start().await.unwrap();
    assert_eq!(
        (again.started, again.running, again.other_limits),
        (0, 2, false)
    );
    let other = town.batcher.clone().max_batch(7);
    let other = BatcherClient::new(&town.env.client, other).unwrap();
    assert!(other.start().await.unwrap().other_limits);
}

fn is_refused<T>(asked: u32, answer: Result<T, BatcherError>) {
    let error = answer.err().expect("another number of shards is refused");
    assert!(
        matches!(error, BatcherError::OtherShards { running: 2, asked: found, .. } if found == asked),
        "{error}"
    );
}

/// Two shards are the batcher; a client that counts on fewer or more is refused, whichever shard it asks.
#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let town = Town::new("other").await.with(|b| b.shards(2));
    // A submission starts the shards that it needs. This one needs the second.
    let mut all = (0..).map(request);
    let second = all.find(|r| town.batcher.shard_of(&r.id) == 1).unwrap();
    town.submit(vec![second]).await;
    let long = Duration::from_secs(150);
    for number in [1, 3] {
        let other = town.batcher.clone().shards(number);
        let other = BatcherClient::new(&town.env.client, other).unwrap();
        is_refused(number, other.start().await);
        is_refused(number, other.stats().await);
        is_refused(number, other.shut_down(long).await);
        for shard in 0..number {
            let mut all = (0..).map(request);
            let request = all.find(|r| other.batcher().shard_of(&r.id) == shard);
            let id = request.clone().unwrap().id;
            is_refused(number, other.submit(request.unwrap()).await);
            is_refused(number, other.outcomes(&[(&id, &id)]).await);
            is_refused(number, other.wait(&id, &id, long).await);
        }
    }
    // A third shard was not started by those who asked for it.
    let third = town.batcher.workflow_id(2);
    let client = town.env.client.temporal();
    let third = client.get_workflow_handle::<UntypedWorkflow>(third);
    let described = third.describe(WorkflowDescribeOptions::default()).await;
    assert!(described.is_err(), "the third shard was started");
}

/// Workflows do not look before they submit: the shard refuses them, or the activity that would start it.
#[tokio::test]
async fn a_workflow_with_another_number_of_shards_is_refused() {
    let town = Town::new("others").await.with(|b| b.shards(2));
    town.client().start().await.unwrap();
    let _worker = town.worker(Sink::new()).await;
    let requesters = town.requesters().await;
    for (number, shard) in [(1, 0), (3, 1), (3, 2)] {
        let other = town.batcher.clone().shards(number);
        let mut all = (number as usize * 1_000..).map(request);
        let request = all.find(|r| other.shard_of(&r.id) == shard).unwrap();
        let asked = requesters.request(&other, request, Duration::from_secs(150));
        let answer = crate::requesters::answer(&asked.await).await;
        let reason =
            format!("the request was routed for {number} shards, but the batcher runs with 2");
        assert!(
            answer.starts_with("Refused: ") && answer.contains(&reason),
            "{answer}"
        );
    }
}
