//! The loop over the pages of a stride.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::FutureExt;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::{
    CONNECTION_LOST, Failure, Halt, PAGE_TIMEOUT, PageEvent, StrideHost, read_args,
    stores::PageStores,
};
use crate::{
    base::{
        error::{Blame, PageError},
        text::exactly,
        time::Timestamp,
    },
    batch::retry::RetryMode,
    page::{range::PageRange, token::PageToken},
    processor::{
        PageProcessor, SkipAhead,
        context::{PageContext, PageTokens},
        item::{ItemTerms, ItemWork, WorkClock},
        reducer::{Output, Reducer},
        settings::ProcessorSettings,
        stop_signal::{Interruption, StopSignal, until},
    },
    protocol::{RunningPage, StrideOrder, StrideReport},
};

/// Time limit of looking ahead, after which it returns the starts found so far. The first page must not wait
/// longer.
const LOOK_AHEAD_TIME: Duration = Duration::from_secs(2);

/// Divisor for the length of strides at the end of the data, so that the remainder is spread over more strides.
const FINER: u32 = 8;

pub(super) struct Running<'a, P: PageProcessor> {
    pub processor: &'a P,
    pub order: &'a StrideOrder,
    pub host: &'a dyn StrideHost,
    pub settings: &'a ProcessorSettings,
    /// The non-retryable error types of the settings, for items.
    non_retryable: Arc<[String]>,
    pub stores: PageStores,
    /// The reducer of the batch, if it has one.
    pub reducer: Option<Reducer>,
    args: Arc<P::Args>,
    batch_id: Arc<str>,
    batch_run: Arc<str>,
    /// The cursor up to which everything is finished.
    pub at: Option<PageToken>,
    pub end: Option<PageToken>,
    /// The remaining pages. While the end is open: until the remainder is handed over. In a closed range whose end is
    /// recognised only by equality: at most in the range.
    pub pages_left: u32,
    /// Items that the stage still allows, if it limits them.
    pub items_left: Option<u64>,
    /// Maximum number of items in the next page, while a page that cannot be read is taken apart.
    pub smaller: Option<u32>,
    pub told: watch::Receiver<StopSignal>,
    /// The controller's number of the attempt at the next page.
    pub attempt: u32,
    /// The working time of the pages finished by this attempt.
    pub busy: Duration,
    /// The working time of the full pages among them.
    pub busy_full: Duration,
    /// The total time of the pages finished by this attempt, including waits.
    took: Duration,
    /// The time at which this attempt returns the rest of the stride.
    until: Option<Instant>,
}

impl<'a, P: PageProcessor> Running<'a, P> {
    /// Determines where to begin. The ledger takes precedence over `report`, which is the last sign of life of
    /// an earlier attempt.
    pub async fn prepare(
        processor: &'a P,
        order: &'a StrideOrder,
        report: &mut StrideReport,
        host: &'a dyn StrideHost,
        settings: &'a ProcessorSettings,
    ) -> Result<Self, Halt> {
        let failed = |error: &PageError| Failure::of(error, &settings.non_retryable_types);
        let args = read_args(&order.args).map_err(|e| failed(&e))?;
        let mut end = order.end.clone();
        if end.is_none() && host.is_repeat() {
            end = accepted_end(host).await?;
        }
        let opening = PageStores::open(processor, &args, order, end.as_ref());
        let opened = limited(opening, order.page_timeout).await;
        let (stores, open) = opened.map_err(|e| failed(&e))?;
        let reducer = order.reducer.as_ref();
        let reducer = reducer.map(|plan| Reducer::stored(plan, processor.reducer(&args)));
        let reducer = reducer.transpose().map_err(|e| failed(&e))?;
        let kept_end = match open {
            Some(open) => {
                let done = &order.done;
                let covered_to = open.applied_to;
                let covered_to = covered_to.filter(|at| Some(at) != order.start.as_ref());
                let applied = covered_to.is_some() || open.ends_data;
                let output = match &reducer {
                    // Pages whose output cannot be read now are not reported yet, or their output would be
                    // lost.
                    Some(reducer) => {
                        let output = outputs(&stores, reducer, order, applied).await;
                        Some(output.map_err(|e| failed(&e))?)
                    }
                    None => None,
                };
                *report = StrideReport {
                    covered_to,
                    end_of_data: open.ends_data,
                    pages: count(open.totals.pages.saturating_sub(done.pages)),
                    pages_failed: count(open.totals.pages_failed.saturating_sub(done.pages_failed)),
                    items: open.totals.items.since(&done.items),
                    timing: report.timing,
                    output,
                    ..StrideReport::default()
                };
                // The ledger has a letter for each of these.
                report.dead_letters = report.items.failed + u64::from(report.pages_failed);
                if let Some(max) = order.max_items {
                    let aside = u64::from(report.pages_failed) * u64::from(order.page_size);
                    let left = max.saturating_sub(report.items.total());
                    report.items_in_abandoned_pages = aside.min(left);
                }
                open.end
            }
            None => None,
        };
        let at = report.covered_to.clone().or_else(|| order.start.clone());
        let untouched = at == order.start;
        let mut stride = Self {
            processor,
            order,
            host,
            settings,
            non_retryable: settings.non_retryable_types.as_slice().into(),
            stores,
            reducer,
            args: Arc::new(args),
            batch_id: order.batch_id.as_str().into(),
            batch_run: order.batch_run.as_str().into(),
            at,
            end,
            pages_left: order.pages.saturating_sub(report.pages).max(1),
            items_left: None,
            smaller: None,
            told: host.stop_signal(),
            attempt: if untouched { order.attempt } else { 1 },
            busy: Duration::ZERO,
            busy_full: Duration::ZERO,
            took: Duration::ZERO,
            until: order
                .time_limit
                .and_then(|limit| Instant::now().checked_add(limit)),
        };
        stride.count_items(report);
        // Both ends must be cursors of this processor before any work is done.
        stride.range()?;
        if let (None, Some(kept)) = (&stride.end, kept_end) {
            // The end was decided before a reset of the batch, which no longer knows it.
            stride.announce(vec![kept]).await?;
        }
        Ok(stride)
    }

    pub async fn run(&mut self, report: &mut StrideReport) -> Result<(), Halt> {
        match self.run_all(report).await {
            Err(Halt::Failed(failure)) if self.is_interrupted() => {
                let (error_type, error) = (&failure.attempt.error_type, &failure.message);
                tracing::debug!(error_type, error, "ended early because it was interrupted");
                Err(Halt::Stopped)
            }
            outcome => outcome,
        }
    }

    async fn run_all(&mut self, report: &mut StrideReport) -> Result<(), Halt> {
        if let Some(given_up) = &self.order.give_up
            && self.at == self.order.start
            && !report.end_of_data
            && self.put_given_up_aside(given_up, report).await?
        {
            // The following pages get another order, so that Temporal finds another worker if one is lost.
            return Ok(());
        }
        self.find_end(report).await?;
        self.run_pages(report).await
    }

    pub fn failed(&self, error: &PageError) -> Halt {
        Failure::of(error, &self.settings.non_retryable_types).into()
    }

    fn decode(&self, token: Option<&PageToken>) -> Result<Option<P::Cursor>, Halt> {
        let cursor = token.map(PageToken::decode).transpose();
        cursor.map_err(|e| self.failed(&e))
    }

    /// The remaining range of the stride, or of its partition while the end of the stride is unknown.
    pub fn range(&self) -> Result<PageRange<P::Cursor>, Halt> {
        self.range_to(self.end.as_ref().or(self.order.last.as_ref()))
    }

    pub fn range_to(&self, end: Option<&PageToken>) -> Result<PageRange<P::Cursor>, Halt> {
        let start = self.decode(self.at.as_ref())?;
        Ok(PageRange::new(start, self.decode(end)?))
    }

    pub fn context(&self, range: PageRange<P::Cursor>, page: Option<PageTokens>) -> PageContext<P> {
        PageContext {
            args: Arc::clone(&self.args),
            range,
            page,
            alone: false,
            with_keys: false,
            page_size: self.page_size(),
            attempt: self.attempt,
            stride: self.order.stride,
            batch_id: Arc::clone(&self.batch_id),
            batch_run: Arc::clone(&self.batch_run),
            cancelled: Interruption::new(self.told.clone(), self.may_repeat()),
            transaction: None,
            partition: self.order.partition.as_deref().map(Into::into),
            bounds: None,
            items: ItemWork::none(),
        }
    }

    /// The items of one page, which may take `limit`.
    pub fn item_work(&self, limit: Duration) -> ItemWork {
        let terms = ItemTerms {
            permits: self.settings.permits,
            retry: self.settings.item_retry,
            non_retryable: Arc::clone(&self.non_retryable),
        };
        ItemWork::new(self.host.item_host(), terms, limit)
    }

    /// The number of items that the next page may have. It is never 0, because a source would then report the
    /// end of the data.
    pub fn page_size(&self) -> u32 {
        let left = self.items_left.unwrap_or(u64::MAX).max(1);
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let most = self.smaller.unwrap_or(u32::MAX);
        self.order.page_size.min(left).min(most)
    }

    /// Counts a page that is put aside as a whole.
    pub fn put_aside(&self, report: &mut StrideReport) {
        if let Some(left) = self.items_left {
            report.items_in_abandoned_pages += left.min(u64::from(self.page_size()));
        }
    }

    fn count_items(&mut self, report: &StrideReport) {
        let max = self.order.max_items;
        let spent = report
            .items
            .total()
            .saturating_add(report.items_in_abandoned_pages);
        self.items_left = max.map(|max| max.saturating_sub(spent));
    }

    /// Looks for the starts of the following strides, if the source can skip ahead.
    async fn find_end(&mut self, report: &mut StrideReport) -> Result<(), Halt> {
        if self.end.is_some() || report.end_of_data || self.order.look_ahead == 0 {
            return Ok(());
        }
        // The search begins where this attempt begins. If it began at the start of the stride, rows inserted in
        // the meantime could put the end before finished pages.
        let mut range = self.range()?;
        let mut starts = Vec::new();
        let mut pages = self.order.pages;
        let shortest = self.order.min_pages_per_stride.max(1);
        let looking = Instant::now();
        while starts.len() < self.order.look_ahead as usize
            && (starts.is_empty() || looking.elapsed() < LOOK_AHEAD_TIME)
        {
            let from = range.start().cloned();
            match self.skip_ahead(range.clone(), pages).await? {
                Ok(SkipAhead::To(cursor)) => {
                    if let Some(from) = from.as_ref().filter(|from| **from == cursor) {
                        return Err(self.failed(&crate::page::did_not_advance(from, &cursor)));
                    }
                    let start = PageToken::encode(&cursor).map_err(|e| self.failed(&e))?;
                    let ends = self.order.last.as_ref() == Some(&start);
                    starts.push(start);
                    if ends {
                        break;
                    }
                    range = PageRange::new(Some(cursor), self.decode(self.order.last.as_ref())?);
                }
                // Other workers cannot help with a remainder of one stride, so it is cut finer.
                Ok(SkipAhead::PastEnd) if self.order.time_limit.is_some() && pages > shortest => {
                    pages = pages.div_ceil(FINER).max(shortest);
                }
                Ok(SkipAhead::PastEnd) => {
                    // The end of a partition is known.
                    starts.extend(self.order.last.clone());
                    break;
                }
                Ok(SkipAhead::Unsupported) => {
                    report.cannot_skip = true;
                    self.pages_left = 1;
                    break;
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        if starts.is_empty() {
            return Ok(());
        }
        self.announce(starts).await
    }

    pub async fn skip_ahead(
        &self,
        range: PageRange<P::Cursor>,
        pages: u32,
    ) -> Result<Result<SkipAhead<P::Cursor>, PageError>, Halt> {
        // Strides keep their length, whatever the size of the next page is.
        self.skip_pages(range, self.order.page_size, pages).await
    }

    /// Skips pages of this size.
    pub async fn skip_pages(
        &self,
        range: PageRange<P::Cursor>,
        page_size: u32,
        pages: u32,
    ) -> Result<Result<SkipAhead<P::Cursor>, PageError>, Halt> {
        let mut ctx = self.context(range, None);
        ctx.page_size = page_size;
        let looking = self.guarded(
            self.processor.skip_ahead(&ctx, pages),
            self.order.page_timeout,
        );
        self.unless_stopped_now(looking).await
    }

    /// Announces starts. A repeated attempt then uses the end that was accepted instead of its own.
    pub async fn announce(&mut self, starts: Vec<PageToken>) -> Result<(), Halt> {
        let cut = limited(self.stores.cut(starts), self.order.page_timeout).await;
        let starts = cut.map_err(|e| self.failed(&e))?;
        self.host.announce(&starts).await?;
        self.end = if self.host.is_repeat() {
            accepted_end(self.host).await?
        } else {
            starts.into_iter().next()
        };
        Ok(())
    }

    async fn run_pages(&mut self, report: &mut StrideReport) -> Result<(), Halt> {
        while !report.end_of_data && !self.at_end() && self.items_left != Some(0) {
            let attempt = self.attempt;
            let page = self.at.as_ref().map(PageToken::to_string);
            let page = page.as_deref().unwrap_or("beginning");
            let span = tracing::info_span!("page", page, attempt);
            self.next_page(report).instrument(span).await?;
            self.host.checkpoint(report);
            self.page_is_over();
            let late = self.until.is_some_and(|until| Instant::now() >= until);
            if late || self.fails_too_often(report) {
                break;
            }
        }
        Ok(())
    }

    /// Returns whether the controller must learn of the failures before anything else is done.
    fn fails_too_often(&self, report: &StrideReport) -> bool {
        let tolerance = self.order.tolerance.as_ref();
        tolerance.is_some_and(|tolerance| tolerance.is_exceeded_by(report.tally()))
    }

    /// Waits for the page's turn and runs it, or gives it up.
    async fn next_page(&mut self, report: &mut StrideReport) -> Result<(), Halt> {
        let turn = Instant::now();
        self.clear_to_go().await?;
        let attempt = self.attempt;
        let started = Instant::now();
        self.host.works_on(Some(RunningPage {
            start: self.at.clone(),
            since: Timestamp::from(SystemTime::now()),
            attempt,
            end: None,
            items: None,
        }));
        self.host.observe(PageEvent::Started { attempt });
        match self.run_page(report).await {
            Ok(Some(items)) => {
                self.took += turn.elapsed();
                report.timing.took_us = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
                self.host.observe(PageEvent::Completed {
                    took: started.elapsed(),
                    items,
                });
            }
            Ok(None) => self.host.observe(PageEvent::NoPage),
            Err(Halt::Stopped) => return Err(self.stopped()),
            Err(Halt::Failed(_)) if self.is_interrupted() => return Err(self.stopped()),
            Err(halt) => {
                self.host.observe(PageEvent::Failed {
                    took: started.elapsed(),
                });
                match halt {
                    Halt::Failed(failure) if self.is_spent(&failure) => {
                        self.give_up(*failure, report).await?;
                    }
                    halt => return Err(halt),
                }
            }
        }
        Ok(())
    }

    fn stopped(&self) -> Halt {
        tracing::debug!("told to stop; nothing of this page is done");
        self.host.observe(PageEvent::Stopped);
        Halt::Stopped
    }

    /// Waits until the next page, or the next part of one, may begin.
    pub async fn clear_to_go(&self) -> Result<(), Halt> {
        if self.told.borrow().must_stop() {
            return Err(Halt::Stopped);
        }
        self.host.clear_to_go().await.into()
    }

    /// Returns whether a page with an unknown outcome may run again.
    pub fn may_repeat(&self) -> bool {
        self.settings.retry_mode == RetryMode::AtLeastOnce
    }

    /// Returns whether a page is used up as soon as its `process` has begun.
    pub fn runs_once(&self) -> bool {
        !self.may_repeat() && !self.stores.is_ledger()
    }

    /// Returns whether user code was told to end early, so that its errors do not count.
    pub fn is_interrupted(&self) -> bool {
        let told = *self.told.borrow();
        self.may_repeat() && (told.stop_now || told.cancelled || told.gone)
    }

    /// Runs work that can be dropped without harm. A result that is ready at the moment of the stop still
    /// counts.
    pub async fn unless_stopped_now<T>(
        &self,
        work: impl Future<Output = Result<T, PageError>>,
    ) -> Result<Result<T, PageError>, Halt> {
        tokio::select! {
            biased;
            result = work => Ok(result),
            () = until(self.told.clone(), |told| told.stop_now) => Err(Halt::Stopped),
        }
    }

    pub fn at_end(&self) -> bool {
        self.end.is_some() && self.at == self.end
    }

    fn page_is_over(&mut self) {
        self.host.works_on(None);
        self.attempt = 1;
        self.pages_left = self.pages_left.saturating_sub(1).max(1);
    }

    /// Records that everything up to `to` is finished.
    pub fn advance(&mut self, report: &mut StrideReport, to: Option<PageToken>, ends_data: bool) {
        if let Some(to) = to {
            self.at = Some(to.clone());
            report.covered_to = Some(to);
        }
        report.end_of_data = ends_data;
        self.count_items(report);
    }

    /// Runs user code with a time limit and converts its panics to errors.
    pub async fn guarded<T>(
        &self,
        work: impl Future<Output = Result<T, PageError>>,
        limit: Duration,
    ) -> Result<T, PageError> {
        let items = self.item_work(limit);
        self.guarded_by(items.clock(), work).await
    }

    /// Runs user code with a clock that stops during waits for permits.
    pub async fn guarded_by<T>(
        &self,
        clock: &WorkClock,
        work: impl Future<Output = Result<T, PageError>>,
    ) -> Result<T, PageError> {
        let work = AssertUnwindSafe(work).catch_unwind();
        let result = match clock.limits(work).await {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(PageError::panicked(&*panic)),
            None => Err(PageError::retryable(format_args!(
                "the page took longer than {}",
                exactly(self.order.page_timeout)
            ))
            .with_type(PAGE_TIMEOUT)
            .blaming(Blame::Unknown)),
        };
        result.map_err(|error| error.redacted(|message| self.processor.redact(message)))
    }

    /// Reassigns the blame for a lost connection once a page has reached its statements. The ledger has just
    /// answered, so the database was available and the page itself broke the connection.
    pub fn of_page(&self, error: PageError) -> PageError {
        match error.error_type() == CONNECTION_LOST && error.blame() == Blame::Unknown {
            true if self.stores.is_ledger() => error.blaming(Blame::Page),
            _ => error,
        }
    }
}

/// The outputs of the stride that the controller has not counted yet, from pages applied before this attempt.
async fn outputs(
    stores: &PageStores,
    reducer: &Reducer,
    order: &StrideOrder,
    applied: bool,
) -> Result<Output, PageError> {
    let mut output = Output::default();
    if applied {
        let kept = stores.outputs(order.done.progress_counter());
        for page in limited(kept, order.page_timeout).await? {
            reducer.add(&mut output, page);
        }
    }
    Ok(output)
}

/// Returns the end that the controller accepted, whichever attempt announced it.
async fn accepted_end(host: &dyn StrideHost) -> Result<Option<PageToken>, Halt> {
    let accepted = host.accepted_end().await?;
    if !accepted.open {
        return Err(Halt::Gone);
    }
    Ok(accepted.end)
}

/// Limits the time of a call to a store, so that a store that does not answer cannot block a page forever.
pub(super) async fn limited<T>(
    work: impl Future<Output = Result<T, PageError>>,
    limit: Duration,
) -> Result<T, PageError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(PageError::retryable(format_args!(
            "the ledger or the dead-letter store did not answer within {}",
            exactly(limit)
        ))
        .with_type("StoreTimeout")),
    }
}

fn count(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
