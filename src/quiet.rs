//! When a question can be asked without harm.
//!
//! A query that waits for a workflow task which then times out is given to another worker together with
//! the beginning of that task. SDK core 0.10 runs the workflow as if the task were its own, keeps what came
//! of it, and goes on from there with the next task; that cannot be replayed. So strides and clients ask a
//! controller only while no workflow task is pending.

use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionDescription, WorkflowHandle,
    errors::WorkflowInteractionError,
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
