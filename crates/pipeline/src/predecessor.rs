//! One batch after another: whole, or page by page.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use temporal_batch::{
    BatchClient, BatchHandle, BatchReport, Next, Outcome, Page, PageContext, PageError,
    PageProcessor, PageRange,
    errors::{InvalidBatch, ResultError},
    progress::{Phase, Progress},
};

/// The longest wait for the whole batch in one call. After it the engine calls again, so that its waits are visible.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest wait of a page, which occupies a slot.
const PATIENCE_OF_A_PAGE: Duration = Duration::from_secs(30);
/// The time between two looks at a running batch.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A batch that another one follows.
///
/// Start both batches at once, in any order. The follower waits by itself, in its workers: the wait outlives the client,
/// the workers and a continue-as-new.
///
/// | follow | call | where |
/// |---|---|---|
/// | the whole batch | [`completed`](Self::completed) | in [`prepare`](PageProcessor::prepare) |
/// | page by page | [`fetch`](Self::fetch) | in [`fetch`](PageProcessor::fetch) |
///
/// A batch that ended with failures, failed, stopped or was cancelled has not completed. Then a follower of the whole
/// batch is refused, with the outcome as the reason; a follower page by page is blocked.
#[derive(Clone)]
pub struct Predecessor {
    batch: BatchHandle,
    verified: bool,
}

/// The part of the data that a batch has finished without a gap.
enum Covered<C> {
    /// Everything up to and including this cursor.
    To(C),
    /// Everything: the batch completed.
    All,
}

impl Predecessor {
    /// Names the batch to follow. It need not have begun.
    ///
    /// # Errors
    /// The id is not allowed.
    pub fn new(client: &BatchClient, batch_id: impl Into<String>) -> Result<Self, InvalidBatch> {
        Ok(Self {
            batch: client.handle(batch_id)?,
            verified: false,
        })
    }

    /// Also asks for a check after the last page that [passed](BatchReport::is_verified).
    #[must_use]
    pub fn verified(mut self) -> Self {
        self.verified = true;
        self
    }

    /// Waits until the batch has completed. One call waits for a minute and then returns an error that the engine
    /// retries, within another minute at most. The status of the follower shows the error.
    ///
    /// # Errors
    /// A non-retryable one of type `PredecessorNotCompleted` if the batch ended in another way, which refuses the
    /// follower. A retryable one of type `PredecessorRuns` while the batch runs, has not begun or cannot be asked.
    pub async fn completed(&self) -> Result<BatchReport, PageError> {
        let id = self.batch.id();
        match tokio::time::timeout(PATIENCE, self.batch.result()).await {
            Ok(Ok(report)) => match self.flaw(&report) {
                None => Ok(report),
                Some(flaw) => Err(not_completed(id, &flaw)),
            },
            Ok(Err(ResultError::Refused { reason })) => {
                Err(not_completed(id, &format!("was refused: {reason}")))
            }
            Ok(Err(ResultError::NoReport { state })) => Err(not_completed(
                id,
                &format!("ended without a report ({state})"),
            )),
            Ok(Err(ResultError::NotFound { .. })) => Err(waits(id, "has not begun")),
            Ok(Err(error)) => Err(waits(id, &format!("cannot be asked: {error}"))),
            Err(_) => Err(waits(id, "runs")),
        }
    }

    fn flaw(&self, report: &BatchReport) -> Option<String> {
        match report.outcome {
            Outcome::Completed if self.verified && !report.is_verified() => {
                Some("completed without a check that passed".to_owned())
            }
            Outcome::Completed => None,
            outcome => Some(format!("ended as {outcome}")),
        }
    }

    /// Reads a page of what the batch has finished, and waits while there is nothing new. `read` gets the range to read
    /// and returns its page, as [`fetch`](PageProcessor::fetch) would without a predecessor. Both batches must page
    /// through the same cursors in the same order.
    ///
    /// The follower reads up to the low-water mark of the batch, so a page of the batch that fails holds the follower
    /// there until it is finished. Pages before it are not held. While the follower waits, one of its pages is in flight
    /// for up to half a minute at a time, and a pause waits for it; the page timeout must be longer.
    ///
    /// # Errors
    /// Those of `read`. An [environment](PageError::environment) error, which uses up no attempt: of type
    /// `PredecessorRuns` after half a minute without anything new or when the page is told to end, or of type
    /// `PredecessorNotCompleted` if the batch gave up a page or an item, or ended before the end of its data.
    pub async fn fetch<P, R>(
        &self,
        ctx: &PageContext<P>,
        read: impl Fn(PageRange<P::Cursor>) -> R,
    ) -> Result<Page<P::Cursor, P::Item>, PageError>
    where
        P: PageProcessor,
        R: Future<Output = Result<Page<P::Cursor, P::Item>, PageError>>,
    {
        let range = ctx.range();
        if range.end().is_some() {
            // Its successor was accepted, so the whole range was finished before.
            return read(range.clone()).await;
        }
        let nothing_new = || {
            held(
                "PredecessorRuns",
                self.batch.id(),
                "has finished nothing new",
            )
        };
        let page = tokio::time::timeout(PATIENCE_OF_A_PAGE, self.next_page(range, read));
        tokio::select! {
            page = page => page.unwrap_or_else(|_| Err(nothing_new())),
            () = ctx.cancelled() => Err(nothing_new()),
        }
    }

    async fn next_page<C, I, R>(
        &self,
        range: &PageRange<C>,
        read: impl Fn(PageRange<C>) -> R,
    ) -> Result<Page<C, I>, PageError>
    where
        C: Serialize + DeserializeOwned + Clone + PartialEq,
        R: Future<Output = Result<Page<C, I>, PageError>>,
    {
        let start = range.start().cloned();
        let mut seen = start.clone();
        loop {
            let end = match self.covered_beyond(seen.as_ref()).await? {
                Covered::To(end) => end,
                Covered::All => return read(range.clone()).await,
            };
            let page = read(PageRange::new(start.clone(), Some(end.clone()))).await?;
            if page.items().is_empty() {
                // The rows may have been deleted. What comes later has not been looked at.
                seen = Some(end);
            } else if *page.next() == Next::End {
                return Err(ends_too_early());
            } else {
                return Ok(page);
            }
        }
    }

    async fn covered_beyond<C>(&self, seen: Option<&C>) -> Result<Covered<C>, PageError>
    where
        C: DeserializeOwned + PartialEq,
    {
        loop {
            // A batch that has not begun, or whose workers are away, is waited for.
            if let Ok(progress) = self.batch.progress().await {
                match covered::<C>(&progress)? {
                    Some(Covered::To(mark)) if seen == Some(&mark) => {}
                    Some(covered) => return Ok(covered),
                    None => {}
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Reads how far a batch has come; pure. `None` before its first page is finished.
fn covered<C: DeserializeOwned>(progress: &Progress) -> Result<Option<Covered<C>>, PageError> {
    let id = &progress.batch_id;
    if progress.pages_failed > 0 || progress.items.failed > 0 {
        let flaw = "gave up pages or items";
        return Err(held("PredecessorNotCompleted", id, flaw));
    }
    let mark = progress.low_water_mark.as_ref();
    if progress.phase == Phase::Ended {
        return match progress.end_of_data {
            true => Ok(Some(Covered::All)),
            false => Err(held("PredecessorNotCompleted", id, "ended before its data")),
        };
    }
    mark.map(|mark| mark.decode().map(Covered::To)).transpose()
}

fn waits(id: &str, state: &str) -> PageError {
    PageError::retryable(format_args!("batch \"{id}\" comes first and {state}"))
        .with_type("PredecessorRuns")
}

fn not_completed(id: &str, flaw: &str) -> PageError {
    PageError::non_retryable(
        "PredecessorNotCompleted",
        format_args!(
            "batch \"{id}\" comes first and {flaw}; start this batch again once it has completed"
        ),
    )
}

fn held(error_type: &str, id: &str, state: &str) -> PageError {
    PageError::environment(format_args!("batch \"{id}\" comes first and {state}"))
        .with_type(error_type)
}

fn ends_too_early() -> PageError {
    PageError::non_retryable(
        "EndBeforePredecessor",
        "the source says that the data ends although the batch that comes first has not finished; \
         return a page with the key of its last item",
    )
}
