//! The context that a page is fetched and processed in.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    base::error::PageError,
    batch::partition_spec::scope_of,
    page::{range::PageRange, token::PageToken},
    processor::{
        PageProcessor,
        item::ItemWork,
        stop_signal::Interruption,
        store::{dead_letter::stable_id, page_ledger::PageTransaction},
    },
};

/// What a processor is told about the page it works on.
pub struct PageContext<P: PageProcessor> {
    pub(crate) args: Arc<P::Args>,
    pub(crate) range: PageRange<P::Cursor>,
    /// The page itself, while it is processed.
    pub(crate) page: Option<PageTokens>,
    /// Only one item of the page is processed: it is redriven by itself.
    #[cfg_attr(not(feature = "files"), allow(dead_code, reason = "for sinks"))]
    pub(crate) alone: bool,
    /// Each item has to have its key, since the page is to be split, or one of its items to be found again.
    pub(crate) with_keys: bool,
    pub(crate) page_size: u32,
    pub(crate) attempt: u32,
    pub(crate) stride: u64,
    pub(crate) batch_id: Arc<str>,
    pub(crate) batch_run: Arc<str>,
    pub(crate) cancelled: Interruption,
    pub(crate) transaction: Option<SharedTransaction>,
    pub(crate) partition: Option<Arc<str>>,
    /// The cursors of `page`, for the processor.
    pub(crate) bounds: Option<PageRange<P::Cursor>>,
    pub(crate) items: Arc<ItemWork>,
}

/// Where a page begins and ends.
#[derive(Clone, Debug)]
pub(crate) struct PageTokens {
    pub start: Option<PageToken>,
    pub end: Option<PageToken>,
}

/// The transaction of the page that is being processed, until the engine takes it back.
pub(crate) type SharedTransaction = Arc<tokio::sync::Mutex<Option<Box<dyn PageTransaction>>>>;

impl<P: PageProcessor> PageContext<P> {
    /// For a question about a range, beside the pages.
    pub(crate) fn of_partition(args: P::Args, range: PageRange<P::Cursor>, name: &str) -> Self {
        Self {
            args: Arc::new(args),
            range,
            page: None,
            alone: false,
            page_size: 1,
            attempt: 1,
            stride: 0,
            batch_id: "".into(),
            batch_run: "".into(),
            cancelled: Interruption::never(),
            transaction: None,
            with_keys: false,
            partition: Some(name.into()),
            bounds: None,
            items: ItemWork::none(),
        }
    }

    /// The arguments of the batch.
    pub fn args(&self) -> &P::Args {
        &self.args
    }

    /// Where to read: after `start`, up to and including `end`.
    pub fn range(&self) -> &PageRange<P::Cursor> {
        &self.range
    }

    /// The page that is processed: everything after `start`, up to and including `end`. `start` is `None` at the
    /// beginning of the data; `end` is `None` where the data ends with the page and its source gives out tokens of its
    /// own.
    ///
    /// `None` while it is not known yet where the page ends: in [`fetch`](PageProcessor::fetch) and
    /// [`skip_ahead`](PageProcessor::skip_ahead).
    pub fn page(&self) -> Option<&PageRange<P::Cursor>> {
        self.bounds.as_ref()
    }

    /// Whether `fetch` has to name the items of its page by their keys, since the page is to be split or one of its
    /// items to be found again. It concerns sources that otherwise return [`Page::not_read`].
    pub fn wants_keys(&self) -> bool {
        self.with_keys
    }

    /// Most items that the page should have.
    pub fn page_size(&self) -> usize {
        self.page_size as usize
    }

    /// 1 for the first attempt at the page, 2 for its first retry and so on. A lost worker can make a
    /// page run again under the same number.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Number of the stride that the page belongs to.
    pub fn stride(&self) -> u64 {
        self.stride
    }

    /// The batch.
    pub fn batch_id(&self) -> &str {
        &self.batch_id
    }

    /// The [partition](PageProcessor::partitions) that the page belongs to. `None` in a batch without partitions
    /// and in a redrive, so a processor with dead letters that has to know it should have it in its cursors.
    pub fn partition(&self) -> Option<&str> {
        self.partition.as_deref()
    }

    /// This execution of the batch: the same over retries and continue-as-new, new on a rerun.
    pub fn batch_run(&self) -> &str {
        &self.batch_run
    }

    /// A key for the effects of the page, for sinks that know by it what they have done already: the same
    /// for the same page of the same batch run, over retries, continue-as-new, reset and redrive. A page
    /// that is cut differently by a later attempt has another key; [`item_key`](Self::item_key) does not
    /// depend on the cut.
    pub fn page_key(&self) -> String {
        let (start, end) = match &self.page {
            Some(page) => (page.start.clone(), page.end.clone()),
            // In `fetch` nobody knows yet where the page ends.
            None => {
                let start = self.range.start();
                (start.and_then(|s| PageToken::encode(s).ok()), None)
            }
        };
        let scope = scope_of(&self.batch_run, self.stride);
        stable_id(&serde_json::json!([scope, start, end]))
    }

    /// A key for the effect of one item, which has to be named by something that is its own, such as its
    /// primary key: the same in every attempt of the batch run, whatever page the item is part of. With
    /// partitions it must be its own among all of them.
    pub fn item_key(&self, item: impl Serialize) -> String {
        stable_id(&serde_json::json!([&*self.batch_run, item]))
    }

    /// Waits until the work on one more item may begin, where the batch has a [rate](crate::Batch::rate) and the processor
    /// takes its permits [item by item](Permits::PerItem). Otherwise it returns at once. Take one before each call;
    /// several items of a page may wait at the same time.
    ///
    /// The wait is not part of the [page timeout](ProcessorSettings::page_timeout). A page that has a
    /// [transaction](PageProcessor::ledger) keeps it open meanwhile.
    ///
    /// ```
    /// # use temporal_batch::*;
    /// # struct Api;
    /// # impl Api { async fn send(&self, _: &i64) -> Result<(), PageError> { Ok(()) } }
    /// async fn send_all<P: PageProcessor>(
    ///     ctx: &PageContext<P>,
    ///     api: &Api,
    ///     items: Vec<i64>,
    /// ) -> Result<PageReport, PageError> {
    ///     for item in &items {
    ///         ctx.permit().await?;
    ///         api.send(item).await?;
    ///     }
    ///     Ok(PageReport::all_processed())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the page [should end early](Self::is_cancelled). Return it: it does not count as a failure of the page. With
    /// [`RetryMode::AtMostOnce`] there is no error, as the page could not be run again.
    pub async fn permit(&self) -> Result<(), PageError> {
        if self.must_end() {
            return Err(told_to_end());
        }
        tokio::select! {
            biased;
            () = self.items.permit() => Ok(()),
            () = self.told_to_end() => Err(told_to_end()),
        }
    }

    /// Does the work on one item, and tries it again as the [settings](ProcessorSettings::item_retry) say, so that the
    /// other items of the page need not be repeated for it. Each attempt takes a [permit](Self::permit).
    ///
    /// Only errors that a retry may cure are tried again: those that are [retryable](PageError::retryable) and not among
    /// the [types](ProcessorSettings::non_retryable_types) that are not. An error that says [when to try
    /// again](PageError::retry_after) is obeyed. An attempt that could not begin in the time that is left of the page is
    /// not made.
    ///
    /// It is for work outside of the page's transaction, such as a call of an API. In a transaction a statement that
    /// failed cannot be repeated in every database.
    ///
    /// ```
    /// # use temporal_batch::*;
    /// # struct Api;
    /// # impl Api { async fn send(&self, _: &i64) -> Result<(), PageError> { Ok(()) } }
    /// async fn send_all<P: PageProcessor>(
    ///     ctx: &PageContext<P>,
    ///     api: &Api,
    ///     items: Vec<i64>,
    /// ) -> Result<PageReport, PageError> {
    ///     let mut report = PageReport::all_processed();
    ///     for (position, item) in items.iter().enumerate() {
    ///         if let Err(error) = ctx.try_item(|| api.send(item)).await? {
    ///             report.fail(position, error.error_type(), error.message());
    ///         }
    ///     }
    ///     Ok(report)
    /// }
    /// ```
    ///
    /// # Errors
    /// Outside: the page [should end early](Self::is_cancelled), as for [`permit`](Self::permit). Return it. Inside: what
    /// the last attempt failed with; give the item up with [`PageReport::fail`], or return the error to have the whole
    /// page fail.
    pub async fn try_item<T, W: Future<Output = Result<T, PageError>>>(
        &self,
        mut work: impl FnMut() -> W,
    ) -> Result<Result<T, PageError>, PageError> {
        let mut attempts = 0;
        loop {
            self.permit().await?;
            let error = match work().await {
                Ok(done) => return Ok(Ok(done)),
                Err(error) => error,
            };
            attempts += 1;
            if self.must_end() {
                // It may have failed because it was told to end.
                return Err(error);
            }
            let Some(wait) = self.items.next_try(attempts, &error) else {
                return Ok(Err(error));
            };
            tracing::debug!(attempts, error = error.message(), "item tried again");
            tokio::select! {
                biased;
                () = self.told_to_end() => return Err(error),
                () = self.items.back_off(wait) => {}
            }
        }
    }

    /// Whether an error would not count, since the page is told to end and will be run again.
    fn must_end(&self) -> bool {
        self.cancelled.may_repeat() && self.is_cancelled()
    }

    async fn told_to_end(&self) {
        match self.cancelled.may_repeat() {
            true => self.cancelled().await,
            false => std::future::pending().await,
        }
    }

    /// Whether the page should end early: the batch is cancelled, paused at once or gone, or its worker must
    /// end.
    /// See [what a page sees](PageProcessor#being-interrupted) of that. Once true, it stays true.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.has_come()
    }

    /// Resolves when [`is_cancelled`](Self::is_cancelled) becomes true.
    pub async fn cancelled(&self) {
        self.cancelled.comes().await;
    }
}

fn told_to_end() -> PageError {
    PageError::retryable("the page was told to end early").with_type("Interrupted")
}
