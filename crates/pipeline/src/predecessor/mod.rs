//! One batch after another: whole, or range by range.

mod coverage;
mod errors;
mod watch;

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use temporal_batch::{
    BatchClient, BatchReport, Next, Outcome, Page, PageContext, PageError, PageProcessor,
    PageRange, SkipAhead,
    errors::{InvalidBatch, ResultError},
    store::DeadLetters,
};

use coverage::{Coverage, GapState, Place, check_order};
use watch::Watch;

/// The longest wait for the whole batch in one call. After it the engine calls again, so that its waits are visible.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest wait of a page, which occupies a slot.
const PATIENCE_OF_A_PAGE: Duration = Duration::from_secs(30);
/// The parts into which a remainder that is shorter than a stride is cut, so that it is not left to one worker.
const PARTS_OF_A_REMAINDER: u32 = 4;

/// A batch that another one follows.
///
/// Start both batches at once, in any order. The follower waits by itself, in its workers: the wait outlives the client,
/// the workers and a continue-as-new. Only a new run of a batch that has ended must begin before its follower, which would
/// take the earlier run for it.
///
/// | follow | call | where |
/// |---|---|---|
/// | the whole batch | [`completed`](Self::completed) | in [`prepare`](PageProcessor::prepare) |
/// | range by range | [`fetch`](Self::fetch) and [`skip_ahead`](Self::skip_ahead) | in the methods of these names |
///
/// A batch that ended with failures, failed, stopped or was cancelled has not completed. Then a follower of the whole
/// batch is refused, with the outcome as the reason. A follower range by range leaves out the ranges that are not
/// finished until they are.
///
/// Keep one value for each batch that is followed: it remembers the ranges that were finished at the last look.
#[derive(Clone)]
pub struct Predecessor {
    watch: Watch,
    verified: bool,
}

/// # Construct
impl Predecessor {
    /// Names the batch to follow. It need not have begun.
    ///
    /// # Errors
    /// The id is not allowed.
    pub fn new(client: &BatchClient, batch_id: impl Into<String>) -> Result<Self, InvalidBatch> {
        Ok(Self {
            watch: Watch::new(client.handle(batch_id)?),
            verified: false,
        })
    }

    /// Names the store of the dead letters of the batch: its ledger, or its file. It tells a follower range by range
    /// which records were given up, and which of them a redrive has done since. The default is that of a batch without
    /// dead letters.
    #[must_use]
    pub fn letters(mut self, store: Arc<dyn DeadLetters>) -> Self {
        self.watch.letters = Some(store);
        self
    }

    /// Also asks for a check after the last page that [passed](BatchReport::is_verified).
    #[must_use]
    pub fn verified(mut self) -> Self {
        self.verified = true;
        self
    }
}

/// # Follow the whole batch
impl Predecessor {
    /// Waits until the batch has completed. One call waits for a minute and then returns an error that the engine
    /// retries, within another minute at most. The status of the follower shows the error.
    ///
    /// # Errors
    /// A non-retryable one of type `PredecessorNotCompleted` if the batch ended in another way, which refuses the
    /// follower. A retryable one of type `PredecessorRuns` while the batch runs, has not begun or cannot be asked.
    pub async fn completed(&self) -> Result<BatchReport, PageError> {
        let id = self.id();
        match tokio::time::timeout(PATIENCE, self.watch.batch.result()).await {
            Ok(Ok(report)) => match self.flaw(&report) {
                None => Ok(report),
                Some(flaw) => Err(errors::refused(id, &flaw)),
            },
            Ok(Err(ResultError::Refused { reason })) => {
                Err(errors::refused(id, &format!("was refused: {reason}")))
            }
            Ok(Err(ResultError::NoReport { state })) => Err(errors::refused(
                id,
                &format!("ended without a report ({state})"),
            )),
            Ok(Err(ResultError::NotFound { .. })) => Err(errors::waits(id, "has not begun")),
            Ok(Err(error)) => Err(errors::waits(id, &format!("cannot be asked: {error}"))),
            Err(_) => Err(errors::waits(id, "runs")),
        }
    }

    fn id(&self) -> &str {
        self.watch.batch.id()
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
}

/// # Follow range by range
///
/// Both batches must page through the same cursors in the same order, and the cursors must compare as the source orders
/// them: a follower has to know whether a range of the batch lies before or behind its own page. A page whose cursors are
/// out of order is refused.
impl Predecessor {
    /// Reads a page of what the batch has finished, and waits while there is nothing new. `read` gets the range to read
    /// and returns its page, as [`fetch`](PageProcessor::fetch) would without a predecessor.
    ///
    /// While the follower waits, one of its pages is in flight for up to half a minute at a time, and a pause waits for
    /// it; the page timeout must be longer.
    ///
    /// # Errors
    /// Those of `read`, and for a page that the batch has not finished:
    ///
    /// | type | the batch | the page |
    /// |---|---|---|
    /// | `PredecessorRuns` | works on the range, or has finished nothing new for half a minute | [environment](PageError::environment): waits and uses up no attempt |
    /// | `PredecessorNotCompleted` | ended before the range, or gave up something whose place is not known | the same |
    /// | `PredecessorGaveUp` | gave up the range or a record in it | retryable: waits for a redrive as long as the retry policy of the follower says, and is then given up and listed |
    pub async fn fetch<P, R>(
        &self,
        ctx: &PageContext<P>,
        read: impl Fn(PageRange<P::Cursor>) -> R,
    ) -> Result<Page<P::Cursor, P::Item>, PageError>
    where
        P: PageProcessor,
        P::Cursor: Ord,
        R: Future<Output = Result<Page<P::Cursor, P::Item>, PageError>>,
    {
        let range = ctx.range();
        match range.end() {
            Some(_) => self.closed_page(ctx.batch_run(), range, read).await,
            None => {
                let page = self.next_page(ctx.batch_run(), range.start(), read);
                self.patiently(ctx, page).await
            }
        }
    }

    /// Finds the end of the next stride in what the batch has finished, or the end of a range that the batch fails to
    /// finish: the follower holds that range by itself and goes on behind it. `skip` jumps in the range that it gets, as
    /// [`skip_ahead`](PageProcessor::skip_ahead) would without a predecessor; a source that cannot jump returns
    /// [`SkipAhead::Unsupported`].
    ///
    /// # Errors
    /// Those of `skip`, and those of [`fetch`](Self::fetch) if there is nothing new.
    pub async fn skip_ahead<P, R>(
        &self,
        ctx: &PageContext<P>,
        pages: u32,
        skip: impl Fn(PageRange<P::Cursor>, u32) -> R,
    ) -> Result<SkipAhead<P::Cursor>, PageError>
    where
        P: PageProcessor,
        P::Cursor: Ord,
        R: Future<Output = Result<SkipAhead<P::Cursor>, PageError>>,
    {
        let run = ctx.batch_run();
        // Starts that were found before must not wait for this one.
        let waits = !self.watch.goes_on(run, ctx.range().start());
        let found = self.next_stride(run, ctx.range(), pages, waits, skip);
        let found = self.patiently(ctx, found).await?;
        if let SkipAhead::To(cursor) = &found {
            self.watch.has_found(run, cursor);
        }
        Ok(found)
    }

    /// Limits a wait, which also ends when the page is told to end.
    async fn patiently<P: PageProcessor, T>(
        &self,
        ctx: &PageContext<P>,
        work: impl Future<Output = Result<T, PageError>>,
    ) -> Result<T, PageError> {
        let nothing_new = || errors::runs(self.id(), &self.watch.nothing_new(ctx.batch_run()));
        let work = tokio::time::timeout(PATIENCE_OF_A_PAGE, work);
        tokio::select! {
            done = work => done.unwrap_or_else(|_| Err(nothing_new())),
            () = ctx.cancelled() => Err(nothing_new()),
        }
    }

    /// Reads a page in a closed range, up to the first range that is not finished.
    async fn closed_page<C, I, R>(
        &self,
        run: &str,
        range: &PageRange<C>,
        read: impl Fn(PageRange<C>) -> R,
    ) -> Result<Page<C, I>, PageError>
    where
        C: Serialize + DeserializeOwned + Clone + Ord,
        R: Future<Output = Result<Page<C, I>, PageError>>,
    {
        let (start, end) = (range.start(), range.end());
        let reaches = |to: &Option<C>| to.is_none() || to.as_ref() >= end;
        let known = self.watch.known(run);
        let mut place = known.map(|known| known.after(start)).transpose()?;
        if !matches!(&place, Some(Place::Finished(to)) if reaches(to)) {
            place = Some(self.looked(run).await?.after(start)?);
        }
        match place {
            Some(Place::Open(_, state)) => Err(errors::open(self.id(), state)),
            Some(Place::Finished(Some(to))) if !reaches(&Some(to.clone())) => {
                let page = read(PageRange::new(start.cloned(), Some(to.clone()))).await?;
                match page.next() {
                    // Nothing is left before the range that is not finished.
                    _ if page.items().is_empty() => Err(self.open_at(run, &to).await?),
                    Next::End => Err(errors::ends_too_early()),
                    Next::At(next) => check_order(start, next, Some(&to)).map(|()| page),
                }
            }
            _ => {
                let page = read(range.clone()).await?;
                if let Next::At(next) = page.next() {
                    check_order(start, next, end)?;
                }
                Ok(page)
            }
        }
    }

    async fn looked(&self, run: &str) -> Result<Arc<Coverage>, PageError> {
        let looked = self.watch.look(run).await?;
        looked.ok_or_else(|| errors::runs(self.id(), &self.watch.nothing_new(run)))
    }

    /// Returns the error of the range that begins at a cursor.
    async fn open_at<C>(&self, run: &str, at: &C) -> Result<PageError, PageError>
    where
        C: DeserializeOwned + Ord,
    {
        let state = match self.looked(run).await?.after(Some(at))? {
            Place::Open(_, state) => state,
            Place::Finished(_) => GapState::AtWork,
        };
        Ok(errors::open(self.id(), state))
    }

    /// Reads the page after a cursor, whose end is not known.
    async fn next_page<C, I, R>(
        &self,
        run: &str,
        start: Option<&C>,
        read: impl Fn(PageRange<C>) -> R,
    ) -> Result<Page<C, I>, PageError>
    where
        C: Serialize + DeserializeOwned + Clone + Ord,
        R: Future<Output = Result<Page<C, I>, PageError>>,
    {
        let mut empty_to = None;
        loop {
            let Some(coverage) = self.watch.look(run).await? else {
                self.watch.rest().await;
                continue;
            };
            match coverage.after(start)? {
                Place::Finished(None) => return read(PageRange::new(start.cloned(), None)).await,
                Place::Finished(Some(to)) if empty_to.as_ref() != Some(&to) => {
                    let page = read(PageRange::new(start.cloned(), Some(to.clone()))).await?;
                    match page.next() {
                        // The rows may have been deleted. What comes later has not been looked at.
                        _ if page.items().is_empty() => empty_to = Some(to),
                        Next::End => return Err(errors::ends_too_early()),
                        Next::At(next) => {
                            check_order(start, next, Some(&to))?;
                            return Ok(page);
                        }
                    }
                    continue;
                }
                Place::Finished(Some(to)) => self.stays_open(&coverage, &to)?,
                Place::Open(Some(_), state) if state != GapState::AtWork => {
                    return Err(errors::open(self.id(), state));
                }
                Place::Open(None, state @ (GapState::Ended | GapState::GaveUp)) => {
                    return Err(errors::open(self.id(), state));
                }
                Place::Open(..) => {}
            }
            self.watch.rest().await;
        }
    }

    /// Fails if the range that begins at a cursor will not soon be finished, so that it is cut off by the next attempt.
    fn stays_open<C: DeserializeOwned + Ord>(
        &self,
        coverage: &Coverage,
        at: &C,
    ) -> Result<(), PageError> {
        match coverage.after(Some(at))? {
            Place::Open(Some(_), state) if state != GapState::AtWork => {
                Err(errors::open(self.id(), state))
            }
            Place::Open(None, GapState::GaveUp) => Err(errors::open(self.id(), GapState::GaveUp)),
            _ => Ok(()),
        }
    }

    /// Finds the end of the stride after the start of a range.
    async fn next_stride<C, R>(
        &self,
        run: &str,
        range: &PageRange<C>,
        pages: u32,
        waits: bool,
        skip: impl Fn(PageRange<C>, u32) -> R,
    ) -> Result<SkipAhead<C>, PageError>
    where
        C: DeserializeOwned + Clone + Ord,
        R: Future<Output = Result<SkipAhead<C>, PageError>>,
    {
        let start = range.start();
        // A partition ends there, and the engine adds that end by itself.
        let within = |to: C| match range.end().is_some_and(|end| to >= *end) {
            true => SkipAhead::PastEnd,
            false => SkipAhead::To(to),
        };
        loop {
            let known = self.watch.known(run).filter(|_| !waits);
            let looked = match known {
                Some(known) => Some(known),
                None => self.watch.look(run).await?,
            };
            let Some(coverage) = looked else {
                self.watch.rest().await;
                continue;
            };
            match coverage.after(start)? {
                Place::Finished(None) => return skip(range.clone(), pages).await,
                Place::Finished(Some(to)) => {
                    let finished = PageRange::new(start.cloned(), Some(to.clone()));
                    for pages in [pages, pages.div_ceil(PARTS_OF_A_REMAINDER)] {
                        match skip(finished.clone(), pages).await? {
                            SkipAhead::To(cursor) => {
                                check_order(start, &cursor, Some(&to))?;
                                return Ok(within(cursor));
                            }
                            SkipAhead::Unsupported => return Ok(SkipAhead::Unsupported),
                            SkipAhead::PastEnd => {}
                        }
                    }
                    return Ok(within(to));
                }
                Place::Open(Some(to), state) if state != GapState::AtWork => return Ok(within(to)),
                // Only `fetch` can say why.
                Place::Open(None, GapState::Ended | GapState::GaveUp) => {
                    return Ok(SkipAhead::PastEnd);
                }
                Place::Open(..) if !waits => return Ok(SkipAhead::PastEnd),
                Place::Open(..) => self.watch.rest().await,
            }
        }
    }
}
