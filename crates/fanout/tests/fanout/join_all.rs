//! Joining all children.

use temporal_batch_fanout::Summary;

use crate::{
    jobs::{
        Act, Work, events_of, fanout, item_is, job, jobs, report, run, start, waits, worker_on,
    },
    support::TestEnv,
};

const START: &str = "StartChildWorkflowExecutionInitiated";
const COMPLETED: &str = "ChildWorkflowExecutionCompleted";

#[tokio::test]
async fn all_children_are_started_before_any_is_awaited() {
    let env = TestEnv::new("join-all").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let fanout = fanout(&env, jobs(20));
    let report = run(&env, &fanout).await;
    assert_eq!(report.progress.completed, 20);

    let events = events_of(&env, fanout.id(), &[START, COMPLETED]).await;
    assert_eq!(events.len(), 40, "{events:?}");
    assert!(
        events[..20].iter().all(|event| event == START),
        "{events:?}"
    );
}

#[tokio::test]
async fn the_fan_out_goes_on_only_when_every_child_is_done() {
    let env = TestEnv::new("join-all").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let mut items = jobs(4);
    items.push(waits("LAST"));
    let handle = start(&env, &fanout(&env, items)).await;
    for n in 1..=4 {
        item_is(
            &handle,
            &format!("ITEM-{n:03}"),
            temporal_batch_fanout::ItemPhase::Done,
        )
        .await;
    }
    assert!(work.aggregated.lock().unwrap().is_empty());
    work.happened("go");
    assert_eq!(report(&handle).await.progress.completed, 5);
    assert_eq!(work.aggregated.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_activity_aggregates_in_input_order_whatever_ends_first() {
    let env = TestEnv::new("join-all").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    // Each item waits for the next one, so they end in reverse.
    let items = (1..=5).map(|n| {
        let act = match n {
            5 => Act::Finish,
            n => Act::WaitFor(format!("done ITEM-{}", n + 1)),
        };
        job(format!("ITEM-{n}"), act)
    });
    let fanout = fanout(&env, items.collect());
    let report = run(&env, &fanout).await;

    let summary: Summary = serde_json::from_value(report.result.unwrap()).unwrap();
    assert_eq!(
        (summary.batch_id.as_str(), summary.total_items),
        (fanout.id(), 5)
    );
    assert!(summary.completed_at.is_some());
    let entries = serde_json::to_value(&summary.summary).unwrap();
    let ids: Vec<_> = (0..5).map(|i| entries[i]["item_id"].clone()).collect();
    assert_eq!(ids, ["ITEM-1", "ITEM-2", "ITEM-3", "ITEM-4", "ITEM-5"]);
    assert_eq!(env.events(fanout.id(), "ActivityTaskScheduled").await, 1);
}

#[tokio::test]
async fn items_of_equal_length_take_as_long_as_one() {
    let env = TestEnv::new("join-all").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let items: Vec<_> = (0..10).map(|n| waits(&format!("{n}"))).collect();
    let handle = start(&env, &fanout(&env, items)).await;
    // All of them run at the same time: no item has to end before another begins.
    for n in 0..10 {
        work.seen(&format!("began {n}")).await;
    }
    work.happened("go");
    assert_eq!(report(&handle).await.progress.completed, 10);
}
