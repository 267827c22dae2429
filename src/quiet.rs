//! When a question can be asked without harm.
//!
//! A query that waits for a workflow task which then times out is given to another worker together with
//! the beginning of that task. SDK core 0.10 runs the workflow as if the task were its own, keeps what came
//! of it, and goes on from there with the next task; that cannot be replayed. So strides and clients ask a
//! controller only while no workflow task is pending.

use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionDescription, WorkflowHandle,
    errors::WorkflowInteractionError,
    tonic::{IntoRequest as _, Status},
};
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution, workflowservice::v1::ResetStickyTaskQueueRequest,
};

use crate::controller::Controller;

/// Whether no workflow task is pending: a query is answered at once then, and waits for nothing.
pub(crate) async fn is_quiet(
    controller: &WorkflowHandle<Client, Controller>,
) -> Result<bool, WorkflowInteractionError> {
    let description = controller
        .describe(WorkflowDescribeOptions::default())
        .await?;
    Ok(was_quiet(&description))
}

/// Whether no workflow task was pending at the time of a description.
pub(crate) fn was_quiet(description: &WorkflowExecutionDescription) -> bool {
    description.raw().pending_workflow_task.is_none()
}

/// Has the server forget which worker has a controller in memory. What is asked next would wait a second for that
/// worker first, even if it is gone.
pub(crate) async fn forget_worker(
    controller: &WorkflowHandle<Client, Controller>,
) -> Result<(), Status> {
    let info = controller.info();
    let request = ResetStickyTaskQueueRequest {
        namespace: info.namespace.clone(),
        execution: Some(WorkflowExecution {
            workflow_id: info.workflow_id.clone(),
            run_id: info.run_id.clone().unwrap_or_default(),
        }),
    };
    let mut service = controller.client().connection().workflow_service();
    let reset = service.reset_sticky_task_queue(request.into_request());
    reset.await.map(|_| ())
}
