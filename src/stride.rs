//! Runs the pages of one stride, one after the other.
//!
//! ```text
//!         processor            this loop               host (activity, or a test's own)
//!            |   skip_ahead       |                            |
//!            | <----------------- | (once, if the end is open) |
//!            |                    | --- announce starts -----> |
//!            |   fetch            |                            |
//!            | <----------------- |                            |
//!            |                    | --- announce next start -> | (if nobody knows it yet)
//!            |                    | --- wait for the rate ---> |
//!            |   process          |                            |
//!            | <----------------- |                            |
//!            |                    | --- checkpoint ----------> |
//! ```
//!
//! Everything here is typed; there is no Temporal in it. What the outside world does is behind
//! [`StrideHost`].

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::FutureExt;
use tokio::sync::watch;

use crate::{
    error::{MAX_MESSAGE_CHARS, PageError, truncate},
    page::{Next, Page, PageRange, PageToken},
    processor::{PageContext, PageProcessor, PageReport, ProcessorSettings, SkipAhead},
    progress::ItemCounts,
    protocol::{AcceptedEnd, FailedAttempt, StrideOrder, StrideReport},
};

/// Failed items of one stride that are described.
const MAX_DESCRIBED: usize = 20;
/// Looking ahead ends after this long with what it has found; the first page must not wait for more.
const LOOK_AHEAD_TIME: Duration = Duration::from_secs(2);

/// The outside world of a stride.
#[async_trait]
pub(crate) trait StrideHost: Send + Sync {
    /// Tells the controller where the following strides start.
    async fn announce(&self, starts: &[PageToken]) -> Result<(), HostError>;
    /// Whether an earlier attempt may have announced already, unknown to the order.
    fn is_repeat(&self) -> bool;
    /// Where the controller says that this stride ends.
    async fn accepted_end(&self) -> Result<AcceptedEnd, HostError>;
    /// Waits until so many items may be processed.
    async fn rate_permits(&self, items: usize);
    /// Notes what is finished, for an attempt after a lost worker.
    fn checkpoint(&self, report: &StrideReport);
    /// Whether to end at this page boundary.
    fn should_stop(&self) -> bool;
    /// Becomes true when the batch is cancelled.
    fn cancelled(&self) -> watch::Receiver<bool>;
    /// For metrics.
    fn observe(&self, event: PageEvent);
}

/// What happened to a page, for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PageEvent {
    Started {
        attempt: u32,
    },
    Completed {
        took: Duration,
        items: ItemCounts,
    },
    Failed {
        took: Duration,
    },
    /// The fetch found nothing, so there was no page.
    NoPage,
}

/// Why the host could not do its part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The batch run has ended, or its stride is finished: nobody wants this work any more.
    #[error("the batch run is gone")]
    Gone,
    /// Anything else; another attempt may get through.
    #[error("{0}")]
    Unavailable(String),
}

/// The batch run is gone; nothing was processed after that was noticed.
#[derive(Debug)]
pub(crate) struct Gone;

/// Why a stride stops before its end.
enum Stop {
    Gone,
    Failed(FailedAttempt),
}

impl From<HostError> for Stop {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Gone => Self::Gone,
            HostError::Unavailable(_) => {
                let error = PageError::retryable(error).with_type("ControllerUnavailable");
                Self::Failed(failed_attempt(&error, &[]))
            }
        }
    }
}

/// Runs the pages of `order`, going on after what `resume` says is finished.
pub(crate) async fn run_stride<P: PageProcessor>(
    processor: &P,
    order: &StrideOrder,
    resume: StrideReport,
    host: &dyn StrideHost,
) -> Result<StrideReport, Gone> {
    let mut report = resume;
    let non_retryable = processor.settings().non_retryable_types;
    let outcome = async {
        let mut stride = Running::prepare(processor, order, &report, host, &non_retryable)?;
        stride.find_end(&report).await?;
        stride.run_pages(&mut report).await
    }
    .await;
    match outcome {
        Ok(()) => Ok(report),
        Err(Stop::Gone) => Err(Gone),
        Err(Stop::Failed(failure)) => {
            report.failure = Some(failure);
            Ok(report)
        }
    }
}

struct Running<'a, P: PageProcessor> {
    processor: &'a P,
    order: &'a StrideOrder,
    host: &'a dyn StrideHost,
    non_retryable: &'a [String],
    args: Arc<P::Args>,
    batch_id: Arc<str>,
    batch_run: Arc<str>,
    /// Everything up to here is finished.
    at: Option<P::Cursor>,
    end: Option<PageToken>,
    /// Pages until the rest is handed over, while the end is open; pages that the range may still hold,
    /// where it is closed and only equality tells that its end is reached.
    pages_left: u32,
    /// Whether this is the first page that this attempt runs.
    first_page: bool,
    /// What the controller counts for the page that is next.
    attempt: u32,
}

impl<'a, P: PageProcessor> Running<'a, P> {
    fn prepare(
        processor: &'a P,
        order: &'a StrideOrder,
        resume: &StrideReport,
        host: &'a dyn StrideHost,
        non_retryable: &'a [String],
    ) -> Result<Self, Stop> {
        let failed = |error| Stop::Failed(failed_attempt(&error, non_retryable));
        let args = serde_json::from_value(order.args.clone()).map_err(|e| {
            failed(
                PageError::retryable(format_args!("the arguments of the batch do not fit: {e}"))
                    .with_type("ArgsNotReadable"),
            )
        })?;
        let at = resume.covered_to.as_ref().or(order.start.as_ref());
        let at = at.map(PageToken::decode).transpose().map_err(failed)?;
        Ok(Self {
            processor,
            order,
            host,
            non_retryable,
            args: Arc::new(args),
            batch_id: order.batch_id.as_str().into(),
            batch_run: order.batch_run.as_str().into(),
            at,
            end: order.end.clone(),
            pages_left: order.pages.saturating_sub(resume.pages).max(1),
            first_page: true,
            attempt: if resume.pages == 0 { order.attempt } else { 1 },
        })
    }

    fn failed(&self, error: &PageError) -> Stop {
        Stop::Failed(failed_attempt(error, self.non_retryable))
    }

    fn context(&self, at: Option<P::Cursor>) -> Result<PageContext<P>, Stop> {
        let end = self.end.as_ref().map(PageToken::decode).transpose();
        Ok(PageContext {
            args: Arc::clone(&self.args),
            range: PageRange::new(at, end.map_err(|e| self.failed(&e))?),
            page_size: self.order.page_size,
            attempt: self.attempt,
            stride: self.order.stride,
            batch_id: Arc::clone(&self.batch_id),
            batch_run: Arc::clone(&self.batch_run),
            cancelled: self.host.cancelled(),
        })
    }

    /// What the controller accepted counts, whoever announced it.
    async fn read_accepted_end(&mut self) -> Result<(), Stop> {
        let accepted = self.host.accepted_end().await?;
        if !accepted.open {
            return Err(Stop::Gone);
        }
        self.end = accepted.end;
        Ok(())
    }

    /// Looks for the starts of the following strides, where the source can.
    async fn find_end(&mut self, resume: &StrideReport) -> Result<(), Stop> {
        if self.end.is_none() && self.host.is_repeat() {
            self.read_accepted_end().await?;
        }
        if self.end.is_some() || resume.end_of_data || self.order.look_ahead == 0 {
            return Ok(());
        }
        // From where this attempt begins: seen from the start of the stride, rows inserted meanwhile could
        // put its end before what is finished already.
        let mut from = self.at.clone();
        let mut starts = Vec::new();
        let looking = Instant::now();
        while starts.len() < self.order.look_ahead as usize
            && (starts.is_empty() || looking.elapsed() < LOOK_AHEAD_TIME)
        {
            let ctx = self.context(from.clone())?;
            let jump = self.processor.skip_ahead(&ctx, self.order.pages);
            match self.guarded(jump, self.order.page_timeout).await {
                Ok(SkipAhead::To(cursor)) => {
                    if from.as_ref() == Some(&cursor) {
                        let from = from.as_ref().unwrap_or(&cursor);
                        return Err(self.failed(&crate::page::did_not_advance(from, &cursor)));
                    }
                    starts.push(PageToken::encode(&cursor).map_err(|e| self.failed(&e))?);
                    from = Some(cursor);
                }
                Ok(SkipAhead::PastEnd) => break,
                Ok(SkipAhead::Unsupported) => {
                    self.pages_left = 1;
                    break;
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        if starts.is_empty() {
            return Ok(());
        }
        self.announce(&starts).await
    }

    /// Announces; a repeated attempt then takes the end that was accepted instead of its own.
    async fn announce(&mut self, starts: &[PageToken]) -> Result<(), Stop> {
        self.host.announce(starts).await?;
        if self.host.is_repeat() {
            self.read_accepted_end().await
        } else {
            self.end = starts.first().cloned();
            Ok(())
        }
    }

    async fn run_pages(&mut self, report: &mut StrideReport) -> Result<(), Stop> {
        while !report.end_of_data && !self.at_end()? {
            if !self.first_page && self.host.should_stop() {
                return Ok(());
            }
            let attempt = self.attempt;
            let started = Instant::now();
            self.host.observe(PageEvent::Started { attempt });
            match self.run_page(report).await {
                Ok(Some(items)) => self.host.observe(PageEvent::Completed {
                    took: started.elapsed(),
                    items,
                }),
                Ok(None) => self.host.observe(PageEvent::NoPage),
                Err(stop) => {
                    self.host.observe(PageEvent::Failed {
                        took: started.elapsed(),
                    });
                    return Err(stop);
                }
            }
            self.host.checkpoint(report);
            self.first_page = false;
            self.attempt = 1;
        }
        Ok(())
    }

    fn at_end(&self) -> Result<bool, Stop> {
        let (Some(at), Some(end)) = (&self.at, &self.end) else {
            return Ok(false);
        };
        Ok(PageToken::encode(at).map_err(|e| self.failed(&e))? == *end)
    }

    /// One page; `None` when there was nothing to process.
    async fn run_page(&mut self, report: &mut StrideReport) -> Result<Option<ItemCounts>, Stop> {
        let mut time_left = self.order.page_timeout;
        let (page, next) = loop {
            let page = self.fetch(&mut time_left).await?;
            let next = match page.next() {
                Next::At(cursor) => Some(PageToken::encode(cursor).map_err(|e| self.failed(&e))?),
                Next::End => None,
            };
            // Whoever is given the next page must hear of it before this one is processed.
            let announce = self.end.is_none() && self.pages_left == 1;
            match &next {
                Some(token) if announce => self.announce(std::slice::from_ref(token)).await?,
                _ => break (page, next),
            }
            if self.end == next {
                break (page, next);
            }
            // Another attempt's cut was accepted: read again, inside of it.
        };
        let last_page = next.is_none() && self.end.is_none();
        self.check_cut(page.is_ordered(), next.as_ref()).await?;
        // A bounded range without more items is finished up to its bound.
        let page_end = match next.or_else(|| self.end.clone()) {
            Some(token) => Some(token),
            None => {
                let last_key = page.last_key().map(PageToken::encode).transpose();
                last_key.map_err(|e| self.failed(&e))?
            }
        };
        let items = page.into_items();
        let processed = if items.is_empty() {
            None
        } else {
            let counts = self.process(items, time_left, report).await;
            let counts = counts.map_err(|error| {
                let mut failure = failed_attempt(&error, self.non_retryable);
                failure.page_end.clone_from(&page_end);
                failure.last_page = last_page;
                Stop::Failed(failure)
            })?;
            report.pages += 1;
            report.items += counts;
            Some(counts)
        };
        if let Some(token) = page_end {
            self.at = Some(token.decode().map_err(|e| self.failed(&e))?);
            report.covered_to = Some(token);
        }
        report.end_of_data = last_page;
        self.pages_left = self.pages_left.saturating_sub(1).max(1);
        Ok(processed)
    }

    /// A closed range of opaque tokens ends where one equals its end. A source that cuts its pages
    /// differently this time would be followed past it, into the pages of others.
    async fn check_cut(&mut self, ordered: bool, next: Option<&PageToken>) -> Result<(), Stop> {
        let (Some(end), Some(next)) = (self.end.clone(), next) else {
            return Ok(());
        };
        if ordered || end == *next {
            return Ok(());
        }
        if self.pages_left > 1 {
            let ctx = self.context(self.at.clone())?;
            let jump = self.processor.skip_ahead(&ctx, 1);
            let jump = self.guarded(jump, self.order.page_timeout).await;
            if matches!(jump, Ok(SkipAhead::Unsupported)) {
                self.pages_left = 1;
            }
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

    async fn fetch(&self, time_left: &mut Duration) -> Result<Page<P::Cursor, P::Item>, Stop> {
        let ctx = self.context(self.at.clone())?;
        let started = Instant::now();
        let page = self.guarded(self.processor.fetch(&ctx), *time_left).await;
        *time_left = time_left.saturating_sub(started.elapsed());
        let page = page.map_err(|e| self.failed(&e))?;
        page.check_within(ctx.range())
            .map_err(|e| self.failed(&e))?;
        Ok(page)
    }

    async fn process(
        &self,
        items: Vec<P::Item>,
        time_left: Duration,
        report: &mut StrideReport,
    ) -> Result<ItemCounts, PageError> {
        let count = items.len();
        self.host.rate_permits(count).await;
        let ctx = self.context(self.at.clone()).map_err(|_| {
            PageError::retryable("the end of the stride is not a cursor of this processor")
        })?;
        let work = self.processor.process(&ctx, items);
        let done: PageReport = self.guarded(work, time_left).await?;
        let (skipped, failed) = (done.skipped(), done.failed());
        let Some(processed) = (count as u64).checked_sub(skipped + failed) else {
            return Err(PageError::non_retryable(
                "PageReportMismatch",
                format_args!(
                    "process reported {skipped} skipped and {failed} failed items of {count}"
                ),
            ));
        };
        let room = MAX_DESCRIBED.saturating_sub(report.failed_items.len());
        report
            .failed_items
            .extend(done.failed_items().iter().take(room).cloned());
        Ok(ItemCounts {
            processed,
            skipped,
            failed,
        })
    }

    /// User code with a time limit, whose panics are errors.
    async fn guarded<T>(
        &self,
        work: impl Future<Output = Result<T, PageError>>,
        limit: Duration,
    ) -> Result<T, PageError> {
        let work = AssertUnwindSafe(work).catch_unwind();
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(PageError::panicked(&*panic)),
            Err(_) => Err(PageError::retryable(format_args!(
                "the page took longer than {:?}",
                self.order.page_timeout
            ))
            .with_type("PageTimeout")),
        }
    }
}

fn failed_attempt(error: &PageError, non_retryable: &[String]) -> FailedAttempt {
    let listed = non_retryable.iter().any(|t| t == error.error_type());
    FailedAttempt {
        page_end: None,
        last_page: false,
        error_type: truncate(error.error_type(), 60),
        message: truncate(error.message(), MAX_MESSAGE_CHARS),
        retryable: error.is_retryable() && !listed,
        retry_after: error.delay(),
    }
}

/// What a controller needs to know of a processor before the first page.
pub(crate) fn prepared(
    settings: ProcessorSettings,
    items_expected: Option<u64>,
) -> crate::protocol::Prepared {
    crate::protocol::Prepared {
        retry_mode: settings.retry_mode,
        retry: settings.retry,
        page_timeout: settings.page_timeout,
        heartbeat_timeout: settings.heartbeat_timeout,
        items_expected,
    }
}
