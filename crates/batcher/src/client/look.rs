//! Looking at a batcher.

use std::{collections::BTreeMap, time::Duration};

use temporalio_client::{WorkflowQueryOptions, errors::WorkflowQueryError};

use super::{BatcherClient, BatcherError, server};
use crate::{
    protocol::{Known, OutcomesRequest},
    request::Outcome,
    state::Stats,
    workflow::BatcherWorkflow,
};

/// Interval at which the outcome of a request is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Longest interval.
const ASK_SELDOM: Duration = Duration::from_secs(2);

impl BatcherClient {
    /// Waits for the outcome of a request. A shard remembers its last outcomes: 1,000 or 128 KiB of them,
    /// whichever is less.
    ///
    /// # Errors
    /// [`ConfirmationTimeout`](BatcherError::ConfirmationTimeout), also if no worker answers; or the batcher runs with
    /// another number of shards.
    pub async fn wait(
        &self,
        request_id: &str,
        routing_key: &str,
        timeout: Duration,
    ) -> Result<Outcome, BatcherError> {
        let asking = async {
            let asked = [(request_id, routing_key)];
            let (mut pause, mut compared) = (ASK_AGAIN, false);
            loop {
                let known = match compared {
                    true => self.ask(&asked).await,
                    false => self.outcomes(&asked).await,
                };
                match known {
                    Ok(known) => {
                        compared = true;
                        if let Some(Known::Ended(outcome)) = known.into_iter().next() {
                            return Ok(outcome);
                        }
                    }
                    // No worker answers yet, for instance.
                    Err(BatcherError::Server(_)) => {}
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ASK_SELDOM);
            }
        };
        let asked = tokio::time::timeout(timeout, asking).await;
        asked.unwrap_or_else(|_| {
            Err(BatcherError::ConfirmationTimeout {
                request_id: request_id.to_owned(),
                after: timeout,
            })
        })
    }

    /// Returns what the shards know of requests, each given by its id and its routing key. It needs a worker.
    ///
    /// # Errors
    /// The batcher runs with another number of shards, or the server or no worker answered.
    pub async fn outcomes(&self, asked: &[(&str, &str)]) -> Result<Vec<Known>, BatcherError> {
        self.check_shards().await?;
        self.ask(asked).await
    }

    /// Like [`outcomes`](Self::outcomes), once the number of shards was compared.
    async fn ask(&self, asked: &[(&str, &str)]) -> Result<Vec<Known>, BatcherError> {
        let mut of_shards: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, (_, routing_key)) in asked.iter().enumerate() {
            let shard = self.batcher.shard_of(routing_key);
            of_shards.entry(shard).or_default().push(at);
        }
        let mut known = vec![Known::Unknown; asked.len()];
        for (shard, positions) in of_shards {
            let request_ids = positions.iter().map(|at| asked[*at].0.to_owned());
            let question = OutcomesRequest {
                request_ids: request_ids.collect(),
            };
            let options = WorkflowQueryOptions::default();
            let handle = self.shard(shard);
            let answer = handle.query(BatcherWorkflow::outcomes, question, options);
            match answer.await {
                Ok(answer) => {
                    for (at, answer) in positions.into_iter().zip(answer.known) {
                        known[at] = answer;
                    }
                }
                Err(WorkflowQueryError::NotFound(_)) => {}
                Err(error) => return Err(server(error)),
            }
        }
        Ok(known)
    }

    /// Returns the counts of all shards together. It needs a worker.
    ///
    /// # Errors
    /// The batcher runs with another number of shards, or the server or no worker answered.
    pub async fn stats(&self) -> Result<Stats, BatcherError> {
        self.check_shards().await?;
        let mut stats = Stats::default();
        for shard in 0..self.batcher.shards {
            let options = WorkflowQueryOptions::default();
            let asked = self.shard(shard);
            match asked.query(BatcherWorkflow::stats, (), options).await {
                Ok(of_shard) => stats += of_shard,
                Err(WorkflowQueryError::NotFound(_)) => {}
                Err(error) => return Err(server(error)),
            }
        }
        Ok(stats)
    }
}
