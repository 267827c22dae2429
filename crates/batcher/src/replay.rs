//! Replays recorded histories.

use temporal_batch::of_crates::replay_with;
pub use temporal_batch::testing::ReplayError;

use crate::workflow::BatcherWorkflow;

/// Replays the history of one run of a shard with this version of the crate, without a server. Replay the histories of
/// running batchers before a new version is deployed.
///
/// # Errors
/// The history cannot be read, or the shard would have decided differently.
pub async fn replay_history(json: &[u8]) -> Result<(), ReplayError> {
    replay_with(json, |options| {
        options.register_workflow::<BatcherWorkflow>()?;
        Ok(())
    })
    .await
}
