//! The result of a batch whose worker is killed between the commit of its pages and its report.

use temporal_batch::{Batch, Outcome};

use crate::{
    increment::{Hold, Increment},
    support::{TestEnv, eventually, report, server_address, servers::Postgres},
    worker_process::{Place, WorkerProcess, was_one},
};

const ROWS: i64 = 500;
const TEST: &str = "reduce::pages_that_were_applied_and_not_reported_are_in_the_result_once";

/// The pages are applied and cannot be run again, so their output can only come from the database.
#[tokio::test(flavor = "multi_thread")]
async fn pages_that_were_applied_and_not_reported_are_in_the_result_once() {
    if was_one().await {
        return;
    }
    let Some(postgres) = Postgres::shared() else {
        return;
    };
    let database = postgres.database("reduce_killed").await;
    let pool = sqlx::PgPool::connect(&database).await.unwrap();
    Increment::new(pool.clone(), None).create_tables(ROWS).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hold"), "").unwrap();
    let env = TestEnv::new("reduce-killed").await;
    let place = Place {
        address: server_address().to_owned(),
        queue: env.queue.clone(),
        database,
        // The row is in the third page of the first stride.
        hold: Some(Hold {
            folder: folder.path().to_owned(),
            row: 1_100,
        }),
        slots: None,
    };
    let mut worker = WorkerProcess::start(&place, TEST);
    let batch = Batch::of::<Increment>(env.new_id(), ()).task_queue(&env.queue);
    let batch = batch.page_size(50).stride(5).max_parallelism(1);
    let handle = env.start(&batch).await;
    eventually("the third page is held", || async {
        folder.path().join("held").exists().then_some(())
    })
    .await;
    let progress = handle.progress().await.unwrap();
    assert_eq!(progress.items.total(), 0, "a page was reported early");
    let applied: i64 = sqlx::query_scalar("SELECT count(*) FROM counters WHERE x = 1")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(applied, 100, "two pages should be applied");
    // For a while the next attempt can read the strides, but not the outputs of their pages.
    let rename = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.unwrap();
    };
    rename("ALTER TABLE temporal_batch_output RENAME TO away").await;
    worker.kill_and_replace();
    std::fs::remove_file(folder.path().join("hold")).unwrap();
    eventually("an attempt reports the missing table", || async {
        let progress = handle.progress().await.unwrap();
        assert_eq!(progress.items.total(), 0, "{progress:?}");
        let misses = progress.explanation.contains("LedgerTablesMissing");
        misses.then_some(())
    })
    .await;
    rename("ALTER TABLE away RENAME TO temporal_batch_output").await;

    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
    let wrong: i64 = sqlx::query_scalar("SELECT count(*) FROM counters WHERE x <> 1")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(wrong, 0);
    assert_eq!(report.progress.output_error, None);
    assert_eq!(report.output(), Some(&ROWS.into()));
}
