#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_client::{
    Client, NamespacedClient as _, WorkflowFetchHistoryOptions, WorkflowGetResultOptions,
    WorkflowHandle, WorkflowHistory, WorkflowQueryOptions, WorkflowSignalOptions,
    WorkflowStartOptions, tonic::IntoRequest as _,
};
use temporalio_common::protos::temporal::api::{
    enums::v1::TaskQueueKind,
    history::v1::History,
    taskqueue::v1::{StickyExecutionAttributes, TaskQueue},
    workflowservice::v1::{PollWorkflowTaskQueueRequest, RespondWorkflowTaskCompletedRequest},
};
use temporalio_sdk::{
    SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowContextView, WorkflowResult,
    runtime::{Runtime, RuntimeOptions},
    workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions},
};

use super::*;
use crate::{dev_server::DevServerOptions, engine::connect::ConnectOptions};

/// Time for which a lost worker keeps its task, long enough for the workflow to notice.
const LOST_FOR: Duration = Duration::from_secs(2);
/// Duration of a poll. The server refuses shorter ones.
const POLL: Duration = Duration::from_millis(2_500);

/// A workflow that decides by the time, as a controller does.
#[temporalio_macros::workflow]
struct Clock {
    kept_in_step: bool,
    signalled: bool,
}

async fn decide(ctx: &WorkflowContext<Clock>) -> WorkflowResult<String> {
    let began = ctx.workflow_time().unwrap();
    ctx.wait_condition(|s| s.signalled).await?;
    let waited = ctx.workflow_time().unwrap().duration_since(began).unwrap();
    if waited < LOST_FOR {
        ctx.timer(Duration::from_millis(1)).await;
        return Ok("at once".to_owned());
    }
    Ok("later".to_owned())
}

#[temporalio_macros::workflow_methods]
impl Clock {
    #[init]
    fn new(_ctx: &WorkflowContextView, kept_in_step: bool) -> Self {
        Self {
            kept_in_step,
            signalled: false,
        }
    }

    #[run(name = "clock")]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<String> {
        let ctx = &*ctx;
        match ctx.state(|s| s.kept_in_step) {
            true => in_step(ctx, decide(ctx)).await,
            false => decide(ctx).await,
        }
    }

    #[signal(name = "go")]
    fn go(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.signalled = true;
    }

    #[query(name = "look")]
    fn look(&self, _ctx: &WorkflowContextView) -> bool {
        self.signalled
    }
}

#[derive(Debug, PartialEq)]
struct Outcome {
    result: String,
    replays: bool,
    answered: bool,
}

/// Runs a workflow whose worker is lost after its first task, and queries it before its next task.
async fn lost_and_asked(client: &Client, kept_in_step: bool) -> Outcome {
    let queue = format!("ahead-{}", uuid::Uuid::new_v4().simple());
    let sticky = format!("{queue}-sticky");
    let options = WorkflowStartOptions::new(queue.as_str(), queue.as_str()).build();
    let handle = client
        .start_workflow(Clock::run, kept_in_step, options)
        .await
        .unwrap();
    let mut service = client.connection().workflow_service();
    let queue_of = |name: &str, kind: TaskQueueKind, normal_name: &str| TaskQueue {
        name: name.to_owned(),
        kind: kind.into(),
        normal_name: normal_name.to_owned(),
    };
    let poll = |task_queue: TaskQueue| {
        let request = PollWorkflowTaskQueueRequest {
            namespace: client.namespace(),
            task_queue: Some(task_queue),
            identity: "lost".to_owned(),
            ..Default::default()
        };
        request.into_request()
    };
    let normal = queue_of(&queue, TaskQueueKind::Normal, "");
    let first = service.poll_workflow_task_queue(poll(normal));
    let first = first.await.unwrap().into_inner();
    // The worker polls its sticky queue once, because otherwise the server would not use that queue.
    let sticky = queue_of(&sticky, TaskQueueKind::Sticky, &queue);
    let mut once = poll(sticky.clone());
    once.set_timeout(POLL);
    let _ = service.poll_workflow_task_queue(once).await;
    let completed = RespondWorkflowTaskCompletedRequest {
        namespace: client.namespace(),
        task_token: first.task_token,
        identity: "lost".to_owned(),
        sticky_attributes: Some(StickyExecutionAttributes {
            worker_task_queue: Some(sticky),
            schedule_to_start_timeout: Some(LOST_FOR.try_into().unwrap()),
        }),
        ..Default::default()
    };
    let completed = service.respond_workflow_task_completed(completed.into_request());
    completed.await.unwrap();
    let runtime = Runtime::from_current_tokio(RuntimeOptions::builder().build().unwrap()).unwrap();
    let options = WorkerOptions::new(queue.as_str())
        .register_workflow::<Clock>()
        .unwrap()
        .build();
    // The worker polls before the query and the task reach it, so that their order does not depend on its start.
    let mut worker = temporalio_sdk::Worker::new(&runtime, client.clone(), options).unwrap();
    let stop = worker.shutdown_handle();
    let ended = async {
        // Both wait for the lost worker and move to another one after the same time: first the query, then the task.
        let asked = tokio::spawn({
            let handle: WorkflowHandle<Client, Clock> = client.get_workflow_handle(queue.clone());
            async move {
                let options = WorkflowQueryOptions::default();
                handle.query(Clock::look, (), options).await
            }
        });
        tokio::time::sleep(LOST_FOR / 2).await;
        let signal = handle.signal(Clock::go, (), WorkflowSignalOptions::default());
        signal.await.unwrap();
        let result = handle.get_result(WorkflowGetResultOptions::default()).await;
        let answer = asked.await.unwrap();
        stop();
        (result.unwrap(), answer)
    };
    let (ran, (result, answer)) = tokio::join!(worker.run(), ended);
    ran.unwrap();
    let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    let history = WorkflowHistory::from(History {
        events: history.into_events().await.unwrap(),
    });
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<Clock>()
        .unwrap()
        .build();
    let replayer = WorkflowReplayer::new(options).unwrap();
    Outcome {
        result,
        replays: replayer.replay_workflow(history).await.is_ok(),
        answered: answer.is_ok(),
    }
}

async fn outcome(kept_in_step: bool) -> Outcome {
    let server = DevServerOptions::new().start().await.unwrap();
    let options = ConnectOptions::new().address(server.address());
    let client = crate::engine::connect::connect(&options).await.unwrap();
    lost_and_asked(&client, kept_in_step).await
}

#[tokio::test]
async fn core_runs_ahead_of_its_history() {
    let expected = Outcome {
        result: "at once".to_owned(),
        replays: false,
        answered: true,
    };
    assert_eq!(
        outcome(false).await,
        expected,
        "this version of the SDK is right, so `query_safety.rs` can be removed"
    );
}

#[tokio::test]
async fn a_workflow_that_is_kept_in_step_does_not_and_the_query_gets_an_error() {
    let expected = Outcome {
        result: "later".to_owned(),
        replays: true,
        answered: false,
    };
    assert_eq!(outcome(true).await, expected);
}
