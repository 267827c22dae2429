//! A database that becomes unavailable while pages run, with the connections that a worker opens from a URL.

use std::{sync::Arc, time::Duration};

use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};
use temporal_batch::{
    Batch, BatchHandle, Outcome, RunningWorker, Worker,
    sql::{Database, DatabaseOptions},
};

use crate::{
    increment::Increment,
    support::{
        TestEnv, connect, progress_shows, report, server_address,
        servers::{Postgres, Stop},
    },
};

const ROWS: i64 = 3_000;

struct Scene {
    _env: TestEnv,
    pool: PgPool,
    _worker: RunningWorker,
}

impl Scene {
    async fn of(name: &str, url: &str) -> (Self, BatchHandle) {
        let options = DatabaseOptions::from_url(url).unwrap().pages(4);
        let Database::Postgres(pool) = Database::connect(&options).await.unwrap() else {
            panic!("no PostgreSQL");
        };
        Increment::new(pool.clone(), None).create_tables(ROWS).await;
        let env = TestEnv::new(name).await;
        let client = connect(server_address()).await;
        let worker = Worker::new(&client, &env.queue)
            .processor(Increment::new(pool.clone(), None))
            .drain_timeout(Duration::from_secs(5))
            .start()
            .unwrap();
        let batch = Batch::of::<Increment>(env.new_id(), ()).task_queue(&env.queue);
        let batch = batch
            .page_size(50)
            .stride(4)
            .max_parallelism(4)
            .rate(1_000.0);
        let handle = env.start(&batch).await;
        let scene = Self {
            _env: env,
            pool,
            _worker: worker,
        };
        (scene, handle)
    }

    /// Asserts that every row was changed exactly once, and that the batch has counted it.
    async fn is_complete(&self, handle: &BatchHandle) {
        let report = report(handle).await;
        assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
        assert!(report.progress.retries > 0, "nothing was interrupted");
        assert_eq!(
            report.progress.items.processed,
            u64::try_from(ROWS).unwrap()
        );
        assert_eq!(report.output(), Some(&ROWS.into()));
        let wrong: i64 = sqlx::query_scalar("SELECT count(*) FROM counters WHERE x <> 1")
            .fetch_one(&self.pool)
            .await
            .unwrap();
        assert_eq!(
            wrong,
            0,
            "rows of batch {} not incremented once",
            handle.id()
        );
    }
}

async fn a_third_of_the_rows_is_done(handle: &BatchHandle) {
    progress_shows(handle, "some rows are done", |p| p.items.processed >= 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_continue_after_their_database_was_restarted() {
    let Some(postgres) = Postgres::launch(false) else {
        Postgres::skip();
        return;
    };
    let postgres = Arc::new(postgres);
    let url = postgres.database("restarted").await;
    let (scene, handle) = Scene::of("restarted", &url).await;
    a_third_of_the_rows_is_done(&handle).await;
    let server = Arc::clone(&postgres);
    let stop = tokio::task::spawn_blocking(move || server.stop(Stop::Immediate));
    stop.await.unwrap();
    // The server is down: pages report lost connections, and are tried again.
    progress_shows(&handle, "a lost connection is reported", |p| {
        p.failing
            .iter()
            .any(|page| page.error_type == "ConnectionLost")
    })
    .await;
    let server = Arc::clone(&postgres);
    let start = tokio::task::spawn_blocking(move || server.start());
    start.await.unwrap();
    scene.is_complete(&handle).await;
}

/// A failover makes the old primary read-only for the clients that are still connected to it.
#[tokio::test(flavor = "multi_thread")]
async fn pages_wait_while_their_database_takes_no_writes() {
    let Some(postgres) = Postgres::launch(false) else {
        Postgres::skip();
        return;
    };
    let url = postgres.database("read_only").await;
    let (scene, handle) = Scene::of("read-only", &url).await;
    a_third_of_the_rows_is_done(&handle).await;
    let mut admin = PgConnection::connect(&postgres.url("postgres"))
        .await
        .unwrap();
    for statement in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        admin.execute(statement).await.unwrap();
    }
    progress_shows(&handle, "a read-only database is reported", |p| {
        p.failing
            .iter()
            .any(|page| page.error_type == "ReadOnlyDatabase")
    })
    .await;
    for statement in [
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    ] {
        admin.execute(statement).await.unwrap();
    }
    scene.is_complete(&handle).await;
}
