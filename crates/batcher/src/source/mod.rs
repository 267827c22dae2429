//! Feeding a batcher from a queue.

mod memory;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod table;

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use temporal_batch::PageError;

use crate::{
    client::{BatcherClient, BatcherError},
    protocol::Known,
    request::{Outcome, Request},
};

pub use memory::MemorySource;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub use table::{QueueDatabase, TableSource};

/// Requests that are taken from the source at once.
const TAKEN: usize = 500;
/// Wait before the source is asked again that had nothing, and between two looks at outcomes.
const PAUSE: Duration = Duration::from_millis(250);
/// Time after which requests whose outcome no shard knows are submitted again. They may have been submitted to a shard
/// that was terminated.
const SUBMIT_AGAIN: Duration = Duration::from_secs(60);

/// A queue whose requests are fed to a batcher.
///
/// Requests are [taken](Self::take), submitted, and [settled](Taken::settle) when the batcher has written them, has stored
/// them as dead letters, or can never write them. A request that is not settled must be taken again later: the loss of a feeder loses nothing,
/// and a request that was fed twice is written once.
///
/// A number in the payload of a row is read as a 64-bit integer or a 64-bit floating-point number: write longer ones as
/// texts.
///
/// Two sources come with this crate: [`TableSource`] for a table in PostgreSQL, MySQL or MariaDB, and [`MemorySource`].
/// `docs/batcher.md` says how to write one for a Redis stream or for SQS.
#[async_trait]
pub trait RequestSource: Send {
    /// Takes up to `limit` requests, which no other feeder takes meanwhile. An empty result means that there is nothing
    /// now.
    ///
    /// # Errors
    /// A retryable error is tried again; any other one ends the feeding.
    async fn take(&mut self, limit: usize) -> Result<Box<dyn Taken>, PageError>;
}

/// Requests that were taken from a source. Dropping them gives them back.
#[async_trait]
pub trait Taken: Send {
    /// The requests.
    fn requests(&self) -> &[Request];

    /// The entries that were taken and cannot be read as requests. [`settle`](Self::settle) marks them, so that they are not
    /// taken again. Most sources have no such entries.
    fn unreadable(&self) -> &[Unreadable] {
        &[]
    }

    /// Settles the requests, each as `settlements` says, in the order of [`requests`](Self::requests).
    ///
    /// # Errors
    /// The source did not confirm it. The requests may be taken again.
    async fn settle(self: Box<Self>, settlements: &[Settlement]) -> Result<(), PageError>;
}

/// The way in which a source deals with a request that was taken from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The request is written or a dead letter: it is removed from the source.
    Remove,
    /// The request is taken again later.
    GiveBack,
    /// No batcher can write the request, for this reason. The source keeps it with the reason, and does not give it out
    /// again.
    Reject(String),
}

/// A record of a source that is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreadable {
    /// The id of the record, for the log.
    pub id: String,
    /// The reason.
    pub reason: String,
}

impl Unreadable {
    /// Names a record and the reason why it is no request.
    pub fn new(id: impl Into<String>, reason: impl Into<String>) -> Self {
        let (id, reason) = (id.into(), reason.into());
        Self { id, reason }
    }
}

/// The counts of a feeder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fed {
    /// Requests that are written.
    pub written: u64,
    /// Requests that are dead letters.
    pub failed: u64,
    /// Times that a request was given back because the batcher refused it.
    pub refused: u64,
    /// Records of the source that no batcher can write: they are no requests, too large, or their ids are not valid. Each is
    /// logged, and marked in the source.
    pub rejected: u64,
}

/// The feeding of a batcher ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The source has an error that does not pass.
    #[error("the source of requests failed: {0}")]
    Source(PageError),
    /// The batcher takes no request of this feeder, because it runs with another number of shards for instance.
    #[error(transparent)]
    Batcher(#[from] BatcherError),
}

/// Feeds a batcher until `stop` resolves. Requests that are under way then are given back, and written anyway.
///
/// # Errors
/// See [`FeedError`]. While the server or the source does not answer, it is tried again.
pub async fn feed(
    client: &BatcherClient,
    source: &mut dyn RequestSource,
    stop: impl Future<Output = ()>,
) -> Result<Fed, FeedError> {
    let mut fed = Fed::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return Ok(fed),
            fed = feed_some(client, source, &mut fed) => fed?,
        }
    }
}

/// Takes, submits and settles once.
async fn feed_some(
    client: &BatcherClient,
    source: &mut dyn RequestSource,
    fed: &mut Fed,
) -> Result<(), FeedError> {
    let taken = match source.take(TAKEN).await {
        Ok(taken) => taken,
        Err(error) if error.is_retryable() || error.is_environment() => {
            tracing::warn!(
                error = error.message(),
                "the source of requests is asked again"
            );
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        }
        Err(error) => return Err(FeedError::Source(error)),
    };
    if taken.requests().is_empty() && taken.unreadable().is_empty() {
        drop(taken);
        tokio::time::sleep(PAUSE).await;
        return Ok(());
    }
    let outcomes = outcomes(client, taken.requests()).await?;
    let settlements: Vec<_> = outcomes.iter().map(settlement).collect();
    let ids = taken.requests().iter().map(|request| &request.id);
    let rejected = ids.zip(&settlements).filter_map(|(id, settlement)| {
        let Settlement::Reject(reason) = settlement else {
            return None;
        };
        Some(Unreadable::new(id, reason))
    });
    let rejected: Vec<_> = taken.unreadable().iter().cloned().chain(rejected).collect();
    if let Err(error) = taken.settle(&settlements).await {
        tracing::warn!(
            error = error.message(),
            "requests were not settled; they are taken again"
        );
        tokio::time::sleep(PAUSE).await;
        return Ok(());
    }
    for Unreadable { id, reason } in &rejected {
        tracing::warn!(id, reason, "a record of the source was rejected");
    }
    fed.rejected += rejected.len() as u64;
    for (outcome, settlement) in outcomes.iter().zip(&settlements) {
        match (outcome, settlement) {
            (Outcome::Written | Outcome::AlreadyDone, _) => fed.written += 1,
            (Outcome::Failed { .. }, _) => fed.failed += 1,
            (Outcome::Refused { .. }, Settlement::GiveBack) => fed.refused += 1,
            (Outcome::Refused { .. } | Outcome::Pending, _) => {}
        }
    }
    if settlements.contains(&Settlement::GiveBack) {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn settlement(outcome: &Outcome) -> Settlement {
    match outcome {
        Outcome::Refused { reason } if reason.is_of_the_request() => {
            Settlement::Reject(reason.to_string())
        }
        Outcome::Pending | Outcome::Refused { .. } => Settlement::GiveBack,
        Outcome::Written | Outcome::AlreadyDone | Outcome::Failed { .. } => Settlement::Remove,
    }
}

/// Submits requests, and waits for their outcomes.
async fn outcomes(
    client: &BatcherClient,
    requests: &[Request],
) -> Result<Vec<Outcome>, BatcherError> {
    let refused = requests.iter().map(|request| {
        let reason = client.batcher().check_request(request).err()?;
        Some(Outcome::Refused { reason })
    });
    let mut outcomes: Vec<Option<Outcome>> = refused.collect();
    let mut unknown: Vec<usize> = (0..requests.len()).collect();
    unknown.retain(|at| outcomes[*at].is_none());
    if unknown.is_empty() {
        return Ok(outcomes.into_iter().flatten().collect());
    }
    loop {
        let submitted = unknown.iter().map(|at| requests[*at].clone()).collect();
        match client.submit_all(submitted).await {
            Ok(()) => {}
            Err(error @ (BatcherError::Server(_) | BatcherError::Refused { .. })) => {
                tracing::warn!(%error, "requests are submitted again");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        }
        let submitted_at = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(PAUSE).await;
            let asked: Vec<_> = unknown
                .iter()
                .map(|at| {
                    (
                        requests[*at].id.as_str(),
                        requests[*at].routing_key.as_str(),
                    )
                })
                .collect();
            let known = match client.outcomes(&asked).await {
                Ok(known) => known,
                // No worker runs, for instance.
                Err(BatcherError::Server(_)) => continue,
                Err(error) => return Err(error),
            };
            for (at, known) in unknown.iter().zip(&known) {
                if let Known::Ended(outcome) = known {
                    outcomes[*at] = Some(outcome.clone());
                }
            }
            unknown.retain(|at| outcomes[*at].is_none());
            if unknown.is_empty() {
                return Ok(outcomes.into_iter().flatten().collect());
            }
            let forgotten = known.contains(&Known::Unknown);
            if forgotten && submitted_at.elapsed() > SUBMIT_AGAIN {
                break;
            }
        }
    }
}
