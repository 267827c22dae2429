//! What becomes of a running child when its fan-out ends. `docs/fanout.md` shows the table that is made here.

use temporal_batch_fanout::{ClosePolicy, FanoutHandle, ItemPhase, OnFailure, Tolerate};
use temporalio_client::{UntypedWorkflow, WorkflowDescribeOptions, WorkflowTerminateOptions};
use temporalio_common::protos::temporal::api::enums::v1::WorkflowExecutionStatus as Status;

use crate::{
    jobs::{Act, Work, fanout, item_is, job, report, start, worker_on},
    support::{TestEnv, eventually, within},
};

const DOCUMENT: &str = include_str!("../../../../docs/fanout.md");

const POLICIES: [ClosePolicy; 3] = [
    ClosePolicy::Abandon,
    ClosePolicy::RequestCancel,
    ClosePolicy::Terminate,
];

async fn status(env: &TestEnv, handle: &FanoutHandle, item: &str) -> Status {
    let child = env
        .client
        .temporal()
        .get_workflow_handle::<UntypedWorkflow>(handle.child_id(item));
    let description = child
        .describe(WorkflowDescribeOptions::default())
        .await
        .unwrap();
    let info = description.raw().workflow_execution_info.as_ref().unwrap();
    info.status()
}

/// The fate of a child that was running when the cause of its parent's end arose. A child that runs on is proved by letting
/// it complete.
async fn fate(
    env: &TestEnv,
    work: &Work,
    handle: &FanoutHandle,
    (policy, event): (ClosePolicy, &str),
) -> &'static str {
    let now = status(env, handle, "A").await;
    if policy == ClosePolicy::Abandon && now == Status::Running {
        work.happened(event);
        let done = || async { (status(env, handle, "A").await == Status::Completed).then_some(()) };
        eventually("the abandoned child completes", done).await;
        return "runs on";
    }
    // The server applies the policy after the parent has closed.
    let ended = || async {
        match status(env, handle, "A").await {
            Status::Running => None,
            Status::Completed => Some("is waited for"),
            Status::Canceled => Some("is cancelled"),
            Status::Terminated => Some("is terminated"),
            other => panic!("{other:?}"),
        }
    };
    eventually("the child has its fate", ended).await
}

#[tokio::test]
async fn the_table_of_the_document_is_what_happens() {
    let env = TestEnv::new("close").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let mut table = vec![
        "| the fan-out | `Abandon` (default) | `RequestCancel` | `Terminate` |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    for how in [
        "completes",
        "fails",
        "fails fast",
        "is cancelled",
        "is terminated",
    ] {
        let mut line = format!("| {how} |");
        for policy in POLICIES {
            let cell = cell(&env, &work, how, policy).await;
            line.push_str(&format!(" {cell} |"));
        }
        table.push(line);
    }
    let table = table.join("\n");
    assert!(DOCUMENT.contains(&table), "the table is\n{table}");
}

/// Runs one fan-out with the child A, which runs when the cause of the end arises.
async fn cell(env: &TestEnv, work: &Work, how: &str, policy: ClosePolicy) -> &'static str {
    let event = format!("go {how} {policy:?}");
    let mut items = vec![job("A", Act::WaitFor(event.clone()))];
    if how.starts_with("fails") {
        items.push(job("BAD", Act::Decline));
    }
    let on_failure = match how {
        "fails fast" => OnFailure::FailFast,
        "fails" => OnFailure::CollectAll {
            tolerate: Tolerate::Count(0),
        },
        _ => OnFailure::default(),
    };
    let fanout = fanout(env, items)
        .close_policy(policy)
        .on_failure(on_failure);
    let handle = start(env, &fanout).await;
    item_is(&handle, "A", ItemPhase::Running).await;
    match how {
        // The fan-out ends only after A.
        "completes" | "fails" => work.happened(event.clone()),
        "is cancelled" => handle.cancel("for the table").await.unwrap(),
        "is terminated" => {
            let parent = env
                .client
                .temporal()
                .get_workflow_handle::<UntypedWorkflow>(handle.id());
            let options = WorkflowTerminateOptions::default();
            parent.terminate(options).await.unwrap();
        }
        _ => {}
    }
    match how {
        "is terminated" => {
            let ended = within("the fan-out ends", handle.result()).await;
            assert!(ended.is_err());
        }
        _ => drop(report(&handle).await),
    }
    fate(env, work, &handle, (policy, &event)).await
}
