//! Batches that are ended from outside and leave no report: their handle says how they ended.

use std::time::Duration;

use temporal_batch::{client::BatchStatus, errors::ProgressError};
use temporalio_client::{UntypedWorkflow, WorkflowStartOptions};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo},
    support::{TestEnv, eventually, within},
};

/// Starts a controller with Temporal's own client. Its parallelism is 0, so it never dispatches a page.
async fn start_by_hand(env: &TestEnv, id: &str, version: u32, run_timeout: Option<Duration>) {
    let input = serde_json::json!({
        "version": version,
        "batch_run": "by-hand",
        "spec": {
            "batch_id": id, "processor": "numbers", "args": {"n": 5},
            "page_size": 5, "max_parallelism": 0, "stride": 1,
        },
    });
    let options = WorkflowStartOptions::new(&*env.queue, id)
        .maybe_run_timeout(run_timeout)
        .build();
    let raw = RawValue::from_value(&input, &PayloadConverter::default());
    let controller = UntypedWorkflow::new("temporal-batch.controller");
    let temporal = env.client.temporal();
    temporal
        .start_workflow(controller, raw, options)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_terminated_batch_is_distinguished_from_one_that_ended() {
    let env = TestEnv::new("terminated").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 5 })
        .max_parallelism(0);
    let handle = env.start(&batch).await;
    handle.accepted().await.unwrap();
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    workflow.terminate(Default::default()).await.unwrap();
    let error = handle.result().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the batch was terminated from outside and left no report"
    );
}

/// The workflow has a time limit of Temporal's own.
#[tokio::test]
async fn a_batch_that_temporal_timed_out_says_so() {
    let env = TestEnv::new("timed-out").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let id = env.new_id();
    let limit = Some(Duration::from_secs(2));
    start_by_hand(&env, &id, 1, limit).await;
    let handle = env.client.handle(&*id).unwrap();
    let error = within("the time is up", handle.result()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the batch was timed out from outside and left no report"
    );
}

/// During a deploy an old worker meets batches that a newer one has started.
#[tokio::test]
async fn a_batch_of_a_newer_protocol_waits_for_a_worker_that_knows_it() {
    let env = TestEnv::new("newer").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let id = env.new_id();
    start_by_hand(&env, &id, 99, None).await;
    let handle = env.client.handle(&*id).unwrap();
    let refused = eventually("the workflow task fails", || async {
        let history = String::from_utf8(handle.history().await.unwrap()).unwrap();
        history.contains("protocol version 99").then_some(history)
    });
    assert!(refused.await.contains("this worker knows up to 1"));
    assert_eq!(handle.state().await.unwrap(), BatchStatus::Running);
    assert!(numbers.record().fetches.is_empty());
    let told = eventually("the failing task is reported", || async {
        let error = handle.progress().await.unwrap_err();
        matches!(error, ProgressError::TaskFails { .. }).then(|| error.to_string())
    });
    let told = told.await;
    assert!(told.contains("deploy code that can continue it"), "{told}");
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(&*id);
    workflow.terminate(Default::default()).await.unwrap();
}
