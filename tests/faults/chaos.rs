//! The fault run.
//!
//! As a test it takes half a minute. The long form:
//!
//! ```console
//! $ FAULTS_ROWS=1000000 FAULTS_SECONDS=300 FAULTS_SEED=7 cargo test --release --test faults -- --nocapture
//! ```

use std::time::{Duration, Instant};

use sqlx::PgPool;
use temporal_batch::{
    AutoStride, Batch, BatchHandle, BatchReport, Outcome,
    dev_server::{DevServer, DevServerOptions},
};

use crate::{
    increment::{Counters, HEARTBEAT_TIMEOUT, Increment},
    postgres::{Postgres, Stop},
    setting::setting,
    support::eventually,
    worker_process::{self, Place, WorkerProcess, connect, signal},
};

const WORKERS: usize = 3;
/// Much longer than any fault lasts, and than workers take to see that a history cannot be replayed.
const STANDSTILL: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    KillWorker,
    /// Stopped for longer than its heartbeat timeout, then let go on.
    FreezeWorker,
    RestartPostgres,
    RestartTemporal,
}

const FAULTS: [Fault; 4] = [
    Fault::KillWorker,
    Fault::FreezeWorker,
    Fault::RestartPostgres,
    Fault::RestartTemporal,
];

struct Run {
    postgres: Postgres,
    pool: PgPool,
    server: Option<DevServer>,
    server_options: DevServerOptions,
    workers: Vec<WorkerProcess>,
    random: fastrand::Rng,
    rows: i64,
    /// What the deleted rows had been incremented to.
    deleted: i64,
    happened: Vec<Fault>,
}

impl Run {
    async fn happen(&mut self, fault: Fault) {
        self.happened.push(fault);
        let worker = self.random.usize(..WORKERS);
        match fault {
            Fault::KillWorker => self.workers[worker].kill_and_replace(),
            Fault::FreezeWorker => {
                let pid = self.workers[worker].pid();
                signal(pid, "STOP");
                let asleep = HEARTBEAT_TIMEOUT + Duration::from_secs(1 + self.random.u64(..3));
                tokio::spawn(async move {
                    tokio::time::sleep(asleep).await;
                    signal(pid, "CONT");
                });
            }
            Fault::RestartPostgres => {
                let how = if self.random.bool() {
                    Stop::Fast
                } else {
                    Stop::Immediate
                };
                tokio::task::block_in_place(|| self.postgres.restart(how));
            }
            Fault::RestartTemporal => {
                let mut server = self.server.take().expect("it runs");
                signal(server.pid().expect("it runs"), "KILL");
                let died = server.wait().await;
                assert!(died.is_err(), "it was killed");
                let options = self.server_options.clone();
                // The system gives the port back when the connections of the dead server are gone.
                let start = || async { options.clone().start().await.ok() };
                self.server = Some(eventually("the server starts again", start).await);
            }
        }
    }

    /// Rows come and go while the batch runs.
    async fn disturb(&mut self) -> sqlx::Result<()> {
        let new: Vec<i64> = (0..20)
            .map(|_| self.random.i64(1..self.rows) * 10 + self.random.i64(1..10))
            .collect();
        sqlx::query("INSERT INTO counters (id) SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING")
            .bind(new)
            .execute(&self.pool)
            .await?;
        let gone: Vec<i64> = (0..20)
            .map(|_| self.random.i64(1..=self.rows) * 10)
            .collect();
        let had: Vec<i32> =
            sqlx::query_scalar("DELETE FROM counters WHERE id = ANY($1) RETURNING x")
                .bind(gone)
                .fetch_all(&self.pool)
                .await?;
        assert!(had.iter().all(|x| (0..=1).contains(x)), "{had:?}");
        self.deleted += had.into_iter().map(i64::from).sum::<i64>();
        Ok(())
    }

    async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_incremented_exactly_once_whatever_fails() {
    let test = "chaos::every_row_is_incremented_exactly_once_whatever_fails";
    fault_run::<false>(test, |batch| batch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_with_strides_that_are_tuned() {
    let test = "chaos::the_same_with_strides_that_are_tuned";
    // Long strides, some of which give their rest back.
    let auto = AutoStride::of(Duration::from_secs(1));
    fault_run::<false>(test, |batch| batch.auto_stride(auto)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_four_partitions_is_incremented_exactly_once_whatever_fails() {
    let test = "chaos::every_row_of_four_partitions_is_incremented_exactly_once_whatever_fails";
    fault_run::<true>(test, |batch| batch).await;
}

/// `test` is the name of the test, which the workers are started by.
async fn fault_run<const PARTITIONED: bool>(
    test: &'static str,
    change: impl FnOnce(Batch) -> Batch,
) {
    if worker_process::was_one().await {
        return;
    }
    let rows: i64 = setting("FAULTS_ROWS", 50_000);
    let seconds: i64 = setting("FAULTS_SECONDS", 20);
    let seed: u64 = setting("FAULTS_SEED", 1);
    let Some(postgres) = Postgres::launch(false) else {
        crate::postgres::skip();
        return;
    };
    let database = postgres.database("faults").await;
    let pool = sqlx::postgres::PgPoolOptions::new()
        .connect(&database)
        .await
        .unwrap();
    Increment::new(pool.clone(), None).create_tables(rows).await;

    let dir = tempfile::tempdir().unwrap();
    let options = DevServerOptions::new()
        .ui(false)
        .db_filename(dir.path().join("temporal.db"));
    let (server, options) = start_on_a_lasting_port(options).await;
    let address = server.address();
    let place = Place {
        address: address.clone(),
        queue: "faults".to_owned(),
        database,
        hold: None,
        slots: None,
    };
    let client = connect(&address).await;
    let mut run = Run {
        postgres,
        pool,
        server: Some(server),
        server_options: options,
        workers: (0..WORKERS)
            .map(|_| WorkerProcess::start(&place, test))
            .collect(),
        random: fastrand::Rng::with_seed(seed),
        rows,
        deleted: 0,
        happened: Vec::new(),
    };

    // A partition has fewer pages than the batch.
    let runs = if PARTITIONED { 20 } else { 4 };
    let batch = Batch::of::<Counters<PARTITIONED>>("faults", ())
        .task_queue(&place.queue)
        .page_size(500)
        .stride(5)
        .max_parallelism(8)
        .pages_per_run(u32::try_from(rows / 500 / runs).unwrap().max(1))
        .rate(rows as f64 / seconds as f64);
    let handle = client.start(&change(batch)).await.unwrap();
    let started = Instant::now();
    let report = torment(&mut run, &handle).await;
    println!(
        "{rows} rows, seed {seed}: {} in {:?} with {} faults, {} retries, {} runs, {} recoveries",
        report.outcome,
        started.elapsed(),
        run.happened.len(),
        report.progress.retries,
        report.progress.runs,
        recoveries(&report),
    );

    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
    for fault in FAULTS {
        assert!(
            run.happened.contains(&fault),
            "{fault:?} never happened: {:?}",
            run.happened
        );
    }
    let wrong = "SELECT count(*) FROM counters WHERE id % 10 = 0 AND x <> 1";
    assert_eq!(
        run.count(wrong).await,
        0,
        "rows not incremented exactly once"
    );
    let twice = "SELECT count(*) FROM counters WHERE x > 1";
    assert_eq!(
        run.count(twice).await,
        0,
        "rows that came later, incremented more than once"
    );
    // 004-09: the counters of the batch are exact, whatever was retried.
    let total = run.count("SELECT sum(x)::bigint FROM counters").await + run.deleted;
    assert_eq!(
        report.progress.items.processed,
        u64::try_from(total).unwrap()
    );
    assert_eq!(report.output(), Some(&report.progress.items.changed.into()));
    assert_eq!(report.progress.items.failed, 0);
    let kept = "SELECT count(*) FROM temporal_batch_report";
    assert_eq!(
        run.count(kept).await,
        1,
        "the report outlives Temporal's retention"
    );
}

/// Runs that the workers started again by themselves.
fn recoveries(report: &BatchReport) -> usize {
    let audit = report.progress.audit.iter();
    audit
        .filter(|entry| entry.action.starts_with("recover"))
        .count()
}

/// Not on a port that the system hands out by itself: while the server is away, one of the connections that
/// look for it could be given its port.
async fn start_on_a_lasting_port(options: DevServerOptions) -> (DevServer, DevServerOptions) {
    for _ in 0..20 {
        let options = options.clone().port(fastrand::u16(15_000..30_000));
        if let Ok(server) = options.clone().start().await {
            return (server, options);
        }
    }
    panic!("no port is free for the Temporal server");
}

/// One fault after the other, each kind at least once, until the batch has ended.
async fn torment(run: &mut Run, handle: &BatchHandle) -> BatchReport {
    let deadline = Instant::now() + Duration::from_secs(1_800);
    let mut plan = FAULTS.to_vec();
    run.random.shuffle(&mut plan);
    let mut seen = (0, Instant::now());
    loop {
        assert!(
            Instant::now() < deadline,
            "the batch does not end; faults: {:?}",
            run.happened
        );
        let wait = Duration::from_millis(run.random.u64(500..2_500));
        match tokio::time::timeout(wait, handle.result()).await {
            Ok(Ok(report)) => return report,
            // The server was away.
            Ok(Err(_)) => tokio::time::sleep(wait).await,
            Err(_) => {}
        }
        for worker in &mut run.workers {
            worker.replace_if_ended();
        }
        let done = run
            .count(
                "SELECT coalesce(sum(processed + skipped), 0)::bigint FROM temporal_batch_stride",
            )
            .await;
        if done != seen.0 {
            seen = (done, Instant::now());
        }
        let still = seen.1.elapsed();
        assert!(
            still < 2 * STANDSTILL,
            "nothing was done for {still:?}; faults: {:?}; {:?}",
            run.happened,
            handle.look().await,
        );
        // Nothing fails for a while: a batch that is at its last calls, or is merely slow, gets on then.
        if still > STANDSTILL {
            continue;
        }
        let fault = plan
            .pop()
            .unwrap_or_else(|| FAULTS[run.random.usize(..FAULTS.len())]);
        run.happen(fault).await;
        run.disturb().await.unwrap();
    }
}
