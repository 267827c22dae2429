//! The arguments of a batch, for orders that contain only a reference to them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use temporalio_client::{Client, WorkflowDescribeOptions};
use temporalio_sdk::activities::ActivityError;

use super::side::retry;
use crate::{engine::controller::Controller, protocol::large_args::Reference};

/// Maximum number of remembered arguments.
const MOST_REMEMBERED: usize = 8;
/// Time limit for the server, which normally answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Remembered arguments by the ids of their references, which depend only on their content.
static REMEMBERED: Mutex<VecDeque<(String, Arc<Value>)>> = Mutex::new(VecDeque::new());

/// Replaces a reference by the arguments that it refers to.
pub(super) async fn fetch(client: &Client, args: &mut Value) -> Result<(), ActivityError> {
    let Some(reference) = Reference::of(args) else {
        return Ok(());
    };
    let remembered = || REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |(id, args): &(String, Arc<Value>)| (*id == reference.id).then(|| Arc::clone(args));
    let known = remembered().iter().find_map(known);
    if let Some(known) = known {
        *args = Value::clone(&known);
        return Ok(());
    }
    let not_here = |why: String| retry(why, "ArgsNotReadable");
    let workflow = client.get_workflow_handle::<Controller>(reference.batch_id.clone());
    let described = workflow.describe(WorkflowDescribeOptions::default());
    let described = tokio::time::timeout(PATIENCE, described).await;
    let described = described.map_err(|_| not_here("no answer in time".to_owned()))?;
    let described = described.map_err(|error| not_here(error.to_string()))?;
    let kept: Option<Value> = described
        .memo()
        .get(&reference.field)
        .map_err(|error| not_here(error.to_string()))?;
    // Another batch of this id may have started since.
    let kept = kept
        .filter(|kept| reference.means(kept))
        .ok_or_else(|| not_here("the workflow has other arguments in its memo".to_owned()))?;
    let mut remembered = remembered();
    if remembered.len() == MOST_REMEMBERED {
        remembered.pop_front();
    }
    remembered.push_back((reference.id, Arc::new(kept.clone())));
    *args = kept;
    Ok(())
}
