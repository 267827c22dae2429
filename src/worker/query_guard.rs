//! Keeps queries from running a workflow ahead of its history.
//!
//! While a workflow task is pending, the server keeps queries back. When that task times out, because the worker
//! that should have had it was killed, the server hands the queries to any other worker, each as a task of its own
//! with the whole history: also with the events that only the next workflow task will bring. SDK core 0.10 applies
//! those events as if the task had begun, at the time of the task before. The commands of it are sent with the next
//! task, and no later replay, which sees the right time, comes to the same ones: the workflow task fails from then on.
//!
//! This guard stands between the SDK and the connection. A query task gets the history up to the last workflow task
//! that was completed, so that the answer tells what the workflow was then. All other calls pass unchanged.
//!
//! The test `core_runs_ahead_of_its_history` shows the defect. When it fails, core is mended, and this file can go.

#[cfg(all(test, feature = "dev-server"))]
mod tests;

use std::sync::Arc;

use futures::FutureExt as _;
use prost::Message;
use temporalio_client::{
    Client, Connection, ConnectionOptions, RetryOptions,
    callback_based::{CallbackBasedGrpcService, GrpcRequest, GrpcSuccessResponse},
    grpc::WorkflowService,
    tonic::{Request, Response, Status, metadata::MetadataMap},
};
use temporalio_common::protos::temporal::api::{
    history::v1::{History, HistoryEvent, history_event::Attributes},
    workflowservice::v1::{
        GetSystemInfoResponse, GetWorkflowExecutionHistoryRequest, PollWorkflowTaskQueueResponse,
    },
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client that makes the calls of `client`, with query tasks cut to what is past.
pub(super) fn guarded(client: &Client) -> Result<Client, BoxError> {
    let mut inner = client.connection().clone();
    // The calls are repeated on the outside.
    *inner.retry_options_mut() = RetryOptions::no_retries();
    let namespace = client.options().namespace.clone();
    let identity = inner.identity().to_owned();
    let service = CallbackBasedGrpcService {
        callback: Arc::new(move |request| {
            forward(inner.clone(), namespace.clone(), request).boxed()
        }),
    };
    // Nothing is looked up under this name.
    let options = ConnectionOptions::new("http://guarded".parse::<url::Url>()?)
        .identity(identity)
        .dns_load_balancing(None)
        .service_override(service)
        .build();
    let connection = Connection::connect(options)
        .now_or_never()
        .ok_or("the connection of the worker could not be wrapped")??;
    Ok(Client::new(connection, client.options().clone())?)
}

fn decoded<M: Message + Default>(request: &GrpcRequest) -> Result<Request<M>, Status> {
    let message = M::decode(request.proto.clone());
    let message = message.map_err(|error| Status::internal(error.to_string()))?;
    let metadata = MetadataMap::from_headers(request.headers.clone());
    Ok(Request::from_parts(metadata, Default::default(), message))
}

fn encoded<M: Message>(response: Response<M>) -> GrpcSuccessResponse {
    let (metadata, message, _) = response.into_parts();
    GrpcSuccessResponse {
        headers: metadata.into_headers(),
        proto: message.encode_to_vec(),
    }
}

/// Makes one call, as it was asked for.
macro_rules! forward {
    ($service:ident, $request:ident, { $($rpc:literal => $method:ident,)* }) => {
        match $request.rpc.as_str() {
            $($rpc => $service.$method(decoded(&$request)?).await.map(encoded),)*
            other => Err(Status::unimplemented(format!(
                "{other} is not among the calls that a worker makes"
            ))),
        }
    };
}

async fn forward(
    inner: Connection,
    namespace: String,
    request: GrpcRequest,
) -> Result<GrpcSuccessResponse, Status> {
    let mut service = inner.workflow_service();
    match request.rpc.as_str() {
        // Known since the connection was made; asked for while it is wrapped, where nothing may be waited for.
        "GetSystemInfo" => {
            let known = GetSystemInfoResponse {
                capabilities: inner.capabilities().cloned(),
                ..Default::default()
            };
            return Ok(encoded(Response::new(known)));
        }
        "PollWorkflowTaskQueue" => {
            let polled = service.poll_workflow_task_queue(decoded(&request)?).await?;
            let (metadata, mut task, extensions) = polled.into_parts();
            if task.query.is_some() {
                cut(&mut task, &mut *service, &namespace).await?;
            }
            return Ok(encoded(Response::from_parts(metadata, task, extensions)));
        }
        _ => {}
    }
    forward!(service, request, {
        "DescribeNamespace" => describe_namespace,
        "DescribeTaskQueue" => describe_task_queue,
        "DescribeWorkflowExecution" => describe_workflow_execution,
        "GetWorkflowExecutionHistory" => get_workflow_execution_history,
        "ListWorkflowExecutions" => list_workflow_executions,
        "PollActivityTaskQueue" => poll_activity_task_queue,
        "PollNexusTaskQueue" => poll_nexus_task_queue,
        "PollWorkflowExecutionUpdate" => poll_workflow_execution_update,
        "RecordActivityTaskHeartbeat" => record_activity_task_heartbeat,
        "RecordActivityTaskHeartbeatById" => record_activity_task_heartbeat_by_id,
        "RecordWorkerHeartbeat" => record_worker_heartbeat,
        "RequestCancelWorkflowExecution" => request_cancel_workflow_execution,
        "ResetStickyTaskQueue" => reset_sticky_task_queue,
        "ResetWorkflowExecution" => reset_workflow_execution,
        "RespondActivityTaskCanceled" => respond_activity_task_canceled,
        "RespondActivityTaskCompleted" => respond_activity_task_completed,
        "RespondActivityTaskFailed" => respond_activity_task_failed,
        "RespondNexusTaskCompleted" => respond_nexus_task_completed,
        "RespondNexusTaskFailed" => respond_nexus_task_failed,
        "RespondQueryTaskCompleted" => respond_query_task_completed,
        "RespondWorkflowTaskCompleted" => respond_workflow_task_completed,
        "RespondWorkflowTaskFailed" => respond_workflow_task_failed,
        "ShutdownWorker" => shutdown_worker,
        "SignalWithStartWorkflowExecution" => signal_with_start_workflow_execution,
        "SignalWorkflowExecution" => signal_workflow_execution,
        "StartWorkflowExecution" => start_workflow_execution,
        "TerminateWorkflowExecution" => terminate_workflow_execution,
        "UpdateWorkflowExecution" => update_workflow_execution,
    })
}

/// Leaves of a query task what belongs to completed workflow tasks. The whole history is needed for that: a part of it
/// may end too early, and core would fetch the rest by itself.
async fn cut(
    task: &mut PollWorkflowTaskQueueResponse,
    service: &mut dyn WorkflowService,
    namespace: &str,
) -> Result<(), Status> {
    let mut events = task.history.take().unwrap_or_default().events;
    let mut next_page = std::mem::take(&mut task.next_page_token);
    if events.first().is_none_or(|first| first.event_id != 1) {
        events.clear();
        next_page.clear();
    }
    while events.is_empty() || !next_page.is_empty() {
        let request = GetWorkflowExecutionHistoryRequest {
            namespace: namespace.to_owned(),
            execution: task.workflow_execution.clone(),
            next_page_token: next_page,
            ..Default::default()
        };
        let answer = service.get_workflow_execution_history(Request::new(request));
        let answer = answer.await?.into_inner();
        let more = answer.history.unwrap_or_default().events;
        if more.is_empty() && answer.next_page_token.is_empty() {
            break;
        }
        let known = events.last().map_or(0, |last| last.event_id);
        events.extend(more.into_iter().skip_while(|event| event.event_id <= known));
        next_page = answer.next_page_token;
    }
    if let Some(started) = keep_completed_tasks(&mut events) {
        task.previous_started_event_id = started;
    }
    task.history = Some(History { events });
    Ok(())
}

/// Drops the events that no completed workflow task has seen. Gives back where the last completed task started.
/// A history that has ended, or has no completed task, stays as it is: no task follows that could be spoilt.
fn keep_completed_tasks(events: &mut Vec<HistoryEvent>) -> Option<i64> {
    if events.last()?.is_final_wf_execution_event() {
        return None;
    }
    let completed = |event: &HistoryEvent| match &event.attributes {
        Some(Attributes::WorkflowTaskCompletedEventAttributes(completed)) => {
            Some(completed.started_event_id)
        }
        _ => None,
    };
    let last = events
        .iter()
        .rposition(|event| completed(event).is_some())?;
    let started = completed(&events[last]);
    let commands = events[last + 1..].iter();
    let commands = commands
        .take_while(|event| event.is_command_event())
        .count();
    events.truncate(last + 1 + commands);
    started
}
