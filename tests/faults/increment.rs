//! `x = x + 1` over a table: work that shows whether it was done twice or not at all.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{PgPool, Postgres};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, Partition, ProcessorSettings, Reducer,
    SkipAhead,
    settings::{ExtendedRetries, RetryPolicy},
    sql::SqlLedger,
    store::PageLedger,
};

use crate::id_pages::page_of;

pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// A processor that adds one to every row of the table `counters`, with or without partitions.
pub struct Counters<const PARTITIONED: bool> {
    pool: PgPool,
    ledger: Arc<SqlLedger<Postgres>>,
    hold: Option<Hold>,
}

pub type Increment = Counters<false>;
/// The processor with four key ranges, the first of which has most of the rows.
pub type PartitionedIncrement = Counters<true>;

/// A hold on the page with a row, which waits in its transaction while the folder has a file called `hold`.
#[derive(Clone, Debug)]
pub struct Hold {
    pub folder: PathBuf,
    pub row: i64,
}

impl Hold {
    async fn wait(&self) {
        std::fs::write(self.folder.join("held"), "").unwrap();
        while self.folder.join("hold").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl<const PARTITIONED: bool> Counters<PARTITIONED> {
    pub fn new(pool: PgPool, hold: Option<Hold>) -> Self {
        // A worker that is stopped in a transaction must not hold its rows for longer than its work.
        let ledger = SqlLedger::new(pool.clone()).idle_timeout(HEARTBEAT_TIMEOUT);
        Self {
            pool,
            ledger: Arc::new(ledger),
            hold,
        }
    }

    pub async fn create_tables(&self, rows: i64) {
        self.ledger.apply_schema().await.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE counters (id bigint PRIMARY KEY, x integer NOT NULL DEFAULT 0)",
        )
        .execute(&self.pool)
        .await
        .unwrap();
        sqlx::query("INSERT INTO counters (id) SELECT n * 10 FROM generate_series(1, $1) AS n")
            .bind(rows)
            .execute(&self.pool)
            .await
            .unwrap();
    }
}

/// The time for which a page keeps its transaction open. It depends on the page, so that pages do not run in step.
pub fn page_delay(ids: &[i64]) -> Duration {
    Duration::from_millis(u64::try_from(ids[0] / 10 % 40).unwrap_or_default())
}

/// The report of a page of which only `updated` rows still existed.
pub fn report_of(ids: &[i64], updated: u64) -> PageReport {
    let mut report = PageReport::all_processed().changed(updated);
    for _ in updated..ids.len() as u64 {
        report.skip("deleted meanwhile");
    }
    report
}

#[async_trait]
impl<const PARTITIONED: bool> PageProcessor for Counters<PARTITIONED> {
    const NAME: &'static str = match PARTITIONED {
        true => "increment-partitioned",
        false => "increment",
    };
    const PARTITIONED: bool = PARTITIONED;
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let select = "SELECT id FROM counters WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
        page_of(&self.pool, select, ctx).await
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        ids: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        let mut transaction = ctx.transaction::<Postgres>().await?;
        let updated = sqlx::query("UPDATE counters SET x = x + 1 WHERE id = ANY($1)")
            .bind(&ids)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        match &self.hold {
            Some(hold) if ids.contains(&hold.row) => hold.wait().await,
            _ => tokio::time::sleep(page_delay(&ids)).await,
        }
        let mut report = report_of(&ids, updated);
        report.output(updated);
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<i64>, PageError> {
        let items = i64::from(pages) * ctx.page_size() as i64;
        let id = sqlx::query_scalar(
            "SELECT id FROM counters WHERE id > $1 AND id <= $2 ORDER BY id LIMIT 1 OFFSET $3",
        )
        .bind(ctx.range().start().copied().unwrap_or(i64::MIN))
        .bind(ctx.range().end().copied().unwrap_or(i64::MAX))
        .bind(items - 1)
        .fetch_optional(&self.pool)
        .await?;
        Ok(id.map_or(SkipAhead::PastEnd, SkipAhead::To))
    }

    async fn partitions(&self, (): &()) -> Result<Vec<Partition<i64>>, PageError> {
        let last: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM counters")
            .fetch_one(&self.pool)
            .await?;
        let at = |percent: i64| Some(last.unwrap_or(100) * percent / 100);
        Ok(vec![
            Partition::range("most", None, at(60)),
            Partition::range("some", at(60), at(85)),
            Partition::range("few", at(85), at(95)),
            Partition::range("last", at(95), None),
        ])
    }

    fn ledger(&self, _: &Self::Args) -> Option<Arc<dyn PageLedger>> {
        Some(Arc::clone(&self.ledger) as Arc<dyn PageLedger>)
    }

    /// Folds to the numbers that the rows of the table add up to.
    fn reducer(&self, _: &Self::Args) -> Option<Reducer> {
        Some(Reducer::sum(""))
    }

    fn settings(&self) -> ProcessorSettings {
        increment_settings()
    }
}

pub fn increment_settings() -> ProcessorSettings {
    ProcessorSettings {
        retry: RetryPolicy::default()
            .initial_interval(Duration::from_millis(200))
            .max_interval(Duration::from_secs(2))
            .extended(Some(ExtendedRetries {
                interval: Duration::from_secs(2),
                max_attempts: None,
            })),
        heartbeat_timeout: HEARTBEAT_TIMEOUT,
        page_timeout: Duration::from_secs(30),
        ..ProcessorSettings::default()
    }
}
