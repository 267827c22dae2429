//! Detection of bridges that have ended.

use std::time::Duration;

use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowHandle, errors::WorkflowInteractionError,
};
use temporalio_common::protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus;

use crate::{engine::controller::Bridge, protocol::BridgeWatch};

const INTERVAL: Duration = Duration::from_secs(3);

/// Waits until at least one of the bridges is no longer running, and returns those.
pub(super) async fn gone(client: &Client, order: &BridgeWatch) -> Vec<String> {
    loop {
        let mut gone = Vec::new();
        for bridge in &order.bridges {
            if is_gone(client, bridge).await {
                gone.push(bridge.clone());
            }
        }
        if !gone.is_empty() {
            return gone;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn is_gone(client: &Client, bridge: &str) -> bool {
    let handle: WorkflowHandle<_, Bridge> = client.get_workflow_handle(bridge.to_owned());
    match handle.describe(WorkflowDescribeOptions::default()).await {
        Ok(description) => {
            let info = description.raw().workflow_execution_info.as_ref();
            info.is_some_and(|info| info.status() != TemporalStatus::Running)
        }
        Err(WorkflowInteractionError::NotFound(_)) => true,
        Err(error) => {
            tracing::debug!(%error, bridge, "could not check the bridge");
            false
        }
    }
}
