//! Submitting from outside of workflows, and looking at a batcher.

use std::{collections::BTreeMap, time::Duration};

use temporal_batch::BatchClient;
use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowGetResultOptions, WorkflowHandle,
    WorkflowIdConflictPolicy, WorkflowQueryOptions, WorkflowSignalOptions, WorkflowStartOptions,
    errors::{WorkflowInteractionError, WorkflowQueryError, WorkflowStartError},
};
use temporalio_common::{
    MemoValues, protos::temporal::api::enums::v1::WorkflowExecutionStatus as TemporalStatus,
};

use crate::{
    batcher::{Batcher, InvalidBatcher},
    protocol::{self, BatcherInput, Known, OutcomesRequest, Submission},
    request::{Outcome, Refusal, Request},
    state::Stats,
    workflow::BatcherWorkflow,
};

/// Maximum length of one signal, in bytes. Temporal warns about payloads above 256 KB.
const SIGNAL_BYTES: usize = 200 * 1024;
/// Interval at which the outcome of a request is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Longest interval.
const ASK_SELDOM: Duration = Duration::from_secs(2);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Starts a batcher, submits requests to it, and looks at it.
///
/// ```no_run
/// use std::time::Duration;
/// use temporal_batch::{BatchClient, ConnectOptions};
/// use temporal_batch_batcher::{Batcher, BatcherClient, Request};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = BatchClient::connect(&ConnectOptions::new()).await?;
/// let orders = BatcherClient::new(&client, Batcher::new("orders", "order-rows", "batcher-queue"))?;
/// let request = Request::new("order-17", serde_json::json!({"total": 4200}));
/// // Starts the batcher if it does not run.
/// orders.submit(request).await?;
/// let outcome = orders.wait("order-17", "order-17", Duration::from_secs(60)).await?;
/// println!("{outcome}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BatcherClient {
    client: Client,
    batcher: Batcher,
}

/// A request to a batcher failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatcherError {
    /// A setting is not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidBatcher),
    /// The request cannot be written by this batcher, so it was not submitted.
    #[error("request {request_id:?} was not submitted: {reason}")]
    Refused {
        /// The request.
        request_id: String,
        /// The reason.
        reason: Refusal,
    },
    /// The batcher runs with another number of shards. Shut it down and start it again to change the number.
    #[error(
        "batcher {batcher:?} runs with {running} shards, not with {asked}; shut it down first to change the number"
    )]
    OtherShards {
        /// The name.
        batcher: String,
        /// The number of the running batcher.
        running: u32,
        /// The number of this client.
        asked: u32,
    },
    /// The request was not confirmed in time. It may have been written, or be written later: the outcome is unknown.
    #[error("request {request_id:?} was not confirmed within {after:?}; its outcome is unknown")]
    ConfirmationTimeout {
        /// The request.
        request_id: String,
        /// The time.
        after: Duration,
    },
    /// The server did not accept the call, or did not answer. A submission may have arrived: submit it again.
    #[error("the server did not accept the call")]
    Server(#[source] Cause),
}

/// The result of [`BatcherClient::start`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Started {
    /// Shards that were started.
    pub started: u32,
    /// Shards that were running.
    pub running: u32,
    /// True if a running shard has other limits. They apply until the batcher is shut down.
    pub other_limits: bool,
}

/// # Construct and start
impl BatcherClient {
    /// Creates the client of a batcher. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// A setting is not allowed.
    pub fn new(client: &BatchClient, batcher: Batcher) -> Result<Self, BatcherError> {
        Self::of(client.temporal().clone(), batcher)
    }

    /// Creates the client with a connection.
    pub(crate) fn of(client: Client, batcher: Batcher) -> Result<Self, BatcherError> {
        batcher.validate()?;
        Ok(Self { client, batcher })
    }

    /// The batcher.
    pub fn batcher(&self) -> &Batcher {
        &self.batcher
    }

    /// Starts the shards that do not run. Submitting does that too, shard by shard.
    ///
    /// # Errors
    /// The batcher runs with another number of shards, or the server did not answer.
    pub async fn start(&self) -> Result<Started, BatcherError> {
        let mut found = self.check_shards().await?;
        for shard in 0..self.batcher.shards {
            let options = self.options(shard, WorkflowIdConflictPolicy::Fail);
            let starting =
                self.client
                    .start_workflow(BatcherWorkflow::run, self.input(shard), options);
            match starting.await {
                Ok(_) => found.started += 1,
                Err(WorkflowStartError::AlreadyStarted { .. }) => {}
                Err(error) => return Err(server(error)),
            }
        }
        found.running = self.batcher.shards - found.started;
        Ok(found)
    }

    /// Compares the batcher with the shards that run.
    async fn check_shards(&self) -> Result<Started, BatcherError> {
        let mut found = Started::default();
        for shard in 0..self.batcher.shards {
            let Some(running) = self.running(shard).await? else {
                continue;
            };
            if running.shards != self.batcher.shards {
                return Err(BatcherError::OtherShards {
                    batcher: self.batcher.name.clone(),
                    running: running.shards,
                    asked: self.batcher.shards,
                });
            }
            found.other_limits |= running != self.batcher;
        }
        Ok(found)
    }

    /// Returns the settings of a shard that runs. No worker is needed for that.
    async fn running(&self, shard: u32) -> Result<Option<Batcher>, BatcherError> {
        let options = WorkflowDescribeOptions::default();
        let described = match self.shard(shard).describe(options).await {
            Ok(described) => described,
            Err(WorkflowInteractionError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(server(error)),
        };
        let info = described.raw().workflow_execution_info.as_ref();
        if info.is_none_or(|info| info.status() != TemporalStatus::Running) {
            return Ok(None);
        }
        described.memo().get(protocol::MEMO_BATCHER).map_err(server)
    }

    fn shard(&self, shard: u32) -> WorkflowHandle<Client, BatcherWorkflow> {
        let id = self.batcher.workflow_id(shard);
        self.client.get_workflow_handle::<BatcherWorkflow>(id)
    }

    fn input(&self, shard: u32) -> BatcherInput {
        BatcherInput {
            version: protocol::VERSION,
            batcher: self.batcher.clone(),
            shard,
            instance: uuid::Uuid::new_v4().to_string(),
            carried: None,
        }
    }

    fn options(&self, shard: u32, conflict: WorkflowIdConflictPolicy) -> WorkflowStartOptions {
        let mut memo = MemoValues::new();
        memo.insert(protocol::MEMO_BATCHER, self.batcher.clone());
        let queue = self.batcher.task_queue.as_str();
        WorkflowStartOptions::new(queue, self.batcher.workflow_id(shard))
            .id_conflict_policy(conflict)
            .memo(memo)
            .static_summary(format!("shard {shard} of batcher {}", self.batcher.name))
            .build()
    }
}

/// # Submit
impl BatcherClient {
    /// Submits a request, and starts its shard if it does not run. Returns when the server has stored it.
    ///
    /// The shard may still refuse it, because it holds too many: [`wait`](Self::wait) tells.
    ///
    /// # Errors
    /// No shard could write the request, or the server did not accept it.
    pub async fn submit(&self, request: Request) -> Result<(), BatcherError> {
        self.submit_all(vec![request]).await
    }

    /// Submits requests, as few signals as possible. After an error, some of them may have been submitted: submit them
    /// again.
    ///
    /// # Errors
    /// No shard could write one of the requests, and none was submitted; or the server did not accept one.
    pub async fn submit_all(&self, requests: Vec<Request>) -> Result<(), BatcherError> {
        self.submit_for(requests, None).await
    }

    pub(crate) async fn submit_for(
        &self,
        requests: Vec<Request>,
        reply_to: Option<String>,
    ) -> Result<(), BatcherError> {
        let mut of_shards: BTreeMap<u32, Vec<Request>> = BTreeMap::new();
        for request in requests {
            if let Err(reason) = self.batcher.check_request(&request) {
                let request_id = request.id;
                return Err(BatcherError::Refused { request_id, reason });
            }
            let shard = self.batcher.shard_of(&request.routing_key);
            of_shards.entry(shard).or_default().push(request);
        }
        for (shard, requests) in of_shards {
            for requests in signals(requests) {
                let submission = Submission {
                    shards: self.batcher.shards,
                    reply_to: reply_to.clone(),
                    requests,
                };
                let sending = self.client.signal_with_start_workflow(
                    BatcherWorkflow::run,
                    self.input(shard),
                    BatcherWorkflow::submit,
                    submission,
                    self.options(shard, WorkflowIdConflictPolicy::UseExisting),
                );
                sending.await.map_err(server)?;
            }
        }
        Ok(())
    }

    /// Waits for the outcome of a request. A shard remembers its last 1,000 outcomes.
    ///
    /// # Errors
    /// [`ConfirmationTimeout`](BatcherError::ConfirmationTimeout), also if no worker answers.
    pub async fn wait(
        &self,
        request_id: &str,
        routing_key: &str,
        timeout: Duration,
    ) -> Result<Outcome, BatcherError> {
        let asking = async {
            let mut pause = ASK_AGAIN;
            loop {
                let asked = [(request_id, routing_key)];
                if let Ok(known) = self.outcomes(&asked).await
                    && let Some(Known::Ended(outcome)) = known.into_iter().next()
                {
                    return outcome;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ASK_SELDOM);
            }
        };
        tokio::time::timeout(timeout, asking)
            .await
            .map_err(|_| BatcherError::ConfirmationTimeout {
                request_id: request_id.to_owned(),
                after: timeout,
            })
    }

    /// Returns what the shards know of requests, each given by its id and its routing key. It needs a worker.
    ///
    /// # Errors
    /// The server or no worker answered.
    pub async fn outcomes(&self, asked: &[(&str, &str)]) -> Result<Vec<Known>, BatcherError> {
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
}

/// # Look and stop
impl BatcherClient {
    /// Returns the counts of all shards together. It needs a worker.
    ///
    /// # Errors
    /// The server or no worker answered.
    pub async fn stats(&self) -> Result<Stats, BatcherError> {
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

    /// Has all shards write what they hold, and waits until they have ended. Returns their counts. A shard that does
    /// not run counts nothing. Requests that arrive meanwhile are refused.
    ///
    /// # Errors
    /// The server did not answer, or a shard was terminated.
    pub async fn shut_down(&self) -> Result<Stats, BatcherError> {
        let mut ending = Vec::new();
        for shard in 0..self.batcher.shards {
            let handle = self.shard(shard);
            let options = WorkflowSignalOptions::default();
            match handle.signal(BatcherWorkflow::shutdown, (), options).await {
                Ok(()) => ending.push(handle),
                Err(WorkflowInteractionError::NotFound(_)) => {}
                Err(error) => return Err(server(error)),
            }
        }
        let mut stats = Stats::default();
        for shard in ending {
            let ended = shard.get_result(WorkflowGetResultOptions::default());
            stats += ended.await.map_err(server)?;
        }
        Ok(stats)
    }
}

/// Divides requests into signals.
fn signals(requests: Vec<Request>) -> Vec<Vec<Request>> {
    let mut signals: Vec<Vec<Request>> = Vec::new();
    let mut bytes = usize::MAX;
    for request in requests {
        let length = request.bytes();
        if bytes.saturating_add(length) > SIGNAL_BYTES {
            signals.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(last) = signals.last_mut() {
            last.push(request);
        }
    }
    signals
}

fn server(error: impl Into<Cause>) -> BatcherError {
    BatcherError::Server(error.into())
}
