//! The records of a stride outside the controller: the pages applied and the dead letters.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{
    base::error::PageError,
    page::token::PageToken,
    processor::{
        PageProcessor,
        context::SharedTransaction,
        store::{
            dead_letter::{DeadLetter, DeadLetters},
            page_ledger::{
                OpenStride, PageClaim, PageLedger, PageTransaction, StrideId, not_claimed,
            },
        },
    },
    progress::ItemCounts,
    protocol::StrideOrder,
};

/// The stores of a processor, for one attempt at a stride.
pub(super) enum PageStores {
    /// A processor without stores: the controller lists its failed pages.
    Nothing,
    /// A store of dead letters only.
    Letters(Arc<dyn DeadLetters>),
    /// A ledger, which also stores dead letters.
    Ledger {
        ledger: Arc<dyn PageLedger>,
        stride: StrideId,
        fence: i64,
    },
}

/// The transaction of a page, if the processor has a ledger.
pub(super) struct OpenPage {
    transaction: Option<SharedTransaction>,
    used: Arc<AtomicBool>,
}

impl PageStores {
    /// Begins an attempt and returns the ledger's state of the stride.
    pub async fn open<P: PageProcessor>(
        processor: &P,
        args: &P::Args,
        order: &StrideOrder,
        end: Option<&PageToken>,
    ) -> Result<(Self, Option<OpenStride>), PageError> {
        let Some(ledger) = processor.ledger(args) else {
            let letters = processor.dead_letters(args);
            return Ok((letters.map_or(Self::Nothing, Self::Letters), None));
        };
        let stride = StrideId {
            batch_run: order.batch_run.clone(),
            batch_id: order.batch_id.clone(),
            stride: order.stride,
        };
        let open = ledger
            .open(&stride, order.start.as_ref(), end, order.is_kept)
            .await?;
        let fence = open.fence;
        let stores = Self::Ledger {
            ledger,
            stride,
            fence,
        };
        Ok((stores, Some(open)))
    }

    /// Returns the stored outputs of the stride's pages applied after the given extent.
    pub async fn outputs(&self, after: u64) -> Result<Vec<Value>, PageError> {
        match self {
            Self::Ledger { ledger, stride, .. } => ledger.outputs(stride, after).await,
            Self::Nothing | Self::Letters(_) => Ok(Vec::new()),
        }
    }

    pub fn keeps_letters(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Calls [`PageLedger::message_limit`].
    pub async fn message_limit(&self) -> Option<String> {
        match self {
            Self::Ledger { ledger, .. } => ledger.message_limit().await,
            Self::Nothing | Self::Letters(_) => None,
        }
    }

    pub fn is_ledger(&self) -> bool {
        matches!(self, Self::Ledger { .. })
    }

    /// Stores the ends of this stride and the following ones, and returns them. Ends that were decided before
    /// take precedence.
    pub async fn cut(&self, ends: Vec<PageToken>) -> Result<Vec<PageToken>, PageError> {
        match self {
            Self::Ledger {
                ledger,
                stride,
                fence,
            } => ledger.cut(stride, *fence, &ends).await,
            Self::Nothing | Self::Letters(_) => Ok(ends),
        }
    }

    /// Begins to apply a part.
    pub async fn begin(&self, part: PageSlice<'_>) -> Result<OpenPage, PageError> {
        let used = Arc::new(AtomicBool::new(false));
        let Self::Ledger {
            ledger,
            stride,
            fence,
        } = self
        else {
            return Ok(OpenPage {
                transaction: None,
                used,
            });
        };
        let claim = PageClaim {
            stride,
            fence: *fence,
            from: part.from,
            to: part.to,
            ends_data: part.ends_data,
            pages: part.pages,
            pages_failed: part.pages_failed,
        };
        let Some(inner) = ledger.begin(claim).await? else {
            return Err(not_claimed());
        };
        let watched = Watched {
            inner,
            used: Arc::clone(&used),
        };
        Ok(OpenPage {
            transaction: Some(Arc::new(Mutex::new(Some(Box::new(watched))))),
            used,
        })
    }

    /// Records the outcomes of the items, in the transaction of their effects if there is one.
    pub async fn finish(
        &self,
        open_page: OpenPage,
        items: &ItemCounts,
        letters: &[DeadLetter],
        output: &Value,
    ) -> Result<(), PageError> {
        if let Some(transaction) = open_page.transaction {
            let transaction = transaction.lock().await.take();
            let mut transaction = transaction.expect("only this function takes the transaction");
            transaction.record(items, letters).await?;
            if !output.is_null() {
                transaction.keep_output(output).await?;
            }
            return transaction.commit().await;
        }
        match self {
            Self::Letters(store) if !letters.is_empty() => store.put(letters).await,
            _ => Ok(()),
        }
    }
}

pub(super) use crate::processor::store::page_ledger::FENCED_OFF;

/// A page, or a part of one, that is about to be applied.
#[derive(Clone, Copy)]
pub(super) struct PageSlice<'a> {
    pub from: Option<&'a PageToken>,
    pub to: Option<&'a PageToken>,
    pub ends_data: bool,
    pub pages: u32,
    pub pages_failed: u32,
}

impl OpenPage {
    /// The transaction for the context of `process`.
    pub fn shared(&self) -> Option<SharedTransaction> {
        self.transaction.clone()
    }

    /// Checks that the processor used the transaction. Work outside it would be repeated or lost after a retry.
    pub fn check_used(&self, items: &ItemCounts) -> Result<(), PageError> {
        if self.transaction.is_none() || items.processed == 0 || self.used.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(PageError::environment(
            "the processor has a ledger, but process reported items as processed without writing in \
             the transaction of the page (PageContext::transaction)",
        )
        .with_type("TransactionNotUsed"))
    }
}

/// A transaction that records whether it is used.
struct Watched {
    inner: Box<dyn PageTransaction>,
    used: Arc<AtomicBool>,
}

#[async_trait]
impl PageTransaction for Watched {
    async fn open(&mut self) -> Result<(), PageError> {
        self.inner.open().await
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        self.used.store(true, Ordering::Relaxed);
        self.inner.connection()
    }

    async fn record(
        &mut self,
        items: &ItemCounts,
        letters: &[DeadLetter],
    ) -> Result<(), PageError> {
        self.inner.record(items, letters).await
    }

    async fn keep_output(&mut self, output: &Value) -> Result<(), PageError> {
        self.inner.keep_output(output).await
    }

    async fn commit(self: Box<Self>) -> Result<(), PageError> {
        self.inner.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_was_done_has_to_be_in_the_transaction() {
        let items = |processed| ItemCounts {
            processed,
            skipped: 3,
            ..ItemCounts::default()
        };
        for (ledger, used, processed, is_fine) in [
            (true, false, 1, false),
            (true, true, 1, true),
            (true, false, 0, true),
            (false, false, 1, true),
        ] {
            let open_page = OpenPage {
                transaction: ledger.then(|| Arc::new(Mutex::new(None))),
                used: Arc::new(AtomicBool::new(used)),
            };
            let checked = open_page.check_used(&items(processed));
            assert_eq!(
                checked.is_ok(),
                is_fine,
                "{processed} processed, used: {used}"
            );
        }
    }
}
