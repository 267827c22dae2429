//! The record of which pages were applied, kept where their effects go.
//!
//! With a [`PageLedger`] the effects of a page are committed exactly once, whatever is retried: the
//! transaction that holds the effects first moves the ledger's row of the stride from the page's start to
//! its end, and can only do so while nobody else has.
//!
//! ```text
//!   attempt           ledger row of its stride
//!      | open    ---> | fence + 1; how far is it applied?
//!      | cut     ---> | where the stride ends, before anybody hears of it   (only while that is open)
//!      | begin   ---> | BEGIN; applied_to: start -> end, where the fence is still ours
//!      |   process    |        the effects, in the same transaction
//!      | record  ---> |        counts, dead letters
//!      | commit  ---> | COMMIT
//! ```
//!
//! An attempt that comes late finds another fence, or another `applied_to`, and has no transaction to
//! write in. Neither an attempt number nor a page's start could tell: both repeat after a reset, and two
//! attempts may cut the same range into different pages.

use std::any::Any;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    base::error::PageError,
    page::token::PageToken,
    processor::store::dead_letter::{DeadLetter, DeadLetters},
    progress::ItemCounts,
};

/// Error type of an attempt at a stride after a later attempt has begun.
pub(crate) const FENCED_OFF: &str = "FencedOff";

/// Error type of everything that needs the tables of a ledger while they are missing.
pub(crate) const LEDGER_TABLES_MISSING: &str = "LedgerTablesMissing";

/// Which stride.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrideId {
    /// The execution of the batch.
    pub batch_run: String,
    /// The batch, for people who read the table.
    pub batch_id: String,
    /// The number of the stride.
    pub stride: u64,
}

/// Pages and items of a stride that are done, over all its attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrideTotals {
    /// Pages finished.
    pub pages: u64,
    /// Pages given up as a whole.
    pub pages_failed: u64,
    /// Items by outcome.
    pub items: ItemCounts,
}

impl StrideTotals {
    /// How far a stride is, as one number that grows with everything that is applied.
    pub fn extent(&self) -> u64 {
        let items = self.items.total();
        self.pages
            .saturating_add(self.pages_failed)
            .saturating_add(items)
    }
}

/// A stride as an attempt finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenStride {
    /// The number that all later attempts have a higher one than.
    pub fence: i64,
    /// Everything of the stride up to here is applied.
    pub applied_to: Option<PageToken>,
    /// Where the stride ends, if that is decided.
    pub end: Option<PageToken>,
    /// The stride was applied up to the end of the data.
    pub ends_data: bool,
    /// What is applied.
    pub totals: StrideTotals,
}

/// A page about to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct PageClaim<'a> {
    /// The stride it belongs to.
    pub stride: &'a StrideId,
    /// The fence of the attempt.
    pub fence: i64,
    /// Where the page begins; the stride must be applied up to exactly here.
    pub from: Option<&'a PageToken>,
    /// Where it ends; `None` where the end of the data has no cursor.
    pub to: Option<&'a PageToken>,
    /// The data ends with it.
    pub ends_data: bool,
    /// Adds so many finished pages: 1, or 0 for a part of a page.
    pub pages: u32,
    /// Adds so many pages that were given up as a whole: 0 or 1.
    pub pages_failed: u32,
}

/// Keeps which pages were applied, in the database that their effects go to.
///
/// `SqlLedger` is the ledger that comes with this crate. Every method is called from one attempt; attempts
/// at one stride may overlap, when one of them comes late.
#[async_trait]
pub trait PageLedger: DeadLetters {
    /// Begins an attempt: raises the fence, so that no earlier attempt can apply anything more, and tells
    /// how far the stride is applied. A stride that is not known yet is applied up to `start`. `end`, where
    /// it is known, is kept if no end was.
    ///
    /// `is_kept`: the ledger of the batch has this stride or the one before it. Where it has neither it is that of
    /// another database, and nothing may be written: a retryable error of type `WrongDatabase`.
    async fn open(
        &self,
        stride: &StrideId,
        start: Option<&PageToken>,
        end: Option<&PageToken>,
        is_kept: bool,
    ) -> Result<OpenStride, PageError>;

    /// Keeps where a stride and those after it end, before that is announced, so that a batch that is
    /// reset cuts its data in the same places. The first word counts: gives back the ends that are kept,
    /// which are `ends` unless there were some.
    async fn cut(
        &self,
        stride: &StrideId,
        fence: i64,
        ends: &[PageToken],
    ) -> Result<Vec<PageToken>, PageError>;

    /// Begins the transaction of a page and claims the page in it. `None`: another attempt has raised the
    /// fence or applied the page; nothing may be done.
    async fn begin(
        &self,
        claim: PageClaim<'_>,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError>;

    /// Strides of batches of this id of which pages are applied. A command asks before it starts a batch that Temporal does
    /// not know.
    ///
    /// The default knows of none.
    ///
    /// # Errors
    /// The ledger could not be asked.
    async fn strides_of(&self, batch_id: &str) -> Result<u64, PageError> {
        let _ = batch_id;
        Ok(0)
    }

    /// Why a connection may break whenever a record is sent, in words for its dead letter: the longest message that
    /// the server takes, say.
    ///
    /// The default knows of nothing.
    async fn message_limit(&self) -> Option<String> {
        None
    }

    /// What was [kept](PageTransaction::keep_output) of the pages of a stride that were applied after its
    /// [extent](StrideTotals::extent) was `after`, in the order in which they were applied.
    ///
    /// The default keeps no outputs, and says so: the error `OutputNotKept`.
    async fn outputs(&self, stride: &StrideId, after: u64) -> Result<Vec<Value>, PageError> {
        let _ = (stride, after);
        Err(output_not_kept())
    }
}

fn output_not_kept() -> PageError {
    PageError::retryable(
        "the processor has a reducer, but its ledger keeps no outputs; implement `PageLedger::outputs` and \
         `PageTransaction::keep_output`",
    )
    .with_type("OutputNotKept")
}

/// The transaction of one page. Dropping it rolls it back.
#[async_trait]
pub trait PageTransaction: Send {
    /// The connection in the transaction: a `sqlx` connection, as [`Any`]. `None` where there is no
    /// database behind it.
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)>;

    /// Adds what became of the items, and keeps the letters.
    async fn record(&mut self, items: &ItemCounts, letters: &[DeadLetter])
    -> Result<(), PageError>;

    /// Keeps what the page has put out, after [`record`](Self::record), so that it is known as long as the page counts
    /// as applied. Called once, and only where the processor has a [reducer](crate::PageProcessor::reducer).
    ///
    /// The default keeps no outputs, and says so: the error `OutputNotKept`.
    async fn keep_output(&mut self, output: &Value) -> Result<(), PageError> {
        let _ = output;
        Err(output_not_kept())
    }

    /// Commits everything. After an error it is not known whether it was.
    async fn commit(self: Box<Self>) -> Result<(), PageError>;
}
