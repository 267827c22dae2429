//! Replays recorded histories.

use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};

use crate::workflow::{FanoutWorkflow, ItemWorkflow};

/// A history that this version of the crate would not have produced.
#[derive(Debug, thiserror::Error)]
#[error("the history does not replay")]
pub struct ReplayError {
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Replays the history of one run of a fan-out, or of one of its children, with this version of the crate and without a
/// server.
///
/// The history is JSON in the form of [`WorkflowHistory::to_json`], which differs from that of Temporal's own tools.
///
/// # Errors
/// The history cannot be read, or the workflow would have decided differently.
pub async fn replay_history(json: &[u8]) -> Result<(), ReplayError> {
    async fn replay(json: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let history = WorkflowHistory::from_json(json)?;
        let options = WorkflowReplayerOptions::new()
            .register_workflow::<FanoutWorkflow>()?
            .register_workflow::<ItemWorkflow>()?
            .build();
        Ok(WorkflowReplayer::new(options)?
            .replay_workflow(history)
            .await?)
    }
    replay(json).await.map_err(|source| ReplayError { source })
}
