//! Starting a fan-out.

use temporal_batch::{BatchClient, settings::IfRunning};
use temporalio_client::{
    UntypedWorkflow, WorkflowDescribeOptions, WorkflowIdConflictPolicy, WorkflowIdReusePolicy,
    WorkflowStartOptions, errors::WorkflowStartError,
};
use temporalio_common::{
    MemoValues, protos::temporal::api::enums::v1::WorkflowExecutionStatus as Status,
};

use crate::{
    fanout::{Fanout, Items},
    handle::FanoutHandle,
    protocol::{FanoutInput, MEMO_CONTENT, MEMO_PROCESSOR, TASK_TIMEOUT},
    validate::InvalidFanout,
    workflow::FanoutWorkflow,
};

/// The reason why a fan-out was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting or an item is not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidFanout),
    /// A workflow of this id is running.
    #[error("\"{id}\" is already running; `if_running(IfRunning::Attach)` attaches to it")]
    AlreadyRunning {
        /// The id.
        id: String,
    },
    /// A workflow of this id is running, and it has other items or another processor.
    #[error("\"{id}\" is already running with other items or another processor")]
    RunsOtherItems {
        /// The id.
        id: String,
    },
    /// A workflow of this id has ended.
    #[error("\"{id}\" has ended; `rerun(true)` runs all its items again")]
    AlreadyEnded {
        /// The id.
        id: String,
    },
    /// The server does not accept the fan-out.
    #[error("the server did not start the fan-out")]
    Server(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Fanout {
    /// Starts the fan-out.
    ///
    /// | existing workflow of this id | default | alternative |
    /// |---|---|---|
    /// | running | refused | attach to it: [`if_running`](Self::if_running) |
    /// | ended | refused | run everything again: [`rerun`](Self::rerun) |
    ///
    /// # Errors
    /// A setting or an item is not allowed, the id is taken, or the server does not answer.
    pub async fn start(&self, client: &BatchClient) -> Result<FanoutHandle, StartError> {
        self.validate()?;
        let mut spec = self.spec.clone();
        spec.run = uuid::Uuid::new_v4().simple().to_string();
        let content = self.content();
        let mut memo = MemoValues::new();
        memo.insert(MEMO_PROCESSOR, spec.processor.clone());
        memo.insert(MEMO_CONTENT, content.clone());
        let options = WorkflowStartOptions::new(&self.task_queue, spec.id.clone())
            .id_conflict_policy(WorkflowIdConflictPolicy::Fail)
            .id_reuse_policy(match spec.rerun {
                true => WorkflowIdReusePolicy::AllowDuplicate,
                false => WorkflowIdReusePolicy::RejectDuplicate,
            })
            .memo(memo)
            .task_timeout(TASK_TIMEOUT)
            .static_summary(format!("fan-out of {}", spec.processor))
            .build();
        let carry = self.carry();
        let input = FanoutInput { spec, carry };
        let temporal = client.temporal();
        match temporal
            .start_workflow(FanoutWorkflow::run, input, options)
            .await
        {
            Ok(_) => Ok(FanoutHandle::of(client, self.id())),
            Err(WorkflowStartError::AlreadyStarted { .. }) => self.taken(client, &content).await,
            Err(error) => Err(StartError::Server(error.into())),
        }
    }

    /// Handles a start whose id is taken.
    async fn taken(&self, client: &BatchClient, content: &str) -> Result<FanoutHandle, StartError> {
        let id = self.id().to_owned();
        let handle = client
            .temporal()
            .get_workflow_handle::<UntypedWorkflow>(id.clone());
        let description = handle.describe(WorkflowDescribeOptions::default()).await;
        let description = description.map_err(|error| StartError::Server(error.into()))?;
        let info = description.raw().workflow_execution_info.as_ref();
        let runs = info.is_some_and(|info| info.status() == Status::Running);
        let theirs = description.memo().get::<String>(MEMO_CONTENT);
        let is_same = theirs.ok().flatten().as_deref() == Some(content);
        match (runs, self.if_running, is_same) {
            (false, _, _) => Err(StartError::AlreadyEnded { id }),
            (true, IfRunning::Attach, true) => Ok(FanoutHandle::of(client, self.id())),
            (true, IfRunning::Attach, false) => Err(StartError::RunsOtherItems { id }),
            (true, _, _) => Err(StartError::AlreadyRunning { id }),
        }
    }

    /// Returns a digest of the processor and the items.
    fn content(&self) -> String {
        let items = match &self.items {
            Items::List(items) => serde_json::to_value(items),
            Items::Source { name, args } => Ok(serde_json::json!([name, args])),
        };
        let content = serde_json::json!([self.spec.processor, items.unwrap_or_default()]);
        let digest = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, content.to_string().as_bytes());
        digest.simple().to_string()
    }
}
