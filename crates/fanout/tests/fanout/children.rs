//! The children themselves: ids, histories, retries, status, task queue, type.

use futures::TryStreamExt as _;
use serde_json::json;
use temporal_batch_fanout::{FanoutOutcome, ItemPhase, Mode};
use temporalio_client::WorkflowListOptions;

use crate::{
    jobs::{
        Act, Work, events_of, fanout, item_is, job, jobs, report, run, start, waits, worker_on,
    },
    own_children,
    support::{TestEnv, eventually},
};

#[tokio::test]
async fn ids_are_those_of_the_fan_out_and_the_item() {
    let env = TestEnv::new("children").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let fanout = fanout(&env, jobs(3));
    run(&env, &fanout).await;
    // The query that the documentation names.
    let query = format!("ParentWorkflowId = '{}'", fanout.id());
    let ids = eventually("three children are listed", || async {
        let listed = env
            .client
            .temporal()
            .list_workflows(&query, WorkflowListOptions::default());
        let listed: Vec<_> = listed.try_collect().await.ok()?;
        let mut ids: Vec<_> = listed.iter().map(|run| run.id().to_owned()).collect();
        ids.sort();
        (ids.len() == 3).then_some(ids)
    })
    .await;
    let expected = |n: usize| format!("{}/item/ITEM-{n:03}", fanout.id());
    assert_eq!(ids, [expected(1), expected(2), expected(3)]);
}

#[tokio::test]
async fn retries_of_one_child_leave_the_histories_of_the_others_alone() {
    let env = TestEnv::new("children").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let items = (1..=4).map(|n| {
        let act = if n == 3 {
            Act::FailFirst(2)
        } else {
            Act::Finish
        };
        job(format!("ITEM-{n}"), act)
    });
    let fanout = fanout(&env, items.collect());
    let report = run(&env, &fanout).await;
    assert_eq!((report.progress.completed, report.progress.failed), (4, 0));
    assert_eq!(
        report.result.unwrap()["summary"][2]["output"],
        "ITEM-3 at attempt 3"
    );
    let kinds = ["ActivityTaskScheduled", "ActivityTaskFailed"];
    for n in 1..=4 {
        let child = format!("{}/item/ITEM-{n}", fanout.id());
        let events = events_of(&env, &child, &kinds).await;
        assert_eq!(events.len(), if n == 3 { 5 } else { 1 }, "{n}: {events:?}");
        assert_eq!(
            work.attempts_of(&format!("ITEM-{n}")),
            if n == 3 { 3 } else { 1 }
        );
    }
    // The parent does not see attempts.
    assert_eq!(
        env.events(fanout.id(), "ChildWorkflowExecutionFailed")
            .await,
        0
    );
}

#[tokio::test]
async fn each_child_answers_for_itself() {
    let env = TestEnv::new("children").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let items = vec![
        job("DONE", Act::FailFirst(1)),
        job("FAILED", Act::Decline),
        waits("RUNS"),
    ];
    let handle = start(&env, &fanout(&env, items)).await;
    item_is(&handle, "DONE", ItemPhase::Done).await;
    item_is(&handle, "FAILED", ItemPhase::Failed).await;
    item_is(&handle, "RUNS", ItemPhase::Running).await;
    let done = handle.item_status("DONE").await.unwrap();
    assert_eq!(done.attempt, 2);
    assert_eq!(done.last_failure.unwrap().message, "not yet");
    let failed = handle.item_status("FAILED").await.unwrap();
    assert_eq!(failed.last_failure.unwrap().error_type, "CardDeclined");
    assert_eq!(handle.item_status("RUNS").await.unwrap().attempt, 1);
    assert!(handle.item_status("NONE").await.is_err());
    work.happened("go");
    report(&handle).await;
}

#[tokio::test]
async fn a_child_that_waits_between_attempts_is_pending() {
    let env = TestEnv::new("children").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let mut settings = <Work as temporal_batch_fanout::ItemProcessor>::settings();
    settings.retry.initial_interval = std::time::Duration::from_secs(60);
    let fanout = fanout(&env, vec![job("A", Act::FailFirst(1))]).settings(settings);
    let handle = start(&env, &fanout).await;
    item_is(&handle, "A", ItemPhase::Pending).await;
    handle.cancel("enough").await.unwrap();
    assert_eq!(report(&handle).await.outcome, FanoutOutcome::Cancelled);
    handle.cancel_item("A", "enough").await.unwrap();
}

#[tokio::test]
async fn children_can_have_another_task_queue() {
    let env = TestEnv::new("children").await;
    let (parents, items) = (Work::new(), Work::new());
    let _parents = worker_on(&env.queue, &parents).await;
    let other = format!("{}-items", env.queue);
    let _items = worker_on(&other, &items).await;
    let report = run(&env, &fanout(&env, jobs(3)).child_task_queue(&other)).await;
    assert_eq!((report.progress.completed, report.progress.failed), (3, 0));
    assert_eq!(parents.attempts.lock().unwrap().len(), 0);
    assert_eq!(items.attempts.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_workflow_of_the_users_own_can_be_the_child() {
    let env = TestEnv::new("children").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let other = format!("{}-own", env.queue);
    let _own = own_children::worker(&other).await;
    for mode in [Mode::JoinAll, Mode::Signals] {
        let mut items = jobs(3);
        items.push(job("BAD", Act::Decline));
        let fanout = fanout(&env, items)
            .mode(mode)
            .child_workflow(own_children::NAME)
            .child_task_queue(&other);
        let report = run(&env, &fanout).await;
        assert_eq!(
            (report.progress.completed, report.progress.failed),
            (4, 1),
            "{mode:?}"
        );
        let summary = &report.result.unwrap()["summary"];
        assert_eq!(summary[0]["output"], json!("own ITEM-001"), "{mode:?}");
        assert_eq!(report.failures[0].failure.error_type, "Declined");
    }
}

#[tokio::test]
async fn a_failing_child_leaves_its_siblings_alone() {
    let env = TestEnv::new("children").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let items = vec![job("BAD", Act::Decline), waits("A"), waits("B")];
    let handle = start(&env, &fanout(&env, items)).await;
    item_is(&handle, "BAD", ItemPhase::Failed).await;
    item_is(&handle, "A", ItemPhase::Running).await;
    item_is(&handle, "B", ItemPhase::Running).await;
    work.happened("go");
    let report = report(&handle).await;
    assert_eq!((report.progress.completed, report.progress.failed), (3, 1));
}

/// A large output is refused where it is made.
#[tokio::test]
async fn an_output_over_the_limit_fails_its_item_only() {
    let env = TestEnv::new("children").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let items = vec![
        job("FITS", Act::Large(900)),
        job("LARGE", Act::Large(1_100)),
    ];
    let fanout = fanout(&env, items);
    assert_eq!(fanout.output_limit(), 1_000);
    let report = run(&env, &fanout).await;
    assert_eq!((report.progress.completed, report.progress.failed), (2, 1));
    assert_eq!(report.failures[0].item_id, "LARGE");
    let message = &report.failures[0].failure.message;
    assert!(message.contains("at most 1000 are allowed"), "{message}");
}
