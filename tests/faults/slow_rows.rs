//! Pages with a ledger whose duration is in the table `tempo`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{PgPool, Postgres};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings, sql::SqlLedger,
    store::PageLedger,
};

use crate::{id_pages::page_of, page_log::PageLog, recorded_pages::HEARTBEAT_TIMEOUT};

/// A processor that adds one to every row of the table `slow_row`, and then waits before it commits.
pub struct SlowRows {
    pool: PgPool,
    ledger: Arc<SqlLedger<Postgres>>,
    log: PageLog,
}

impl SlowRows {
    pub fn new(pool: PgPool) -> Self {
        Self {
            ledger: Arc::new(SqlLedger::new(pool.clone())),
            log: PageLog::new(pool.clone()),
            pool,
        }
    }

    pub async fn create_tables(&self, rows: i64, page: Duration) {
        self.ledger.apply_schema().await.unwrap();
        let tables = "CREATE TABLE slow_row (id bigint PRIMARY KEY, x integer NOT NULL DEFAULT 0);
            CREATE TABLE tempo (seconds float8 NOT NULL); INSERT INTO tempo VALUES (0);";
        sqlx::raw_sql(tables).execute(&self.pool).await.unwrap();
        sqlx::query("INSERT INTO slow_row (id) SELECT generate_series(1, $1)")
            .bind(rows)
            .execute(&self.pool)
            .await
            .unwrap();
        self.take(page).await;
    }

    /// Sets the duration of pages that begin from now on.
    pub async fn take(&self, page: Duration) {
        sqlx::query("UPDATE tempo SET seconds = $1")
            .bind(page.as_secs_f64())
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// The number of rows that were changed this many times.
    pub async fn rows_with(&self, times: i32) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM slow_row WHERE x = $1")
            .bind(times)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

#[async_trait]
impl PageProcessor for SlowRows {
    const NAME: &'static str = "slow-rows";
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let select = "SELECT id FROM slow_row WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
        page_of(&self.pool, select, ctx).await
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        ids: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        let seconds: f64 = sqlx::query_scalar("SELECT seconds FROM tempo")
            .fetch_one(&self.pool)
            .await?;
        let mut transaction = ctx.transaction::<Postgres>().await?;
        sqlx::query("UPDATE slow_row SET x = x + 1 WHERE id = ANY($1)")
            .bind(&ids)
            .execute(&mut *transaction)
            .await?;
        let visit = self.log.enter(ctx, (ids[0] - 1, ids.len())).await?;
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        self.log.leave(visit).await?;
        Ok(PageReport::all_processed())
    }

    fn ledger(&self, _: &Self::Args) -> Option<Arc<dyn PageLedger>> {
        Some(Arc::clone(&self.ledger) as Arc<dyn PageLedger>)
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            ..ProcessorSettings::default()
        }
    }
}
