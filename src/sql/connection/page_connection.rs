//! The connection that `process` writes with.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use sqlx::Database;
use tokio::sync::{MappedMutexGuard, MutexGuard};

use crate::{
    base::error::PageError,
    processor::{PageProcessor, context::PageContext},
};

/// The connection in the transaction of a page, from [`PageContext::transaction`]. It dereferences to the `sqlx`
/// connection. Dropping it ends nothing: the engine commits after `process` has returned.
pub struct PageConnection<'c, DB: Database> {
    connection: MappedMutexGuard<'c, DB::Connection>,
}

impl<DB: Database> Deref for PageConnection<'_, DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: Database> DerefMut for PageConnection<'_, DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}

impl<DB: Database> fmt::Debug for PageConnection<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageConnection<{}>", DB::NAME)
    }
}

impl<P: PageProcessor> PageContext<P> {
    /// Returns the transaction in which `process` makes its changes, for a processor with a
    /// [`ledger`](PageProcessor::ledger). After `process` has returned, the engine commits the transaction together
    /// with the record that the page is applied, or rolls both back. Do not end the transaction yourself. Savepoints
    /// are fine.
    ///
    /// Each page has one transaction: a second call waits until the first connection is dropped.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # mod example {
    /// # use temporal_batch::{PageContext, PageError, PageProcessor};
    /// use sqlx::Sqlite;
    ///
    /// async fn mark_done<P: PageProcessor>(ctx: &PageContext<P>, id: i64) -> Result<(), PageError> {
    ///     let mut tx = ctx.transaction::<Sqlite>().await?;
    ///     let update = sqlx::query("UPDATE users SET done = 1 WHERE id = ?").bind(id);
    ///     update.execute(&mut *tx).await?;
    ///     Ok(())
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// A [`PageError::environment`], since only other code cures it. Its type is `NoLedger` if the processor has no
    /// ledger, `NoTransaction` outside of `process`, and `WrongDatabase` if the ledger is not in a `DB`.
    pub async fn transaction<DB>(&self) -> Result<PageConnection<'_, DB>, PageError>
    where
        DB: Database<Connection: 'static>,
    {
        let Some(shared) = &self.transaction else {
            return Err(PageError::environment(format_args!(
                "processor `{}` has no ledger, so its pages have no transaction",
                P::NAME
            ))
            .with_type("NoLedger"));
        };
        let mut guard = shared.lock().await;
        match guard.as_mut() {
            Some(transaction) => transaction.open().await?,
            None => {
                return Err(PageError::environment(
                    "a page has its transaction only while `process` runs",
                )
                .with_type("NoTransaction"));
            }
        }
        let connection = MutexGuard::try_map(guard, |transaction| {
            transaction.as_mut()?.connection()?.downcast_mut()
        });
        let connection = connection.map_err(|_| {
            PageError::environment(format_args!(
                "the ledger of processor `{}` is not in {}",
                P::NAME,
                DB::NAME
            ))
            .with_type("WrongDatabase")
        })?;
        Ok(PageConnection { connection })
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::{any::Any, sync::Arc};

    use async_trait::async_trait;
    use sqlx::{Sqlite, SqlitePool, sqlite::SqlitePoolOptions};
    use tokio::sync::Mutex;

    use super::*;
    use crate::{
        page::{Page, range::PageRange, token::PageToken},
        processor::{
            context::SharedTransaction,
            item::ItemWork,
            report::PageReport,
            stop_signal::Interruption,
            store::{
                dead_letter::DeadLetter,
                page_ledger::{PageClaim, PageLedger, PageTransaction, StrideId},
            },
        },
        progress::ItemCounts,
        sql::SqlLedger,
    };

    struct Nothing;

    #[async_trait]
    impl PageProcessor for Nothing {
        const NAME: &'static str = "nothing";
        type Args = ();
        type Cursor = i64;
        type Item = i64;

        async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
            Ok(Page::empty())
        }

        async fn process(
            &self,
            _: &PageContext<Self>,
            _: Vec<i64>,
        ) -> Result<PageReport, PageError> {
            Ok(PageReport::all_processed())
        }
    }

    fn context(transaction: Option<SharedTransaction>) -> PageContext<Nothing> {
        PageContext {
            args: Arc::new(()),
            range: PageRange::new(None, None),
            page: None,
            alone: false,
            with_keys: false,
            page_size: 1,
            attempt: 1,
            stride: 0,
            batch_id: "batch".into(),
            batch_run: "run".into(),
            cancelled: Interruption::never(),
            transaction,
            partition: None,
            bounds: None,
            items: ItemWork::none(),
        }
    }

    async fn pool() -> SqlitePool {
        let pool = SqlitePoolOptions::new().max_connections(1);
        pool.connect("sqlite::memory:").await.unwrap()
    }

    async fn page(pool: &SqlitePool) -> Box<dyn PageTransaction> {
        let ledger = SqlLedger::new(pool.clone());
        ledger.apply_schema().await.unwrap();
        let stride = StrideId {
            batch_run: "run".to_owned(),
            batch_id: "batch".to_owned(),
            stride: 0,
        };
        let to = PageToken::encode(&1).unwrap();
        let claim = PageClaim {
            stride: &stride,
            fence: ledger.open(&stride, None, None, false).await.unwrap().fence,
            from: None,
            to: Some(&to),
            ends_data: false,
            pages: 1,
            pages_failed: 0,
        };
        ledger.begin(claim).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_process_writes_is_committed_with_the_page() {
        let pool = pool().await;
        let shared = Arc::new(Mutex::new(Some(page(&pool).await)));
        let ctx = context(Some(Arc::clone(&shared)));
        for statement in ["CREATE TABLE t (x)", "INSERT INTO t VALUES (7)"] {
            let mut tx = ctx.transaction::<Sqlite>().await.unwrap();
            sqlx::query(statement).execute(&mut *tx).await.unwrap();
        }
        let mut page = shared.lock().await.take().unwrap();
        page.record(&ItemCounts::default(), &[]).await.unwrap();
        page.commit().await.unwrap();
        let kept: i64 = sqlx::query_scalar("SELECT x FROM t")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(kept, 7);
    }

    /// A ledger without a database.
    struct InMemory;

    #[async_trait]
    impl PageTransaction for InMemory {
        fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
            None
        }

        async fn record(&mut self, _: &ItemCounts, _: &[DeadLetter]) -> Result<(), PageError> {
            Ok(())
        }

        async fn commit(self: Box<Self>) -> Result<(), PageError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn without_a_transaction_of_that_database_there_is_a_typed_error() {
        let none = context(None);
        let over = context(Some(Arc::new(Mutex::new(None))));
        let elsewhere: Box<dyn PageTransaction> = Box::new(InMemory);
        let elsewhere = context(Some(Arc::new(Mutex::new(Some(elsewhere)))));
        let expected = ["NoLedger", "NoTransaction", "WrongDatabase"];
        for (ctx, expected) in [none, over, elsewhere].iter().zip(expected) {
            let error = ctx.transaction::<Sqlite>().await.unwrap_err();
            assert_eq!(error.error_type(), expected);
            assert!(error.is_environment());
        }
    }

    #[cfg(feature = "postgres")]
    #[tokio::test]
    async fn a_ledger_in_another_database_has_no_connection_to_this_one() {
        let pool = pool().await;
        let ctx = context(Some(Arc::new(Mutex::new(Some(page(&pool).await)))));
        let error = ctx.transaction::<sqlx::Postgres>().await.unwrap_err();
        assert_eq!(error.error_type(), "WrongDatabase");
        assert_eq!(
            error.message(),
            "the ledger of processor `nothing` is not in PostgreSQL"
        );
        ctx.transaction::<Sqlite>().await.unwrap();
    }
}
