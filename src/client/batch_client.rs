//! Starts batches and finds them again.

use futures::TryStreamExt as _;
use temporalio_client::{
    Client, WorkflowIdConflictPolicy, WorkflowIdReusePolicy, WorkflowListOptions,
    WorkflowStartOptions, errors::WorkflowStartError,
};
use temporalio_common::{
    MemoValues, protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus,
};

use crate::{
    batch::{Batch, InvalidBatch, validate_id},
    connect::{ConnectError, ConnectOptions, connect},
    controller::Controller,
    progress::Timestamp,
    protocol::{self, ControllerInput},
};

use super::{BatchHandle, BatchState, ListError, ListedBatch, StartError};

/// The memo field that holds the processor's name, for listings.
const MEMO_PROCESSOR: &str = "processor";

/// Starts batches and finds them again.
///
/// ```no_run
/// # use temporal_batch::*;
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = BatchClient::connect(&ConnectOptions::new()).await?;
/// let batch = Batch::named("hash-emails-2026-11", "hash-emails", serde_json::Value::Null).page_size(500);
/// let handle = client.start(&batch).await?;
/// let report = handle.result().await?;
/// println!("{}: {} items", report.outcome, report.progress.items.processed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BatchClient {
    client: Client,
}

/// # Construct
impl BatchClient {
    /// Connects; see [`connect`].
    ///
    /// # Errors
    /// When the server cannot be reached or the options contradict each other.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ConnectError> {
        Ok(Self::new(connect(options).await?))
    }

    /// Uses a connection that is there already, with its payload codec.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The connection, for [`Worker::new`](crate::Worker::new) and for everything else Temporal can do.
    pub fn temporal(&self) -> &Client {
        &self.client
    }
}

/// # Start and find
impl BatchClient {
    /// Starts a batch as a new batch run.
    ///
    /// Whether a worker knows the processor and understands the arguments shows when one has picked the
    /// batch up: see [`BatchHandle::accepted`].
    ///
    /// # Errors
    /// When a setting is not allowed, when the id is taken, or when the server does not take it. Nothing
    /// was started then.
    pub async fn start(&self, batch: &Batch) -> Result<BatchHandle, StartError> {
        batch.validate()?;
        let batch_id = batch.id().to_owned();
        let input = ControllerInput {
            version: protocol::VERSION,
            batch_run: uuid::Uuid::new_v4().to_string(),
            spec: batch.spec.clone(),
            carry: None,
        };
        let mut memo = MemoValues::new();
        memo.insert(MEMO_PROCESSOR, batch.processor().to_owned());
        let reuse = if batch.rerun {
            WorkflowIdReusePolicy::AllowDuplicate
        } else {
            WorkflowIdReusePolicy::RejectDuplicate
        };
        let options = WorkflowStartOptions::new(batch.task_queue.clone(), batch_id.clone())
            .id_conflict_policy(WorkflowIdConflictPolicy::Fail)
            .id_reuse_policy(reuse)
            .memo(memo)
            .static_summary(format!("batch of {}", batch.processor()))
            .build();
        match self
            .client
            .start_workflow(Controller::run, input, options)
            .await
        {
            Ok(_) => Ok(self.handle_unchecked(batch_id)),
            Err(WorkflowStartError::AlreadyStarted { .. }) => Err(self.why_taken(batch_id).await),
            Err(source) => Err(StartError::Server {
                source: source.into(),
            }),
        }
    }

    async fn why_taken(&self, batch_id: String) -> StartError {
        let handle = self.handle_unchecked(batch_id.clone());
        match handle.state().await {
            Ok(state) if !state.is_open() => StartError::AlreadyEnded { batch_id, state },
            _ => StartError::AlreadyRunning { batch_id },
        }
    }

    /// A batch by its id, running or ended. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// When the id could not be one of a batch.
    pub fn handle(&self, batch_id: impl Into<String>) -> Result<BatchHandle, InvalidBatch> {
        let batch_id = batch_id.into();
        validate_id(&batch_id)?;
        Ok(self.handle_unchecked(batch_id))
    }

    fn handle_unchecked(&self, batch_id: String) -> BatchHandle {
        BatchHandle {
            client: self.client.clone(),
            batch_id,
        }
    }

    /// The batches that the server remembers, the latest first, at most `limit`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn list(&self, limit: usize) -> Result<Vec<ListedBatch>, ListError> {
        let query = format!("WorkflowType = '{}'", protocol::CONTROLLER);
        // The latest execution comes first and stands for those before it: earlier runs of the batch, and
        // earlier batch runs.
        let mut executions = self
            .client
            .list_workflows(query, WorkflowListOptions::default());
        let mut batches: Vec<ListedBatch> = Vec::new();
        while batches.len() < limit
            && let Some(execution) = executions.try_next().await?
        {
            let status = execution.raw().status();
            let listed = batches.iter().any(|b| b.batch_id == execution.id());
            if listed || status == TemporalStatus::ContinuedAsNew {
                continue;
            }
            let state = BatchState::from(status);
            batches.push(ListedBatch {
                batch_id: execution.id().to_owned(),
                processor: execution.memo().get(MEMO_PROCESSOR).ok().flatten(),
                state,
                task_queue: execution.task_queue().to_owned(),
                started_at: execution.start_time().map(Timestamp::from),
                ended_at: execution.close_time().map(Timestamp::from),
            });
        }
        Ok(batches)
    }
}
