//! Bad input is refused before anything starts, and the message says what is allowed.

use std::time::Duration;

use temporal_batch::{
    Batch, Outcome, Worker,
    errors::{ControlError, InvalidBatch, ProgressError, StartError, WorkerError},
    settings::{RetryMode, RetryPolicy},
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, gated},
    support::{TestEnv, eventually, report, within},
};

#[tokio::test]
async fn arguments_and_first_cursors_that_do_not_fit_are_refused() {
    let env = TestEnv::new("args-refused").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = Batch::named(env.new_id(), "numbers", serde_json::json!({"n": "many"}));
    let handle = env.start(&batch.task_queue(&env.queue)).await;
    let message = handle.accepted().await.unwrap_err().to_string();
    assert!(
        message.contains("the arguments do not fit processor \"numbers\""),
        "{message}"
    );
    assert!(message.contains("expected u64"), "{message}");

    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1 })
        .first_cursor(&"one");
    let message = env
        .start(&batch)
        .await
        .accepted()
        .await
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("the first cursor does not fit"),
        "{message}"
    );
    assert!(numbers.record().fetches.is_empty());
}

#[tokio::test]
async fn a_batch_with_a_bad_setting_is_not_started() {
    let env = TestEnv::new("invalid").await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 1 }).page_size(0);
    let error = env.client.start(&batch).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "page size is 0; it must be from 1 to 1000000"
    );
    let handle = env.client.handle(batch.id()).unwrap();
    let error = handle.progress().await.unwrap_err();
    assert!(matches!(error, ProgressError::NotFound { .. }), "{error}");
    let spaces = env.client.handle("a b").err().unwrap();
    assert!(matches!(spaces, InvalidBatch::Id { .. }));
}

#[tokio::test]
async fn a_batch_id_that_runs_or_has_ended_is_refused_unless_rerun() {
    let env = TestEnv::new("taken").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 5 });
    let handle = env.start(&batch).await;
    let error = env.client.start(&batch).await.err().unwrap();
    assert!(
        matches!(error, StartError::AlreadyRunning { .. }),
        "{error}"
    );
    gate.open();
    let first = report(&handle).await;

    let error = env.client.start(&batch).await.err().unwrap();
    assert!(matches!(error, StartError::AlreadyEnded { .. }), "{error}");
    assert!(
        error.to_string().contains("has already ended (completed)"),
        "{error}"
    );
    let second = env.run(&batch.clone().rerun(true)).await;
    assert_eq!(second.outcome, Outcome::Completed);
    assert_ne!(second.progress.batch_run, first.progress.batch_run);
    assert_eq!(numbers.record().done.len(), 2);
    let listed = eventually("the rerun is listed as ended", || async {
        let mut batches = env.client.list(100).await.unwrap();
        batches.retain(|b| b.batch_id == batch.id());
        batches
            .iter()
            .all(|b| !b.state.is_open())
            .then_some(batches)
    });
    assert_eq!(listed.await.len(), 1, "a rerun is listed twice");
}

#[tokio::test]
async fn values_out_of_range_are_refused_and_change_nothing() {
    let env = TestEnv::new("limits").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 5 })
        .max_parallelism(0);
    let handle = env.start(&batch).await;
    let error = handle.set_max_parallelism(501).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "max parallelism is 501; it must be from 0 to 500"
    );

    // A request that bypasses the client meets the validator of the workflow.
    use temporalio_client::{UntypedUpdate, UntypedWorkflow, WorkflowExecuteUpdateOptions};
    use temporalio_common::data_converters::{PayloadConverter, RawValue};
    let raw = RawValue::from_value(
        &serde_json::json!({"max_parallelism": 501}),
        &PayloadConverter::default(),
    );
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    let update = workflow.execute_update(
        UntypedUpdate::new("set"),
        raw,
        WorkflowExecuteUpdateOptions::default(),
    );
    let error = within("the update is refused", update).await.err().unwrap();
    assert!(
        format!("{error:?}").contains("must be from 0 to 500"),
        "{error:?}"
    );
    assert_eq!(handle.progress().await.unwrap().max_parallelism, 0);
    handle.cancel("").await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn a_batch_that_does_not_exist_cannot_be_steered() {
    let env = TestEnv::new("nobody").await;
    let handle = env.client.handle(env.new_id()).unwrap();
    for error in [
        handle.pause("").await.unwrap_err(),
        handle.cancel("").await.unwrap_err(),
        handle.set_max_parallelism(1).await.unwrap_err(),
    ] {
        assert!(matches!(error, ControlError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_worker_with_impossible_settings_does_not_start() {
    let env = TestEnv::new("bad-worker").await;
    let worker = || Worker::new(&env.client, &env.queue);
    let error = |worker: Worker| worker.start().err().unwrap().to_string();

    assert!(matches!(worker().start(), Err(WorkerError::NoProcessor)));
    let twice = worker()
        .processor(NumbersProcessor::new())
        .processor(NumbersProcessor::new());
    assert!(error(twice).contains("two processors are named \"numbers\""));
    let attempts = NumbersProcessor::new().settings(|s| {
        s.retry_mode = RetryMode::AtMostOnce;
        s.retry = RetryPolicy::never().max_attempts(2);
    });
    let message = error(worker().processor(attempts));
    assert!(
        message.contains("AtMostOnce needs max_attempts 1"),
        "{message}"
    );
    let extended = NumbersProcessor::new().settings(|s| {
        s.retry_mode = RetryMode::AtMostOnce;
        s.retry = RetryPolicy::default().max_attempts(1);
    });
    let message = error(worker().processor(extended));
    assert!(message.contains("extended retries are on"), "{message}");
    let impatient =
        NumbersProcessor::new().settings(|s| s.heartbeat_timeout = Duration::from_millis(1));
    assert!(error(worker().processor(impatient)).contains("at least 1s"));
    let idle = worker().processor(NumbersProcessor::new()).max_pages(0);
    assert!(error(idle).contains("max pages is 0"));
}
