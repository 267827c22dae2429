//! The history events of a page of a SQL source, and the actions that Temporal Cloud would bill for it.

use sqlx::{Executor as _, sqlite::SqlitePool};
use temporal_batch::{
    Batch,
    settings::AutoStride,
    sql::{BackfillArgs, SqlBackfill, TableSpec},
};

use crate::{
    Error,
    arm_server::{ArmServer, unique},
    options::Options,
    report::{Table, Target},
    worker_process::{Work, WorkerProcess},
};

const PAGE_SIZE: u32 = 50;

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bench.db");
    let pages: u64 = options.size(400, 4_000);
    fill(&file, pages * u64::from(PAGE_SIZE)).await?;
    let worker = WorkerProcess::start(server, Work::Sqlite { file })?;
    let strides: &[Option<u32>] = options.size(
        &[Some(1), Some(25), None],
        &[Some(1), Some(25), Some(100), None],
    );
    for &stride in strides {
        let args = BackfillArgs::of(TableSpec::new("items", ["id"])).set("n", "n + 1");
        let batch = Batch::of::<SqlBackfill>(unique("events"), args)
            .task_queue(worker.queue())
            .page_size(PAGE_SIZE)
            .max_parallelism(4);
        let (batch, name) = match stride {
            Some(stride) => (batch.stride(stride), stride.to_string()),
            None => (batch.stride(AutoStride::default()), "auto".to_owned()),
        };
        let (cost, _) = server.cost(&worker, server.complete(&batch, pages)).await?;
        let histories = server.histories(batch.id()).await?;
        let case = format!("SQLite, {pages} pages, stride {name}");
        let per_page = |n: f64| n / pages as f64;
        table.add(&case, "events", "/page", per_page(histories.events as f64));
        table.add(&case, "actions", "/page", per_page(cost.actions));
        if stride.is_none() {
            table.aim(&case, "events", Target::AtMost(0.6));
            table.aim(&case, "actions", Target::AtMost(0.2));
        }
        table.add(&case, "speed", "pages/s", pages as f64 / cost.seconds);
        table.add(&case, "runs", "", histories.runs as f64);
    }
    worker.stop().await
}

async fn fill(file: &std::path::Path, rows: u64) -> Result<(), Error> {
    let pool = SqlitePool::connect(&format!("sqlite:{}?mode=rwc", file.display())).await?;
    pool.execute("PRAGMA journal_mode = WAL").await?;
    pool.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
        .await?;
    sqlx::query(
        "WITH RECURSIVE every(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM every WHERE i < $1)
        INSERT INTO items SELECT i, 0 FROM every",
    )
    .bind(i64::try_from(rows)?)
    .execute(&pool)
    .await?;
    pool.close().await;
    Ok(())
}
