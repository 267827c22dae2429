//! Replays recorded histories.

use temporalio_client::WorkflowHistory;
use temporalio_sdk::{
    workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions},
    workflows::WorkflowRegistrationError,
};

use crate::engine::controller::{Bridge, Controller, PartitionParent};

/// A history that this version of the crate would not have produced.
#[derive(Debug, thiserror::Error)]
#[error("the history does not replay")]
pub struct ReplayError {
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Replays the history of one run of a batch with this version of the crate, without a server.
///
/// Replay the histories of running batches before a new version is deployed.
/// [`BatchHandle::history`](crate::BatchHandle::history) fetches them in the required form, which differs from
/// that of Temporal's own tools.
///
/// # Errors
/// The history cannot be read, or the controller would have decided differently.
pub async fn replay_history(json: &[u8]) -> Result<(), ReplayError> {
    replay_with(json, |options| {
        options
            .register_workflow::<Controller>()?
            .register_workflow::<PartitionParent>()?
            .register_workflow::<Bridge>()?;
        Ok(())
    })
    .await
}

/// Replays a history of one of the workflows that `register` adds.
///
/// # Errors
/// The history cannot be read, or its workflow would have decided differently.
pub async fn replay_with(
    json: &[u8],
    register: impl FnOnce(&mut WorkflowReplayerOptions) -> Result<(), WorkflowRegistrationError>,
) -> Result<(), ReplayError> {
    type Replayed = Result<(), Box<dyn std::error::Error + Send + Sync>>;
    let replayed: Replayed = async {
        let history = WorkflowHistory::from_json(json)?;
        let mut options = WorkflowReplayerOptions::new().build();
        register(&mut options)?;
        Ok(WorkflowReplayer::new(options)?
            .replay_workflow(history)
            .await?)
    }
    .await;
    replayed.map_err(|source| ReplayError { source })
}
