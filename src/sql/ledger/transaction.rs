//! The transaction of a page, or of a letter that is redriven.

use std::{any::Any, sync::Arc};

use crate::{
    base::error::PageError,
    processor::store::{dead_letter::DeadLetter, page_ledger::PageTransaction},
    progress::ItemCounts,
    sql::{
        backend::dialect::Dialect,
        connection::lease::LeasedTransaction,
        ledger::{Tables, failed, stride_table::Applied},
    },
};
use async_trait::async_trait;
use serde_json::Value;

/// The claim of a transaction.
pub(crate) enum Claim {
    /// A page of a stride.
    Page(Applied),
    /// A dead letter of a batch run, for a redrive, which applies no part of a stride.
    Letter {
        /// The batch run that gave the record up.
        batch_run: String,
    },
}

impl Claim {
    pub fn of_letter(letter: &DeadLetter) -> Self {
        Self::Letter {
            batch_run: letter.batch_run.clone(),
        }
    }
}

/// A transaction that has made its claim.
pub(crate) struct SqlTransaction<DB: Dialect> {
    transaction: LeasedTransaction<DB>,
    tables: Arc<Tables>,
    claim: Claim,
    /// True if the letter is counted as taken out.
    counted: bool,
    /// True if the row of the stride was found unchanged since other code had the connection.
    sound: bool,
}

impl<DB: Dialect> SqlTransaction<DB> {
    pub fn new(transaction: LeasedTransaction<DB>, tables: Arc<Tables>, claim: Claim) -> Self {
        Self {
            transaction,
            tables,
            claim,
            counted: false,
            sound: true,
        }
    }

    /// Checks that the transaction is still open, where other code has had the connection.
    async fn check(&mut self) -> Result<(), PageError> {
        if self.sound {
            return Ok(());
        }
        // After a failed statement, PostgreSQL answers a commit with a rollback and reports success. After a
        // deadlock, MySQL has already rolled back, and commits later statements one by one.
        let check = DB::script(&mut self.transaction, DB::IN_TRANSACTION.to_owned()).await;
        check.map_err(|error| match error {
            sqlx::Error::Database(_) => ended(),
            error => error.into(),
        })?;
        self.sound = true;
        Ok(())
    }

    /// Counts the letter as taken out, and the letters that replace it.
    async fn settle(&mut self, letters: &[DeadLetter]) -> Result<(), PageError> {
        let Claim::Letter { batch_run } = &self.claim else {
            return Ok(());
        };
        let tables = &self.tables;
        let added = tables.letters.missing::<DB>(&mut self.transaction, letters);
        let added = added.await.map_err(failed::<DB>)?;
        let settled = &tables.settled;
        let taken = u64::from(!self.counted);
        settled
            .count::<DB>(&mut self.transaction, batch_run, (taken, added))
            .await
            .map_err(failed::<DB>)?;
        self.counted = true;
        Ok(())
    }
}

/// Returns the error of a transaction that was ended by hand, by a failed statement, or by one that commits implicitly.
fn ended() -> PageError {
    PageError::retryable("the page's transaction was ended while the page was processed")
        .with_type("TransactionEnded")
}

#[async_trait]
impl<DB: Dialect> PageTransaction for SqlTransaction<DB> {
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        self.sound = false;
        Some(&mut *self.transaction)
    }

    async fn record(
        &mut self,
        items: &ItemCounts,
        letters: &[DeadLetter],
    ) -> Result<(), PageError> {
        if let Claim::Page(applied) = &self.claim {
            let strides = &self.tables.strides;
            let as_left = strides
                .count::<DB>(&mut self.transaction, applied, items)
                .await
                .map_err(failed::<DB>)?;
            if !as_left {
                return Err(ended());
            }
            self.sound = true;
        } else {
            self.check().await?;
            self.settle(letters).await?;
        }
        if !letters.is_empty() {
            let table = &self.tables.letters;
            table
                .put::<DB>(&mut self.transaction, letters)
                .await
                .map_err(failed::<DB>)?;
        }
        Ok(())
    }

    async fn keep_output(&mut self, output: &Value) -> Result<(), PageError> {
        let Claim::Page(applied) = &self.claim else {
            return Ok(());
        };
        let table = &self.tables.outputs;
        table
            .keep::<DB>(&mut self.transaction, &applied.stride, output)
            .await
            .map_err(failed::<DB>)
    }

    async fn commit(mut self: Box<Self>) -> Result<(), PageError> {
        self.check().await?;
        if !self.counted {
            self.settle(&[]).await?;
        }
        let committed = self.transaction.commit().await;
        committed.map_err(|error| match &error {
            // SQLite reports it in the commit.
            sqlx::Error::Database(said) if said.message().contains("no transaction is active") => {
                ended()
            }
            _ => error.into(),
        })
    }
}
