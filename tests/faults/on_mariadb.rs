//! Exactly one effect for each page on MariaDB, while its workers are killed and stopped and the server crashes.
//!
//! As a test the run takes a few seconds. The long form is:
//!
//! ```console
//! $ FAULTS_ROWS=60000 FAULTS_SEED=7 cargo test --release --test faults -- on_mariadb --nocapture
//! ```

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{MySql, MySqlPool, mysql::MySqlPoolOptions};
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    Worker, settings::RetryPolicy, sql::SqlLedger, store::PageLedger,
};

use crate::{
    increment::HEARTBEAT_TIMEOUT,
    support::{
        TestEnv, connect, eventually, server_address,
        servers::{MariaDb, Stop},
        settings::setting,
    },
    worker_process::{self, Place, WorkerProcess, signal},
};

const TEST: &str = "on_mariadb::every_row_is_incremented_exactly_once_in_mariadb";
const PAGE: u32 = 200;
/// The number of pages between two faults.
const PAGES_BETWEEN: i64 = 12;

/// A processor that adds one to every row of the table `counters`.
struct IncrementMySql {
    pool: MySqlPool,
    ledger: Arc<SqlLedger<MySql>>,
}

impl IncrementMySql {
    fn new(pool: MySqlPool) -> Self {
        let ledger = SqlLedger::new(pool.clone()).idle_timeout(HEARTBEAT_TIMEOUT);
        Self {
            pool,
            ledger: Arc::new(ledger),
        }
    }
}

#[async_trait]
impl PageProcessor for IncrementMySql {
    const NAME: &'static str = "increment-mysql";
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let ids = sqlx::query_scalar(
            "SELECT id FROM counters WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        )
        .bind(ctx.range().start().copied().unwrap_or(i64::MIN))
        .bind(ctx.range().end().copied().unwrap_or(i64::MAX))
        .bind(ctx.page_size() as i64)
        .fetch_all(&self.pool)
        .await?;
        Page::keyset(ids, |id| *id)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        ids: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        let mut transaction = ctx.transaction::<MySql>().await?;
        let (first, last) = (ids[0], ids[ids.len() - 1]);
        sqlx::query("UPDATE counters SET x = x + 1 WHERE id >= ? AND id <= ?")
            .bind(first)
            .bind(last)
            .execute(&mut *transaction)
            .await?;
        // The page takes a while, so that faults happen in the middle of one.
        tokio::time::sleep(Duration::from_millis(50 + first.unsigned_abs() % 100)).await;
        Ok(PageReport::all_processed())
    }

    fn ledger(&self, _: &Self::Args) -> Option<Arc<dyn PageLedger>> {
        Some(Arc::clone(&self.ledger) as Arc<dyn PageLedger>)
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default()
                .initial_interval(Duration::from_millis(200))
                .max_interval(Duration::from_secs(1)),
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            page_timeout: Duration::from_secs(30),
            ..ProcessorSettings::default()
        }
    }
}

/// Runs a worker on a MariaDB until it is told to stop.
pub async fn work(address: &str, queue: &str, database: &str) {
    let pool = MySqlPoolOptions::new()
        .max_connections(20)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy(database)
        .unwrap();
    let client = connect(address).await;
    Worker::new(&client, queue)
        .processor(IncrementMySql::new(pool))
        .run()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_incremented_exactly_once_in_mariadb() {
    if worker_process::was_one().await {
        return;
    }
    let Some(mariadb) = MariaDb::launch(false) else {
        MariaDb::skip();
        return;
    };
    let rows: i64 = setting("FAULTS_ROWS", 20_000);
    let mut random = fastrand::Rng::with_seed(setting("FAULTS_SEED", 1));
    let database = mariadb.database("faults").await;
    let pool = MySqlPool::connect(&database).await.unwrap();
    IncrementMySql::new(pool.clone())
        .ledger
        .apply_schema()
        .await
        .unwrap();
    let create = format!(
        "CREATE TABLE counters (id BIGINT PRIMARY KEY, x BIGINT NOT NULL);
        INSERT INTO counters SELECT seq * 10, 0 FROM seq_1_to_{rows}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(&pool)
        .await
        .unwrap();
    let count = async |what: &'static str| -> i64 {
        sqlx::query_scalar(what).fetch_one(&pool).await.unwrap()
    };

    let env = TestEnv::new("on-mariadb").await;
    let place = Place {
        address: server_address().to_owned(),
        queue: env.queue.clone(),
        database,
        hold: None,
        slots: Some(4),
    };
    let mut workers: Vec<_> = (0..2).map(|_| WorkerProcess::start(&place, TEST)).collect();
    let batch = Batch::of::<IncrementMySql>(env.new_id(), ()).task_queue(&env.queue);
    let batch = batch.page_size(PAGE).stride(5).max_parallelism(6);
    let handle = env.start(&batch).await;

    let applied = "SELECT CAST(coalesce(sum(pages), 0) AS SIGNED) FROM temporal_batch_stride";
    let things = rows / i64::from(PAGE) * 2 / 3 / PAGES_BETWEEN;
    for number in 0..things {
        let pages = 5 + number * PAGES_BETWEEN;
        let reached = || async { (count(applied).await >= pages).then_some(()) };
        eventually("the batch makes progress", reached).await;
        let worker = &mut workers[random.usize(..2)];
        // Each fault happens at least once.
        let thing = match number {
            0..3 => number,
            _ => random.i64(..3),
        };
        match thing {
            0 => worker.kill_and_replace(),
            1 => {
                let how = match random.bool() {
                    true => Stop::Immediate,
                    false => Stop::Fast,
                };
                tokio::task::block_in_place(|| mariadb.restart(how));
            }
            _ => {
                let pid = worker.pid();
                signal(pid, "STOP");
                tokio::spawn(async move {
                    tokio::time::sleep(HEARTBEAT_TIMEOUT * 2).await;
                    signal(pid, "CONT");
                });
            }
        }
        for worker in &mut workers {
            worker.replace_if_ended();
        }
    }
    let result = tokio::time::timeout(Duration::from_secs(120), handle.result()).await;
    let report = result.unwrap().unwrap();

    println!(
        "{rows} rows: {things} faults, {} retries",
        report.progress.retries
    );
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
    assert!(report.progress.retries > 0, "no fault interrupted a page");
    assert_eq!(count("SELECT count(*) FROM counters WHERE x <> 1").await, 0);
    let items = report.progress.items;
    assert_eq!((items.processed, items.failed), (rows.unsigned_abs(), 0));
    assert_eq!(count("SELECT count(*) FROM temporal_batch_report").await, 1);
}
