//! Replays recorded histories.

use temporal_batch::of_crates::replay_with;
pub use temporal_batch::testing::ReplayError;

use crate::workflow::{FanoutWorkflow, ItemWorkflow};

/// Replays the history of one run of a fan-out, or of one of its children, with this version of the crate and without a
/// server.
///
/// The history is JSON in the form of [`WorkflowHistory::to_json`](temporalio_client::WorkflowHistory::to_json), which differs from that of Temporal's own tools.
///
/// # Errors
/// The history cannot be read, or the workflow would have decided differently.
pub async fn replay_history(json: &[u8]) -> Result<(), ReplayError> {
    replay_with(json, |options| {
        options
            .register_workflow::<FanoutWorkflow>()?
            .register_workflow::<ItemWorkflow>()?;
        Ok(())
    })
    .await
}
