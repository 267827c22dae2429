//! Ends that come from outside: a batch without a report says how it ended.

use std::time::Duration;

use temporalio_client::{UntypedWorkflow, WorkflowStartOptions};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

use crate::{
    numbers::{Numbers, UpTo},
    support::{Bed, within},
};

#[tokio::test]
async fn a_terminated_batch_is_told_from_one_that_ended() {
    let bed = Bed::new("terminated").await;
    let _worker = bed.worker(Numbers::new()).await;
    let batch = bed.batch::<Numbers>(UpTo { n: 5 }).max_parallelism(0);
    let handle = bed.start(&batch).await;
    handle.accepted().await.unwrap();
    let temporal = bed.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    workflow.terminate(Default::default()).await.unwrap();
    let error = handle.result().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the batch was terminated from outside and left no report"
    );
}

/// 2.1a-19, for a workflow that somebody started with a time limit of Temporal's own.
#[tokio::test]
async fn a_batch_that_ran_out_of_temporals_time_says_so() {
    let bed = Bed::new("timed-out").await;
    let _worker = bed.worker(Numbers::new()).await;
    let id = bed.new_id();
    let input = serde_json::json!({
        "version": 1,
        "batch_run": "by-hand",
        "spec": {
            "batch_id": id, "processor": "numbers", "args": {"n": 5},
            "page_size": 5, "max_parallelism": 0, "stride": 1,
        },
    });
    let options = WorkflowStartOptions::new(&*bed.queue, &*id)
        .run_timeout(Duration::from_secs(2))
        .build();
    let raw = RawValue::from_value(&input, &PayloadConverter::default());
    let controller = UntypedWorkflow::new("temporal-batch.controller");
    let temporal = bed.client.temporal();
    temporal
        .start_workflow(controller, raw, options)
        .await
        .unwrap();
    let handle = bed.client.handle(&*id).unwrap();
    let error = within("the time is up", handle.result()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the batch was timed out from outside and left no report"
    );
}
