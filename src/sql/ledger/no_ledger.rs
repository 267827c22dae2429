//! The ledger of a connection that the worker does not have.

use std::fmt;

use async_trait::async_trait;

use crate::{
    base::error::PageError,
    batch::letter_filter::LetterFilter,
    page::token::PageToken,
    processor::store::{
        dead_letter::{DeadLetter, DeadLetters},
        page_ledger::{OpenStride, PageClaim, PageLedger, PageTransaction, StrideId},
    },
    progress::report::BatchReport,
    sql::Connections,
};

/// Answers every call with the error that the connection does not exist, so that no page runs without the ledger that
/// its batch asks for.
pub struct NoLedger {
    connections: Connections,
    name: String,
}

impl NoLedger {
    /// Returns the ledger of a connection that is not among these.
    pub fn of(connections: Connections, name: &str) -> Self {
        Self {
            connections,
            name: name.to_owned(),
        }
    }

    fn refuse<T>(&self) -> Result<T, PageError> {
        let _ = self.connections.get(&self.name)?;
        Err(PageError::environment("there is no ledger").with_type("UnknownConnection"))
    }
}

impl fmt::Debug for NoLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoLedger({:?})", self.name)
    }
}

#[async_trait]
impl DeadLetters for NoLedger {
    async fn put(&self, _: &[DeadLetter]) -> Result<(), PageError> {
        self.refuse()
    }

    async fn list(
        &self,
        _: &LetterFilter,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<DeadLetter>, PageError> {
        self.refuse()
    }

    async fn take(&self, _: &DeadLetter) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        self.refuse()
    }

    async fn keep_report(&self, _: &BatchReport) -> Result<(), PageError> {
        self.refuse()
    }

    async fn reports(&self, _: &str) -> Result<Vec<BatchReport>, PageError> {
        self.refuse()
    }
}

#[async_trait]
impl PageLedger for NoLedger {
    async fn open(
        &self,
        _: &StrideId,
        _: Option<&PageToken>,
        _: Option<&PageToken>,
        _: bool,
    ) -> Result<OpenStride, PageError> {
        self.refuse()
    }

    async fn cut(
        &self,
        _: &StrideId,
        _: i64,
        _: &[PageToken],
    ) -> Result<Vec<PageToken>, PageError> {
        self.refuse()
    }

    async fn begin(&self, _: PageClaim<'_>) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        self.refuse()
    }
}
