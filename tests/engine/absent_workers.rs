//! Views of batches whose workers are gone.

use temporal_batch::{
    Outcome,
    client::{BatchStatus, Observation, ProgressSource},
    errors::ProgressError,
    progress::{HeldBy, Progress},
};
use temporalio_client::{UntypedWorkflow, WorkflowStartOptions, WorkflowTerminateOptions};
use temporalio_common::{
    MemoValues,
    data_converters::{PayloadConverter, RawValue},
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, gated},
    support::{TestEnv, eventually, report, within},
};

async fn look(handle: &temporal_batch::BatchHandle) -> Observation {
    within("the look returns", handle.look()).await.unwrap()
}

#[tokio::test]
async fn a_batch_that_no_worker_took_is_shown_as_waiting_for_one() {
    let env = TestEnv::new("nobody-polls").await;
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 5 }))
        .await;
    let seen = look(&handle).await;
    assert_eq!(seen.state, BatchStatus::Running);
    assert_eq!((&seen.progress, seen.source), (&None, None));
    assert!(seen.no_worker());
    let workers = seen.workers.unwrap();
    assert_eq!(workers.task_queue, env.queue);
    assert_eq!(workers.polling, []);
    let error = within("the progress query is refused", handle.progress()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ProgressError::NoWorker { .. }), "{error}");

    eventually("the workflow task is listed as waiting", || async {
        let workers = handle.look().await.unwrap().workers?;
        (workers.workflow_backlog >= Some(1)).then_some(())
    })
    .await;
}

/// A snapshot as the controller stores it on the server, stored by hand here.
#[tokio::test]
async fn without_a_worker_the_snapshot_answers_and_says_why() {
    let env = TestEnv::new("snapshot").await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 10 });
    let snapshot = serde_json::json!({
        "batch_id": batch.id(), "batch_run": "r", "processor": "numbers", "phase": "running",
        "pages_completed": 9, "pages_failed": 0, "pages_in_flight": 1, "pages_stuck": 0,
        "strides_waiting": 0, "items": {"processed": 90, "skipped": 0, "failed": 0},
        "retries": 0, "max_parallelism": 4, "max_parallelism_achieved": 4,
        "end_of_data": false, "started_at": 1, "as_of": 1_234, "runs": 1,
        "announcements_dropped": 0, "explanation": "rate limit 5 items/s", "held_by": "rate",
    });
    let mut memo = MemoValues::new();
    memo.insert("progress", snapshot);
    let options = WorkflowStartOptions::new(&env.queue, batch.id())
        .memo(memo)
        .build();
    let controller = UntypedWorkflow::new("temporal-batch.controller");
    let nothing = RawValue::from_value(&(), &PayloadConverter::default());
    let temporal = env.client.temporal();
    let started = temporal.start_workflow(controller, nothing, options).await;
    started.unwrap();

    let handle = env.client.handle(batch.id()).unwrap();
    let seen = look(&handle).await;
    assert_eq!(seen.source, Some(ProgressSource::Snapshot));
    let progress: Progress = seen.progress.clone().unwrap();
    assert_eq!((progress.pages_completed, progress.as_of.0), (9, 1_234));
    assert_eq!(progress.held_by, Some(HeldBy::NoWorker));
    assert_eq!(
        progress.explanation,
        format!("no worker is polling task queue \"{}\"", env.queue)
    );
    assert_eq!(handle.progress().await.unwrap(), progress);
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["source"], "snapshot");
    assert_eq!(json["workers"]["task_queue"], env.queue);
    assert_eq!(json["progress"]["held_by"], "no_worker");
}

#[tokio::test]
async fn a_polling_worker_is_shown_with_its_strides() {
    let env = TestEnv::new("polls").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 20 })
        .page_size(20)
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    numbers.shows("the page runs", |r| r.in_flight == 1).await;
    let seen = look(&handle).await;
    assert_eq!(seen.source, Some(ProgressSource::Live));
    assert!(!seen.no_worker());
    let workers = seen.workers.clone().unwrap();
    let [worker] = &workers.polling[..] else {
        panic!("one worker polls: {workers:?}")
    };
    assert!(worker.workflows && worker.pages, "{worker:?}");
    let progress = seen.progress.as_ref().unwrap();
    assert_ne!(progress.held_by, Some(HeldBy::NoWorker));
    let [stride] = &seen.strides[..] else {
        panic!("one stride runs: {:?}", seen.strides)
    };
    assert_eq!((stride.stride, stride.attempt), (0, 1));
    assert_eq!(stride.worker.as_ref(), Some(&worker.identity));
    assert!(stride.started_at >= stride.dispatched_at && stride.started_at.is_some());

    gate.open();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
    let seen = look(&handle).await;
    assert_eq!(seen.state, BatchStatus::Completed);
    assert_eq!(seen.source, Some(ProgressSource::Report));
    assert_eq!((seen.workers, seen.strides), (None, vec![]));
    assert_eq!(seen.progress.unwrap().pages_completed, 1);
}

#[tokio::test]
async fn the_report_of_a_batch_that_ended_needs_no_worker() {
    let env = TestEnv::new("ended-alone").await;
    let worker = env.worker(NumbersProcessor::new()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 10 });
    let finished = env.run(&batch).await;
    worker.stop().await.unwrap();
    let handle = env.client.handle(batch.id()).unwrap();
    let seen = look(&handle).await;
    assert_eq!(seen.source, Some(ProgressSource::Report));
    assert_eq!(seen.progress, Some(finished.progress));
}

#[tokio::test]
async fn a_batch_that_was_ended_from_outside_without_a_trace_is_still_shown() {
    let env = TestEnv::new("terminated").await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 10 });
    let handle = env.start(&batch).await;
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    let options = WorkflowTerminateOptions::default();
    workflow.terminate(options).await.unwrap();
    let seen = look(&handle).await;
    assert_eq!(seen.state, BatchStatus::Terminated);
    assert_eq!(
        (seen.progress, seen.source, seen.workers),
        (None, None, None)
    );
}

/// A history that a newer version has written cannot be replayed by this version.
#[tokio::test]
async fn a_history_that_no_worker_can_continue_is_told_apart_from_an_absent_worker() {
    let env = TestEnv::new("newer").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch_id = env.new_id();
    let input = serde_json::json!({
        "version": 99,
        "batch_run": "by-hand",
        "spec": {
            "batch_id": batch_id, "processor": "numbers", "args": {"n": 5},
            "page_size": 5, "max_parallelism": 0, "stride": 1,
        },
    });
    let input = RawValue::from_value(&input, &PayloadConverter::default());
    let controller = UntypedWorkflow::new("temporal-batch.controller");
    let options = WorkflowStartOptions::new(&env.queue, &batch_id).build();
    let temporal = env.client.temporal();
    let started = temporal.start_workflow(controller, input, options).await;
    started.unwrap();
    let handle = env.client.handle(&batch_id).unwrap();
    let seen = eventually("the workflow task is listed as failing", || async {
        let seen = handle.look().await.unwrap();
        seen.task_failures.is_some().then_some(seen)
    })
    .await;
    assert!(!seen.no_worker());
    let error = handle.progress().await.unwrap_err();
    assert!(matches!(error, ProgressError::TaskFails { .. }), "{error}");
}

#[tokio::test]
async fn the_progress_of_a_stopped_worker_is_still_shown() {
    let env = TestEnv::new("stopped").await;
    let (numbers, gate) = gated();
    let worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    gate.let_through(3);
    numbers
        .shows("the fourth page runs", |r| r.begun.len() == 4)
        .await;
    handle.pause("over night").await.unwrap();
    gate.let_through(1);
    within("the batch is paused", handle.wait_until_paused())
        .await
        .unwrap();
    worker.stop().await.unwrap();

    // This handle has not looked at the batch before.
    let handle = env.client.handle(batch.id()).unwrap();
    let seen = look(&handle).await;
    assert_eq!(seen.state, BatchStatus::Running);
    assert_eq!(seen.source, Some(ProgressSource::Snapshot));
    let progress = seen.progress.unwrap();
    assert_eq!(progress.pages_completed, 4);
    assert_eq!(progress.phase, temporal_batch::progress::Phase::Paused);
    assert_eq!(progress.pause_reason.as_deref(), Some("over night"));
}
