//! The transaction of a page, or of a letter that is redriven.

use std::{any::Any, sync::Arc};

use super::{
    dialect::Dialect,
    lease::LeasedTransaction,
    ledger::{Tables, failed},
    stride_table::Applied,
};
use crate::{
    dead_letter::DeadLetter, error::PageError, page_ledger::PageTransaction, progress::ItemCounts,
};
use async_trait::async_trait;
use serde_json::Value;

/// A transaction that has made its claim.
pub(super) struct SqlTransaction<DB: Dialect> {
    transaction: LeasedTransaction<DB>,
    tables: Arc<Tables>,
    /// `None` for a redrive, which applies nothing of a stride.
    applied: Option<Applied>,
    /// The row of the stride was found as the transaction left it since anybody else had the connection.
    sound: bool,
}

impl<DB: Dialect> SqlTransaction<DB> {
    pub fn new(
        transaction: LeasedTransaction<DB>,
        tables: Arc<Tables>,
        applied: Option<Applied>,
    ) -> Self {
        Self {
            transaction,
            tables,
            applied,
            sound: true,
        }
    }
}

/// By hand, by a statement that failed, or by one that commits by itself.
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
        if let Some(applied) = &self.applied {
            let strides = &self.tables.strides;
            let as_left = strides
                .count::<DB>(&mut self.transaction, applied, items)
                .await
                .map_err(failed::<DB>)?;
            if !as_left {
                return Err(ended());
            }
            self.sound = true;
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
        let Some(applied) = &self.applied else {
            return Ok(());
        };
        let table = &self.tables.outputs;
        table
            .keep::<DB>(&mut self.transaction, &applied.stride, output)
            .await
            .map_err(failed::<DB>)
    }

    async fn commit(mut self: Box<Self>) -> Result<(), PageError> {
        if !self.sound {
            // After a failed statement PostgreSQL rolls back, but calls it a success to commit. After a
            // deadlock MySQL has rolled back already, and commits by itself what follows.
            let check = DB::script(&mut self.transaction, DB::IN_TRANSACTION.to_owned()).await;
            check.map_err(|error| match error {
                sqlx::Error::Database(_) => ended(),
                error => error.into(),
            })?;
        }
        let committed = self.transaction.commit().await;
        committed.map_err(|error| match &error {
            // SQLite notices it here.
            sqlx::Error::Database(said) if said.message().contains("no transaction is active") => {
                ended()
            }
            _ => error.into(),
        })
    }
}
