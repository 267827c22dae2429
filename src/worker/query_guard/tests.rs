use std::time::Duration;

use temporalio_client::{
    NamespacedClient as _, WorkflowFetchHistoryOptions, WorkflowGetResultOptions, WorkflowHandle,
    WorkflowHistory, WorkflowQueryOptions, WorkflowSignalOptions, WorkflowStartOptions,
    tonic::IntoRequest as _,
};
use temporalio_common::protos::temporal::api::{
    enums::v1::{EventType, TaskQueueKind},
    history::v1::WorkflowTaskCompletedEventAttributes,
    taskqueue::v1::{StickyExecutionAttributes, TaskQueue},
    workflowservice::v1::{PollWorkflowTaskQueueRequest, RespondWorkflowTaskCompletedRequest},
};
use temporalio_sdk::{
    SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowContextView, WorkflowResult,
    runtime::{Runtime, RuntimeOptions},
    workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions},
};

use super::*;
use crate::{ConnectOptions, dev_server::DevServerOptions};

/// How long the task of a lost worker waits for it. The workflow can tell this from no time at all.
const LOST_FOR: Duration = Duration::from_secs(2);
/// Which of two tasks reaches a worker first is up to the server.
const ROUNDS: usize = 8;

/// Decides by the time, as a controller does.
#[temporalio_macros::workflow]
struct Clock {
    signalled: bool,
}

#[temporalio_macros::workflow_methods]
impl Clock {
    #[init]
    fn new(_ctx: &WorkflowContextView, _input: ()) -> Self {
        Self { signalled: false }
    }

    #[run(name = "clock")]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<String> {
        let began = ctx.workflow_time().unwrap();
        ctx.wait_condition(|s| s.signalled).await?;
        let waited = ctx.workflow_time().unwrap().duration_since(began).unwrap();
        if waited < LOST_FOR / 2 {
            return Ok("at once".to_owned());
        }
        ctx.timer(Duration::from_millis(1)).await;
        Ok("later".to_owned())
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

/// A workflow whose worker is lost between two tasks, and that is asked while it waits for another one. Gives back
/// how it ended, and whether its history replays.
async fn lost_and_asked(client: &Client, worker_client: Client) -> (String, bool) {
    let queue = format!("guard-{}", uuid::Uuid::new_v4().simple());
    let sticky = format!("{queue}-sticky");
    let options = WorkflowStartOptions::new(queue.as_str(), queue.as_str()).build();
    let handle = client
        .start_workflow(Clock::run, (), options)
        .await
        .unwrap();
    let mut service = client.connection().workflow_service();

    // The worker that will be lost has the first task. It asks its own queue once, or the server would not use it.
    let poll = |name: &str, kind: TaskQueueKind, normal_name: &str| {
        let request = PollWorkflowTaskQueueRequest {
            namespace: client.namespace(),
            task_queue: Some(TaskQueue {
                name: name.to_owned(),
                kind: kind.into(),
                normal_name: normal_name.to_owned(),
            }),
            identity: "lost".to_owned(),
            ..Default::default()
        };
        request.into_request()
    };
    let task = service.poll_workflow_task_queue(poll(&queue, TaskQueueKind::Normal, ""));
    let task = task.await.unwrap().into_inner();
    let mut once = poll(&sticky, TaskQueueKind::Sticky, &queue);
    once.set_timeout(Duration::from_millis(500));
    let _ = service.poll_workflow_task_queue(once).await;
    let completed = RespondWorkflowTaskCompletedRequest {
        namespace: client.namespace(),
        task_token: task.task_token,
        identity: "lost".to_owned(),
        sticky_attributes: Some(StickyExecutionAttributes {
            worker_task_queue: Some(TaskQueue {
                name: sticky,
                kind: TaskQueueKind::Sticky.into(),
                normal_name: queue.clone(),
            }),
            schedule_to_start_timeout: Some(LOST_FOR.try_into().unwrap()),
        }),
        ..Default::default()
    };
    let completed = service.respond_workflow_task_completed(completed.into_request());
    completed.await.unwrap();

    let signal = handle.signal(Clock::go, (), WorkflowSignalOptions::default());
    signal.await.unwrap();
    let asked = tokio::spawn({
        let handle: WorkflowHandle<Client, Clock> = client.get_workflow_handle(queue.clone());
        async move {
            let options = WorkflowQueryOptions::default();
            handle.query(Clock::look, (), options).await
        }
    });
    let timed_out = |events: &[HistoryEvent]| {
        let timed_out = EventType::WorkflowTaskTimedOut;
        events.iter().any(|event| event.event_type() == timed_out)
    };
    let events = || async {
        let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
        history.into_events().await.unwrap()
    };
    while !timed_out(&events().await) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let runtime = Runtime::from_current_tokio(RuntimeOptions::builder().build().unwrap()).unwrap();
    let options = WorkerOptions::new(queue.as_str())
        .register_workflow::<Clock>()
        .unwrap()
        .build();
    let mut worker = temporalio_sdk::Worker::new(&runtime, worker_client, options).unwrap();
    let stop = worker.shutdown_handle();
    let ended = async {
        let result = handle.get_result(WorkflowGetResultOptions::default()).await;
        let answer = asked.await.unwrap();
        stop();
        (result.unwrap(), answer)
    };
    let (ran, (result, answer)) = tokio::join!(worker.run(), ended);
    ran.unwrap();
    answer.unwrap();
    let history = WorkflowHistory::from(History {
        events: events().await,
    });
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<Clock>()
        .unwrap()
        .build();
    let replayer = WorkflowReplayer::new(options).unwrap();
    (result, replayer.replay_workflow(history).await.is_ok())
}

#[tokio::test]
async fn core_runs_ahead_of_its_history() {
    let server = DevServerOptions::new().start().await.unwrap();
    let options = ConnectOptions::new().address(server.address());
    let client = crate::connect(&options).await.unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..ROUNDS {
        outcomes.push(lost_and_asked(&client, client.clone()).await);
    }
    assert!(
        outcomes.contains(&("at once".to_owned(), false)),
        "this version of the SDK is right, so `query_guard` can go: {outcomes:?}"
    );
}

#[tokio::test]
async fn a_guarded_worker_does_not() {
    let server = DevServerOptions::new().start().await.unwrap();
    let options = ConnectOptions::new().address(server.address());
    let client = crate::connect(&options).await.unwrap();
    for _ in 0..ROUNDS {
        let outcome = lost_and_asked(&client, guarded(&client).unwrap()).await;
        assert_eq!(outcome, ("later".to_owned(), true));
    }
}

fn event(event_id: i64, event_type: EventType) -> HistoryEvent {
    let completed = WorkflowTaskCompletedEventAttributes {
        started_event_id: event_id - 1,
        ..Default::default()
    };
    let is_completed = event_type == EventType::WorkflowTaskCompleted;
    HistoryEvent {
        event_id,
        event_type: event_type.into(),
        attributes: is_completed
            .then_some(Attributes::WorkflowTaskCompletedEventAttributes(completed)),
        ..Default::default()
    }
}

#[test]
fn a_query_sees_completed_tasks_and_their_commands_only() {
    use EventType::{
        ActivityTaskScheduled as Scheduled, WorkflowExecutionSignaled as Signalled,
        WorkflowExecutionStarted as Began, WorkflowExecutionTerminated as Terminated,
        WorkflowTaskCompleted as Completed, WorkflowTaskScheduled as Due,
        WorkflowTaskStarted as Started,
    };
    let one_task = [Began, Due, Started, Completed, Scheduled];
    let cases: [(&[EventType], usize, Option<i64>); 6] = [
        (&[], 0, None),
        (&[], 5, Some(3)),
        (&[Signalled, Due], 5, Some(3)),
        (&[Signalled, Due, Started], 5, Some(3)),
        (
            &[Signalled, Due, Started, Completed, Scheduled, Signalled],
            10,
            Some(8),
        ),
        (&[Signalled, Terminated], 7, None),
    ];
    for (more, kept, started) in cases {
        let first: &[EventType] = if kept == 0 { &[] } else { &one_task };
        let types = first.iter().chain(more);
        let mut events: Vec<HistoryEvent> = (1..).zip(types).map(|(id, t)| event(id, *t)).collect();
        assert_eq!(keep_completed_tasks(&mut events), started, "{more:?}");
        assert_eq!(events.len(), kept, "{more:?}");
    }
}
