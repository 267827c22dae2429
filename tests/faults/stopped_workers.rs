//! A worker that is stopped in the transaction of a page, for longer than the server waits for the next statement.

use temporal_batch::{Batch, BatchHandle, Outcome};

use crate::{
    increment::{Hold, Increment},
    support::{TestEnv, eventually, report, server_address, servers::Postgres, within},
    worker_process::{self, Place, WorkerProcess, signal},
};

const ROWS: i64 = 2_000;
/// A row of the third page of 100.
const HELD: i64 = 2_500;
const WORKER: &str = "stopped_workers::the_transaction_of_a_stopped_worker_is_gone_before_the_next_attempt_has_its_page";

struct Stopped {
    pool: sqlx::PgPool,
    place: Place,
    handle: BatchHandle,
    zombie: WorkerProcess,
    folder: tempfile::TempDir,
}

/// Starts a batch whose only worker is stopped in the middle of a page.
async fn worker_asleep_in_a_page(name: &str) -> Option<Stopped> {
    let postgres = Postgres::shared()?;
    let database = postgres.database(name).await;
    let pool = sqlx::PgPool::connect(&database).await.unwrap();
    Increment::new(pool.clone(), None).create_tables(ROWS).await;
    let env = TestEnv::new(name).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hold"), "").unwrap();
    let place = Place {
        address: server_address().to_owned(),
        queue: env.queue.clone(),
        database,
        hold: Some(Hold {
            folder: folder.path().into(),
            row: HELD,
        }),
        slots: None,
    };
    let zombie = WorkerProcess::start(&place, WORKER);
    let batch = Batch::of::<Increment>(env.new_id(), ()).task_queue(&env.queue);
    let handle = env.start(&batch.page_size(100).max_parallelism(2)).await;
    let held = folder.path().join("held");
    eventually("the page is held", || async { held.exists().then_some(()) }).await;
    signal(zombie.pid(), "STOP");
    Some(Stopped {
        pool,
        place,
        handle,
        zombie,
        folder,
    })
}

impl Stopped {
    fn wake(&self) {
        std::fs::remove_file(self.folder.path().join("hold")).unwrap();
        signal(self.zombie.pid(), "CONT");
    }

    async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn every_row_is_one(&self) {
        let report = report(&self.handle).await;
        assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
        assert_eq!(report.progress.items.processed, ROWS as u64);
        let wrong = "SELECT count(*) FROM counters WHERE x <> 1";
        assert_eq!(self.count(wrong).await, 0);
    }
}

/// PostgreSQL has ended the session by the time that the next attempt has the page: its transaction is gone, whichever
/// attempt wakes up.
#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_of_a_stopped_worker_is_gone_before_the_next_attempt_has_its_page() {
    if worker_process::was_one().await {
        return;
    }
    let Some(mut case) = worker_asleep_in_a_page("asleep").await else {
        return;
    };
    let place = Place {
        hold: None,
        ..case.place.clone()
    };
    let _second = WorkerProcess::start(&place, WORKER);
    let applied = "SELECT count(*) FROM counters WHERE id = 2500 AND x = 1";
    eventually("the second attempt has done the page", || async {
        (case.count(applied).await == 1).then_some(())
    })
    .await;
    case.wake();
    case.every_row_is_one().await;
    // The worker drains, so its attempt is over once the process has ended.
    within("the worker that was stopped ends", case.zombie.drain()).await;
    let wrong = "SELECT count(*) FROM counters WHERE x <> 1";
    assert_eq!(case.count(wrong).await, 0);
}
