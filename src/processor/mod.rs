//! The trait that users implement, with its context and its results.

mod batch_of;
pub(crate) mod check_context;
pub(crate) mod context;
pub(crate) mod hooks;
pub(crate) mod item;
#[cfg(feature = "temporal")]
pub(crate) mod read_page;
pub(crate) mod reducer;
pub(crate) mod report;
pub(crate) mod settings;
pub(crate) mod stop_signal;
pub(crate) mod store;
pub(crate) mod throttle;
pub(crate) mod waiting;

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    base::error::PageError,
    batch::partition_spec::Partition,
    page::{Page, size::Size},
    processor::{
        check_context::CheckContext,
        context::PageContext,
        reducer::Reducer,
        report::PageReport,
        settings::ProcessorSettings,
        store::{dead_letter::DeadLetters, page_ledger::PageLedger},
    },
    progress::check::Check,
};

/// The work of a batch: reading a page of the data and processing its items.
///
/// # Order of calls
///
/// For every page, on any worker:
///
/// 1. [`fetch`](Self::fetch) reads the page in [`ctx.range()`](PageContext::range) and says where the next page
///    starts.
/// 2. The engine reports the start of the next page to the controller, so that another worker can begin with
///    it, and waits for the page's share of the rate.
/// 3. [`process`](Self::process) does the work.
///
/// `fetch` and `process` of one page run one after the other. Different pages run at the same time, in any
/// order and on different machines.
///
/// # What must be idempotent
///
/// A page whose attempt failed, or whose worker was lost, runs again from `fetch`
/// ([`RetryMode::AtLeastOnce`](crate::settings::RetryMode::AtLeastOnce)). Part or all of the work may already be done, so
/// doing it again must be harmless. The range of a page never changes once the next page is known, so rows
/// inserted in it later belong to no other page.
///
/// # Being interrupted
///
/// | event | `fetch`, or waiting for the rate or a throttle | `process` with a [ledger](Self::ledger) | `process` without |
/// |---|---|---|---|
/// | pause, hand-over, new limits, a worker that drains | `fetch` finishes; a wait ends | finishes | finishes |
/// | pause at once | dropped | dropped, and its transaction is rolled back | is notified, and finishes or returns early |
/// | cancellation; a worker that must end | is notified; a wait ends | is notified | is notified |
/// | the batch was terminated, deleted or run again by another batch run | is notified, and `process` is not called | is notified | is notified |
/// | [`page_timeout`](ProcessorSettings::page_timeout), which excludes waits | dropped | dropped | dropped |
///
/// A page is notified through [`PageContext::is_cancelled`], which becomes true, and
/// [`PageContext::cancelled`], which resolves. Long-running pages should check one of them. A page is dropped
/// at the `await` where it currently is. Tasks that it has spawned or work that it has started elsewhere
/// continue.
///
/// Apart from the timeout, no interruption counts against the page. A page that was dropped, or returned an
/// error after it was notified, uses up no attempt and runs again when the batch continues. The transaction of
/// a page dropped in `process` is not applied. A page that returned a [`PageReport`] is finished.
///
/// With [`RetryMode::AtMostOnce`](crate::settings::RetryMode::AtMostOnce) a pause at once does not interrupt `process`:
/// the engine lets it finish and does not notify it. An error after a cancellation counts like any other, because the page must not run again.
///
/// Processors need not heartbeat: the engine does so in the background.
///
/// # Outcomes
///
/// | a method returns | the engine |
/// |---|---|
/// | `fetch`: items | announces the next page, then calls `process` |
/// | `fetch`: [`Page::empty`] | the range is finished; in an open range this is the end of the data |
/// | `process`: [`PageReport`] | the page is finished; its items are counted as processed, skipped or failed, and failed ones become dead letters |
/// | a [`PageError`], a panic, a timeout | the page is tried again, or given up: see [`PageError`] |
///
/// # Example
///
/// ```
/// use temporal_batch::{Page, PageContext, PageError, PageProcessor, PageReport, async_trait};
///
/// /// Greets the numbers from 1 to 100.
/// struct Greet;
///
/// #[async_trait]
/// impl PageProcessor for Greet {
///     const NAME: &'static str = "greet";
///     type Args = String;
///     type Cursor = u32;
///     type Item = u32;
///
///     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
///         let first = ctx.range().start().map_or(1, |last| last + 1);
///         let last = ctx.range().end().copied().unwrap_or(100);
///         Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)
///     }
///
///     async fn process(&self, ctx: &PageContext<Self>, items: Vec<u32>) -> Result<PageReport, PageError> {
///         for n in items {
///             println!("{} {n}", ctx.args());
///         }
///         Ok(PageReport::all_processed())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let run = temporal_batch::testing::run_page(&Greet, "hello".to_owned(), None).await.unwrap();
/// assert_eq!(run.items, 100);
/// # }
/// ```
///
/// The types of arguments, cursors and items are checked by the compiler. A page whose cursor has another type than
/// `Cursor` does not compile:
///
/// ```compile_fail,E0308
/// # use temporal_batch::{Page, PageContext, PageError, PageProcessor, PageReport, async_trait};
/// # struct Greet;
/// #[async_trait]
/// impl PageProcessor for Greet {
/// #   const NAME: &'static str = "greet";
/// #   type Args = String;
/// #   type Item = u32;
///     type Cursor = u32;
///
///     async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
///         Page::keyset(vec![1, 2, 3], |n| n.to_string())
///     }
/// #   async fn process(&self, _: &PageContext<Self>, _: Vec<u32>) -> Result<PageReport, PageError> {
/// #       Ok(PageReport::all_processed())
/// #   }
/// }
/// ```
///
/// # Avoid paging by offset
///
/// `LIMIT 1000 OFFSET 5000` reads 6,000 rows to return 1,000, and skips a row if an earlier one was deleted in
/// the meantime. Page by key instead: `WHERE id > $start ORDER BY id LIMIT 1000`, with `AND id <= $end` once
/// the range is closed.
#[async_trait]
pub trait PageProcessor: Send + Sync + Sized + 'static {
    /// The processor's name in histories, commands and metrics. It must not change while batches of it run. The
    /// type may be renamed at any time.
    const NAME: &'static str;

    /// The arguments of a batch; `()` if there are none. They are stored in histories, so they must not contain
    /// secrets.
    ///
    /// Derive it with `#[serde(deny_unknown_fields)]`: a misspelt field is then refused with a suggestion.
    /// Otherwise it is ignored, and `start` and the worker log a warning.
    type Args: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// A position in the data: the key of the last row before a page, or a token of the source.
    type Cursor: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static;

    /// One record. Items stay in the worker and never enter a history.
    type Item: Send + 'static;

    /// Reads one page of at most [`ctx.page_size()`](PageContext::page_size) items in
    /// [`ctx.range()`](PageContext::range) and says where the next page starts.
    async fn fetch(
        &self,
        ctx: &PageContext<Self>,
    ) -> Result<Page<Self::Cursor, Self::Item>, PageError>;

    /// Processes the items of one page. It is never called without items.
    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<Self::Item>,
    ) -> Result<PageReport, PageError>;

    /// Finds the start of the page `pages` pages ahead without reading the data in between. For a table this is
    /// `SELECT id FROM t WHERE id > $start ORDER BY id OFFSET pages * page_size - 1 LIMIT 1`.
    ///
    /// It allows many pages to be discovered at once, and one activity to process a stride of several pages.
    /// The default returns [`SkipAhead::Unsupported`].
    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<Self::Cursor>, PageError> {
        let _ = (ctx, pages);
        Ok(SkipAhead::Unsupported)
    }

    /// Completes the arguments, once per batch run and before anything else: for example with the current upper
    /// bound of the data, or the size of a file. Every page, every check and [`size_hint`](Self::size_hint)
    /// receive the returned value, which is stored in histories. A [non-retryable](PageError::non_retryable)
    /// error refuses the batch with its message. Any other error is retried. The default returns the arguments
    /// unchanged.
    async fn prepare(&self, args: Self::Args) -> Result<Self::Args, PageError> {
        Ok(args)
    }

    /// Checks the work done, after each [stage](crate::Batch::stages) and after the last page. The command
    /// `verify` also calls it. Report faults with [`Check::fails`]. An error means that the check could not be
    /// made, and is retried. The default checks nothing.
    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        let _ = ctx;
        Ok(None)
    }

    /// Estimates the number of items in the whole batch, for percentages and the remaining time. It is called
    /// once, before the first page. The default returns `None`.
    ///
    /// The number is shown as an estimate until it is exceeded or the batch has ended. If the items can be
    /// counted, implement [`size`](Self::size) instead.
    async fn size_hint(&self, args: &Self::Args) -> Result<Option<u64>, PageError> {
        let _ = args;
        Ok(None)
    }

    /// Returns the number of items in the whole batch, as an [exact](Size::Exact) count or an
    /// [estimate](Size::Estimate). It is called once, before the first page. The default treats
    /// [`size_hint`](Self::size_hint) as an estimate.
    async fn size(&self, args: &Self::Args) -> Result<Size, PageError> {
        self.size_hint(args).await.map(Size::from_hint)
    }

    /// Returns the ledger that records which pages were applied, for effects that are committed exactly once.
    /// With a ledger, `process` writes in [`ctx.transaction()`](PageContext), and the engine commits that
    /// transaction together with the ledger's row and the dead letters of the page. The default has no ledger,
    /// and effects happen at least once.
    fn ledger(&self, args: &Self::Args) -> Option<Arc<dyn PageLedger>> {
        let _ = args;
        None
    }

    /// Returns the store for records and pages that are given up. With a store, a page whose attempts are used
    /// up is split until the records that cannot be processed are isolated, and all other records are
    /// processed. Without a store, which is the default, a failed page is given up as a whole, and the batch
    /// lists at most 50 such pages.
    ///
    /// A processor with a [`ledger`](Self::ledger) stores its dead letters there, and this method is not used.
    fn dead_letters(&self, args: &Self::Args) -> Option<Arc<dyn DeadLetters>> {
        let _ = args;
        None
    }

    /// True if batches of this processor have [partitions](Self::partitions). It is a constant because it must
    /// be known before any worker is asked: a worker that does not support partitions must not run such a
    /// batch.
    const PARTITIONED: bool = false;

    /// True if [`split`](Self::split) can find a position within a range.
    const SPLITS: bool = false;

    /// Names independent ranges of the data: key ranges, tenants, files, databases. Each runs in its own
    /// controller, and all share the limits of the batch. It is called once per batch run, after
    /// [`prepare`](Self::prepare), and only if [`PARTITIONED`](Self::PARTITIONED) is true. It returns at most
    /// 1,000 partitions.
    ///
    /// | rule | reason |
    /// |---|---|
    /// | every item is in exactly one partition | overlaps are not detected |
    /// | `fetch` and [`skip_ahead`](Self::skip_ahead) stay within [`ctx.range()`](PageContext::range), which ends with the partition while the next page is not known; an answer of `skip_ahead` after that end is [`SkipAhead::PastEnd`] | later pages belong to another partition |
    /// | a processor whose partitions are not key ranges reads [`ctx.partition()`](PageContext::partition) | cursors of different partitions may be equal |
    ///
    /// Errors are treated like those of [`prepare`](Self::prepare).
    async fn partitions(
        &self,
        args: &Self::Args,
    ) -> Result<Vec<Partition<Self::Cursor>>, PageError> {
        let _ = args;
        Err(PageError::non_retryable(
            "NoPartitions",
            "the processor says that it has partitions, but names none",
        ))
    }

    /// Finds a cursor well inside [`ctx.range()`](PageContext::range), so that two controllers can share the
    /// rest of the last running partition. `None` means that a split is not worthwhile. The range has no end if
    /// it extends to the end of the data. It is called only if [`SPLITS`](Self::SPLITS) is true, and only when
    /// a partition cannot use all the pages in flight that it may have.
    async fn split(&self, ctx: &PageContext<Self>) -> Result<Option<Self::Cursor>, PageError> {
        let _ = ctx;
        Ok(None)
    }

    /// Returns the reducer that folds the [outputs](PageReport::output) of the pages into one result of the
    /// batch. A running batch keeps the reducer with which it began. The default has none.
    fn reducer(&self, args: &Self::Args) -> Option<Reducer> {
        let _ = args;
        None
    }

    /// Removes text that must not be logged or stored from a message. It is called first for the message of
    /// each error, panic and failed item of the processor. The type of an error is kept.
    ///
    /// The default returns the message unchanged. Row values are already removed from database errors: see
    /// [`PageError`].
    fn redact(&self, message: String) -> String {
        message
    }

    /// Returns retries and timeouts; see [`ProcessorSettings`] for the defaults. A running batch keeps the
    /// settings with which it began, except for `non_retryable_types`.
    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings::default()
    }
}

/// The end of a jump over several pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipAhead<C> {
    /// The jump ends after this cursor, which exists.
    To(C),
    /// The data ends before that page.
    PastEnd,
    /// The source cannot jump.
    Unsupported,
}
