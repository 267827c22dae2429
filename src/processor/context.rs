//! The context in which a page is fetched and processed.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    base::error::PageError,
    batch::partition_spec::scope_of,
    page::{range::PageRange, token::PageToken},
    processor::{
        PageProcessor,
        item::{ItemRetry, ItemWork},
        stop_signal::Interruption,
        store::{dead_letter::stable_id, page_ledger::PageTransaction},
    },
};

/// The page that a processor works on, and its surroundings.
pub struct PageContext<P: PageProcessor> {
    pub(crate) args: Arc<P::Args>,
    pub(crate) range: PageRange<P::Cursor>,
    /// The tokens of the page itself, while it is processed.
    pub(crate) page: Option<PageTokens>,
    /// True if only one item of the page is processed, because it is redriven by itself.
    #[cfg_attr(not(feature = "files"), allow(dead_code, reason = "for sinks"))]
    pub(crate) alone: bool,
    /// True if each item needs a key, because the page is to be split or one of its items to be found again.
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

/// The start and the end of a page.
#[derive(Clone, Debug)]
pub(crate) struct PageTokens {
    pub start: Option<PageToken>,
    pub end: Option<PageToken>,
}

/// The transaction of the page that is being processed. The engine takes it back afterwards.
pub(crate) type SharedTransaction = Arc<tokio::sync::Mutex<Option<Box<dyn PageTransaction>>>>;

impl<P: PageProcessor> PageContext<P> {
    /// Returns the context for a question about the range of a partition, outside any page.
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

    /// Returns the arguments of the batch.
    pub fn args(&self) -> &P::Args {
        &self.args
    }

    /// Returns the range to read: after `start`, up to and including `end`.
    pub fn range(&self) -> &PageRange<P::Cursor> {
        &self.range
    }

    /// Returns the page that is processed: everything after `start`, up to and including `end`. `start` is `None` at
    /// the beginning of the data. `end` is `None` if the page ends the data and the source has its own tokens.
    ///
    /// `None` in [`fetch`](PageProcessor::fetch) and [`skip_ahead`](PageProcessor::skip_ahead), where the end
    /// of the page is not known yet.
    pub fn page(&self) -> Option<&PageRange<P::Cursor>> {
        self.bounds.as_ref()
    }

    /// Returns whether `fetch` must return the keys of its items, because the page is to be split or one of its
    /// items to be found again. This concerns sources that otherwise return [`Page::not_read`](crate::Page::not_read).
    pub fn wants_keys(&self) -> bool {
        self.with_keys
    }

    /// Returns the maximum number of items in the page.
    pub fn page_size(&self) -> usize {
        self.page_size as usize
    }

    /// Returns the number of the attempt at the page: 1 for the first, 2 for the first retry and so on. After a worker
    /// is lost, a page may run again under the same number.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the number of the stride that the page belongs to.
    pub fn stride(&self) -> u64 {
        self.stride
    }

    /// Returns the id of the batch.
    pub fn batch_id(&self) -> &str {
        &self.batch_id
    }

    /// Returns the [partition](PageProcessor::partitions) that the page belongs to. `None` in a batch without
    /// partitions and in a redrive. A processor with dead letters that needs the partition should therefore
    /// include it in its cursors.
    pub fn partition(&self) -> Option<&str> {
        self.partition.as_deref()
    }

    /// Returns the id of this execution of the batch. It is the same across retries and continue-as-new, and new for a
    /// rerun.
    pub fn batch_run(&self) -> &str {
        &self.batch_run
    }

    /// Returns an idempotency key for the effects of the page. The key is the same for the same page of the same batch
    /// run across retries, continue-as-new, reset and redrive. If a later attempt cuts the page differently the
    /// key differs; [`item_key`](Self::item_key) does not depend on the cut.
    pub fn page_key(&self) -> String {
        let (start, end) = match &self.page {
            Some(page) => (page.start.clone(), page.end.clone()),
            // In `fetch`, the end of the page is not known yet.
            None => {
                let start = self.range.start();
                (start.and_then(|s| PageToken::encode(s).ok()), None)
            }
        };
        let scope = scope_of(&self.batch_run, self.stride);
        stable_id(&serde_json::json!([scope, start, end]))
    }

    /// Returns an idempotency key for the effect of one item. `item` must identify it, such as a primary key. The key
    /// is the same in every attempt of the batch run, whatever page contains the item. With partitions, `item`
    /// must be unique among all of them.
    pub fn item_key(&self, item: impl Serialize) -> String {
        stable_id(&serde_json::json!([&*self.batch_run, item]))
    }

    /// Waits for permission to start the work on one more item, if the batch has a [rate](crate::Batch::rate)
    /// and the processor takes its permits [item by item](crate::Permits::PerItem). Otherwise it returns at once. Take
    /// a permit before each call; several items of a page may wait at the same time.
    ///
    /// The wait does not count towards the [page timeout](crate::ProcessorSettings::page_timeout). A page with a
    /// [transaction](PageProcessor::ledger) keeps it open during the wait.
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
    /// An error if the page [should end early](Self::is_cancelled). Return it: it does not count as a failure
    /// of the page. With [`RetryMode::AtMostOnce`](crate::settings::RetryMode::AtMostOnce) there is no error, because the
    /// page could not run again.
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

    /// Does the work on one item and retries it according to the [settings](crate::ProcessorSettings::item_retry), so
    /// that the other items of the page need not be repeated. Each attempt takes a [permit](Self::permit).
    ///
    /// An error is retried if it is [retryable](PageError::retryable) and its type is not in
    /// [`non_retryable_types`](crate::ProcessorSettings::non_retryable_types). An error with a [waiting
    /// time](PageError::retry_after) determines the wait. An attempt that could not start before the page times
    /// out is not made.
    ///
    /// Use it for work outside the page's transaction, such as an API call. In some databases a failed
    /// statement cannot be repeated within a transaction.
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
    /// The outer error means that the page [should end early](Self::is_cancelled), as for
    /// [`permit`](Self::permit). Return it. The inner error is that of the last attempt. Give the item up with
    /// [`PageReport::fail`](crate::PageReport::fail), or return the error to fail the whole page.
    pub async fn try_item<T, W: Future<Output = Result<T, PageError>>>(
        &self,
        work: impl FnMut() -> W,
    ) -> Result<Result<T, PageError>, PageError> {
        self.attempts(self.items.retry(), true, work).await
    }

    /// Does a piece of work of the page and repeats it as `retry` says. It is [`try_item`](Self::try_item) with a
    /// retry of its own and without permits: a `work` that needs one calls [`permit`](Self::permit). Check `retry`
    /// with [`ItemRetry::validate`] beforehand.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use temporal_batch::{*, settings::ItemRetry};
    /// # struct Mail;
    /// # impl Mail { async fn send(&self, _: &i64) -> Result<(), PageError> { Ok(()) } }
    /// async fn send<P: PageProcessor>(ctx: &PageContext<P>, mail: &Mail, to: i64) -> Result<(), PageError> {
    ///     let retry = ItemRetry::attempts(3).first_backoff(Duration::from_millis(50));
    ///     ctx.with_retry(retry, || mail.send(&to)).await?
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`try_item`](Self::try_item).
    pub async fn with_retry<T, W: Future<Output = Result<T, PageError>>>(
        &self,
        retry: ItemRetry,
        work: impl FnMut() -> W,
    ) -> Result<Result<T, PageError>, PageError> {
        self.attempts(retry, false, work).await
    }

    async fn attempts<T, W: Future<Output = Result<T, PageError>>>(
        &self,
        retry: ItemRetry,
        permits: bool,
        mut work: impl FnMut() -> W,
    ) -> Result<Result<T, PageError>, PageError> {
        let mut attempts = 0;
        loop {
            if permits {
                self.permit().await?;
            } else if self.must_end() {
                return Err(told_to_end());
            }
            let error = match work().await {
                Ok(done) => return Ok(Ok(done)),
                Err(error) => error,
            };
            attempts += 1;
            if self.must_end() {
                // The failure may be a consequence of the interruption.
                return Err(error);
            }
            let Some(wait) = self.items.next_try(retry, attempts, &error) else {
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

    /// Tells that the first `done` items of the page are done, whatever becomes of the page. Heartbeats show the number,
    /// and if the worker is lost, the next attempt finds it in [`resume_from`](Self::resume_from).
    ///
    /// Call it after an item, not before it, and only for items whose effects are outside of the page's
    /// [transaction](PageProcessor::ledger). It costs nothing: heartbeats are sent five times in a
    /// [heartbeat timeout](crate::ProcessorSettings::heartbeat_timeout), so up to a fifth of it may be missing.
    pub fn items_done(&self, done: usize) {
        self.items.marks(done);
    }

    /// Returns the number of items that need not be done again, because an earlier attempt at this page reported them with
    /// [`items_done`](Self::items_done) before its worker was lost. 0 if nothing is known, if the page was cut differently,
    /// and with a [ledger](PageProcessor::ledger), because the transaction of that attempt was rolled back.
    ///
    /// The [`PageReport`](crate::PageReport) is still one of all items of the page. Failures among the items that are left
    /// out have to be known from elsewhere.
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
    ///     for (position, item) in items.iter().enumerate().skip(ctx.resume_from()) {
    ///         api.send(item).await?;
    ///         ctx.items_done(position + 1);
    ///     }
    ///     Ok(PageReport::all_processed())
    /// }
    /// ```
    pub fn resume_from(&self) -> usize {
        self.items.done_before()
    }

    /// Waits for something that is not part of the page's time.
    ///
    /// # Errors
    /// Those of [`permit`](Self::permit).
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "for calls of an API")
    )]
    pub(crate) async fn wait_beside(
        &self,
        wait: impl Future<Output = ()>,
    ) -> Result<(), PageError> {
        if self.must_end() {
            return Err(told_to_end());
        }
        tokio::select! {
            biased;
            () = self.items.beside(wait) => Ok(()),
            () = self.told_to_end() => Err(told_to_end()),
        }
    }

    /// Waits before an item is tried again.
    ///
    /// # Errors
    /// Those of [`permit`](Self::permit).
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "for calls of an API")
    )]
    pub(crate) async fn back_off(&self, wait: Duration) -> Result<(), PageError> {
        tokio::select! {
            biased;
            () = self.told_to_end() => Err(told_to_end()),
            () = self.items.back_off(wait) => Ok(()),
        }
    }

    /// Returns whether an error would not count, because the page is interrupted and will run again.
    pub(crate) fn must_end(&self) -> bool {
        self.cancelled.may_repeat() && self.is_cancelled()
    }

    async fn told_to_end(&self) {
        match self.cancelled.may_repeat() {
            true => self.cancelled().await,
            false => std::future::pending().await,
        }
    }

    /// Returns whether the page should end early, because the batch is cancelled, paused at once or gone, or
    /// because its worker must end. See [the effects on a page](PageProcessor#being-interrupted). Once true, it
    /// stays true.
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
