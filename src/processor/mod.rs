//! The trait that users implement, its context and its results.

pub(crate) mod hooks;
pub(crate) mod item;
pub(crate) mod reducer;
pub(crate) mod stop_signal;
pub(crate) mod store;
pub(crate) mod throttle;
pub(crate) mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    base::{error::PageError, text::exactly},
    batch::retry::{RetryMode, RetryPolicy, RetryPolicyError},
    decisions::partitions::{Partition, scope_of},
    page::{Page, PageRange, PageToken, size::Size},
    processor::{
        item::{InvalidItemRetry, ItemRetry, ItemWork, Permits},
        reducer::Reducer,
        stop_signal::Interruption,
        store::{
            dead_letter::{DeadLetters, MAX_LETTER_CHARS, stable_id},
            page_ledger::{PageLedger, PageTransaction},
        },
    },
    progress::{
        ItemCounts,
        check::{Check, CheckContext},
    },
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

/// How the pages of a processor are retried and timed out.
///
/// | field | default |
/// |---|---|
/// | `retry_mode` | [`RetryMode::AtLeastOnce`] |
/// | `retry` | [`RetryPolicy::default`]: 10 attempts, then every 5 min |
/// | `page_timeout` | 5 min |
/// | `heartbeat_timeout` | 15 s |
/// | `non_retryable_types` | none |
/// | `permits` | [`Permits::PerPage`] |
/// | `item_retry` | [`ItemRetry::default`]: an item is tried once |
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessorSettings {
    /// Whether a page may run more than once.
    pub retry_mode: RetryMode,
    /// How often, and after which waits.
    pub retry: RetryPolicy,
    /// Longest time for `fetch` and `process` of one page together, waits for the rate not included, those between two
    /// attempts at an item included. Code that blocks
    /// its thread cannot be dropped when it is over: the page has failed then, and its code goes on beside the next
    /// attempt. Put such code on `tokio::task::spawn_blocking`.
    pub page_timeout: Duration,
    /// After this long without a sign of life a worker counts as lost and its pages go to another. The
    /// engine sends signs of life by itself, five times as often.
    pub heartbeat_timeout: Duration,
    /// [Types](PageError::error_type) of errors that no retry will cure.
    pub non_retryable_types: Vec<String>,
    /// Whether the rate of a batch is kept page by page or item by item.
    pub permits: Permits,
    /// How often an item is tried by [`PageContext::try_item`].
    pub item_retry: ItemRetry,
}

impl Default for ProcessorSettings {
    fn default() -> Self {
        Self {
            retry_mode: RetryMode::default(),
            retry: RetryPolicy::default(),
            page_timeout: Duration::from_secs(300),
            heartbeat_timeout: Duration::from_secs(15),
            non_retryable_types: Vec::new(),
            permits: Permits::default(),
            item_retry: ItemRetry::default(),
        }
    }
}

/// Settings that cannot work; found when the processor is registered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// See the cause.
    #[error(transparent)]
    Retry(#[from] RetryPolicyError),
    /// See the cause.
    #[error(transparent)]
    ItemRetry(#[from] InvalidItemRetry),
    /// A page needs time.
    #[error("page_timeout is {}; it must be at least 1ms", exactly(*given))]
    PageTimeout {
        /// The timeout that was given.
        given: Duration,
    },
    /// Too short a timeout takes a busy worker for a lost one.
    #[error("heartbeat_timeout is {}; it must be at least 1s", exactly(*given))]
    HeartbeatTimeout {
        /// The timeout that was given.
        given: Duration,
    },
}

impl ProcessorSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that cannot work, and what is allowed.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        self.retry.validate(self.retry_mode)?;
        self.item_retry.validate(self.retry_mode)?;
        if self.page_timeout < Duration::from_millis(1) {
            return Err(InvalidSettings::PageTimeout {
                given: self.page_timeout,
            });
        }
        if self.heartbeat_timeout < Duration::from_secs(1) {
            return Err(InvalidSettings::HeartbeatTimeout {
                given: self.heartbeat_timeout,
            });
        }
        Ok(())
    }
}

/// What `process` did with the items of a page. Items that are not named were processed.
///
/// ```
/// use temporal_batch::PageReport;
///
/// let emails = ["a@example.org", "", "nobody"];
/// let mut report = PageReport::all_processed();
/// for (position, email) in emails.iter().enumerate() {
///     if email.is_empty() {
///         report.skip("no address");
///     } else if !email.contains('@') {
///         report.fail(position, "BadEmail", "no @ in it");
///     }
/// }
/// assert_eq!((report.skipped(), report.failed()), (1, 1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct PageReport {
    changed: u64,
    skipped: BTreeMap<String, u64>,
    failures: Vec<ItemFailure>,
    outputs: Vec<Value>,
    not_put_out: Option<String>,
}

/// An item that `process` gave up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ItemFailure {
    pub position: usize,
    pub error_type: String,
    pub message: String,
    pub record: Option<String>,
}

/// Different reasons for skipping that are counted apart.
pub(crate) const MAX_SKIP_REASONS: usize = 10;
const MAX_REASON_CHARS: usize = 60;
const MAX_ERROR_TYPE_CHARS: usize = 60;
/// Under this name, once there are too many.
const OTHER_REASONS: &str = "other reasons";

/// Counts a reason; beyond a number of different ones they are counted together.
pub(crate) fn count_reason(reasons: &mut BTreeMap<String, u64>, reason: &str, items: u64) {
    let known = reasons.contains_key(reason) || reasons.len() + 1 < MAX_SKIP_REASONS;
    let reason = if known { reason } else { OTHER_REASONS };
    *reasons.entry(reason.to_owned()).or_default() += items;
}

impl PageReport {
    /// Every item was processed.
    pub fn all_processed() -> Self {
        Self::default()
    }

    /// Of the processed items, so many were different afterwards; what a database calls rows affected.
    pub fn changed(mut self, items: u64) -> Self {
        self.changed = items;
        self
    }

    /// Counts one item as left alone on purpose. Reasons are counted apart, so they should be few: at most
    /// ten, of 60 characters.
    pub fn skip(&mut self, reason: impl fmt::Display) {
        let reason = crate::base::error::truncate(&reason.to_string(), MAX_REASON_CHARS);
        count_reason(&mut self.skipped, &reason, 1);
    }

    /// Gives one item up, while the page goes on. `position` is its place among the items that `process`
    /// was given, from 0. It becomes a dead letter, where the processor [keeps
    /// them](PageProcessor::dead_letters); otherwise it is counted, and the batch lists the first ones.
    ///
    /// Nothing of the item but its key is kept.
    pub fn fail(
        &mut self,
        position: usize,
        error_type: impl fmt::Display,
        message: impl fmt::Display,
    ) {
        self.failures.push(ItemFailure {
            position,
            error_type: crate::base::error::truncate(&error_type.to_string(), MAX_ERROR_TYPE_CHARS),
            message: crate::base::error::truncate(&message.to_string(), MAX_LETTER_CHARS),
            record: None,
        });
    }

    /// Like [`fail`](Self::fail), and keeps the record, or what should be seen of it, in its dead letter.
    pub fn fail_with_record(
        &mut self,
        position: usize,
        error_type: impl fmt::Display,
        message: impl fmt::Display,
        record: impl Into<String>,
    ) {
        self.fail(position, error_type, message);
        if let Some(failure) = self.failures.last_mut() {
            failure.record = Some(record.into());
        }
    }

    /// Puts a value out, which the [reducer](PageProcessor::reducer) of the processor folds into the result of the batch:
    /// once for each item, or less often with values that stand for many. It counts when the page is finished, exactly
    /// once. Without a reducer nothing becomes of it.
    ///
    /// The page fails when the value cannot be JSON, when the reducer cannot take it (`OutputMismatch`), or when
    /// all values of the page come to more than 6 KiB (`OutputTooLarge`); neither is cured by a retry.
    pub fn output(&mut self, value: impl Serialize) {
        match serde_json::to_value(value) {
            Ok(value) => self.outputs.push(value),
            Err(error) => self.not_put_out = Some(error.to_string()),
        }
    }

    /// Items left alone.
    pub fn skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Items given up.
    pub fn failed(&self) -> u64 {
        self.failures.len() as u64
    }

    /// What became of `items` items, unless the report cannot be about them.
    pub(crate) fn counts(&self, items: usize) -> Result<ItemCounts, PageError> {
        let positions: BTreeSet<_> = self.failures.iter().map(|f| f.position).collect();
        let possible = positions.len() == self.failures.len()
            && positions.last().is_none_or(|last| *last < items);
        let (skipped, failed) = (self.skipped(), self.failed());
        let processed = (items as u64).checked_sub(skipped + failed);
        match processed {
            Some(processed) if possible && self.changed <= processed => Ok(ItemCounts {
                processed,
                changed: self.changed,
                skipped,
                failed,
            }),
            _ => Err(PageError::non_retryable(
                "PageReportMismatch",
                format_args!(
                    "process was given {items} items and reported {skipped} skipped, {} changed and \
                     the failure of those at {positions:?}",
                    self.changed
                ),
            )),
        }
    }

    /// What was put out, in order.
    pub(crate) fn outputs(&self) -> Result<&[Value], PageError> {
        match &self.not_put_out {
            None => Ok(&self.outputs),
            Some(error) => Err(PageError::non_retryable(
                "OutputMismatch",
                format_args!("what was put out does not serialize to JSON: {error}"),
            )),
        }
    }

    pub(crate) fn skip_reasons(&self) -> &BTreeMap<String, u64> {
        &self.skipped
    }

    /// Takes out of the messages what the processor does not want to be seen.
    pub(crate) fn redact(&mut self, redact: impl Fn(String) -> String) {
        for failure in &mut self.failures {
            failure.message = redact(std::mem::take(&mut failure.message));
        }
    }

    pub(crate) fn failures(&self) -> &[ItemFailure] {
        &self.failures
    }
}

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
