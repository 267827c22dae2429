//! Submitting from outside of workflows, and looking at a batcher.

mod look;
mod running;
mod shut_down;
mod submit;

use std::time::Duration;

use temporal_batch::BatchClient;
use temporalio_client::{Client, WorkflowHandle};

use crate::{
    batcher::{Batcher, InvalidBatcher},
    request::Refusal,
    workflow::BatcherWorkflow,
};

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
    /// The batcher did not take the request, so it was not submitted. After [`Refusal::Backlog`] submit it again later.
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
    /// The shards had not ended in time. They go on with what they hold.
    #[error("shard {shard} of batcher {batcher:?} had not ended within {after:?}")]
    ShutdownTimeout {
        /// The name.
        batcher: String,
        /// The first shard that had not ended.
        shard: u32,
        /// The time.
        after: Duration,
    },
    /// A shard ended before it had written what it held: it was terminated, for instance.
    #[error("shard {shard} of batcher {batcher:?} ended without writing what it held: {how}")]
    ShardLost {
        /// The name.
        batcher: String,
        /// The shard.
        shard: u32,
        /// How it ended.
        how: String,
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

    fn shard(&self, shard: u32) -> WorkflowHandle<Client, BatcherWorkflow> {
        let id = self.batcher.workflow_id(shard);
        self.client.get_workflow_handle::<BatcherWorkflow>(id)
    }
}

fn server(error: impl Into<Cause>) -> BatcherError {
    BatcherError::Server(error.into())
}
