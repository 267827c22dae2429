//! The workflow that has or had the id of a child.

use temporal_batch::{PageError, of_crates::words};
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowDescribeOptions, WorkflowExecutionDescription, WorkflowHandle,
    errors::WorkflowInteractionError,
};
use temporalio_common::protos::temporal::api::enums::v1::WorkflowExecutionStatus as Status;

use crate::protocol::{IdOwner, LookUpOrder, position_in_details};

/// Returns whose child it is, by the details that the fan-out gave it.
pub(super) async fn look_up(client: &Client, order: LookUpOrder) -> Result<IdOwner, PageError> {
    let LookUpOrder {
        workflow_id,
        run,
        position,
    } = order;
    let handle = client.get_workflow_handle::<UntypedWorkflow>(workflow_id);
    let Some(latest) = describe(&handle).await? else {
        return Ok(IdOwner::Gone);
    };
    let info = latest.raw().workflow_execution_info.as_ref();
    let first_run = info.map(|info| info.first_run_id.clone());
    let runs = info.is_some_and(|info| info.status() == Status::Running);
    let mut owner = position_of(&latest, &run);
    // A workflow of the user's own may continue as new, and its later runs have no details.
    if let Some(first_run) = first_run
        && owner.is_none()
        && !first_run.is_empty()
        && first_run != latest.run_id()
    {
        let mut of_first = handle.info().clone();
        of_first.run_id = Some(first_run);
        let of_first = WorkflowHandle::<_, UntypedWorkflow>::new(client.clone(), of_first);
        let first = describe(&of_first).await?;
        owner = first.and_then(|first| position_of(&first, &run));
    }
    Ok(match owner {
        Some(theirs) if theirs == position => IdOwner::Same,
        Some(_) => IdOwner::Duplicate,
        None if runs => IdOwner::Running,
        None => IdOwner::Ended,
    })
}

fn position_of(child: &WorkflowExecutionDescription, run: &str) -> Option<u64> {
    position_in_details(run, child.static_details()?)
}

async fn describe(
    handle: &WorkflowHandle<Client, UntypedWorkflow>,
) -> Result<Option<WorkflowExecutionDescription>, PageError> {
    match handle.describe(WorkflowDescribeOptions::default()).await {
        Ok(description) => Ok(Some(description)),
        Err(WorkflowInteractionError::NotFound(_)) => Ok(None),
        Err(error) => Err(PageError::retryable(words(&error))),
    }
}
