//! A page ledger whose transactions begin late.

use std::{any::Any, fmt, sync::Arc};

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    base::error::PageError,
    batch::letter_filter::LetterFilter,
    page::token::PageToken,
    processor::store::{
        dead_letter::{self, DeadLetter, DeadLetters},
        page_ledger::{OpenStride, PageClaim, PageLedger, PageTransaction, StrideId, not_claimed},
    },
    progress::{ItemCounts, report::BatchReport},
    sql::{Connections, ledger::no_ledger::NoLedger},
};

/// Begins the transaction of a page, and claims the page, only when the page asks for its connection. A processor that
/// waits for an API before it writes would otherwise hold locks and a connection for as long as the API takes.
///
/// The claim counts when it is made: an attempt that was overtaken while it waited is fenced off.
#[derive(Clone)]
pub(crate) struct LateLedger(Arc<dyn PageLedger>);

impl LateLedger {
    /// Returns the ledger in the database of a connection. If the worker does not have the connection, every call of the
    /// ledger says so.
    pub fn of(connections: &Connections, name: &str) -> Self {
        Self(match connections.get(name) {
            Ok(database) => database.ledger(),
            Err(_) => Arc::new(NoLedger::of(connections.clone(), name)),
        })
    }
}

impl fmt::Debug for LateLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LateLedger")
    }
}

/// The claim of a transaction, made when it begins.
enum Claim {
    Page {
        stride: StrideId,
        fence: i64,
        from: Option<PageToken>,
        to: Option<PageToken>,
        ends_data: bool,
        pages: u32,
        pages_failed: u32,
    },
    Letter(Box<DeadLetter>),
}

struct LateTransaction {
    ledger: Arc<dyn PageLedger>,
    claim: Claim,
    begun: Option<Box<dyn PageTransaction>>,
}

impl Claim {
    /// Begins the transaction. It borrows no transaction, since one cannot be shared between threads.
    async fn begin(&self, ledger: &dyn PageLedger) -> Result<Box<dyn PageTransaction>, PageError> {
        match self {
            Self::Page {
                stride,
                fence,
                from,
                to,
                ends_data,
                pages,
                pages_failed,
            } => {
                let claim = PageClaim {
                    stride,
                    fence: *fence,
                    from: from.as_ref(),
                    to: to.as_ref(),
                    ends_data: *ends_data,
                    pages: *pages,
                    pages_failed: *pages_failed,
                };
                ledger.begin(claim).await?.ok_or_else(not_claimed)
            }
            Self::Letter(letter) => ledger.take(letter).await?.ok_or_else(dead_letter::gone),
        }
    }
}

impl LateTransaction {
    async fn begun(&mut self) -> Result<&mut Box<dyn PageTransaction>, PageError> {
        if self.begun.is_none() {
            self.begun = Some(self.claim.begin(&*self.ledger).await?);
        }
        Ok(self.begun.as_mut().expect("it has begun"))
    }
}

#[async_trait]
impl PageTransaction for LateTransaction {
    async fn open(&mut self) -> Result<(), PageError> {
        self.begun().await?.open().await
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        self.begun.as_mut()?.connection()
    }

    async fn record(
        &mut self,
        items: &ItemCounts,
        letters: &[DeadLetter],
    ) -> Result<(), PageError> {
        self.begun().await?.record(items, letters).await
    }

    async fn keep_output(&mut self, output: &Value) -> Result<(), PageError> {
        self.begun().await?.keep_output(output).await
    }

    async fn commit(mut self: Box<Self>) -> Result<(), PageError> {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => self.claim.begin(&*self.ledger).await?,
        };
        begun.commit().await
    }
}

#[async_trait]
impl PageLedger for LateLedger {
    async fn open(
        &self,
        stride: &StrideId,
        start: Option<&PageToken>,
        end: Option<&PageToken>,
        is_kept: bool,
    ) -> Result<OpenStride, PageError> {
        self.0.open(stride, start, end, is_kept).await
    }

    async fn cut(
        &self,
        stride: &StrideId,
        fence: i64,
        ends: &[PageToken],
    ) -> Result<Vec<PageToken>, PageError> {
        self.0.cut(stride, fence, ends).await
    }

    async fn begin(
        &self,
        claim: PageClaim<'_>,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        Ok(Some(Box::new(LateTransaction {
            ledger: Arc::clone(&self.0),
            claim: Claim::Page {
                stride: claim.stride.clone(),
                fence: claim.fence,
                from: claim.from.cloned(),
                to: claim.to.cloned(),
                ends_data: claim.ends_data,
                pages: claim.pages,
                pages_failed: claim.pages_failed,
            },
            begun: None,
        })))
    }

    async fn strides_of(&self, batch_id: &str) -> Result<u64, PageError> {
        self.0.strides_of(batch_id).await
    }

    async fn message_limit(&self) -> Option<String> {
        self.0.message_limit().await
    }

    async fn outputs(&self, stride: &StrideId, after: u64) -> Result<Vec<Value>, PageError> {
        self.0.outputs(stride, after).await
    }
}

#[async_trait]
impl DeadLetters for LateLedger {
    async fn put(&self, letters: &[DeadLetter]) -> Result<(), PageError> {
        self.0.put(letters).await
    }

    async fn list(
        &self,
        filter: &LetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PageError> {
        self.0.list(filter, after, limit).await
    }

    async fn take(
        &self,
        letter: &DeadLetter,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        Ok(Some(Box::new(LateTransaction {
            ledger: Arc::clone(&self.0),
            claim: Claim::Letter(Box::new(letter.clone())),
            begun: None,
        })))
    }

    async fn settled(&self, batch_run: &str) -> Result<Option<u64>, PageError> {
        self.0.settled(batch_run).await
    }

    async fn keep_report(&self, report: &BatchReport) -> Result<(), PageError> {
        self.0.keep_report(report).await
    }

    async fn reports(&self, batch_id: &str) -> Result<Vec<BatchReport>, PageError> {
        self.0.reports(batch_id).await
    }
}
