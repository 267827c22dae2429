//! The trait that users implement: it writes a batch.

use std::sync::Arc;

use async_trait::async_trait;
use temporal_batch::{PageContext, PageError, store::DeadLetters};

use crate::{
    letters::DeadRequests,
    request::{Outcome, Request},
};

/// Writes batches of requests.
///
/// 1. A shard decides that a batch is due. A worker calls [`write`](Self::write) with all its requests.
/// 2. If `write` fails with a retryable error, it is called again with the same requests and the same
///    [`batch_key`](WriteContext::batch_key), after 0.2 s and then after waits that double up to 10 s.
/// 3. If it fails with a non-retryable error, or `max_attempts` times, the batch is split: `write` is called with each
///    half, and so on, until the requests that fail are alone.
/// 4. A request that fails alone, or that `write` reports as [`Written::Failed`], becomes a [dead
///    letter](Self::dead_letters). All others are written.
///
/// | `write` returns | then |
/// |---|---|
/// | a result for each request | the requesters are told |
/// | [`PageError::retryable`], or a database error that may pass | it is called again, see 2 |
/// | [`PageError::environment`] | it is called again for as long as it takes, and never split |
/// | [`PageError::non_retryable`], or a panic | the batch is split, see 3 |
/// | nothing within `write_timeout` | as after a retryable error |
///
/// # Exactly once
///
/// A worker may be lost after its write was committed and before it could report that. The batch is then written again,
/// by another worker and perhaps at the same time. A sink that must not have a request twice remembers request ids, in
/// the transaction of their effects: [`SqlWriter`](crate::SqlWriter) does. To other sinks, give the request id as their
/// idempotency key. `batch_key` alone is not enough, because half of a batch has another key than the batch.
///
/// ```
/// use std::sync::Arc;
/// use temporal_batch::{PageError, async_trait, store::{DeadLetters, JsonlDeadLetters}};
/// use temporal_batch_batcher::{BatchWriter, Request, WriteContext, Written};
///
/// struct Emails;
///
/// #[async_trait]
/// impl BatchWriter for Emails {
///     const NAME: &'static str = "emails";
///
///     async fn write(&self, _ctx: &WriteContext, requests: &[Request]) -> Result<Vec<Written>, PageError> {
///         // One call of the mail service for all of them, with the request ids as idempotency keys.
///         Ok(vec![Written::Now; requests.len()])
///     }
///
///     fn dead_letters(&self) -> Arc<dyn DeadLetters> {
///         Arc::new(JsonlDeadLetters::new("emails.dead.jsonl"))
///     }
/// }
/// ```
#[async_trait]
pub trait BatchWriter: Send + Sync + 'static {
    /// The name of the writer, which batchers are created with. It is stored in histories.
    const NAME: &'static str;

    /// Writes requests. Returns one result for each, in their order. They all have different ids.
    async fn write(
        &self,
        ctx: &WriteContext,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError>;

    /// Returns the store for requests that could not be written. It is the store that the commands `failures` and
    /// `redrive` read, with the batcher's name as the id of the batch and [`NAME`](Self::NAME) as the processor.
    fn dead_letters(&self) -> Arc<dyn DeadLetters>;

    /// Writes the request of a dead letter again. The letter is removed afterwards, in a transaction that is open
    /// already. The default calls [`write`](Self::write).
    async fn redrive(
        &self,
        ctx: &PageContext<DeadRequests<Self>>,
        request: &Request,
    ) -> Result<Written, PageError>
    where
        Self: Sized,
    {
        let context = WriteContext {
            batch_key: format!("{}/redrive/{}", ctx.batch_id(), request.id),
            batcher: ctx.batch_id().to_owned(),
            attempt: ctx.attempt(),
        };
        let requests = std::slice::from_ref(request);
        one(self.write(&context, requests).await?)
    }
}

/// Returns the only result.
pub(crate) fn one(written: Vec<Written>) -> Result<Written, PageError> {
    let [written]: [Written; 1] = written
        .try_into()
        .map_err(|all: Vec<_>| wrong_count(all.len(), 1))?;
    Ok(written)
}

/// A writer that reports too much or too little is a defect of its code, so no request is blamed for it.
pub(crate) fn wrong_count(results: usize, requests: usize) -> PageError {
    PageError::environment(format_args!(
        "the writer returned {results} results for {requests} requests"
    ))
    .with_type("WrongResultCount")
}

/// What the writer knows about a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteContext {
    /// The key of the batch, or of the part of a batch that was split. It is the same at each attempt, over lost
    /// workers and continue-as-new.
    pub batch_key: String,
    /// The name of the batcher.
    pub batcher: String,
    /// The attempt, from 1.
    pub attempt: u32,
}

impl WriteContext {
    /// Creates the context of a write, for tests of a writer.
    pub fn new(batch_key: impl Into<String>, batcher: impl Into<String>, attempt: u32) -> Self {
        Self {
            batch_key: batch_key.into(),
            batcher: batcher.into(),
            attempt,
        }
    }
}

/// What a writer did with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// The request was written.
    Now,
    /// The sink had the request already, so it was not written again.
    Before,
    /// The request cannot be written, whatever is repeated. The others of its batch were written.
    Failed {
        /// A name for this kind of error.
        error_type: String,
        /// The error.
        message: String,
    },
}

impl From<&Written> for Outcome {
    fn from(written: &Written) -> Self {
        match written {
            Written::Now => Self::Written,
            Written::Before => Self::AlreadyDone,
            Written::Failed {
                error_type,
                message,
            } => Self::failed(error_type, message),
        }
    }
}

/// A writer of any type.
#[async_trait]
pub(crate) trait AnyWriter: Send + Sync {
    async fn write(
        &self,
        ctx: &WriteContext,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError>;

    fn dead_letters(&self) -> Arc<dyn DeadLetters>;
}

#[async_trait]
impl<W: BatchWriter> AnyWriter for W {
    async fn write(
        &self,
        ctx: &WriteContext,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError> {
        BatchWriter::write(self, ctx, requests).await
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        BatchWriter::dead_letters(self)
    }
}
