//! Followers and workers while the server is unreachable, or after the run that they know has ended.

use std::time::Duration;

use temporal_batch::{BatchClient, BatchHandle, ConnectOptions, Outcome, Worker};
use temporalio_client::{UntypedWorkflow, WorkflowTerminateOptions};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, gated},
    support::{TestEnv, progress_shows, report, server_address, servers::Proxy, within},
};

async fn proxy() -> Proxy {
    let address = tokio::task::spawn_blocking(server_address).await.unwrap();
    Proxy::before(address)
}

async fn through(proxy: &Proxy) -> BatchClient {
    let options = ConnectOptions::new()
        .address(proxy.address())
        .disable_env(true)
        .disable_config_file(true);
    BatchClient::connect(&options).await.unwrap()
}

/// Starts a task that waits for the end of the batch. The task has looked at the batch by the time that this returns.
async fn follower(handle: &BatchHandle) -> tokio::task::JoinHandle<Outcome> {
    let follower = handle.clone();
    let following = tokio::spawn(async move { report(&follower).await.outcome });
    progress_shows(handle, "a page is done", |p| p.pages_completed > 0).await;
    following
}

#[tokio::test]
async fn a_follower_of_a_reset_batch_follows_its_new_run() {
    let env = TestEnv::new("reset-followed").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 100 }).page_size(10);
    let handle = env.start(&batch).await;
    gate.let_through(2);
    let following = follower(&handle).await;
    let reset = within(
        "the batch is reset",
        handle.recover_by_force("to see what happens"),
    );
    reset.await.unwrap();
    gate.open();
    assert_eq!(following.await.unwrap(), Outcome::Completed);
}

#[tokio::test]
async fn a_follower_of_a_terminated_batch_follows_the_rerun_that_has_begun_by_then() {
    let env = TestEnv::new("rerun-followed").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 100 }).page_size(10);
    env.start(&batch).await;
    gate.let_through(2);
    let proxy = proxy().await;
    let far = through(&proxy).await.handle(batch.id()).unwrap();
    let following = follower(&far).await;
    // The answer about the first run is held back until there is a second one.
    proxy.stall();
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    let options = WorkflowTerminateOptions::default();
    workflow.terminate(options).await.unwrap();
    env.start(&batch.clone().rerun(true)).await;
    gate.open();
    proxy.pass();
    assert_eq!(following.await.unwrap(), Outcome::Completed);
}

/// The SDK alone gives up after 10 s.
#[tokio::test]
async fn a_worker_that_begins_during_an_outage_works_after_it() {
    let env = TestEnv::new("begun-away").await;
    let proxy = proxy().await;
    let client = through(&proxy).await;
    proxy.refuse();
    let worker = Worker::new(&client, &env.queue).processor(NumbersProcessor::new());
    let mut worker = worker.start().unwrap();
    let outage = Duration::from_secs(15);
    let ended = tokio::time::timeout(outage, worker.ended()).await;
    assert!(ended.is_err(), "{ended:?}");
    proxy.pass();
    let done = env
        .run(&env.batch::<NumbersProcessor>(UpTo { n: 100 }))
        .await;
    assert_eq!(done.outcome, Outcome::Completed);
    within("the worker drains", worker.stop()).await.unwrap();
}
