//! The cost of a backfill: rows per second of [`SqlBackfill`], without and with once per page and with one page an
//! activity, compared with a plain loop that does the same pages over the same connections without Temporal, and with
//! one single `UPDATE`.
//!
//! `cargo bench --bench backfill` prints a table, `-- --help` lists the flags. Run it on an idle machine, with `TMPDIR`
//! on the disk that is to be measured: the throwaway PostgreSQL writes with fsync.
//!
//! Each repetition runs every arm once, in alternating order. Each arm gets a copy of the same table, after a vacuum
//! and a checkpoint. Ratios are paired: an arm is compared with the loop of the same repetition. A batch is timed from
//! the call that starts it to its report, the loop from its first statement to its last.
//!
//! The loop is the program that one would write by hand if nothing could fail: each connection finds the end of the
//! next page, as the batch does, and updates the page with one statement that commits by itself. It compares no values,
//! limits no statement and remembers nothing.
//!
//! Processor seconds are per million rows. They show where the time is spent, and unlike rows per second they hardly
//! depend on other programs of the machine. Those of PostgreSQL are the sum of all its processes.

#[path = "backfill/cost.rs"]
mod cost;
#[path = "../tests/support/servers/mod.rs"]
mod servers;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use cost::{Cost, Processes};
use servers::Postgres;
use sqlx::{AssertSqlSafe, Executor as _, PgPool};
use temporal_batch::{
    Batch, BatchClient, ConnectOptions, Outcome, Worker,
    dev_server::{DevServer, DevServerOptions},
    settings::AutoStride,
    sql::{BackfillArgs, Connections, SqlBackfill, SqlLedger, TableSpec},
};
use tokio::{sync::Mutex, task::JoinSet};

type Error = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "\
cargo bench --bench backfill -- [FLAG VALUE]...
  --rows N           rows of the table [1000000]
  --page-size N      rows per page [1000]
  --connections N    pages in flight, and connections of the loop [4]
  --stride N|auto    pages of one activity, but for the arm stride-1 [auto]
  --pairs N          repetitions [5]
  --arms A,A,...     of loop, backfill, once, stride-1, update; loop is always there [all]
  --json             one JSON object for each arm of each repetition, instead of the table";

const QUEUE: &str = "bench-backfill";
const SET: &str = "balance = balance + 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Loop,
    Backfill,
    Once,
    /// One page an activity; the starts of pages are found ahead.
    Single,
    Update,
}

impl Arm {
    const ALL: [Self; 5] = [
        Self::Loop,
        Self::Backfill,
        Self::Once,
        Self::Single,
        Self::Update,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Backfill => "backfill",
            Self::Once => "once",
            Self::Single => "stride-1",
            Self::Update => "update",
        }
    }
}

#[derive(Clone, Debug)]
struct Options {
    rows: u32,
    page_size: u32,
    connections: u32,
    /// The length of strides. `None`: found while the batch runs.
    stride: Option<u32>,
    pairs: u32,
    arms: Vec<Arm>,
    json: bool,
}

impl Options {
    /// Parses the flags. `None` if help is requested.
    fn parse(args: impl Iterator<Item = String>) -> Result<Option<Self>, Error> {
        let mut options = Self {
            rows: 1_000_000,
            page_size: 1_000,
            connections: 4,
            stride: None,
            pairs: 5,
            arms: Arm::ALL.to_vec(),
            json: false,
        };
        // Cargo passes `--bench` to every bench.
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(flag) = args.next() {
            match flag.as_str() {
                "--help" => return Ok(None),
                "--json" => {
                    options.json = true;
                    continue;
                }
                _ => {}
            }
            let value = args.next().ok_or(format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--rows" => options.rows = value.parse()?,
                "--page-size" => options.page_size = value.parse()?,
                "--connections" => options.connections = value.parse()?,
                "--stride" if value == "auto" => options.stride = None,
                "--stride" => options.stride = Some(value.parse()?),
                "--pairs" => options.pairs = value.parse()?,
                "--arms" => {
                    let named = |name: &str| {
                        let found = Arm::ALL.into_iter().find(|arm| arm.name() == name);
                        found.ok_or_else(|| format!("there is no arm \"{name}\"\n{USAGE}"))
                    };
                    options.arms = value.split(',').map(named).collect::<Result<_, _>>()?;
                    if !options.arms.contains(&Arm::Loop) {
                        options.arms.insert(0, Arm::Loop);
                    }
                }
                _ => return Err(format!("unknown flag {flag}\n{USAGE}").into()),
            }
        }
        Ok(Some(options))
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    let Some(postgres) = Postgres::launch(true) else {
        Postgres::skip();
        return Ok(ExitCode::SUCCESS);
    };
    let pool = postgres.pool("bench", options.connections * 2 + 5).await;
    prepare(&pool, options.rows).await?;

    let server = DevServerOptions::new().start().await?;
    let processes = Processes {
        server: server.pid(),
        postmaster: postmaster(&postgres),
    };
    let measured = measure(&options, &pool, &server, processes).await;
    pool.close().await;
    server.stop().await?;
    let runs = measured?;
    if !options.json {
        report(&options, &runs);
    }
    Ok(ExitCode::SUCCESS)
}

fn postmaster(postgres: &Postgres) -> Option<u32> {
    let file = postgres.folder().join("data/postmaster.pid");
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// Creates the table that is copied. Autovacuum is off, since it would run at some times and not at others.
async fn prepare(pool: &PgPool, rows: u32) -> Result<(), Error> {
    let statements = format!(
        "CREATE TABLE original AS
            SELECT n::bigint AS id, md5(n::text) AS owner, (n % 1000)::int AS balance, now() AS opened
            FROM generate_series(1, {rows}) AS n;
        ALTER SYSTEM SET autovacuum = off;
        SELECT pg_reload_conf();"
    );
    for statement in statements.split(';').filter(|s| !s.trim().is_empty()) {
        pool.execute(AssertSqlSafe(statement.to_owned())).await?;
    }
    SqlLedger::new(pool.clone()).apply_schema().await?;
    Ok(())
}

/// Makes a fresh copy of the table, in the state in which every arm begins.
async fn fresh_table(pool: &PgPool) -> Result<(), Error> {
    for statement in [
        "DROP TABLE IF EXISTS accounts",
        "CREATE TABLE accounts (LIKE original)",
        "INSERT INTO accounts SELECT * FROM original",
        "ALTER TABLE accounts ADD PRIMARY KEY (id)",
        "VACUUM (FREEZE, ANALYZE) accounts",
        "CHECKPOINT",
    ] {
        pool.execute(statement).await?;
    }
    Ok(())
}

/// One repetition of an arm.
#[derive(Clone, Copy)]
struct Run {
    seconds: f64,
    cost: Cost,
}

/// The measurements of each arm, in the order of the repetitions.
type Runs = Vec<(Arm, Vec<Run>)>;

async fn measure(
    options: &Options,
    pool: &PgPool,
    server: &DevServer,
    processes: Processes,
) -> Result<Runs, Error> {
    let connect = ConnectOptions::new().address(server.address());
    let client = BatchClient::connect(&connect).await?;
    let connections = Connections::new().with("default", pool.clone());
    let worker = Worker::new(&client, QUEUE)
        .processor(SqlBackfill::new(connections))
        .start()?;
    let mut runs: Runs = options.arms.iter().map(|arm| (*arm, Vec::new())).collect();
    for pair in 0..options.pairs {
        let mut order: Vec<usize> = (0..runs.len()).collect();
        if pair % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let arm = runs[index].0;
            fresh_table(pool).await?;
            let before = processes.cost();
            let took = run(arm, options, pool, &client, pair).await?;
            let run = Run {
                seconds: took.as_secs_f64(),
                cost: processes.cost() - before,
            };
            verify(pool, options.rows).await?;
            if options.json {
                let Cost {
                    worker,
                    server,
                    postgres,
                } = run.cost;
                println!(
                    "{}",
                    serde_json::json!({
                        "pair": pair, "arm": arm.name(), "seconds": run.seconds,
                        "rows_per_second": f64::from(options.rows) / run.seconds,
                        "cpu_seconds": {"worker": worker, "server": server, "postgres": postgres},
                    })
                );
            }
            runs[index].1.push(run);
        }
    }
    worker.stop().await?;
    Ok(runs)
}

async fn run(
    arm: Arm,
    options: &Options,
    pool: &PgPool,
    client: &BatchClient,
    pair: u32,
) -> Result<Duration, Error> {
    let began = Instant::now();
    match arm {
        Arm::Update => {
            let statement = format!("UPDATE accounts SET {SET}");
            pool.execute(AssertSqlSafe(statement)).await?;
        }
        Arm::Loop => plain_loop(pool, options).await?,
        Arm::Backfill | Arm::Once | Arm::Single => {
            let args = BackfillArgs::of(TableSpec::new("accounts", ["id"]))
                .set("balance", "balance + 1")
                .once(arm == Arm::Once);
            let batch = Batch::of::<SqlBackfill>(format!("{}-{pair}", arm.name()), args)
                .task_queue(QUEUE)
                .page_size(options.page_size)
                .max_parallelism(options.connections);
            let stride = match arm {
                Arm::Single => Some(1),
                _ => options.stride,
            };
            let batch = match stride {
                Some(stride) => batch.stride(stride),
                None => batch.stride(AutoStride::default()),
            };
            let report = client.start(&batch).await?.result().await?;
            if report.outcome != Outcome::Completed {
                return Err(format!("unexpected end of the batch: {report:?}").into());
            }
        }
    }
    Ok(began.elapsed())
}

/// The hand-written program: connections take the next page from a shared cursor, and update it.
async fn plain_loop(pool: &PgPool, options: &Options) -> Result<(), Error> {
    let cursor = Arc::new(Mutex::new(Some(i64::MIN)));
    let mut connections = JoinSet::new();
    for _ in 0..options.connections {
        let (pool, cursor) = (pool.clone(), Arc::clone(&cursor));
        let page_size = i64::from(options.page_size);
        connections.spawn(async move {
            let mut connection = pool.acquire().await?;
            loop {
                let (start, end) = {
                    let mut cursor = cursor.lock().await;
                    let Some(start) = *cursor else {
                        return Ok::<_, sqlx::Error>(());
                    };
                    let end: Option<i64> = sqlx::query_scalar(
                        "SELECT id FROM accounts WHERE id > $1 ORDER BY id OFFSET $2 LIMIT 1",
                    )
                    .bind(start)
                    .bind(page_size - 1)
                    .fetch_optional(&mut *connection)
                    .await?;
                    *cursor = end;
                    (start, end.unwrap_or(i64::MAX))
                };
                sqlx::query("UPDATE accounts SET balance = balance + 1 WHERE id > $1 AND id <= $2")
                    .bind(start)
                    .bind(end)
                    .execute(&mut *connection)
                    .await?;
            }
        });
    }
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(())
}

/// Checks that every row exists and was changed exactly once.
async fn verify(pool: &PgPool, rows: u32) -> Result<(), Error> {
    let right: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM accounts JOIN original USING (id)
        WHERE accounts.balance = original.balance + 1",
    )
    .fetch_one(pool)
    .await?;
    match right == i64::from(rows) {
        true => Ok(()),
        false => Err(format!("{right} of {rows} rows are right").into()),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// The median with the lowest and the highest value: "a (b..c)".
fn spread(values: &[f64], digits: usize) -> String {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(0.0, f64::max);
    format!(
        "{:.digits$} ({lowest:.digits$}..{highest:.digits$})",
        median(values)
    )
}

fn report(options: &Options, runs: &Runs) {
    let Options {
        rows,
        page_size,
        connections,
        stride,
        pairs,
        ..
    } = options;
    let stride = stride.map_or_else(|| "auto".to_owned(), |stride| stride.to_string());
    println!(
        "{rows} rows, {page_size} a page, {connections} connections, stride {stride}; median of {pairs} \
         repetitions (lowest..highest)\n"
    );
    println!(
        "| arm | rows/s | of the loop, paired | CPU s per 1M rows: all | worker | server | PostgreSQL |\n\
         |---|---|---|---|---|---|---|"
    );
    let of_loop = runs.iter().find(|(arm, _)| *arm == Arm::Loop);
    let of_loop = of_loop.map_or(&[][..], |(_, runs)| runs);
    for (arm, runs) in runs {
        let rates: Vec<_> = runs.iter().map(|r| f64::from(*rows) / r.seconds).collect();
        let pairs = of_loop.iter().zip(runs);
        let ratios: Vec<_> = pairs.map(|(of, run)| of.seconds / run.seconds).collect();
        let cost = |part: fn(&Cost) -> f64| {
            let millions = f64::from(*rows) / 1e6;
            let values: Vec<_> = runs.iter().map(|run| part(&run.cost) / millions).collect();
            median(&values)
        };
        println!(
            "| {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            arm.name(),
            spread(&rates, 0),
            spread(&ratios, 2),
            cost(Cost::total),
            cost(|cost| cost.worker),
            cost(|cost| cost.server),
            cost(|cost| cost.postgres),
        );
    }
}
