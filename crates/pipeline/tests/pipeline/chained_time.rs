//! The time of three batches in a row, beside that of the slowest of them alone.
//!
//! `CHAIN_PAGES` sets the number of pages (20), `CHAIN_PAIRS` the number of pairs (1). A measurement wants 200 pages, three
//! pairs, an idle machine and optimized code:
//! `CHAIN_PAGES=200 CHAIN_PAIRS=3 cargo test --release --workspace --test pipeline chained_time -- --nocapture`.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Batch, BatchHandle, Outcome, Page, PageContext, PageError, PageProcessor, PageRange,
    PageReport, SkipAhead, sqlx,
};
use temporal_batch_pipeline::Predecessor;

use crate::support::{TestEnv, databases::TestDatabase, number_pages::skip_from, report};

/// One of the batches.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stage {
    /// The batch that comes first.
    follows: Option<String>,
    n: u64,
    /// The time that a page sleeps.
    page_ms: u64,
    /// The column of the table that the stage fills.
    column: Option<String>,
}

struct Stages {
    env: TestEnv,
    table: Option<sqlx::PgPool>,
    known: std::sync::Mutex<std::collections::HashMap<String, Predecessor>>,
}

impl Stages {
    fn predecessor(&self, stage: &Stage) -> Option<Predecessor> {
        let follows = stage.follows.clone()?;
        let mut known = self.known.lock().unwrap();
        let new = || Predecessor::new(&self.env.client, &follows).unwrap();
        Some(known.entry(follows.clone()).or_insert_with(new).clone())
    }

    async fn read(
        &self,
        ctx: &PageContext<Self>,
        range: PageRange<u64>,
    ) -> Result<Page<u64, u64>, PageError> {
        let start = range.start().copied().unwrap_or(0);
        let end = range.end().copied().unwrap_or(ctx.args().n);
        let Some(pool) = &self.table else {
            let numbers = (start + 1..=end).take(ctx.page_size());
            return Page::keyset(numbers.collect(), |n| *n);
        };
        let rows = sqlx::query_scalar::<_, i64>(
            "SELECT id FROM chained WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3",
        );
        let rows = rows.bind(start as i64).bind(end as i64);
        let rows = rows.bind(ctx.page_size() as i64).fetch_all(pool).await?;
        Page::keyset(rows.into_iter().map(|id| id as u64).collect(), |id| *id)
    }
}

#[async_trait]
impl PageProcessor for Stages {
    const NAME: &'static str = "chained-stages";
    type Args = Stage;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        match self.predecessor(ctx.args()) {
            Some(first) => first.fetch(ctx, |range| self.read(ctx, range)).await,
            None => self.read(ctx, ctx.range().clone()).await,
        }
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        tokio::time::sleep(Duration::from_millis(ctx.args().page_ms)).await;
        if let (Some(pool), Some(column)) = (&self.table, &ctx.args().column) {
            let update = format!("UPDATE chained SET {column} = id * 2 WHERE id BETWEEN $1 AND $2");
            let update = sqlx::query(sqlx::AssertSqlSafe(update));
            let update = update.bind(items[0] as i64);
            update
                .bind(items[items.len() - 1] as i64)
                .execute(pool)
                .await?;
        }
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        // The keys have no holes.
        let skip = async |range: PageRange<u64>, pages: u32| {
            let last = range.end().copied().unwrap_or(ctx.args().n);
            let start = range.start().copied();
            Ok(skip_from(start, ctx.page_size(), pages, last))
        };
        match self.predecessor(ctx.args()) {
            Some(first) => first.skip_ahead(ctx, pages, skip).await,
            None => skip(ctx.range().clone(), pages).await,
        }
    }
}

/// The measure: so many items in pages of a size, with these times of a page in the three stages.
struct Measure {
    env: TestEnv,
    n: u64,
    page_size: u32,
    pages_ms: [u64; 3],
    columns: bool,
}

impl Measure {
    fn batch(&self, stage: usize, follows: Option<&BatchHandle>) -> Batch {
        let column = self.columns.then(|| format!("s{stage}"));
        let args = Stage {
            follows: follows.map(|batch| batch.id().to_owned()),
            n: self.n,
            page_ms: self.pages_ms[stage],
            column,
        };
        let batch = Batch::of::<Stages>(self.env.new_id(), args);
        let batch = batch.task_queue(&self.env.queue);
        batch.page_size(self.page_size).max_parallelism(4)
    }

    async fn took(&self, stages: &[usize], chained: bool) -> Duration {
        let begun = Instant::now();
        let mut batches: Vec<BatchHandle> = Vec::new();
        for stage in stages {
            let follows = batches.last().filter(|_| chained);
            let batch = self.batch(*stage, follows);
            batches.push(self.env.start(&batch).await);
        }
        for batch in &batches {
            let report = report(batch).await;
            assert_eq!(report.outcome, Outcome::Completed);
            assert_eq!(report.progress.items.processed, self.n);
        }
        begun.elapsed()
    }

    /// Measures in pairs, and prints the ratios.
    async fn ratios(&self, what: &str) {
        let pairs = std::env::var("CHAIN_PAIRS").map_or(1, |pairs| pairs.parse().unwrap());
        let slowest = (0..3).max_by_key(|stage| self.pages_ms[*stage]).unwrap();
        // The first batches of a worker are slower than later ones.
        self.took(&[slowest], false).await;
        for _ in 0..pairs {
            let alone = self.took(&[slowest], false).await.as_secs_f64();
            let chained = self.took(&[0, 1, 2], true).await.as_secs_f64();
            println!(
                "{what}: three in a row {chained:.2} s, the slowest alone {alone:.2} s, ratio {:.2}",
                chained / alone
            );
        }
    }
}

async fn stages(env: &TestEnv, table: Option<sqlx::PgPool>) -> temporal_batch::RunningWorker {
    let stages = Stages {
        env: TestEnv::at(&env.address, "chained-client").await,
        table,
        known: std::sync::Mutex::default(),
    };
    env.worker(stages).await
}

fn pages() -> u64 {
    std::env::var("CHAIN_PAGES").map_or(20, |pages| pages.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_batches_of_sleeping_pages() {
    let pages = pages();
    let env = TestEnv::new("chained-sleep").await;
    let worker = stages(&env, None).await;
    let measure = Measure {
        env,
        n: pages * 10,
        page_size: 10,
        pages_ms: [50; 3],
        columns: false,
    };
    measure.ratios(&format!("{pages} pages of 50 ms")).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_batches_over_a_table() {
    let Some(home) = TestDatabase::postgres("chained").await else {
        return;
    };
    let pool = sqlx::PgPool::connect(&home.url).await.unwrap();
    let rows = pages() * 250;
    let insert = format!("INSERT INTO chained (id) SELECT generate_series(1, {rows})");
    for statement in [
        "CREATE TABLE chained (id bigint PRIMARY KEY, s0 bigint, s1 bigint, s2 bigint)",
        &insert,
    ] {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let env = TestEnv::new("chained-table").await;
    let worker = stages(&env, Some(pool.clone())).await;
    // The stage in the middle calls something slow for each page.
    let measure = Measure {
        env,
        n: rows,
        page_size: 250,
        pages_ms: [0, 50, 0],
        columns: true,
    };
    measure
        .ratios(&format!(
            "{rows} rows, the second of three with 50 ms a page"
        ))
        .await;
    let wrong: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM chained WHERE s0 IS DISTINCT FROM id * 2 OR s1 IS DISTINCT FROM id * 2
            OR s2 IS DISTINCT FROM id * 2",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(wrong, 0);
    worker.stop().await.unwrap();
}
