//! One page: reading, cutting, applying.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::{
    Halt, PageEvent,
    given_up_log::item_given_up,
    runner::{Running, limited},
    stores::{FENCED_OFF, PageSlice},
};
use crate::{
    base::{
        error::{Blame, PageError, truncate},
        time::Timestamp,
    },
    batch::partition_spec::scope_of,
    page::{Page, claim::ClaimOutcome, keys::Keys, range::PageRange, token::PageToken},
    processor::{
        PageProcessor, SkipAhead,
        context::{PageContext, PageTokens},
        item::{ItemWork, Permits},
        report::{PageReport, count_reason},
        store::dead_letter::{DeadLetter, position_name},
    },
    progress::{ItemCounts, failures::FailedItem},
    protocol::{StrideReport, Timing},
};

/// Maximum number of failed items that the report of a stride describes.
const MAX_DESCRIBED: usize = 20;
const MAX_KEY_CHARS: usize = 60;
const MAX_DESCRIPTION_CHARS: usize = 120;

/// A page that was read: its items and its end.
pub(super) struct Cut<P: PageProcessor> {
    pub items: Vec<P::Item>,
    pub keys: Keys<P::Cursor>,
    /// The end of the page. `None` if the end of the data has no cursor.
    pub to: Option<PageToken>,
    /// True if the data ends with the page.
    pub ends_data: bool,
}

/// The result of applying a page, or a part of one.
#[derive(Default)]
pub(super) struct Applied {
    pub items: ItemCounts,
    pub done: PageReport,
    /// The output of the page.
    pub output: Value,
}

/// The working time of a page, without waits.
pub(super) struct PageClock {
    limit: Duration,
    busy: Duration,
}

impl PageClock {
    /// Starts the clock of a page that may take `limit`.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            busy: Duration::ZERO,
        }
    }

    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.busy)
    }
}

impl<P: PageProcessor> Running<'_, P> {
    /// Runs one page. `None` if there was nothing to process.
    pub async fn run_page(
        &mut self,
        report: &mut StrideReport,
    ) -> Result<Option<ItemCounts>, Halt> {
        let mut clock = PageClock::new(self.order.page_timeout);
        let cut = self.begin_page(&mut clock).await.map_err(|mut halt| {
            if let Halt::Failed(failure) = &mut halt
                && !self.may_repeat()
            {
                failure.attempt.unread = failure.attempt.retryable;
            }
            halt
        })?;
        let (page_end, last_page) = (cut.to.clone(), cut.ends_data);
        self.host.page_ends(page_end.as_ref(), last_page);
        let applied = self.apply(
            cut.items,
            &cut.keys,
            (page_end.clone(), last_page),
            1,
            &mut clock,
        );
        let Applied {
            items,
            done,
            output,
        } = applied.await.map_err(|mut halt| {
            if let Halt::Failed(failure) = &mut halt {
                failure.attempt.page_end.clone_from(&page_end);
                failure.attempt.last_page = last_page;
                failure.can_be_split = cut.keys.can_be_split();
                if self.runs_once() {
                    failure.spend();
                }
            }
            halt
        })?;
        self.finished(report, &items, &done, &cut.keys);
        self.put_out(report, output);
        if items.total() > 0 {
            report.pages += 1;
            self.count_time(&mut report.timing, items.total(), clock.busy);
        }
        self.advance(report, page_end, last_page);
        Ok((items.total() > 0).then_some(items))
    }

    /// Does everything that comes before processing a page.
    async fn begin_page(&mut self, clock: &mut PageClock) -> Result<Cut<P>, Halt> {
        let cut = self.cut_page(clock).await?;
        if !self.stores.is_ledger() {
            // Without a ledger there is no fence, so the host is asked whether this attempt is still current. A
            // worker that was suspended past its heartbeat timeout must not process the page.
            self.host.still_counts().await?;
        }
        Ok(cut)
    }

    /// Adds the time of a finished page.
    fn count_time(&mut self, timing: &mut Timing, items: u64, busy: Duration) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // Pages shorter than a millisecond add up, too.
        self.busy += busy;
        timing.pages += 1;
        timing.items += items;
        timing.busy_ms = millis(self.busy);
        if items == u64::from(timing.page_size) {
            self.busy_full += busy;
            timing.full_pages += 1;
            timing.full_busy_ms = millis(self.busy_full);
            timing.full_slowest_ms = timing.full_slowest_ms.max(millis(busy));
        }
    }

    /// Reads the next page and makes sure that the start of the page after it is known to the controller.
    async fn cut_page(&mut self, clock: &mut PageClock) -> Result<Cut<P>, Halt> {
        let (page, next) = loop {
            let page = self.fetch(self.range()?, clock).await?;
            let next = page.next_token().map_err(|e| self.failed(&e))?;
            // A partition always ends at its given end, whatever the source still has.
            let next = match self.end {
                None => next.or_else(|| self.order.last.clone()),
                Some(_) => next,
            };
            // A page that a lost worker may have processed must have a known end.
            let announce = self.end.is_none() && (self.pages_left == 1 || self.runs_once());
            match &next {
                Some(token) if announce => self.announce(vec![token.clone()]).await?,
                _ => break (page, next),
            }
            if self.end == next {
                break (page, next);
            }
            // The cut of another attempt was accepted: the page is read again, inside that cut.
        };
        self.check_cut(page.is_ordered(), next.as_ref()).await?;
        let ends_data = next.is_none() && self.end.is_none();
        let cut = self.cut(page, next.or_else(|| self.end.clone()), ends_data)?;
        if cut.ends_data && self.runs_once() && !cut.items.is_empty() {
            self.host.announce(&[]).await?;
        }
        Ok(cut)
    }

    /// Cuts a page that ends at `to`. A bounded range without more items is finished up to its bound.
    pub fn cut(
        &self,
        page: Page<P::Cursor, P::Item>,
        to: Option<PageToken>,
        ends_data: bool,
    ) -> Result<Cut<P>, Halt> {
        let to = match to {
            Some(token) => Some(token),
            None => {
                let last_key = page.last_key().map(PageToken::encode).transpose();
                last_key.map_err(|e| self.failed(&e))?
            }
        };
        let (items, keys) = page.into_parts();
        Ok(Cut {
            items,
            keys,
            to,
            ends_data,
        })
    }

    /// Checks the end of a closed range of opaque tokens, which is reached only when a token equals it. If the
    /// source cuts its pages differently this time, the loop would pass the end and run into the pages of other
    /// strides.
    async fn check_cut(&mut self, ordered: bool, next: Option<&PageToken>) -> Result<(), Halt> {
        let (Some(end), Some(next)) = (self.end.clone(), next) else {
            return Ok(());
        };
        if ordered || end == *next {
            return Ok(());
        }
        if self.pages_left > 1
            && matches!(
                self.skip_ahead(self.range()?, 1).await?,
                Ok(SkipAhead::Unsupported)
            )
        {
            self.pages_left = 1;
        }
        if self.pages_left > 1 {
            return Ok(());
        }
        Err(self.failed(
            &PageError::retryable(format_args!(
                "the page was to end at {end}, where the next one starts, but now ends at {next}"
            ))
            .with_type("PageEndMoved"),
        ))
    }

    pub async fn fetch(
        &self,
        range: PageRange<P::Cursor>,
        clock: &mut PageClock,
    ) -> Result<Page<P::Cursor, P::Item>, Halt> {
        self.fetch_with(self.context(range, None), clock).await
    }

    /// Reads the range and makes the source return the key of each item.
    pub async fn fetch_keys(
        &self,
        range: PageRange<P::Cursor>,
        clock: &mut PageClock,
    ) -> Result<Page<P::Cursor, P::Item>, Halt> {
        let mut ctx = self.context(range, None);
        ctx.with_keys = true;
        self.fetch_with(ctx, clock).await
    }

    async fn fetch_with(
        &self,
        ctx: PageContext<P>,
        clock: &mut PageClock,
    ) -> Result<Page<P::Cursor, P::Item>, Halt> {
        let started = Instant::now();
        let fetching = self.guarded(self.processor.fetch(&ctx), clock.left());
        let page = self.unless_stopped_now(fetching).await;
        let took = started.elapsed();
        clock.busy += took;
        self.host.observe(PageEvent::Fetched { took });
        let page = page?.map_err(|error| self.failed(&self.of_page(error)))?;
        page.check_within(ctx.range())
            .map_err(|e| self.failed(&e))?;
        if self.order.last.is_some() {
            // A jump of the source may have gone past the end of the partition.
            let partition = self.range_to(self.order.last.as_ref())?;
            page.check_within(&partition).map_err(|e| self.failed(&e))?;
        }
        Ok(page)
    }

    /// Processes the items of a page, or of a part of one, that ends at `to`, and counts `pages` finished
    /// pages. If it fails or is told to stop, the stride is unchanged.
    pub async fn apply(
        &self,
        items: Vec<P::Item>,
        keys: &Keys<P::Cursor>,
        (to, ends_data): (Option<PageToken>, bool),
        pages: u32,
        clock: &mut PageClock,
    ) -> Result<Applied, Halt> {
        let nothing = items.is_empty();
        let finishes = ends_data || (self.end.is_some() && to == self.end);
        if nothing && (finishes || !self.stores.is_ledger()) {
            return Ok(Applied::default());
        }
        if self.settings.permits == Permits::PerPage {
            Result::from(self.host.rate_permits(items.len()).await)?;
        }
        let told = *self.told.borrow();
        if told.stop_now || told.gone {
            return Err(Halt::Stopped);
        }
        let part = PageSlice {
            from: self.at.as_ref(),
            to: to.as_ref(),
            ends_data,
            pages: if nothing { 0 } else { pages },
            pages_failed: 0,
        };
        let started = Instant::now();
        let done = self.done_before(to.as_ref(), items.len());
        let work = Arc::new(self.item_work(clock.left()).of_page(items.len(), done));
        let applied = self.apply_part(items, keys, part, &work).await;
        let took = started.elapsed().saturating_sub(work.clock().waited());
        clock.busy += took;
        self.host.observe(PageEvent::Processed { took });
        let unpaid = applied
            .as_ref()
            .map_or(0, |done| work.unpaid(done.items.processed));
        if unpaid > 0 {
            // A page that is done stays done, even if the stride is told to stop here.
            let _ = self.host.rate_permits(unpaid as usize).await;
        }
        applied
    }

    /// Returns the number of items that an earlier attempt did before its worker was lost. It counts only if the page is
    /// the same. With a ledger it is 0, because the transaction of that attempt was rolled back.
    fn done_before(&self, to: Option<&PageToken>, items: usize) -> usize {
        let lost = self.host.lost_page().filter(|_| !self.stores.is_ledger());
        let same = lost.filter(|page| page.start == self.at && page.end.as_ref() == to);
        let mark = same.and_then(|page| page.items);
        let mark = mark.filter(|mark| mark.of == items as u64 && mark.done <= mark.of);
        mark.map_or(0, |mark| usize::try_from(mark.done).unwrap_or_default())
    }

    async fn apply_part(
        &self,
        items: Vec<P::Item>,
        keys: &Keys<P::Cursor>,
        part: PageSlice<'_>,
        item_work: &Arc<ItemWork>,
    ) -> Result<Applied, Halt> {
        let open_page = limited(self.stores.begin(part), self.order.page_timeout).await;
        if let Err(error) = &open_page
            && error.error_type() == FENCED_OFF
        {
            self.claimed(ClaimOutcome::Fenced);
        }
        // No statement of the page was sent yet.
        let failed = |error: PageError| self.failed(&error);
        let open_page = open_page.map_err(|error| failed(error.blaming(Blame::Moment)))?;
        let mut done = PageReport::all_processed();
        let mut counts = ItemCounts::default();
        let mut letters = Vec::new();
        let mut output = Value::Null;
        if !items.is_empty() {
            let count = items.len();
            let page = PageTokens {
                start: self.at.clone(),
                end: part.to.cloned(),
            };
            let mut ctx = self.context(self.range()?, Some(page));
            ctx.bounds = Some(self.range_to(part.to)?);
            ctx.transaction = open_page.shared();
            ctx.items = Arc::clone(item_work);
            let work = self.processor.process(&ctx, items);
            let work = self.guarded_by(item_work.clock(), work);
            let worked = if self.stores.is_ledger() && self.may_repeat() {
                // Dropping the transaction rolls back all work in it.
                self.unless_stopped_now(work).await?
            } else {
                work.await
            };
            done = worked.map_err(|error| failed(self.of_page(error)))?;
            done.redact(|message| self.processor.redact(message));
            counts = done.counts(count).map_err(failed)?;
            open_page.check_used(&counts).map_err(failed)?;
            if let Some(reducer) = &self.reducer {
                let page = reducer.page(done.outputs().map_err(failed)?);
                output = page.map_err(|e| failed(e.of_page()))?;
            }
            if self.stores.keeps_letters() {
                let page = self.letter(self.at.clone(), part.to.cloned(), "", "");
                let failures = done.failures().iter();
                letters = failures.map(|f| page.of_item(keys, f)).collect();
            }
        }
        let finishing = self.stores.finish(open_page, &counts, &letters, &output);
        let finished = limited(finishing, self.order.page_timeout).await;
        self.claimed(match finished {
            Ok(()) => ClaimOutcome::Committed,
            Err(_) => ClaimOutcome::Failed,
        });
        finished.map_err(failed)?;
        self.kept(&letters);
        Ok(Applied {
            items: counts,
            done,
            output,
        })
    }

    fn claimed(&self, outcome: ClaimOutcome) {
        if self.stores.is_ledger() {
            self.host.observe(PageEvent::Claimed(outcome));
        }
    }

    pub fn kept(&self, letters: &[DeadLetter]) {
        if !letters.is_empty() {
            let letters = letters.len() as u64;
            self.host.observe(PageEvent::DeadLetters { letters });
        }
    }

    /// Adds the outcomes of items to the report of the stride.
    pub fn finished(
        &self,
        report: &mut StrideReport,
        items: &ItemCounts,
        done: &PageReport,
        keys: &Keys<P::Cursor>,
    ) {
        report.items += *items;
        if self.stores.keeps_letters() {
            report.dead_letters += done.failed();
        }
        for (reason, items) in done.skip_reasons() {
            count_reason(&mut report.skip_reasons, reason, *items);
        }
        for failure in done.failures() {
            let key = keys.name(failure.position);
            let key = key.unwrap_or_else(|| position_name(failure.position));
            self.describe(report, &key, &failure.error_type, &failure.message);
        }
    }

    /// Adds the output of a page, or of a part of one.
    pub fn put_out(&self, report: &mut StrideReport, output: Value) {
        if let Some(reducer) = &self.reducer {
            reducer.add(report.output.get_or_insert_default(), output);
        }
    }

    pub fn describe(&self, report: &mut StrideReport, key: &str, error_type: &str, message: &str) {
        // A key may be personal data. The full key is in the dead letter.
        let shown = truncate(key, 24);
        let kept = self.stores.keeps_letters();
        match kept {
            true => item_given_up(&shown, error_type, message),
            // Without dead letters, this line is the only record of items beyond the first ones.
            false => tracing::warn!(key = shown, error_type, message, "item given up"),
        }
        if report.failed_items.len() < MAX_DESCRIBED {
            report.failed_items.push(FailedItem {
                key: truncate(key, MAX_KEY_CHARS),
                error_type: error_type.to_owned(),
                message: truncate(message, MAX_DESCRIPTION_CHARS),
                dead_letter: kept,
            });
        }
    }

    /// The dead letter of a whole range.
    pub fn letter(
        &self,
        start: Option<PageToken>,
        end: Option<PageToken>,
        error_type: &str,
        message: &str,
    ) -> DeadLetter {
        let now = Timestamp::from(SystemTime::now());
        let order = self.order;
        let failing_since = order.failing_since.filter(|_| self.at == order.start);
        DeadLetter {
            id: DeadLetter::id_of(
                &scope_of(&order.batch_run, order.stride),
                start.as_ref(),
                end.as_ref(),
                None,
            ),
            batch_id: order.batch_id.clone(),
            batch_run: order.batch_run.clone(),
            processor: order.processor.clone(),
            stride: order.stride,
            start,
            end,
            key: None,
            error_type: error_type.to_owned(),
            message: message.to_owned(),
            attempts: self.attempt,
            first_at: failing_since.unwrap_or(now),
            last_at: now,
            record: None,
        }
    }
}
