//! Starting redrives.

use super::{
    BatchClient, BatchHandle, ProgressError, StartError,
    batch_client::{MEMO_PROCESSOR, MEMO_REDRIVE_OF},
};
use crate::{
    batch::{Batch, letter_filter::LetterFilter},
    protocol::{MEMO_ARGS, MEMO_PREPARED_ARGS},
};

/// A redrive could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedriveError {
    /// The server does not have the batch, or no longer has it. Use [`Batch::redrive`] with its processor and
    /// arguments.
    #[error(
        "the server has no batch \"{batch_id}\"; name its processor and its arguments to redrive its \
         dead letters anyway"
    )]
    NotFound {
        /// The id.
        batch_id: String,
    },
    /// The batch is a redrive. Items that a redrive cannot process remain dead letters of the original batch.
    #[error(
        "batch \"{batch_id}\" has no dead letters of its own: it redrives \"{redrive_of}\", so redrive that one"
    )]
    OfRedrive {
        /// The id.
        batch_id: String,
        /// The batch that has the dead letters.
        redrive_of: String,
    },
    /// The redrive was not started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server did not answer.
    #[error("the server did not answer")]
    Server {
        /// The server's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BatchClient {
    /// Prepares the redrive of a batch that the server still has. It uses the same processor and task queue,
    /// and the arguments as its processor [completed](crate::PageProcessor::prepare) them. Its id is that of
    /// the batch with `.redrive-` and eight random characters. Start it with [`start`](Self::start).
    ///
    /// # Errors
    /// The server does not have the batch or does not answer, or the batch is itself a redrive.
    pub async fn redrive_of(&self, filter: LetterFilter) -> Result<Batch, RedriveError> {
        let batch_id = filter.batch_id.clone();
        let handle = self.handle_unchecked(batch_id.clone());
        let description = handle.describe().await.map_err(|error| match error {
            ProgressError::NotFound { batch_id } => RedriveError::NotFound { batch_id },
            source => RedriveError::Server {
                source: source.into(),
            },
        })?;
        let memo = description.memo();
        let processor = memo.get::<String>(MEMO_PROCESSOR).ok().flatten();
        let said = |field| memo.get::<serde_json::Value>(field).ok().flatten();
        // Without completed arguments in the memo, the processor did not change them.
        let args = said(MEMO_PREPARED_ARGS).or_else(|| said(MEMO_ARGS));
        let Some(processor) = processor else {
            return Err(RedriveError::NotFound { batch_id });
        };
        if let Ok(Some(redrive_of)) = memo.get::<String>(MEMO_REDRIVE_OF) {
            return Err(RedriveError::OfRedrive {
                batch_id,
                redrive_of,
            });
        }
        let random = uuid::Uuid::new_v4().simple().to_string();
        let id = format!("{batch_id}.redrive-{}", &random[..8]);
        let batch = Batch::redrive_completed(id, processor, args.unwrap_or_default(), filter);
        Ok(batch.task_queue(description.task_queue()))
    }

    /// Retries dead letters of a batch, as a new batch with the currently deployed code.
    ///
    /// A letter of a page that fails again is split, and its parts may be tried again in the same redrive. Set
    /// [`LetterFilter::until`] to the present time to keep them for the next one.
    ///
    /// # Errors
    /// The server does not have the batch, or does not start the redrive.
    pub async fn redrive(&self, filter: LetterFilter) -> Result<BatchHandle, RedriveError> {
        let batch = self.redrive_of(filter).await?;
        Ok(self.start(&batch).await?)
    }
}
