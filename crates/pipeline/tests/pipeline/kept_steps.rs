//! Results of steps that outlive a crash.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use temporal_batch::{Outcome, Worker, sql::Database};
use temporal_batch_pipeline::{Items, KeptStep, Pipeline, SqlSteps, StepStore, action, step};

use crate::{
    numbers::{Numbers, UpTo, counters_of},
    support::{
        TestEnv, databases::TestDatabase, eventually, report, server_address,
        worker_process::WorkerProcess,
    },
};

/// A pipeline whose steps write a line for each call into the folder, which outlives the process. While the file `slow`
/// exists, the last step of item 3 runs forever.
async fn logging(folder: &Path) -> Numbers<Items<u64>> {
    let steps = SqlSteps::new(sqlite(&folder.join("steps.db")).await);
    steps.apply_schema().await.unwrap();
    let logged = |step: &'static str| {
        let folder = folder.to_owned();
        move |n: u64| log(&folder, step, n)
    };
    let (look, reserve, mail, charge) = (
        logged("look"),
        logged("reserve"),
        logged("mail"),
        logged("charge"),
    );
    let slow = folder.join("slow");
    let pipeline = Pipeline::with_store(steps, move |page| {
        page.for_each(
            1,
            |n| *n,
            |n| {
                n.step(step("look", move |_, n: u64| {
                    look(n);
                    async move { Ok(n) }
                }))
                .step(
                    step("reserve", move |ctx, n: u64| {
                        reserve(n);
                        ctx.count("reserved", 1);
                        async move { Ok(n * 10) }
                    })
                    .kept(),
                )
                .action(
                    action("mail", move |_, n: u64| {
                        mail(n / 10);
                        async { Ok(()) }
                    })
                    .kept(),
                )
                .step(step("charge", move |_, n: u64| {
                    charge(n / 10);
                    let slow = slow.clone();
                    async move {
                        while n == 30 && slow.exists() {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Ok(n)
                    }
                }))
            },
        )
    });
    let mut numbers = Numbers::of(pipeline.unwrap());
    numbers.settings.heartbeat_timeout = Duration::from_secs(3);
    numbers
}

async fn sqlite(path: &Path) -> Database {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    let url = format!("sqlite:{}", path.display());
    temporal_batch::sqlx::SqlitePool::connect(&url)
        .await
        .unwrap()
        .into()
}

fn log(folder: &Path, step: &str, n: u64) {
    use std::io::Write as _;
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("calls"));
    writeln!(file.unwrap(), "{step} {n}").unwrap();
}

fn calls(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The worker process is the test binary itself, started again with one test alone.
const WORKER_PROCESS: &str = "kept_steps::a_killed_worker_repeats_no_kept_step";

fn start_worker(env: &TestEnv, folder: &Path) -> WorkerProcess {
    let variables = [
        ("KEPT_STEPS_FOLDER", folder.as_os_str()),
        ("KEPT_STEPS_ADDRESS", server_address().as_ref()),
        ("KEPT_STEPS_QUEUE", env.queue.as_ref()),
    ];
    WorkerProcess::of_test(WORKER_PROCESS, &variables)
}

async fn was_a_worker_process() -> bool {
    let Ok(folder) = std::env::var("KEPT_STEPS_FOLDER") else {
        return false;
    };
    let variable = |name| std::env::var(name).unwrap();
    let env = TestEnv::at(&variable("KEPT_STEPS_ADDRESS"), "worker").await;
    let worker = Worker::new(&env.client, variable("KEPT_STEPS_QUEUE"));
    let numbers = logging(&PathBuf::from(folder)).await;
    worker.processor(numbers).run().await.unwrap();
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_repeats_no_kept_step() {
    if was_a_worker_process().await {
        return;
    }
    let env = TestEnv::new("kept-steps").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("slow"), "").unwrap();
    let worker = start_worker(&env, path);
    let batch = env.batch::<Numbers<Items<u64>>>(UpTo { n: 5 });
    let handle = env.start(&batch.page_size(5)).await;
    eventually("the third item is charged", || async {
        calls(path)
            .iter()
            .any(|call| call == "charge 3")
            .then_some(())
    })
    .await;
    // Dropping the process kills it as `kill -9` does.
    drop(worker);
    fs::remove_file(path.join("slow")).unwrap();
    let second = start_worker(&env, path);
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(counters_of(&report)["reserved"], 5);
    let calls = calls(path);
    let times = |call: &str| calls.iter().filter(|other| *other == call).count();
    for n in 1..=5 {
        for step in ["look", "reserve", "mail"] {
            assert_eq!(times(&format!("{step} {n}")), 1, "{step} {n}: {calls:?}");
        }
    }
    assert_eq!(
        times("charge 3"),
        2,
        "the step that was interrupted runs again"
    );
    drop(second);
}

async fn the_first_result_stays_until_the_batch_run_is_forgotten(database: Database) {
    let steps = SqlSteps::new(database);
    steps.apply_schema().await.unwrap();
    steps.apply_schema().await.unwrap();
    let kept = |key: &str, step: &str, result: &str| KeptStep {
        key: key.to_owned(),
        step: step.to_owned(),
        result: result.into(),
    };
    let long = "x".repeat(100_000);
    for (run, step) in [
        ("a", kept("1", "charge", &long)),
        ("a", kept("1", "charge", "late")),
        ("a", kept("2", "Größe", "ü '\" \\")),
        ("a", kept("2", "größe", "another step")),
        ("b", kept("1", "charge", "other run")),
    ] {
        steps.keep(run, &step).await.unwrap();
    }
    let mut keys: Vec<String> = (1..=12_000).map(|n| n.to_string()).collect();
    let mut found = steps.load("a", &keys).await.unwrap();
    found.sort_by(|a, b| (&a.key, &a.step).cmp(&(&b.key, &b.step)));
    let expected = [
        kept("1", "charge", &long),
        kept("2", "Größe", "ü '\" \\"),
        kept("2", "größe", "another step"),
    ];
    assert_eq!(found, expected);
    keys.clear();
    assert_eq!(steps.load("a", &keys).await.unwrap(), []);
    assert_eq!(steps.forget("a").await.unwrap(), 3);
    assert_eq!(steps.forget("a").await.unwrap(), 0);
    assert_eq!(steps.load("b", &["1".to_owned()]).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_result_stays_in_sqlite() {
    let home = TestDatabase::sqlite().await;
    the_first_result_stays_until_the_batch_run_is_forgotten(home.pool().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_result_stays_in_postgresql() {
    if let Some(home) = TestDatabase::postgres("kept_steps").await {
        the_first_result_stays_until_the_batch_run_is_forgotten(home.pool().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_result_stays_in_mariadb() {
    if let Some(home) = TestDatabase::mariadb("kept_steps").await {
        the_first_result_stays_until_the_batch_run_is_forgotten(home.pool().await).await;
    }
}
