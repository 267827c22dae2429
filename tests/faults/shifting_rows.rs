//! Rows that are inserted and deleted between two attempts at a page.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sqlx::PgPool;
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    settings::RetryPolicy,
};

use crate::{
    id_pages::page_of,
    support::{TestEnv, report, servers::Postgres},
};

/// A processor that logs each row with its page. It has no ledger: only the ranges of the pages keep rows from being
/// lost or done twice.
#[derive(Clone)]
struct Log {
    pool: PgPool,
    /// Whether the rows of the page after row 300 have been changed. They are changed while that page fails once.
    disturbed: Arc<AtomicBool>,
}

impl Log {
    async fn new(pool: PgPool) -> Self {
        sqlx::raw_sql(
            "CREATE TABLE items (id bigint PRIMARY KEY);
             INSERT INTO items SELECT n * 10 FROM generate_series(1, 100) AS n;
             CREATE TABLE log (id bigint NOT NULL, page bigint NOT NULL)",
        )
        .execute(&pool)
        .await
        .unwrap();
        Self {
            pool,
            disturbed: Arc::default(),
        }
    }

    /// The number of times that each row was processed, and the page of the last time.
    async fn processed(&self) -> BTreeMap<i64, (i64, i64)> {
        let rows: Vec<(i64, i64, i64)> =
            sqlx::query_as("SELECT id, count(*), max(page) FROM log GROUP BY id")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        rows.into_iter()
            .map(|(id, n, page)| (id, (n, page)))
            .collect()
    }
}

#[async_trait]
impl PageProcessor for Log {
    const NAME: &'static str = "log";
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let select = "SELECT id FROM items WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
        page_of(&self.pool, select, ctx).await
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        ids: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        let page = ctx.range().start().copied().unwrap_or(0);
        if page == 300 && !self.disturbed.swap(true, Ordering::SeqCst) {
            // There are more new rows than a page holds, and the last row of the page is deleted.
            sqlx::raw_sql(
                "INSERT INTO items SELECT 300 + n FROM generate_series(1, 99) AS n WHERE n % 10 <> 0;
                 DELETE FROM items WHERE id IN (350, 400)",
            )
            .execute(&self.pool)
            .await?;
            return Err(PageError::retryable("made to fail"));
        }
        sqlx::query("INSERT INTO log SELECT unnest($1::bigint[]), $2")
            .bind(&ids)
            .bind(page)
            .execute(&self.pool)
            .await?;
        Ok(PageReport::all_processed())
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default().initial_interval(Duration::from_millis(300)),
            ..ProcessorSettings::default()
        }
    }
}

/// The batch runs a second time with one page a run, so that it continues as new at every page.
#[tokio::test(flavor = "multi_thread")]
async fn rows_inserted_and_deleted_between_attempts_stay_with_their_page() {
    for pages_per_run in [None, Some(1)] {
        let Some(postgres) = Postgres::shared() else {
            return;
        };
        let env = TestEnv::new("ranges").await;
        let log = Log::new(postgres.pool("ranges", 10).await).await;
        let _worker = env.worker(log.clone()).await;
        let mut batch = env.batch::<Log>(()).page_size(10).max_parallelism(3);
        if let Some(pages) = pages_per_run {
            batch = batch.pages_per_run(pages);
        }
        let handle = env.start(&batch).await;
        let report = report(&handle).await;
        assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
        assert!(pages_per_run.is_none() || report.progress.runs > 3);

        let processed = log.processed().await;
        for id in (10..=1_000)
            .step_by(10)
            .filter(|id| ![350, 400].contains(id))
        {
            assert_eq!(processed.get(&id).map(|p| p.0), Some(1), "row {id}");
        }
        let twice: Vec<_> = processed.iter().filter(|(_, p)| p.0 > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        for (id, (_, page)) in processed.range(301..=400) {
            // Any page of the closed range may have the row, and no other range has it.
            assert!(
                (300..400).contains(page),
                "row {id} was processed after {page}"
            );
        }
        for (id, (_, page)) in processed.range(401..=500) {
            assert_eq!(*page, 400, "row {id} belongs to the next page");
        }
    }
}
