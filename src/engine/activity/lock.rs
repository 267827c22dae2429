//! Taking and releasing a named lock; see [`crate::batch::lock_name`].

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use temporalio_client::{
    Client, NamespacedClient as _, UntypedWorkflowHandle, WorkflowDescribeOptions,
    WorkflowExecutionDescription, WorkflowExecutionInfo, WorkflowExecutionStatus,
    WorkflowSignalOptions, WorkflowTerminateOptions,
    errors::WorkflowInteractionError,
    tonic::{Code, IntoRequest as _},
};
use temporalio_common::protos::temporal::api::{
    common::v1::{Memo, Payload, WorkflowType},
    enums::v1::{WorkflowIdConflictPolicy, WorkflowIdReusePolicy},
    taskqueue::v1::TaskQueue,
    workflowservice::v1::StartWorkflowExecutionRequest,
};
use temporalio_sdk::{ApplicationFailure, activities::ActivityError};

use super::side::retry;
use crate::{
    batch::lock_name::workflow_id,
    decisions::state::lock::is_held,
    engine::controller::Controller,
    protocol::{LOCK_HELD, LOCK_HOLDER, LockHeld, LockOrder, MEMO_BATCH_RUN},
};

/// Interval between checks whether a lock is free.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Delay of a lock's first workflow task, which no worker can execute. It is longer than any batch takes.
const NO_TASK_FOR: Duration = Duration::from_secs(10 * 366 * 86_400);
/// The memo field of a lock that names the batch holding it.
const MEMO_BATCH_ID: &str = "batch_id";

/// The error type of a lock that another batch holds.
pub(crate) const LOCK_IS_HELD: &str = "LockHeld";
const LOCK_UNKNOWN: &str = "LockUnknown";

/// The holder of a lock.
struct Holder {
    batch_id: String,
    since: Option<SystemTime>,
}

/// Takes the lock, or waits for it. Taking it again has no effect.
pub(super) async fn take(
    client: &Client,
    order: &LockOrder,
    task_queue: &str,
) -> Result<(), ActivityError> {
    let unknown = |error: BoxError| retry(error, LOCK_UNKNOWN);
    let mut told: Option<String> = None;
    loop {
        let Some(holder) = attempt(client, order, task_queue).await.map_err(unknown)? else {
            return Ok(());
        };
        if !order.wait {
            return Err(held(&order.name, &holder));
        }
        if told.as_ref() != Some(&holder.batch_id) {
            tell(client, order, &holder).await.map_err(unknown)?;
            told = Some(holder.batch_id);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Takes the lock if it is free. Otherwise returns its holder.
async fn attempt(
    client: &Client,
    order: &LockOrder,
    task_queue: &str,
) -> Result<Option<Holder>, BoxError> {
    loop {
        if begin(client, order, task_queue).await? {
            tracing::info!(lock = order.name, batch = order.batch_id, "lock taken");
            return Ok(None);
        }
        // The lock may have ended in the meantime, and is then free.
        let Some(lock) = running(client, &workflow_id(&order.name)).await? else {
            continue;
        };
        let batch_run = said(&lock, MEMO_BATCH_RUN);
        if batch_run.as_ref() == Some(&order.batch_run) {
            return Ok(None);
        }
        let batch_id = said(&lock, MEMO_BATCH_ID);
        let holder = Holder {
            // A workflow of another kind may have this id.
            batch_id: batch_id.clone().unwrap_or_else(|| "?".to_owned()),
            since: lock.start_time(),
        };
        let (Some(batch_id), Some(batch_run)) = (batch_id, batch_run) else {
            return Ok(Some(holder));
        };
        if runs(client, &batch_id, &batch_run).await? {
            return Ok(Some(holder));
        }
        tracing::warn!(
            lock = order.name,
            held_by = batch_id,
            "the batch holding the lock has ended without releasing it"
        );
        end(client, &lock, "its batch has ended").await?;
    }
}

/// Creates the lock unless it exists. The SDK cannot start a workflow with a delay.
async fn begin(client: &Client, order: &LockOrder, task_queue: &str) -> Result<bool, BoxError> {
    let fields = HashMap::from([
        (MEMO_BATCH_ID.to_owned(), json(&order.batch_id)),
        (MEMO_BATCH_RUN.to_owned(), json(&order.batch_run)),
    ]);
    let request = StartWorkflowExecutionRequest {
        namespace: client.namespace(),
        workflow_id: workflow_id(&order.name),
        workflow_type: Some(WorkflowType {
            name: LOCK_HOLDER.to_owned(),
        }),
        task_queue: Some(TaskQueue {
            name: task_queue.to_owned(),
            ..Default::default()
        }),
        identity: client.identity(),
        request_id: uuid::Uuid::new_v4().to_string(),
        workflow_id_reuse_policy: WorkflowIdReusePolicy::AllowDuplicate.into(),
        workflow_id_conflict_policy: WorkflowIdConflictPolicy::Fail.into(),
        workflow_start_delay: Some(NO_TASK_FOR.try_into()?),
        memo: Some(Memo { fields }),
        ..Default::default()
    };
    let mut service = client.connection().workflow_service();
    match service
        .start_workflow_execution(request.into_request())
        .await
    {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::AlreadyExists => Ok(false),
        Err(status) => Err(status.into()),
    }
}

/// Encodes a memo field of a lock. It bypasses the worker's codec, so that every worker can read it; it
/// contains only ids.
fn json(text: &str) -> Payload {
    Payload {
        metadata: HashMap::from([("encoding".to_owned(), b"json/plain".to_vec())]),
        data: serde_json::Value::from(text).to_string().into_bytes(),
        ..Default::default()
    }
}

/// Reads a memo field of a lock.
fn said(lock: &WorkflowExecutionDescription, field: &str) -> Option<String> {
    let info = lock.raw().workflow_execution_info.as_ref()?;
    let payload = info.memo.as_ref()?.fields.get(field)?;
    serde_json::from_slice(&payload.data).ok()
}

/// Returns the latest workflow of this id if it is running.
async fn running(
    client: &Client,
    workflow_id: &str,
) -> Result<Option<WorkflowExecutionDescription>, BoxError> {
    let workflow: UntypedWorkflowHandle<_> = client.get_workflow_handle(workflow_id);
    match workflow.describe(WorkflowDescribeOptions::default()).await {
        Ok(description) => {
            let runs = matches!(
                description.status(),
                WorkflowExecutionStatus::Running | WorkflowExecutionStatus::Paused
            );
            Ok(runs.then_some(description))
        }
        Err(WorkflowInteractionError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether this batch run is still running. A batch whose memo does not name its batch run counts as
/// the same.
async fn runs(client: &Client, batch_id: &str, batch_run: &str) -> Result<bool, BoxError> {
    let Some(batch) = running(client, batch_id).await? else {
        return Ok(false);
    };
    let running: Option<String> = batch.memo().get(MEMO_BATCH_RUN)?;
    Ok(running.is_none_or(|running| running == batch_run))
}

/// Ends exactly this lock, and not one that was created since.
async fn end(
    client: &Client,
    lock: &WorkflowExecutionDescription,
    why: &str,
) -> Result<(), BoxError> {
    let info = WorkflowExecutionInfo::builder()
        .namespace(client.namespace())
        .workflow_id(lock.id())
        .run_id(lock.run_id())
        .build();
    let lock = info.bind_untyped(client.clone());
    let options = WorkflowTerminateOptions::builder()
        .reason(why.to_owned())
        .build();
    match lock.terminate(options).await {
        Ok(()) | Err(WorkflowInteractionError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Tells the batch which batch holds the lock that it waits for.
async fn tell(client: &Client, order: &LockOrder, holder: &Holder) -> Result<(), BoxError> {
    let held = LockHeld {
        batch_run: order.batch_run.clone(),
        by: holder.batch_id.clone(),
    };
    tracing::info!(
        lock = order.name,
        batch = order.batch_id,
        held_by = held.by,
        LOCK_HELD
    );
    let controller = client.get_workflow_handle::<Controller>(order.batch_id.clone());
    let options = WorkflowSignalOptions::default();
    Ok(controller
        .signal(Controller::lock_held, held, options)
        .await?)
}

fn held(name: &str, holder: &Holder) -> ActivityError {
    let since = holder.since.map_or_else(String::new, |since| {
        format!(" since {}", humantime::format_rfc3339_seconds(since))
    });
    ActivityError::from(
        ApplicationFailure::builder(is_held(name, &holder.batch_id, &since))
            .type_name(LOCK_IS_HELD.to_owned())
            .non_retryable(true)
            .build(),
    )
}

/// Releases the lock if this batch run holds it.
pub(super) async fn give_back(client: &Client, order: &LockOrder) -> Result<(), ActivityError> {
    let given = async {
        let Some(lock) = running(client, &workflow_id(&order.name)).await? else {
            return Ok(());
        };
        if said(&lock, MEMO_BATCH_RUN).as_ref() == Some(&order.batch_run) {
            end(client, &lock, "released").await?;
            tracing::info!(lock = order.name, batch = order.batch_id, "lock released");
        }
        Ok(())
    };
    given
        .await
        .map_err(|error: BoxError| retry(error, LOCK_UNKNOWN))
}
