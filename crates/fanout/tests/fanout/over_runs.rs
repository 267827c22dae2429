//! Fan-outs that continue as new while children run.

use temporal_batch_fanout::{ClosePolicy, Fanout, FanoutHandle, FanoutOutcome, Mode, OnFailure};
use temporalio_client::{UntypedWorkflow, WorkflowSignalOptions, WorkflowTerminateOptions};
use temporalio_common::protos::temporal::api::enums::v1::PendingActivityState;

use crate::{
    jobs::{Job, Work, fanout, jobs, lengths, report, start, waits, worker_on},
    own_children::{self, OwnChild},
    replay::replays,
    support::{TestEnv, eventually},
};

const LONG: [&str; 3] = ["LONG-A", "LONG-B", "LONG-C"];
const SHORT: usize = 60;

/// Three items that outlive some runs of the fan-out, before many short ones.
fn long_and_short() -> Vec<Job> {
    let mut items: Vec<_> = LONG.iter().map(|id| waits(id)).collect();
    items.extend(jobs(SHORT));
    items
}

/// A fan-out with runs as short as they may be.
fn of_short_runs(env: &TestEnv) -> Fanout {
    fanout(env, long_and_short()).window(8).events_per_run(100)
}

async fn completed(handle: &FanoutHandle, items: u64) {
    eventually("the short items are done", || async {
        let progress = handle.progress().await.ok()?;
        (progress.completed == items).then_some(())
    })
    .await;
}

#[tokio::test]
async fn children_outlive_the_runs_of_their_parent_and_count_once() {
    let env = TestEnv::new("over-runs").await;
    for mode in [Mode::JoinAll, Mode::Signals] {
        let work = Work::new();
        let worker = worker_on(&env.queue, &work).await;
        let handle = start(&env, &of_short_runs(&env).mode(mode)).await;
        completed(&handle, SHORT as u64).await;
        work.happened("go");
        let report = report(&handle).await;
        assert!(report.runs > 2, "{mode:?}: {report:#?}");
        assert_eq!(report.outcome, FanoutOutcome::Completed);
        let progress = report.progress;
        assert_eq!(
            (progress.completed, progress.failed),
            (63, 0),
            "{report:#?}"
        );
        assert_eq!(report.stray_reports, 0, "{report:#?}");
        let result = report.result.unwrap();
        assert_eq!(result["total_items"], 63);
        assert_eq!(result["summary"][0]["item_id"], "LONG-A");
        assert_eq!(result["summary"][62]["item_id"], "ITEM-060");
        for id in LONG {
            assert_eq!(work.attempts_of(id), 1, "{id}");
        }
        let name = format!(
            "over-runs-{}",
            if mode == Mode::JoinAll {
                "join-all"
            } else {
                "signals"
            }
        );
        let runs = replays(&env, handle.id(), &name).await;
        assert_eq!(runs, report.runs as usize);
        replays(&env, &handle.child_id("LONG-A"), &format!("{name}-child")).await;
        worker.stop().await.unwrap();
    }
}

/// The watch of children takes a slot of a worker only while it looks, and asks each child to report once.
#[tokio::test]
async fn a_watch_frees_its_slot_between_looks_and_asks_each_child_once() {
    let env = TestEnv::new("over-runs").await;
    let work = Work::new();
    let worker = worker_on(&env.queue, &work).await;
    let handle = start(&env, &of_short_runs(&env)).await;
    completed(&handle, SHORT as u64).await;
    let parent = env.client.temporal();
    let parent = parent.get_workflow_handle::<UntypedWorkflow>(handle.id());
    eventually("the watch waits between two looks", || async {
        let described = parent.describe(Default::default()).await.ok()?;
        let mut pending = described.raw().pending_activities.iter();
        let scheduled = PendingActivityState::Scheduled as i32;
        let looks = pending.any(|a| a.attempt > 3 && a.state == scheduled);
        looks.then_some(())
    })
    .await;
    work.happened("go");
    let report = report(&handle).await;
    assert!(report.runs > 2, "{report:#?}");
    assert_eq!(report.progress.completed, 63, "{report:#?}");
    for id in LONG {
        let child = handle.child_id(id);
        assert_eq!(env.signals(&child, "report_by_signal").await, 1, "{id}");
    }
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_child_that_dies_after_its_parents_run_ends_the_wait() {
    let env = TestEnv::new("over-runs").await;
    for mode in [Mode::JoinAll, Mode::Signals] {
        let work = Work::new();
        let worker = worker_on(&env.queue, &work).await;
        let handle = start(&env, &of_short_runs(&env).mode(mode)).await;
        completed(&handle, SHORT as u64).await;
        let child = env
            .client
            .temporal()
            .get_workflow_handle::<UntypedWorkflow>(handle.child_id("LONG-B"));
        let options = WorkflowTerminateOptions::default();
        child.terminate(options).await.unwrap();
        completed(&handle, SHORT as u64 + 1).await;
        work.happened("go");
        let report = report(&handle).await;
        assert_eq!(
            (report.progress.completed, report.progress.failed),
            (63, 1),
            "{mode:?}"
        );
        assert_eq!(report.failures[0].item_id, "LONG-B");
        assert_eq!(report.failures[0].failure.error_type, "Terminated");
        worker.stop().await.unwrap();
    }
}

/// With the other policies Temporal would end the children together with the run, so the run waits for them.
#[tokio::test]
async fn a_fan_out_whose_children_end_with_it_waits_for_them_before_it_continues() {
    let env = TestEnv::new("over-runs").await;
    for policy in [ClosePolicy::Terminate, ClosePolicy::RequestCancel] {
        let work = Work::new();
        let worker = worker_on(&env.queue, &work).await;
        let handle = start(&env, &of_short_runs(&env).close_policy(policy)).await;
        eventually("only the long items run", || async {
            let progress = handle.progress().await.ok()?;
            (progress.in_flight == 3 && progress.completed > 10).then_some(())
        })
        .await;
        work.happened("go");
        let report = report(&handle).await;
        assert!(report.runs > 1, "{report:#?}");
        assert_eq!(
            (report.progress.completed, report.progress.failed),
            (63, 0),
            "{policy:?}"
        );
        worker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn fail_fast_cancels_children_of_earlier_runs() {
    let env = TestEnv::new("over-runs").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let fanout = of_short_runs(&env).on_failure(OnFailure::FailFast);
    let handle = start(&env, &fanout).await;
    completed(&handle, SHORT as u64).await;
    handle.cancel_item("LONG-C", "a failure").await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, FanoutOutcome::Failed);
    assert_eq!((report.progress.completed, report.progress.failed), (63, 3));
}

/// A workflow of the user's own cannot be asked to report, so its result is looked up.
#[tokio::test]
async fn the_results_of_the_users_own_children_are_found() {
    let env = TestEnv::new("over-runs").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let other = format!("{}-own", env.queue);
    let _own = own_children::worker(&other).await;
    let fanout = of_short_runs(&env)
        .child_workflow(own_children::NAME)
        .child_task_queue(&other);
    let handle = start(&env, &fanout).await;
    completed(&handle, SHORT as u64).await;
    for id in LONG {
        let child = env
            .client
            .temporal()
            .get_workflow_handle::<OwnChild>(handle.child_id(id));
        let options = WorkflowSignalOptions::default();
        child.signal(OwnChild::go, (), options).await.unwrap();
    }
    let report = report(&handle).await;
    assert!(report.runs > 1);
    assert_eq!((report.progress.completed, report.progress.failed), (63, 0));
    assert_eq!(report.result.unwrap()["summary"][0]["output"], "own LONG-A");
}

#[tokio::test]
async fn runs_keep_to_their_number_of_events() {
    let env = TestEnv::new("over-runs").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    work.happened("go");
    let handle = start(&env, &of_short_runs(&env)).await;
    report(&handle).await;
    let lengths = lengths(&env, handle.id()).await;
    // Three events for each child of the window, and the workflow tasks.
    assert!(lengths.iter().all(|events| *events < 200), "{lengths:?}");
}
