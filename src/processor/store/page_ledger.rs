//! The record of which pages were applied, stored together with their effects.
//!
//! With a [`PageLedger`] the effects of a page are committed exactly once, whatever is retried. The transaction
//! that contains the effects first moves the ledger's row of the stride from the page's start to its end. That
//! only succeeds for one attempt.
//!
//! ```text
//!   attempt           ledger row of its stride
//!      | open    ---> | fence + 1; reads how far it is applied
//!      | cut     ---> | stores the end of the stride before it is announced   (if not yet decided)
//!      | begin   ---> | BEGIN; applied_to: start -> end, if the fence is unchanged
//!      |   process    |        the effects, in the same transaction
//!      | record  ---> |        counts, dead letters
//!      | commit  ---> | COMMIT
//! ```
//!
//! A late attempt finds another fence, or another `applied_to`, and gets no transaction. Neither an attempt
//! number nor a page's start could detect it: both repeat after a reset, and two attempts may cut the same
//! range into different pages.

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

/// The error type of an attempt at a stride after a later attempt has begun.
pub(crate) const FENCED_OFF: &str = "FencedOff";

/// Returns the error of an attempt whose page was not claimed.
pub(crate) fn not_claimed() -> PageError {
    PageError::environment(
        "another attempt at the stride has begun since; this one may not write any more",
    )
    .with_type(FENCED_OFF)
}

/// The identity of a stride.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrideId {
    /// The id of the batch's execution.
    pub batch_run: String,
    /// The id of the batch, for people who read the table.
    pub batch_id: String,
    /// The number of the stride.
    pub stride: u64,
}

/// The pages and items of a stride that are done, over all its attempts.
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
    /// Returns the progress of a stride as one number, which grows with everything that is applied.
    pub fn progress_counter(&self) -> u64 {
        let items = self.items.total();
        self.pages
            .saturating_add(self.pages_failed)
            .saturating_add(items)
    }
}

/// The state of a stride when an attempt opens it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenStride {
    /// The fence of this attempt. Later attempts have higher fences.
    pub fence: i64,
    /// The cursor up to which the stride is applied.
    pub applied_to: Option<PageToken>,
    /// The end of the stride, if it is decided.
    pub end: Option<PageToken>,
    /// True if the stride was applied up to the end of the data.
    pub ends_data: bool,
    /// The counts of the applied pages.
    pub totals: StrideTotals,
}

/// A page that is about to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct PageClaim<'a> {
    /// The stride of the page.
    pub stride: &'a StrideId,
    /// The fence of the attempt.
    pub fence: i64,
    /// The start of the page, up to which the stride must be applied exactly.
    pub from: Option<&'a PageToken>,
    /// The end of the page. `None` if the end of the data has no cursor.
    pub to: Option<&'a PageToken>,
    /// True if the data ends with the page.
    pub ends_data: bool,
    /// The number of finished pages to add: 1, or 0 for a part of a page.
    pub pages: u32,
    /// The number of pages given up as a whole to add: 0 or 1.
    pub pages_failed: u32,
}

/// The record of which pages were applied, in the database of their effects.
///
/// `SqlLedger` is the implementation in this crate. All calls of one attempt come one after the other. Two
/// attempts at one stride may overlap if one of them is late.
#[async_trait]
pub trait PageLedger: DeadLetters {
    /// Begins an attempt. It raises the fence, so that earlier attempts can no longer apply anything, and
    /// returns how far the stride is applied. A new stride is applied up to `start`. `end` is stored if it is
    /// known and no end was stored before.
    ///
    /// `is_kept` says that the ledger of the batch must have this stride or the one before it. If it has
    /// neither, it belongs to another database. Nothing may be written then: return a
    /// [`PageError::environment`] of type `WrongDatabase`.
    async fn open(
        &self,
        stride: &StrideId,
        start: Option<&PageToken>,
        end: Option<&PageToken>,
        is_kept: bool,
    ) -> Result<OpenStride, PageError>;

    /// Stores where a stride and those after it end, before that is announced, so that a batch that is reset
    /// cuts its data in the same places. The first call decides: it returns the stored ends, which are `ends`
    /// unless there were others.
    async fn cut(
        &self,
        stride: &StrideId,
        fence: i64,
        ends: &[PageToken],
    ) -> Result<Vec<PageToken>, PageError>;

    /// Begins the transaction of a page and claims the page in it. `None` means that another attempt has raised
    /// the fence or applied the page, and nothing may be done.
    async fn begin(
        &self,
        claim: PageClaim<'_>,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError>;

    /// Returns the number of strides of which pages are applied, over all batches of this id. A command asks
    /// before it starts a batch that Temporal does not know. The default returns 0.
    ///
    /// # Errors
    /// The ledger cannot be read.
    async fn strides_of(&self, batch_id: &str) -> Result<u64, PageError> {
        let _ = batch_id;
        Ok(0)
    }

    /// Explains why a connection may break when a certain record is sent, such as the longest message that the
    /// server accepts. The dead letter of the record contains the text. The default has no explanation.
    async fn message_limit(&self) -> Option<String> {
        None
    }

    /// Returns the [stored outputs](PageTransaction::keep_output) of the pages of a stride that were applied
    /// after its [progress counter](StrideTotals::progress_counter) was `after`, in the order of application. The default stores no
    /// outputs and fails with `OutputNotKept`.
    async fn outputs(&self, stride: &StrideId, after: u64) -> Result<Vec<Value>, PageError> {
        let _ = (stride, after);
        Err(output_not_kept())
    }
}

fn output_not_kept() -> PageError {
    PageError::environment(
        "the processor has a reducer, but its ledger keeps no outputs; implement `PageLedger::outputs` and \
         `PageTransaction::keep_output`",
    )
    .with_type("OutputNotKept")
}

/// The transaction of one page. Dropping it rolls it back.
#[async_trait]
pub trait PageTransaction: Send {
    /// Begins the transaction, if it has not begun yet. It is called before [`connection`](Self::connection). The
    /// default does nothing, for a ledger whose [`begin`](PageLedger::begin) has begun it.
    ///
    /// # Errors
    /// The claim of the page failed, as in [`PageLedger::begin`].
    async fn open(&mut self) -> Result<(), PageError> {
        Ok(())
    }

    /// Returns the connection of the transaction: a `sqlx` connection, as [`Any`]. `None` if there is no
    /// database.
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)>;

    /// Adds the counts of the items, and stores the letters.
    async fn record(&mut self, items: &ItemCounts, letters: &[DeadLetter])
    -> Result<(), PageError>;

    /// Stores the output of the page, after [`record`](Self::record), for as long as the page counts as
    /// applied. It is called once, and only if the processor has a [reducer](crate::PageProcessor::reducer).
    /// The default stores no outputs and fails with `OutputNotKept`.
    async fn keep_output(&mut self, output: &Value) -> Result<(), PageError> {
        let _ = output;
        Err(output_not_kept())
    }

    /// Commits the transaction. After an error it is unknown whether it was committed.
    async fn commit(self: Box<Self>) -> Result<(), PageError>;
}
