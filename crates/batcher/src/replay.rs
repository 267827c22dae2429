//! Replays recorded histories.

use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};

use crate::workflow::BatcherWorkflow;

/// A history that this version of the crate would not have produced.
#[derive(Debug, thiserror::Error)]
#[error("the history does not replay")]
pub struct ReplayError {
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Replays the history of one run of a shard with this version of the crate, without a server. Replay the histories of
/// running batchers before a new version is deployed.
///
/// # Errors
/// The history cannot be read, or the shard would have decided differently.
pub async fn replay_history(json: &[u8]) -> Result<(), ReplayError> {
    async fn replay(json: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let history = WorkflowHistory::from_json(json)?;
        let options = WorkflowReplayerOptions::new()
            .register_workflow::<BatcherWorkflow>()?
            .build();
        Ok(WorkflowReplayer::new(options)?
            .replay_workflow(history)
            .await?)
    }
    replay(json).await.map_err(|source| ReplayError { source })
}
