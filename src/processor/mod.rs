//! The trait that users implement, its context and its results.

mod batch_of;
pub(crate) mod check_context;
pub(crate) mod context;
pub(crate) mod hooks;
pub(crate) mod item;
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

/// The work of a batch: how to read one page of the data, and what to do with its items.
///
/// # In which order the methods run
///
/// For every page, on any worker:
///
/// 1. [`fetch`](Self::fetch) reads the page in [`ctx.range()`](PageContext::range) and says where the next
///    one starts.
/// 2. The engine tells the controller where the next page starts, so that another worker can begin with
///    it, and waits for its share of the rate.
/// 3. [`process`](Self::process) does the work.
///
/// `fetch` and `process` of one page run one after the other; different pages run at the same time, in any
/// order and on different machines.
///
/// # What must be idempotent
///
/// A page whose attempt failed, or whose worker was lost, runs again from `fetch` on
/// ([`RetryMode::AtLeastOnce`]). By then the work may have been done in part or in whole, so doing it again
/// must not harm. The range of a page never changes once the next page is known: rows that were inserted
/// meanwhile are never somebody else's.
///
/// # Being interrupted
///
/// | what happens | `fetch`, or waiting for the rate or a throttle | `process` with a [ledger](Self::ledger) | `process` without |
/// |---|---|---|---|
/// | pause, hand-over, new limits, a worker that drains | `fetch` finishes; a wait ends | finishes | finishes |
/// | pause at once | dropped | dropped, and its transaction is rolled back | is told, and finishes or returns early |
/// | cancellation; a worker that must end | is told; a wait ends | is told | is told |
/// | the batch was terminated, deleted or run again by another batch run | is told, and `process` is not called | is told | is told |
/// | [`page_timeout`](ProcessorSettings::page_timeout), which leaves waits out | dropped | dropped | dropped |
///
/// To be told means that [`PageContext::is_cancelled`] becomes true and [`PageContext::cancelled`] resolves;
/// pages that take long should look. To be dropped means that the code goes no further than the `await`
/// where it is; what it has spawned or begun elsewhere goes on.
///
/// Apart from the timeout, none of this counts against the page. One that was dropped, or returned an error
/// after it was told, uses up no attempt and is run again when the batch goes on; of a page that was
/// dropped in `process` nothing is applied. One that returned a [`PageReport`] is finished.
///
/// With [`RetryMode::AtMostOnce`] a pause at once lets `process` finish and does not tell it; an error after
/// a cancellation counts like any other, since the page must not be run again.
///
/// There is no need to heartbeat: the engine does it in the background.
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
/// # A trap: pages by offset
///
/// `LIMIT 1000 OFFSET 5000` reads 6,000 rows to return 1,000, and skips a row whenever an earlier one was
/// deleted meanwhile. Page by key: `WHERE id > $start ORDER BY id LIMIT 1000`, with `AND id <= $end` once
/// the range is closed.
#[async_trait]
pub trait PageProcessor: Send + Sync + Sized + 'static {
    /// The processor's name in histories, commands and metrics. It must not change while batches of it
    /// run; renaming the type is harmless.
    const NAME: &'static str;

    /// Given once per batch; `()` if there is nothing to say. Stored in histories, so no secrets.
    ///
    /// Derive it with `#[serde(deny_unknown_fields)]`: a misspelt field is then refused, with the name that was
    /// probably meant. Otherwise it is ignored, which `start` and the worker warn of.
    type Args: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// A position in the data: the key of the last row before a page, or a token of the source's own.
    type Cursor: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static;

    /// One record. Items stay in the worker: they never enter a history.
    type Item: Send + 'static;

    /// Reads one page of at most [`ctx.page_size()`](PageContext::page_size) items in
    /// [`ctx.range()`](PageContext::range), and says where the next one starts.
    async fn fetch(
        &self,
        ctx: &PageContext<Self>,
    ) -> Result<Page<Self::Cursor, Self::Item>, PageError>;

    /// Does the work for the items of one page. Never called with no items.
    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<Self::Item>,
    ) -> Result<PageReport, PageError>;

    /// Finds where the page `pages` pages further on starts, without reading what is between; for a table
    /// that is `SELECT id FROM t WHERE id > $start ORDER BY id OFFSET pages * page_size - 1 LIMIT 1`.
    ///
    /// With it, many pages can be found at once and one activity can take a stride of several. The default
    /// says that the source cannot.
    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<Self::Cursor>, PageError> {
        let _ = (ctx, pages);
        Ok(SkipAhead::Unsupported)
    }

    /// Completes the arguments, once per batch run and before anything else: a bound that the data has now, the
    /// size of a file. Every page, every check and [`size_hint`](Self::size_hint) get what this returns; it
    /// is stored in histories. A [non-retryable](PageError::non_retryable) error refuses the batch with its
    /// message, any other is tried again. The default leaves the arguments as they are.
    async fn prepare(&self, args: Self::Args) -> Result<Self::Args, PageError> {
        Ok(args)
    }

    /// Looks at what was done, after each [stage](crate::Batch) and once the last page is finished; it also
    /// runs for the command `verify`. What does not hold is a value, [`Check::fails`]; an error means that it
    /// could not be found out, and is tried again. The default checks nothing.
    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        let _ = ctx;
        Ok(None)
    }

    /// About how many items the whole batch has, for percent and time left. Asked once, before the first
    /// page. The default does not know.
    ///
    /// It is an estimate: it is shown as one, no longer than until it is passed, and not once the batch is over. Where
    /// items can be counted, write [`size`](Self::size) instead.
    async fn size_hint(&self, args: &Self::Args) -> Result<Option<u64>, PageError> {
        let _ = args;
        Ok(None)
    }

    /// How many items the whole batch has, and whether that is [exact](Size::Exact) or an [estimate](Size::Estimate). Asked once,
    /// before the first page. The default takes [`size_hint`](Self::size_hint) for an estimate.
    async fn size(&self, args: &Self::Args) -> Result<Size, PageError> {
        self.size_hint(args).await.map(Size::from_hint)
    }

    /// Where it is recorded which pages were applied, for effects that are committed exactly once. With it,
    /// `process` writes in [`ctx.transaction()`](PageContext), which the engine commits together with the
    /// ledger's row and the dead letters of the page. The default is none: at least once.
    fn ledger(&self, args: &Self::Args) -> Option<Arc<dyn PageLedger>> {
        let _ = args;
        None
    }

    /// Where records and pages that are given up are kept. With a store, a page whose attempts are spent is
    /// split until the records that cannot be processed are alone; everything else in it is done. The
    /// default is none: a failed page is given up as a whole, and the batch lists at most 50 of them.
    ///
    /// A processor with a [`ledger`](Self::ledger) keeps its dead letters there, whatever this returns.
    fn dead_letters(&self, args: &Self::Args) -> Option<Arc<dyn DeadLetters>> {
        let _ = args;
        None
    }

    /// Whether the batches of this processor have [partitions](Self::partitions). A worker that does not know
    /// of partitions must not run them, so this is known before any worker is asked.
    const PARTITIONED: bool = false;

    /// Whether [`split`](Self::split) can find a place in a range.
    const SPLITS: bool = false;

    /// Names independent ranges of the data: key ranges, tenants, files, databases. Each runs in a controller
    /// of its own, and all of them share the limits of the batch. Asked once per batch run, after
    /// [`prepare`](Self::prepare), and only with [`PARTITIONED`](Self::PARTITIONED). At most 1,000.
    ///
    /// | the rule | why |
    /// |---|---|
    /// | every item is in exactly one partition | nothing compares them |
    /// | `fetch` and [`skip_ahead`](Self::skip_ahead) keep to [`ctx.range()`](PageContext::range), which has the end of the partition where the next page is not known yet; an answer of `skip_ahead` after that end is [`SkipAhead::PastEnd`] | pages beyond it are another partition's |
    /// | a processor whose partitions are no key ranges looks at [`ctx.partition()`](PageContext::partition) | their cursors may be equal |
    ///
    /// An error is treated like one of [`prepare`](Self::prepare).
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

    /// Finds a cursor well inside of [`ctx.range()`](PageContext::range), so that two controllers can share what
    /// is left of a partition that has become the last one; `None` where that is not worth it. The range has no
    /// end where that is the end of the data. Only called with [`SPLITS`](Self::SPLITS), and only where a
    /// partition could not use all pages in flight that it might have.
    async fn split(&self, ctx: &PageContext<Self>) -> Result<Option<Self::Cursor>, PageError> {
        let _ = ctx;
        Ok(None)
    }

    /// How what the pages [put out](PageReport::output) becomes one result of the batch. A running batch keeps the
    /// reducer it began with. The default is none.
    fn reducer(&self, args: &Self::Args) -> Option<Reducer> {
        let _ = args;
        None
    }

    /// Takes out of a message what must not be logged or stored. Called with the message of each error, panic and
    /// failed item of the processor, before anything else sees it; the type of an error is kept as it is.
    ///
    /// The default keeps the message. What databases say has no values of rows by then: see [`PageError`].
    fn redact(&self, message: String) -> String {
        message
    }

    /// Retries and timeouts; see [`ProcessorSettings`] for the defaults. A running batch keeps the
    /// settings it began with, except for `non_retryable_types`.
    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings::default()
    }
}

/// Where a jump over several pages ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipAhead<C> {
    /// After this cursor, which exists.
    To(C),
    /// There is less data than that.
    PastEnd,
    /// The source cannot jump.
    Unsupported,
}
