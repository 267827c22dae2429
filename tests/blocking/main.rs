//! User code that blocks its thread, without holding up the worker's own work.
//!
//! A process of its own: the threads for user code belong to the process, and a stride that finds all of them blocked is
//! returned and dispatched again. Tests that count how often a page began cannot share a process with these.

#[allow(dead_code, reason = "the engine's tests need all of it")]
#[path = "../engine/numbers_processor.rs"]
mod numbers_processor;
#[path = "../support/mod.rs"]
mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use temporal_batch::{
    Outcome, PageReport, Worker,
    errors::WorkerError,
    hooks::{HookResult, Tracker},
    progress::Progress,
    settings::{RetryMode, RetryPolicy},
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo},
    support::{TestEnv, eventually, within},
};

const PAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Blocks the threads of all callers until it is dropped.
#[derive(Clone, Default)]
struct Block(Arc<AtomicBool>);

impl Block {
    fn block(&self) {
        while !self.0.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Releases all blocked threads.
struct LetGo(Block);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

/// Pages that block their thread when they are processed for the first time.
fn blocking(mode: RetryMode) -> (NumbersProcessor, LetGo) {
    let block = Block::default();
    let numbers = NumbersProcessor::new().settings(|s| {
        s.page_timeout = PAGE_TIMEOUT;
        s.heartbeat_timeout = Duration::from_secs(3);
        s.retry_mode = mode;
        if mode == RetryMode::AtMostOnce {
            s.retry = RetryPolicy::never();
        }
    });
    let blocks = block.clone();
    let numbers = numbers.on_process(move |seen| {
        let blocks = blocks.clone();
        async move {
            if seen.times == 1 {
                blocks.block();
            }
            Ok(PageReport::all_processed())
        }
    });
    (numbers, LetGo(block))
}

/// The runtime of the worker has only one thread, and there are several pages.
#[tokio::test]
async fn pages_that_block_their_threads_time_out_and_run_again() {
    let env = TestEnv::new("blocking").await;
    let (numbers, _let_go) = blocking(RetryMode::AtLeastOnce);
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 60 }).page_size(10);
    let report = env.run(&batch.max_parallelism(6)).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(report.progress.items.processed, 60);
    // All other attempts were given back and do not count.
    assert_eq!(report.progress.retries, 6, "{report:#?}");
}

#[tokio::test]
async fn at_most_once_a_page_that_blocks_its_thread_is_given_up_with_its_position() {
    let env = TestEnv::new("blocking-once").await;
    let (numbers, _let_go) = blocking(RetryMode::AtMostOnce);
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 20 }).page_size(10);
    let report = env.run(&batch.max_parallelism(1)).await;
    assert_eq!(
        report.outcome,
        Outcome::CompletedWithFailures,
        "{report:#?}"
    );
    let failed = &report.progress.failed[0];
    assert_eq!(failed.error_type, "PageTimeout");
    assert!(failed.message.contains("blocks its thread"), "{failed:?}");
    assert_eq!(failed.end.as_ref().unwrap().as_str(), "10");
    assert_eq!(numbers.record().times_begun(0), 1);
}

#[tokio::test]
async fn a_deadline_ends_a_batch_whose_pages_block_their_threads() {
    let env = TestEnv::new("blocking-deadline").await;
    let (numbers, _let_go) = blocking(RetryMode::AtLeastOnce);
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1_000_000 })
        .page_size(10);
    let deadline = Duration::from_secs(4);
    let batch = batch.max_parallelism(3).deadline(deadline);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Stopped, "{report:#?}");
    // One look a second, and 5 s for user code that had begun other pages.
    let late = report.duration().saturating_sub(deadline);
    assert!(late < PAGE_TIMEOUT + Duration::from_secs(10), "{late:?}");
}

struct BlocksAll(Block);

#[async_trait]
impl Tracker for BlocksAll {
    const NAME: &'static str = "blocks";

    async fn track(&self, _: &Progress) -> HookResult {
        self.0.block();
        Ok(())
    }
}

#[tokio::test]
async fn a_tracker_that_blocks_its_thread_holds_up_neither_pages_nor_the_end() {
    let env = TestEnv::new("blocking-tracker").await;
    let let_go = LetGo(Block::default());
    let tracker = BlocksAll(let_go.0.clone());
    let worker = env
        .worker_with(NumbersProcessor::new(), |worker| worker.tracker(tracker))
        .await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 300 })
        .page_size(10)
        .track(BlocksAll::NAME)
        .hook_timeout(Duration::from_millis(300));
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert!(report.progress.hooks_failed > 0, "{report:#?}");
    within("the worker stops", worker.stop()).await.unwrap();
}

/// The worker process of these tests is the test binary itself, started again with one test alone.
const WORKER_PROCESS: &str = "a_worker_whose_pages_block_ends_after_its_drain_timeout";

/// Returns whether this process was started as a worker. If so, it has worked until it was told to stop.
async fn was_a_worker_process() -> bool {
    let Ok(queue) = std::env::var("BLOCKING_QUEUE") else {
        return false;
    };
    let variable = |name| std::env::var(name).unwrap();
    let env = TestEnv::at(&variable("BLOCKING_ADDRESS"), "worker").await;
    let drain = Duration::from_millis(variable("BLOCKING_DRAIN").parse().unwrap());
    let begun = PathBuf::from(variable("BLOCKING_BEGUN"));
    let numbers = NumbersProcessor::new().on_process(move |seen| {
        std::fs::write(begun.join(seen.start.to_string()), "").unwrap();
        async {
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    });
    let worker = Worker::new(&env.client, queue).processor(numbers);
    let ended = worker.drain_timeout(drain).run().await;
    assert!(
        matches!(ended, Err(WorkerError::Abandoned { pages: 6, .. })),
        "{ended:?}"
    );
    true
}

struct WorkerProcess(Child);

impl WorkerProcess {
    /// Starts six pages that block a thread each.
    async fn blocked(env: &TestEnv, drain: Duration, begun: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", WORKER_PROCESS])
            .env("BLOCKING_ADDRESS", crate::support::server_address())
            .env("BLOCKING_QUEUE", &env.queue)
            .env("BLOCKING_DRAIN", drain.as_millis().to_string())
            .env("BLOCKING_BEGUN", begun)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let worker = Self(child.unwrap());
        let batch = env.batch::<NumbersProcessor>(UpTo { n: 60 }).page_size(10);
        env.start(&batch.max_parallelism(6)).await;
        eventually("all pages have begun", || async {
            (std::fs::read_dir(begun).unwrap().count() == 6).then_some(())
        })
        .await;
        worker
    }

    fn terminate(&self) {
        let pid = self.0.id().to_string();
        let kill = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(kill.unwrap().success());
    }

    async fn ends(&mut self) -> ExitStatus {
        eventually("the worker process ends by itself", || {
            let status = self.0.try_wait().unwrap();
            async move { status }
        })
        .await
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_pages_block_ends_after_its_drain_timeout() {
    if was_a_worker_process().await {
        return;
    }
    let env = TestEnv::new("blocking-drain").await;
    let begun = tempfile::tempdir().unwrap();
    let mut worker = WorkerProcess::blocked(&env, Duration::from_millis(100), begun.path()).await;
    let told = Instant::now();
    worker.terminate();
    assert!(worker.ends().await.success());
    let took = told.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_pages_block_ends_at_once_at_the_second_signal() {
    let env = TestEnv::new("blocking-twice").await;
    let begun = tempfile::tempdir().unwrap();
    let mut worker = WorkerProcess::blocked(&env, Duration::from_secs(600), begun.path()).await;
    worker.terminate();
    // Two signals of one kind at the same moment count as one, so the second is repeated until the process ends.
    let ended = eventually("the worker process ends by itself", || {
        let status = worker.0.try_wait().unwrap();
        if status.is_none() {
            worker.terminate();
        }
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            status
        }
    });
    assert!(ended.await.success());
}
