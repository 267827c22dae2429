//! A worker process that is killed in the middle of a batch, and one that continues. The rows of a page are written once,
//! in the transaction of the page; the calls before that are kept, and not repeated.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use temporal_batch::{
    Batch, BatchClient, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    ProcessorSettings, Size, Worker, async_trait,
    sql::SqlLedger,
    sqlx::{self, Sqlite, SqlitePool},
    store::PageLedger,
};
use temporal_batch_pipeline::{Items, Pipeline, SqlSteps, step};
use tokio::process::{Child, Command};

use crate::{Error, sink::open};

const QUEUE: &str = "page-pipeline-persist";
const ORDERS: u64 = 1_000;

struct PersistPages {
    pool: SqlitePool,
    ledger: Arc<SqlLedger<Sqlite>>,
    pipeline: Pipeline<i64, Items<i64>>,
}

impl PersistPages {
    async fn new(folder: &Path) -> Result<Self, Error> {
        let pool = open(&folder.join("orders.db")).await?;
        let ledger = Arc::new(SqlLedger::new(pool.clone()));
        ledger.apply_schema().await.map_err(text)?;
        // A file of its own: the transaction of a page locks the other one.
        let steps = SqlSteps::new(open(&folder.join("steps.db")).await?);
        steps.apply_schema().await.map_err(text)?;
        let calls = open(&folder.join("calls.db")).await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS calls (id INTEGER)")
            .execute(&calls)
            .await?;
        let pipeline = Pipeline::with_store(steps, move |page| {
            page.step(
                step("call", move |_, ids: Items<i64>| {
                    let calls = calls.clone();
                    async move {
                        let first = ids.first().copied();
                        sqlx::query("INSERT INTO calls VALUES (?)")
                            .bind(first)
                            .execute(&calls)
                            .await?;
                        Ok(ids)
                    }
                })
                .kept(),
            )
            .step(step("wait", async |_, ids: Items<i64>| {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(ids)
            }))
        })?;
        Ok(Self {
            pool,
            ledger,
            pipeline,
        })
    }
}

fn text(error: PageError) -> Error {
    error.message().to_owned().into()
}

#[async_trait]
impl PageProcessor for PersistPages {
    const NAME: &'static str = "persist-pages";
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let ids = sqlx::query_scalar(
            "SELECT id FROM orders WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        )
        .bind(ctx.range().start().copied().unwrap_or(i64::MIN))
        .bind(ctx.range().end().copied().unwrap_or(i64::MAX))
        .bind(ctx.page_size() as i64);
        Page::keyset(ids.fetch_all(&self.pool).await?, |id| *id)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        ids: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        let (report, ids) = self.pipeline.run(ctx, ids).await?;
        let mut transaction = ctx.transaction::<Sqlite>().await?;
        for id in ids.iter().flat_map(|ids| ids.iter()) {
            let update = sqlx::query("UPDATE orders SET invoices = invoices + 1 WHERE id = ?");
            update.bind(id).execute(&mut *transaction).await?;
        }
        Ok(report)
    }

    async fn size(&self, (): &()) -> Result<Size, PageError> {
        Ok(Size::Exact(ORDERS))
    }

    fn ledger(&self, (): &()) -> Option<Arc<dyn PageLedger>> {
        Some(self.ledger.clone())
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            heartbeat_timeout: Duration::from_secs(3),
            ..ProcessorSettings::default()
        }
    }
}

/// Runs a worker until it is killed.
pub async fn worker(client: &BatchClient, folder: PathBuf) -> Result<(), Error> {
    let worker = Worker::new(client, QUEUE).processor(PersistPages::new(&folder).await?);
    Ok(worker.run().await?)
}

fn start_worker(address: &str, folder: &Path) -> Result<Child, Error> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--address", address, "persist-worker"])
        .arg(folder)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

pub async fn run(client: &BatchClient, address: &str) -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let pool = open(&folder.path().join("orders.db")).await?;
    sqlx::query(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, invoices INTEGER NOT NULL DEFAULT 0)",
    )
    .execute(&pool)
    .await?;
    let fill = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 1000)
        INSERT INTO orders (id) SELECT id FROM n";
    sqlx::query(fill).execute(&pool).await?;
    let mut worker = start_worker(address, folder.path())?;
    let batch = Batch::of::<PersistPages>("page-pipeline-persist", ());
    let batch = batch
        .task_queue(QUEUE)
        .page_size(100)
        .stride(1)
        .max_parallelism(2)
        .rerun(true);
    let handle = client.start(&batch).await?;
    let at = loop {
        if let Ok(progress) = handle.progress().await
            && progress.items.processed >= ORDERS / 2
        {
            break progress;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    worker.kill().await?;
    let mark: u64 = at
        .low_water_mark
        .map(|mark| mark.decode())
        .transpose()
        .map_err(text)?
        .unwrap_or(0);
    let percent = at.items.processed * 100 / ORDERS;
    let second = start_worker(address, folder.path())?;
    let report = handle.result().await?;
    drop(second);
    let count = async |pool: &SqlitePool, query: &'static str| -> Result<i64, Error> {
        Ok(sqlx::query_scalar(query).fetch_one(pool).await?)
    };
    let once = count(&pool, "SELECT count(*) FROM orders WHERE invoices = 1").await?;
    let twice = count(&pool, "SELECT count(*) FROM orders WHERE invoices > 1").await?;
    let calls = open(&folder.path().join("calls.db")).await?;
    let pages = count(&calls, "SELECT count(DISTINCT id) FROM calls").await?;
    println!("killed at ~{percent}%, resumed at low-water mark ~{mark}/{ORDERS}");
    println!("{once} rows once, {twice} rows twice, {pages} pages called");
    let verified = report.outcome == Outcome::Completed && (once, twice, pages) == (1_000, 0, 10);
    match verified {
        true => Ok(()),
        false => Err("not verified: each row once".into()),
    }
}
