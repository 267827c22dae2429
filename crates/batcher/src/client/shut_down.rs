//! Ending a batcher.

use std::time::Duration;

use temporalio_client::{
    WorkflowGetResultOptions, WorkflowHandle, WorkflowSignalOptions,
    errors::{WorkflowGetResultError, WorkflowInteractionError},
};
use tokio::time::{Instant, timeout_at};

use super::{BatcherClient, BatcherError, server};
use crate::{state::Stats, workflow::BatcherWorkflow};

impl BatcherClient {
    /// Has all shards write what they hold, and waits until they have ended, at most for `within`. Returns their counts. A
    /// shard that does not run counts nothing. Requests that arrive meanwhile are refused.
    ///
    /// A batcher that is started again meanwhile is another one: this call neither waits for it nor counts it.
    ///
    /// # Errors
    /// [`ShutdownTimeout`](BatcherError::ShutdownTimeout), for example if no worker runs;
    /// [`ShardLost`](BatcherError::ShardLost) if a shard was terminated; the batcher runs with another number of shards; or
    /// the server did not answer.
    pub async fn shut_down(&self, within: Duration) -> Result<Stats, BatcherError> {
        let deadline = Instant::now() + within;
        let timed_out = |shard| BatcherError::ShutdownTimeout {
            batcher: self.batcher.name.clone(),
            shard,
            after: within,
        };
        let mut ending = Vec::new();
        for shard in 0..self.batcher.shards {
            let told = timeout_at(deadline, self.tell_to_end(shard)).await;
            let told = told.map_err(|_| timed_out(shard))??;
            ending.extend(told.map(|run_id| (shard, run_id)));
        }
        let mut stats = Stats::default();
        for (shard, run_id) in ending {
            let ended = timeout_at(deadline, self.ended(shard, run_id)).await;
            stats += ended.map_err(|_| timed_out(shard))??;
        }
        Ok(stats)
    }

    /// Tells a shard to end. Returns its run, or `None` if it does not run.
    async fn tell_to_end(&self, shard: u32) -> Result<Option<String>, BatcherError> {
        let Some(running) = self.running(shard).await? else {
            return Ok(None);
        };
        let handle = self.shard(shard);
        let options = WorkflowSignalOptions::default();
        match handle.signal(BatcherWorkflow::shutdown, (), options).await {
            Ok(()) => Ok(Some(running.run_id)),
            Err(WorkflowInteractionError::NotFound(_)) => Ok(None),
            Err(error) => Err(server(error)),
        }
    }

    /// Waits for the end of a run and of those that it hands over to. The id alone would also name a batcher that was started
    /// later.
    async fn ended(&self, shard: u32, run_id: String) -> Result<Stats, BatcherError> {
        let mut info = self.shard(shard).info().clone();
        info.run_id = Some(run_id);
        let run = WorkflowHandle::<_, BatcherWorkflow>::new(self.client.clone(), info);
        let result = run.get_result(WorkflowGetResultOptions::default()).await;
        result.map_err(|error| match error {
            WorkflowGetResultError::Failed(_)
            | WorkflowGetResultError::Cancelled { .. }
            | WorkflowGetResultError::Terminated { .. }
            | WorkflowGetResultError::TimedOut
            | WorkflowGetResultError::NotFound(_) => BatcherError::ShardLost {
                batcher: self.batcher.name.clone(),
                shard,
                how: error.to_string(),
            },
            error => server(error),
        })
    }
}
