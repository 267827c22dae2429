//! Worker processes that are killed while children run, and while the parent hands over to its next run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use temporal_batch::{BatchClient, PageError, async_trait};
use temporal_batch_fanout::{
    Fanout, FanoutOutcome, FanoutWorker, ItemContext, ItemProcessor, ItemSettings, Mode, Retry,
};
use temporalio_client::{UntypedWorkflow, WorkflowDescribeOptions};

use crate::{
    jobs::report,
    support::{TestEnv, connect, eventually, server_address, worker_process::WorkerProcess},
};

const WORKER_OF: &str = "FANOUT_TEST_WORKER";
const LONG: usize = 4;
const SHORT: usize = 120;
const WINDOW: u32 = 8;
/// The file whose existence ends the long items.
const RELEASED: &str = "released";

/// Leaves a file for each attempt that began and for each that was done.
struct Marks(PathBuf);

#[async_trait]
impl ItemProcessor for Marks {
    const NAME: &'static str = "marks";
    type Item = String;
    type Output = String;

    fn id(item: &String) -> String {
        item.clone()
    }

    fn settings() -> ItemSettings {
        ItemSettings {
            retry: Retry {
                max_attempts: 50,
                initial_interval: Duration::from_millis(50),
                ..Retry::default()
            },
            heartbeat_timeout: Duration::from_secs(2),
            ..ItemSettings::default()
        }
    }

    async fn process(&self, ctx: &ItemContext, item: String) -> Result<String, PageError> {
        let mark = |what: &str| {
            let name = format!("{what}.{item}.{}", ctx.attempt());
            std::fs::write(self.0.join(name), "").map_err(PageError::retryable)
        };
        mark("began")?;
        while item.starts_with("LONG") && !self.0.join(RELEASED).exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        mark("done")?;
        Ok(format!("{item} at attempt {}", ctx.attempt()))
    }
}

/// Runs as a worker process for the tests of this file.
#[tokio::test(flavor = "multi_thread")]
async fn worker_process() {
    let Ok(given) = std::env::var(WORKER_OF) else {
        return;
    };
    let [address, queue, folder]: [&str; 3] =
        given.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let client: BatchClient = connect(address).await;
    let worker = FanoutWorker::new(&client, queue).processor(Marks(folder.into()));
    worker.start().unwrap().ended().await.unwrap();
}

fn start_worker(queue: &str, folder: &Path) -> WorkerProcess {
    let given = [server_address(), queue, folder.to_str().unwrap()].join("\n");
    let variables = [(WORKER_OF, given.as_ref())];
    WorkerProcess::of_test("killed_workers::worker_process", &variables)
}

/// The numbers of the attempts that left such a mark, by item.
fn marks(folder: &Path, what: &str) -> BTreeMap<String, usize> {
    let mut marks = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let mut parts = name.split('.');
        if parts.next() == Some(what) {
            *marks.entry(parts.next().unwrap().to_owned()).or_default() += 1;
        }
    }
    marks
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_lose_no_item_and_count_none_twice_when_joining() {
    killed_workers("killed-join", Mode::JoinAll).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_lose_no_item_and_count_none_twice_with_signals() {
    killed_workers("killed-signals", Mode::Signals).await;
}

async fn killed_workers(name: &str, mode: Mode) {
    let env = TestEnv::new(name).await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let long = (0..LONG).map(|n| format!("LONG-{n}"));
    let items: Vec<_> = long
        .chain((0..SHORT).map(|n| format!("S-{n:03}")))
        .collect();
    let handle = Fanout::over::<Marks>(env.new_id(), items.clone())
        .task_queue(&env.queue)
        .mode(mode)
        .window(WINDOW)
        .events_per_run(100)
        .start(&env.client)
        .await
        .unwrap();
    let parent = env.client.temporal();
    let parent = parent.get_workflow_handle::<UntypedWorkflow>(handle.id());
    let run = || async {
        let options = WorkflowDescribeOptions::default();
        let described = parent.describe(options).await.unwrap();
        described.run_id().to_owned()
    };
    for _ in 0..2 {
        let seen = marks(folder, "done").len();
        let worker = start_worker(&env.queue, folder);
        eventually("some items are done", || async {
            (marks(folder, "done").len() >= seen + 5).then_some(())
        })
        .await;
        drop(worker);
        let seen = run().await;
        let worker = start_worker(&env.queue, folder);
        eventually("the next run has begun", || async {
            (run().await != seen).then_some(())
        })
        .await;
        drop(worker);
    }
    let kept = marks(folder, "done").len();
    assert!(kept < items.len() - LONG, "{kept} items were done before");
    std::fs::write(folder.join(RELEASED), "").unwrap();
    let worker = start_worker(&env.queue, folder);
    for done in (kept..=items.len()).step_by(10) {
        eventually("ten more items are done", || async {
            (marks(folder, "done").len() >= done).then_some(())
        })
        .await;
    }
    let report = report(&handle).await;
    drop(worker);

    assert_eq!(report.outcome, FanoutOutcome::Completed, "{report:#?}");
    assert!(report.runs > 2, "{report:#?}");
    let progress = report.progress;
    assert_eq!(
        (progress.completed, progress.failed, progress.duplicates),
        (items.len() as u64, 0, 0),
        "{report:#?}"
    );
    let done: BTreeSet<_> = marks(folder, "done").into_keys().collect();
    assert_eq!(done, items.iter().cloned().collect());
    let summary = report.result.unwrap();
    assert_eq!(summary["total_items"], items.len());
    let entries = summary["summary"].as_array().unwrap().iter();
    let counted: Vec<_> = entries.map(|entry| entry["item_id"].clone()).collect();
    let expected: Vec<_> = items.iter().cloned().map(Value::from).collect();
    assert_eq!(counted, expected);
    // The kills hit items at work.
    let began = marks(folder, "began");
    assert!(
        (0..LONG).all(|n| began[&format!("LONG-{n}")] > 1),
        "{began:?}"
    );
}
