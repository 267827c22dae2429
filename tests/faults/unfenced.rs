//! `x = x + 1` without a ledger: the table shows pages that were repeated, and pages that never ran.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{PgPool, Postgres};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    settings::{RetryMode, RetryPolicy},
    sql::SqlLedger,
    store::DeadLetters,
};

use crate::{
    id_pages::page_of,
    increment::{increment_settings, page_delay, report_of},
};

/// A processor that adds one to every row of the table `counters`, in a statement that commits by itself.
pub struct Unfenced<const AT_MOST_ONCE: bool> {
    pool: PgPool,
    letters: Arc<SqlLedger<Postgres>>,
}

pub type AtMostOnce = Unfenced<true>;
pub type AtLeastOnce = Unfenced<false>;

impl<const AT_MOST_ONCE: bool> Unfenced<AT_MOST_ONCE> {
    pub fn new(pool: PgPool) -> Self {
        Self {
            letters: Arc::new(SqlLedger::new(pool.clone())),
            pool,
        }
    }
}

#[async_trait]
impl<const AT_MOST_ONCE: bool> PageProcessor for Unfenced<AT_MOST_ONCE> {
    const NAME: &'static str = match AT_MOST_ONCE {
        true => "at-most-once",
        false => "at-least-once",
    };
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let select = "SELECT id FROM counters WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
        page_of(&self.pool, select, ctx).await
    }

    async fn process(&self, _: &PageContext<Self>, ids: Vec<i64>) -> Result<PageReport, PageError> {
        let updated = sqlx::query("UPDATE counters SET x = x + 1 WHERE id = ANY($1)")
            .bind(&ids)
            .execute(&self.pool)
            .await?
            .rows_affected();
        // The worker may be lost after the statement, and before the report of its page.
        tokio::time::sleep(page_delay(&ids)).await;
        Ok(report_of(&ids, updated))
    }

    fn dead_letters(&self, (): &()) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::clone(&self.letters) as Arc<dyn DeadLetters>)
    }

    fn settings(&self) -> ProcessorSettings {
        match AT_MOST_ONCE {
            false => increment_settings(),
            true => ProcessorSettings {
                retry_mode: RetryMode::AtMostOnce,
                retry: RetryPolicy::never(),
                ..increment_settings()
            },
        }
    }
}
