//! The shards that run, and those that are started.

use temporalio_client::{
    WorkflowDescribeOptions, WorkflowIdConflictPolicy, WorkflowStartOptions,
    errors::{WorkflowInteractionError, WorkflowStartError},
};
use temporalio_common::{
    MemoValues, protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus,
};

use super::{BatcherClient, BatcherError, Started, server};
use crate::{
    batcher::Batcher,
    protocol::{self, BatcherInput},
    workflow::BatcherWorkflow,
};

/// The shard that is in the range of every client, and starts before the others. So a client with another number of
/// shards finds the number here, whichever shard it asks.
const ANCHOR: u32 = 0;

/// A shard that runs, as the server describes it. No worker is needed for that.
pub(super) struct Running {
    pub run_id: String,
    /// The events and the bytes of its history.
    pub events: u64,
    pub bytes: u64,
    /// The settings that it was started with.
    batcher: Option<Batcher>,
}

impl BatcherClient {
    /// Starts the shards that do not run. A submission starts only those that it needs.
    ///
    /// # Errors
    /// The batcher runs with another number of shards, or the server did not answer.
    pub async fn start(&self) -> Result<Started, BatcherError> {
        let mut found = Started::default();
        let mut missing = Vec::new();
        for shard in 0..self.batcher.shards {
            match self.running(shard).await? {
                Some(running) => {
                    let batcher = running.batcher.as_ref();
                    found.other_limits |= batcher.is_some_and(|batcher| *batcher != self.batcher);
                }
                None => missing.push(shard),
            }
        }
        for shard in missing {
            found.started += u32::from(self.start_shard(shard).await?);
        }
        found.running = self.batcher.shards - found.started;
        Ok(found)
    }

    /// Starts a shard, and the anchor before it. Returns false if the shard runs already.
    pub(super) async fn start_shard(&self, shard: u32) -> Result<bool, BatcherError> {
        if shard != ANCHOR && self.running(ANCHOR).await?.is_none() {
            self.start_one(ANCHOR).await?;
        }
        self.start_one(shard).await
    }

    async fn start_one(&self, shard: u32) -> Result<bool, BatcherError> {
        let mut memo = MemoValues::new();
        memo.insert(protocol::MEMO_BATCHER, self.batcher.clone());
        let queue = self.batcher.task_queue.as_str();
        let options = WorkflowStartOptions::new(queue, self.batcher.workflow_id(shard))
            .id_conflict_policy(WorkflowIdConflictPolicy::Fail)
            .memo(memo)
            .static_summary(format!("shard {shard} of batcher {}", self.batcher.name))
            .build();
        let input = BatcherInput {
            version: protocol::VERSION,
            batcher: self.batcher.clone(),
            shard,
            instance: uuid::Uuid::new_v4().to_string(),
            carried: None,
        };
        let starting = self
            .client
            .start_workflow(BatcherWorkflow::run, input, options);
        match starting.await {
            Ok(_) => Ok(true),
            Err(WorkflowStartError::AlreadyStarted { .. }) => {
                // Another client was faster, perhaps one with another number of shards.
                self.running(shard).await?;
                Ok(false)
            }
            Err(error) => Err(server(error)),
        }
    }

    /// Compares the number of shards with that of the batcher that runs, if any.
    pub(super) async fn check_shards(&self) -> Result<(), BatcherError> {
        self.running(ANCHOR).await.map(drop)
    }

    /// Returns a shard if it runs.
    ///
    /// # Errors
    /// The shard runs with another number of shards, or the server did not answer.
    pub(super) async fn running(&self, shard: u32) -> Result<Option<Running>, BatcherError> {
        let options = WorkflowDescribeOptions::default();
        let described = match self.shard(shard).describe(options).await {
            Ok(described) => described,
            Err(WorkflowInteractionError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(server(error)),
        };
        let info = described.raw().workflow_execution_info.as_ref();
        let Some(info) = info.filter(|info| info.status() == TemporalStatus::Running) else {
            return Ok(None);
        };
        let execution = info.execution.as_ref();
        let running = Running {
            run_id: execution.map_or_else(String::new, |run| run.run_id.clone()),
            events: u64::try_from(info.history_length).unwrap_or(0),
            bytes: u64::try_from(info.history_size_bytes).unwrap_or(0),
            batcher: described
                .memo()
                .get(protocol::MEMO_BATCHER)
                .map_err(server)?,
        };
        match &running.batcher {
            Some(batcher) if batcher.shards != self.batcher.shards => {
                Err(BatcherError::OtherShards {
                    batcher: self.batcher.name.clone(),
                    running: batcher.shards,
                    asked: self.batcher.shards,
                })
            }
            _ => Ok(Some(running)),
        }
    }
}
