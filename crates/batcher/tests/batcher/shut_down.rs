//! A shutdown ends, whatever happens to the shards.

use std::time::Duration;

use temporal_batch_batcher::{BatcherClient, BatcherError, Stats};
use temporalio_client::{UntypedWorkflow, WorkflowFetchHistoryOptions, WorkflowTerminateOptions};

use crate::{
    sink::Sink,
    support::{PATIENCE, eventually, within},
    town::{Town, request},
};

/// Tells the batcher to end in the background. Returns once each shard has heard of it.
async fn shut_down(town: &Town) -> tokio::task::JoinHandle<Result<Stats, BatcherError>> {
    let client: BatcherClient = town.client();
    let ending = tokio::spawn(async move { client.shut_down(PATIENCE * 2).await });
    for shard in 0..town.batcher.shard_count() {
        let id = town.batcher.workflow_id(shard);
        let temporal = town.env.client.temporal();
        let handle = temporal.get_workflow_handle::<UntypedWorkflow>(id);
        eventually("the shard is told to end", || async {
            let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
            let history = history.to_json().await.ok()?;
            let told = String::from_utf8_lossy(&history).contains("\"shutdown\"");
            told.then_some(())
        })
        .await;
    }
    ending
}

#[tokio::test]
async fn a_shutdown_without_a_worker_ends_with_an_error() {
    let town = Town::new("unheard").await;
    town.submit(vec![request(0)]).await;
    let client = town.client();
    let ended = client.shut_down(Duration::from_millis(500));
    let error = within("the call ends", ended).await.unwrap_err();
    assert!(
        matches!(error, BatcherError::ShutdownTimeout { shard: 0, .. }),
        "{error}"
    );
    // It was told all the same.
    let _worker = town.worker(Sink::new()).await;
    assert_eq!(town.shut_down().await.written, 1);
}

#[tokio::test]
async fn a_shutdown_of_a_shard_that_is_terminated_ends_with_an_error() {
    let town = Town::new("lost").await;
    town.submit(vec![request(0)]).await;
    let ending = shut_down(&town).await;
    let shard = town.batcher.workflow_id(0);
    let client = town.env.client.temporal();
    let shard = client.get_workflow_handle::<UntypedWorkflow>(shard);
    let options = WorkflowTerminateOptions::default();
    shard.terminate(options).await.unwrap();
    let ended = within("the call ends", ending).await.unwrap();
    let error = ended.unwrap_err();
    assert!(
        matches!(error, BatcherError::ShardLost { shard: 0, .. }),
        "{error}"
    );
}

/// The workflow id alone would name the later one, which may run for ever.
#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_shard_that_was_started_later() {
    let town = Town::new("later").await.with(|b| b.shards(2));
    let of_shard = |shard| {
        let mut all = (0..).map(request);
        all.find(|r| town.batcher.shard_of(&r.id) == shard).unwrap()
    };
    town.client().start().await.unwrap();
    town.submit(vec![of_shard(0)]).await;
    let sink = Sink::closed();
    let _worker = town.worker(sink.clone()).await;
    let ending = shut_down(&town).await;
    // The second shard has nothing to write and ends. The first one writes until the sink lets it.
    eventually("the second shard runs again", || async {
        town.submit(vec![of_shard(1)]).await;
        let stats = town.client().stats().await.ok()?;
        (stats.pending == 1).then_some(())
    })
    .await;
    sink.let_through(1);
    let stats = within("the call ends", ending).await.unwrap().unwrap();
    assert_eq!((stats.written, stats.runs), (1, 2), "{stats:?}");
    sink.let_through(1);
    assert_eq!(town.shut_down().await.written, 1);
}
