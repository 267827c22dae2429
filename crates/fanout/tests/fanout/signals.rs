//! Children that report by signal.

use serde_json::{Value, json};
use temporal_batch_fanout::{FanoutHandle, FanoutOutcome, Mode, failure_types};
use temporalio_client::{
    UntypedSignal, UntypedWorkflow, WorkflowSignalOptions, WorkflowTerminateOptions,
};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

use crate::{
    jobs::{Act, Work, fanout, job, jobs, report, run, start, waits, worker_on},
    support::{TestEnv, eventually},
};

/// Sends a completion signal in the name of a child.
async fn signal_done(env: &TestEnv, handle: &FanoutHandle, item: &str) {
    signal(env, handle, json!({ "item_id": item, "output": "by hand" })).await;
}

async fn signal(env: &TestEnv, handle: &FanoutHandle, done: Value) {
    let parent = env
        .client
        .temporal()
        .get_workflow_handle::<UntypedWorkflow>(handle.id());
    let done = RawValue::from_value(&done, &PayloadConverter::default());
    let options = WorkflowSignalOptions::default();
    parent
        .signal(UntypedSignal::new("item_done"), done, options)
        .await
        .unwrap();
}

#[tokio::test]
async fn each_child_signals_its_item_and_the_parent_ends_after_all_of_them() {
    let env = TestEnv::new("signals").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let fanout = fanout(&env, jobs(8)).mode(Mode::Signals);
    let report = run(&env, &fanout).await;
    assert_eq!((report.progress.completed, report.progress.failed), (8, 0));
    assert_eq!(report.stray_reports, 0);
    assert_eq!(env.signals(fanout.id(), "item_done").await, 8);
    // The output travelled once: the result of the child only says that it was reported.
    let child = env
        .histories(&format!("{}/item/ITEM-001", fanout.id()))
        .await
        .remove(0);
    let child = String::from_utf8(child).unwrap();
    assert!(child.contains("WorkflowExecutionCompleted"), "{child}");
}

#[tokio::test]
async fn completions_out_of_order_are_counted_right() {
    let env = TestEnv::new("signals").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let items = [
        job("ITEM-001", Act::WaitFor("done ITEM-003".to_owned())),
        job("ITEM-002", Act::WaitFor("done ITEM-001".to_owned())),
        job("ITEM-003", Act::Finish),
    ];
    let report = run(&env, &fanout(&env, items.into()).mode(Mode::Signals)).await;
    assert_eq!((report.progress.completed, report.progress.total), (3, 3));
    let summary = report.result.unwrap();
    assert_eq!(summary["summary"][0]["output"], "ITEM-001 at attempt 1");
    assert_eq!(summary["summary"][2]["output"], "ITEM-003 at attempt 1");
}

#[tokio::test]
async fn a_failing_child_ends_the_wait_for_its_signal() {
    let env = TestEnv::new("signals").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let mut items = jobs(3);
    items.push(job("ITEM-004", Act::Decline));
    let report = run(&env, &fanout(&env, items).mode(Mode::Signals)).await;
    assert_eq!(report.outcome, FanoutOutcome::Completed);
    assert_eq!((report.progress.completed, report.progress.failed), (4, 1));
    assert_eq!(report.failures[0].failure.error_type, "CardDeclined");
}

/// A terminated child cannot signal, so only its end tells of it.
#[tokio::test]
async fn a_terminated_child_ends_the_wait_for_its_signal() {
    let env = TestEnv::new("signals").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let mut items = jobs(2);
    items.push(waits("DIES"));
    let handle = start(&env, &fanout(&env, items).mode(Mode::Signals)).await;
    work.seen("began DIES").await;
    let child = env
        .client
        .temporal()
        .get_workflow_handle::<UntypedWorkflow>(handle.child_id("DIES"));
    let options = WorkflowTerminateOptions::default();
    child.terminate(options).await.unwrap();
    let report = report(&handle).await;
    work.happened("go");
    assert_eq!((report.progress.completed, report.progress.failed), (3, 1));
    assert_eq!(
        report.failures[0].failure.error_type,
        failure_types::TERMINATED
    );
}

#[tokio::test]
async fn a_signal_that_cannot_be_read_is_a_stray() {
    let env = TestEnv::new("signals").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let handle = start(&env, &fanout(&env, vec![waits("A")]).mode(Mode::Signals)).await;
    work.seen("began A").await;
    for done in [
        json!({ "id": "A" }),
        json!({ "item_id": 7 }),
        json!({ "item_id": "A", "failure": "text" }),
        json!(null),
        json!("A"),
    ] {
        signal(&env, &handle, done).await;
    }
    handle.progress().await.unwrap();
    work.happened("go");
    let report = report(&handle).await;
    assert_eq!((report.progress.completed, report.progress.failed), (1, 0));
    assert_eq!(report.stray_reports, 5);
}

#[tokio::test]
async fn a_duplicated_signal_counts_once() {
    let env = TestEnv::new("signals").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let items = vec![waits("A"), waits("B")];
    let handle = start(&env, &fanout(&env, items).mode(Mode::Signals)).await;
    work.seen("began A").await;
    work.seen("began B").await;
    for _ in 0..3 {
        signal_done(&env, &handle, "A").await;
    }
    signal_done(&env, &handle, "no such item").await;
    eventually("the signals are counted", || async {
        let progress = handle.progress().await.ok()?;
        (progress.completed == 1).then_some(())
    })
    .await;
    work.happened("go");
    let report = report(&handle).await;
    assert_eq!((report.progress.completed, report.progress.total), (2, 2));
    // Two copies, the unknown item, and the child's own signal after that in its name.
    assert_eq!(report.stray_reports, 4);
    assert_eq!(report.result.unwrap()["summary"][0]["output"], "by hand");
}
