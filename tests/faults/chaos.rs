//! Batches under random faults: workers are killed and frozen, and servers restarted, until the batch has ended.
//!
//! As a test the run takes half a minute. The long form is:
//!
//! ```console
//! $ FAULTS_ROWS=1000000 FAULTS_SECONDS=300 FAULTS_SEED=7 cargo test --release --test faults -- --nocapture
//! ```

use std::time::{Duration, Instant};

use sqlx::PgPool;
use temporal_batch::{
    Batch, BatchHandle, BatchReport, Outcome, PageProcessor,
    dev_server::{DevServer, DevServerOptions},
    settings::AutoStride,
};

use crate::{
    increment::{HEARTBEAT_TIMEOUT, Increment, PartitionedIncrement},
    support::{
        connect, eventually,
        servers::{Postgres, Stop},
        settings::setting,
    },
    unfenced::{AtLeastOnce, AtMostOnce},
    worker_process::{self, Place, WorkerProcess, signal},
};

const WORKERS: usize = 3;
const PAGE: u32 = 500;
/// The longest time without progress. It is longer than any fault and the recovery from it.
const STANDSTILL: Duration = Duration::from_secs(60);
/// After this time without progress no more faults are injected, so that a batch that is nearly done, or only slow, can
/// make progress.
const CALM: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    KillWorker,
    /// The worker is frozen for longer than its heartbeat timeout, then resumed.
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
    /// The sum of the increments of deleted rows.
    deleted: i64,
    deleted_most: i32,
    happened: Vec<Fault>,
}

impl Run {
    async fn inject(&mut self, fault: Fault) {
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
                assert!(died.is_err(), "the server was killed");
                let options = self.server_options.clone();
                // The system releases the port once the connections of the dead server are gone.
                let start = || async { options.clone().start().await.ok() };
                self.server = Some(eventually("the server starts again", start).await);
            }
        }
    }

    /// Inserts and deletes rows while the batch runs.
    async fn change_rows(&mut self) -> sqlx::Result<()> {
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
        self.deleted_most = had.iter().copied().fold(self.deleted_most, i32::max);
        self.deleted += had.into_iter().map(i64::from).sum::<i64>();
        Ok(())
    }

    async fn count(&self, what: &'static str) -> i64 {
        let counted = sqlx::query_scalar(what).fetch_one(&self.pool);
        counted.await.unwrap()
    }

    /// The number of increments of all rows, including the deleted ones.
    async fn increments(&self) -> u64 {
        let there = self.count("SELECT coalesce(sum(x), 0)::bigint FROM counters");
        (there.await + self.deleted).unsigned_abs()
    }

    /// The largest number of increments of one row.
    async fn most(&self) -> i64 {
        let there = self.count("SELECT coalesce(max(x), 0)::bigint FROM counters");
        there.await.max(self.deleted_most.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_incremented_exactly_once_whatever_fails() {
    let test = "chaos::every_row_is_incremented_exactly_once_whatever_fails";
    if let Some(ended) = fault_run::<Increment>(test, |batch| batch).await {
        ended.exactly_once().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_incremented_exactly_once_with_tuned_strides() {
    let test = "chaos::every_row_is_incremented_exactly_once_with_tuned_strides";
    // Long strides, some of which return their remaining pages.
    let auto = AutoStride::of(Duration::from_secs(1));
    if let Some(ended) = fault_run::<Increment>(test, |batch| batch.stride(auto)).await {
        ended.exactly_once().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_four_partitions_is_incremented_exactly_once_whatever_fails() {
    let test = "chaos::every_row_of_four_partitions_is_incremented_exactly_once_whatever_fails";
    if let Some(ended) = fault_run::<PartitionedIncrement>(test, |batch| batch).await {
        ended.exactly_once().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_incremented_twice_by_pages_that_run_at_most_once_without_a_ledger() {
    let test = "chaos::no_row_is_incremented_twice_by_pages_that_run_at_most_once_without_a_ledger";
    if let Some(ended) = fault_run::<AtMostOnce>(test, |batch| batch).await {
        ended.at_most_once().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_left_out_by_pages_that_run_at_least_once_without_a_ledger() {
    let test = "chaos::no_row_is_left_out_by_pages_that_run_at_least_once_without_a_ledger";
    if let Some(ended) = fault_run::<AtLeastOnce>(test, |batch| batch).await {
        ended.at_least_once().await;
    }
}

/// A batch that has ended under faults, and its report.
struct Ended {
    run: Run,
    report: BatchReport,
}

impl Ended {
    async fn exactly_once(&self) {
        let (run, report) = (&self.run, &self.report);
        assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
        let wrong = "SELECT count(*) FROM counters WHERE id % 10 = 0 AND x <> 1";
        let wrong = run.count(wrong).await;
        assert_eq!(wrong, 0, "rows not incremented exactly once");
        assert!(run.most().await <= 1, "a row was incremented twice");
        // The counters of the batch are exact, whatever was retried.
        assert_eq!(report.progress.items.processed, run.increments().await);
        assert_eq!(report.output(), Some(&report.progress.items.changed.into()));
        assert_eq!(report.progress.items.failed, 0);
        let kept = run
            .count("SELECT count(*) FROM temporal_batch_report")
            .await;
        assert_eq!(kept, 1, "the report outlives Temporal's retention");
    }

    /// Asserts that no row was incremented twice. Rows that were left out belong to pages that were given up, and each
    /// such page has a dead letter.
    async fn at_most_once(&self) {
        let (run, report) = (&self.run, &self.report);
        let ended = [Outcome::Completed, Outcome::CompletedWithFailures];
        assert!(ended.contains(&report.outcome), "{:?}", report.reason);
        assert!(run.most().await <= 1, "a row was incremented twice");
        let spent = report.progress.pages_failed;
        let letters = run.count("SELECT count(*) FROM temporal_batch_dead_letter");
        assert_eq!(letters.await.unsigned_abs(), spent);
        let left = "SELECT count(*) FROM counters WHERE id % 10 = 0 AND x = 0";
        let left = run.count(left).await.unsigned_abs();
        println!("{spent} pages given up, {left} rows left out");
        assert!(left <= spent * u64::from(PAGE), "too many rows left out");
        // A page that was given up may have had its effect; a page that counts as done has had it.
        let (done, had) = (report.progress.items.processed, run.increments().await);
        let possible = had.saturating_sub(spent * u64::from(PAGE))..=had;
        assert!(possible.contains(&done), "{done} of {had}");
    }

    async fn at_least_once(&self) {
        let (run, report) = (&self.run, &self.report);
        assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.reason);
        let left = "SELECT count(*) FROM counters WHERE id % 10 = 0 AND x = 0";
        assert_eq!(run.count(left).await, 0, "rows left out");
        println!("a row was incremented {} times at most", run.most().await);
    }
}

/// Runs a batch under faults. Worker processes are started with the name of the test; in them the result is `None`.
async fn fault_run<P: PageProcessor<Args = ()>>(
    test: &'static str,
    change: impl FnOnce(Batch) -> Batch,
) -> Option<Ended> {
    if worker_process::was_one().await {
        return None;
    }
    let rows: i64 = setting("FAULTS_ROWS", 50_000);
    let seconds: i64 = setting("FAULTS_SECONDS", 20);
    let seed: u64 = setting("FAULTS_SEED", 1);
    let Some(postgres) = Postgres::launch(false) else {
        Postgres::skip();
        return None;
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
        deleted_most: 0,
        happened: Vec::new(),
    };

    // A partition has fewer pages than the batch.
    let runs = if P::PARTITIONED { 20 } else { 4 };
    let batch = Batch::of::<P>("faults", ())
        .task_queue(&place.queue)
        .page_size(PAGE)
        .stride(5)
        .max_parallelism(8)
        .pages_per_run(u32::try_from(rows / i64::from(PAGE) / runs).unwrap().max(1))
        .rate(rows as f64 / seconds as f64);
    let handle = client.start(&change(batch)).await.unwrap();
    let started = Instant::now();
    let report = inject_faults(&mut run, &handle).await;
    println!(
        "{}, {rows} rows, seed {seed}: {} in {:?} with {} faults, {} retries, {} runs",
        P::NAME,
        report.outcome,
        started.elapsed(),
        run.happened.len(),
        report.progress.retries,
        report.progress.runs,
    );
    let recovered = recoveries(&report);
    assert_eq!(recovered, 0, "a history could not be replayed");
    for fault in FAULTS {
        let happened = &run.happened;
        assert!(
            happened.contains(&fault),
            "{fault:?} never happened: {happened:?}"
        );
    }
    Some(Ended { run, report })
}

/// The number of runs that the workers started again by themselves.
fn recoveries(report: &BatchReport) -> usize {
    let audit = report.progress.audit.iter();
    audit
        .filter(|entry| entry.action.starts_with("recover"))
        .count()
}

/// Starts a server on a port that the system does not assign by itself. Otherwise a connection that tries to reach the
/// stopped server could be assigned its port.
async fn start_on_a_lasting_port(options: DevServerOptions) -> (DevServer, DevServerOptions) {
    for _ in 0..20 {
        let options = options.clone().port(fastrand::u16(15_000..30_000));
        if let Ok(server) = options.clone().start().await {
            return (server, options);
        }
    }
    panic!("no port is free for the Temporal server");
}

/// Injects one fault after the other, each kind at least once, until the batch has ended.
async fn inject_faults(run: &mut Run, handle: &BatchHandle) -> BatchReport {
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
            // The server is being restarted.
            Ok(Err(_)) => tokio::time::sleep(wait).await,
            Err(_) => {}
        }
        for worker in &mut run.workers {
            worker.replace_if_ended();
        }
        let done = run.increments().await;
        if done != seen.0 {
            seen = (done, Instant::now());
        }
        let still = seen.1.elapsed();
        assert!(
            still < STANDSTILL,
            "nothing was done for {still:?}; faults: {:?}; {:?}",
            run.happened,
            handle.look().await,
        );
        if still > CALM {
            continue;
        }
        let fault = plan
            .pop()
            .unwrap_or_else(|| FAULTS[run.random.usize(..FAULTS.len())]);
        run.inject(fault).await;
        run.change_rows().await.unwrap();
    }
}
