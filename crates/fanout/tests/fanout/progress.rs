//! Progress by query and by update.

use temporal_batch_fanout::{FanoutWorker, Mode, Progress};

use crate::{
    jobs::{Act, Work, fanout, job, jobs, report, start, waits, worker_on},
    support::{TestEnv, connect, eventually, server_address, within},
};

#[tokio::test]
async fn query_and_update_tell_the_same_numbers_while_items_run() {
    let env = TestEnv::new("progress").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let mut items = jobs(2);
    items.push(job("ITEM-003", Act::Decline));
    items.extend([waits("ITEM-004"), waits("ITEM-005")]);
    let handle = start(&env, &fanout(&env, items)).await;
    let expected = Progress {
        completed: 3,
        total: 5,
        failed: 1,
        in_flight: 2,
        duplicates: 0,
        all_read: true,
    };
    let by_query = eventually("three items have ended", || async {
        let progress = handle.progress().await.ok()?;
        (progress.completed == 3).then_some(progress)
    })
    .await;
    assert_eq!(by_query, expected);
    let by_update = within("the update is answered", handle.progress_by_update());
    assert_eq!(by_update.await.unwrap(), expected);
    work.happened("go");
    let report = report(&handle).await;
    assert_eq!(report.progress.completed, 5);
    assert_eq!(handle.progress().await.unwrap(), report.progress);
    // The query is not in the history; the update is.
    assert_eq!(
        env.events(handle.id(), "WorkflowExecutionUpdateAccepted")
            .await,
        1
    );
}

/// The update is sent before a worker runs, so it is in the first workflow task: before the main routine.
#[tokio::test]
async fn an_update_before_the_first_child_is_answered() {
    let env = TestEnv::new("progress").await;
    let work = Work::new();
    for mode in [Mode::JoinAll, Mode::Signals] {
        let handle = start(&env, &fanout(&env, vec![waits("A"), waits("B")]).mode(mode)).await;
        let asked = {
            let handle = handle.clone();
            tokio::spawn(async move { handle.progress_by_update().await })
        };
        let client = connect(server_address()).await;
        let worker = FanoutWorker::new(&client, &env.queue).processor(work.clone());
        let worker = worker.start().unwrap();
        let progress = within("the update is answered", asked)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((progress.completed, progress.total), (0, 2));
        work.happened("go");
        report(&handle).await;
        worker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn an_unknown_update_is_an_error() {
    use temporalio_client::{UntypedUpdate, UntypedWorkflow, WorkflowExecuteUpdateOptions};
    use temporalio_common::data_converters::RawValue;

    let env = TestEnv::new("progress").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let handle = start(&env, &fanout(&env, vec![waits("A")])).await;
    let workflow = env
        .client
        .temporal()
        .get_workflow_handle::<UntypedWorkflow>(handle.id());
    let options = WorkflowExecuteUpdateOptions::default();
    let update = UntypedUpdate::new("get_progres");
    let answer = within(
        "the update is answered",
        workflow.execute_update(update, RawValue::empty(), options),
    );
    assert!(answer.await.is_err());
    work.happened("go");
    report(&handle).await;
}
