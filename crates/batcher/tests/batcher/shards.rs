//! Several shards share the requests of a batcher.

use std::time::Duration;

use temporal_batch_batcher::{BatcherClient, BatcherError, Outcome, Refusal};

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

#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let town = Town::new("other").await.with(|b| b.shards(2));
    town.client().start().await.unwrap();
    let other = town.batcher.clone().shards(3);
    let other = BatcherClient::new(&town.env.client, other).unwrap();
    let error = other.start().await.unwrap_err();
    assert!(
        matches!(
            error,
            BatcherError::OtherShards {
                running: 2,
                asked: 3,
                ..
            }
        ),
        "{error}"
    );
    // A requester that did not look is refused by the shard.
    let _worker = town.worker(Sink::new()).await;
    let id = (0..)
        .map(request)
        .find(|r| other.batcher().shard_of(&r.id) < 2)
        .unwrap()
        .id;
    let unlucky = temporal_batch_batcher::Request::new(&*id, 1);
    other.submit(unlucky).await.unwrap();
    let outcome = other
        .wait(&id, &id, Duration::from_secs(150))
        .await
        .unwrap();
    let reason = Refusal::OtherShards {
        routed_for: 3,
        running: 2,
    };
    assert_eq!(outcome, Outcome::Refused { reason });
}
