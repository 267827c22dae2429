//! Detection of workflows that have ended.

use std::time::Duration;

use temporalio_client::{
    Client, UntypedWorkflow, WorkflowDescribeOptions, errors::WorkflowInteractionError,
};
use temporalio_common::protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus;

use crate::protocol::WatchOrder;

const INTERVAL: Duration = Duration::from_secs(3);

/// Waits until at least one of the workflows is no longer running, and returns those.
pub(super) async fn gone(client: &Client, order: &WatchOrder) -> Vec<String> {
    loop {
        let mut gone = Vec::new();
        for workflow in &order.workflows {
            if is_gone(client, workflow).await {
                gone.push(workflow.clone());
            }
        }
        if !gone.is_empty() {
            return gone;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn is_gone(client: &Client, workflow: &str) -> bool {
    let handle = client.get_workflow_handle::<UntypedWorkflow>(workflow.to_owned());
    match handle.describe(WorkflowDescribeOptions::default()).await {
        Ok(description) => {
            let info = description.raw().workflow_execution_info.as_ref();
            info.is_some_and(|info| info.status() != TemporalStatus::Running)
        }
        Err(WorkflowInteractionError::NotFound(_)) => true,
        Err(error) => {
            tracing::debug!(%error, workflow, "could not check the workflow");
            false
        }
    }
}
