//! Workers that are killed, stopped or suspended while they work.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use temporal_batch::{
    BatchReport, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    ProcessorSettings, SkipAhead, Worker,
    settings::{RetryMode, RetryPolicy},
    store::{DeadLetters, JsonlDeadLetters},
};

use crate::{
    replay::replays,
    support::{TestEnv, eventually, report},
};

const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
const PAGES: u32 = 6;

/// A processor whose pages write their beginning and end into a file, the diary, which outlives the process. While a
/// file called `slow` exists, the third page runs forever; while one called `slow to read` exists, it is read forever;
/// while one called `deadly to read` exists, reading it kills the worker.
pub struct Diary {
    dir: PathBuf,
    mode: RetryMode,
    /// Keeps dead letters, can skip ahead, and has one attempt.
    letters: bool,
    heartbeat_timeout: Duration,
}

impl Diary {
    pub fn new(dir: &Path, mode: RetryMode) -> Self {
        std::fs::write(dir.join("slow"), "").unwrap();
        Self {
            dir: dir.into(),
            mode,
            letters: false,
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
        }
    }

    fn keeping_letters(dir: &Path, mode: RetryMode) -> Self {
        Self {
            letters: true,
            ..Self::new(dir, mode)
        }
    }

    pub fn quicken(&self) {
        std::fs::remove_file(self.dir.join("slow")).unwrap();
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }

    /// Waits until the diary has a line this many times.
    pub async fn shows_times(&self, line: &str, times: usize) {
        let what = format!("the diary shows {line:?} {times} times");
        eventually(&what, || async {
            (self.count(line) >= times).then_some(())
        })
        .await;
    }

    fn write(&self, line: &str) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("diary"));
        writeln!(file.unwrap(), "{line}").unwrap();
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join("diary")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[async_trait]
impl PageProcessor for Diary {
    const NAME: &'static str = "diary";
    type Args = ();
    type Cursor = u32;
    type Item = u32;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
        let page = ctx.range().start().map_or(1, |last| last + 1);
        if page == 3 {
            self.write("read 3");
            if self.dir.join("deadly to read").exists() {
                std::process::abort();
            }
            while self.dir.join("slow to read").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Page::keyset((page <= PAGES).then_some(page).into_iter().collect(), |n| {
            *n
        })
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<u32>,
    ) -> Result<PageReport, PageError> {
        let page = items[0];
        self.write(&format!("begin {page}"));
        while page == 3 && self.dir.join("slow").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.write(&format!("end {page}"));
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u32>, PageError> {
        let to = ctx.range().start().unwrap_or(&0) + pages;
        Ok(match (self.letters, to <= PAGES) {
            (false, _) => SkipAhead::Unsupported,
            (true, true) => SkipAhead::To(to),
            (true, false) => SkipAhead::PastEnd,
        })
    }

    fn dead_letters(&self, (): &()) -> Option<Arc<dyn DeadLetters>> {
        let file = JsonlDeadLetters::new(self.dir.join("letters.jsonl"));
        self.letters.then(|| Arc::new(file) as Arc<dyn DeadLetters>)
    }

    fn settings(&self) -> ProcessorSettings {
        let retry = match self.mode {
            RetryMode::AtLeastOnce if self.letters => {
                RetryPolicy::default().max_attempts(1).extended(None)
            }
            RetryMode::AtLeastOnce => RetryPolicy::default(),
            RetryMode::AtMostOnce => RetryPolicy::never(),
        };
        ProcessorSettings {
            heartbeat_timeout: self.heartbeat_timeout,
            retry_mode: self.mode,
            retry,
            ..ProcessorSettings::default()
        }
    }
}

/// The worker process of these tests is the test binary itself, started again with one test alone.
const WORKER_PROCESS: &str = "killed_workers::a_worker_told_to_stop_finishes_its_page_first";

/// Returns whether this process was started as a worker. If so, it has worked until it was told to stop.
async fn was_a_worker_process() -> bool {
    let Ok(dir) = std::env::var("DIARY_DIR") else {
        return false;
    };
    let (address, queue) = (std::env::var("DIARY_ADDRESS"), std::env::var("DIARY_QUEUE"));
    let env = TestEnv::at(&address.unwrap(), "worker").await;
    let mode = match std::env::var_os("DIARY_AT_MOST_ONCE") {
        Some(_) => RetryMode::AtMostOnce,
        None => RetryMode::AtLeastOnce,
    };
    let diary = Diary {
        dir: dir.into(),
        mode,
        letters: std::env::var_os("DIARY_LETTERS").is_some(),
        heartbeat_timeout: match std::env::var_os("DIARY_DEFAULT_HEARTBEAT") {
            Some(_) => ProcessorSettings::default().heartbeat_timeout,
            None => HEARTBEAT_TIMEOUT,
        },
    };
    let worker = Worker::new(&env.client, queue.unwrap());
    worker.processor(diary).run().await.unwrap();
    true
}

/// A worker process that is killed when its value is dropped.
pub struct WorkerProcess(Child);

impl WorkerProcess {
    pub fn start(env: &TestEnv, diary: &Diary) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if diary.mode == RetryMode::AtMostOnce {
            command.env("DIARY_AT_MOST_ONCE", "");
        }
        if diary.letters {
            command.env("DIARY_LETTERS", "");
        }
        if diary.heartbeat_timeout != HEARTBEAT_TIMEOUT {
            command.env("DIARY_DEFAULT_HEARTBEAT", "");
        }
        let child = command
            .args(["--exact", WORKER_PROCESS])
            .env("DIARY_DIR", &diary.dir)
            .env("DIARY_ADDRESS", crate::support::server_address())
            .env("DIARY_QUEUE", &env.queue)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Kills the process as `kill -9` does.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    async fn ends(&mut self) {
        assert!(self.ended().await, "the worker ends well");
    }

    async fn dies(mut self) {
        assert!(!self.ended().await, "the worker dies");
    }

    async fn ended(&mut self) -> bool {
        let status = eventually("the worker process ends by itself", || {
            let status = self.0.try_wait().unwrap();
            async move { status }
        });
        status.await.success()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_a_page_costs_about_its_heartbeat_timeout() {
    let env = TestEnv::new("kill").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::new(dir.path(), RetryMode::AtLeastOnce);
    let first = WorkerProcess::start(&env, &diary);
    let batch = env.batch::<Diary>(()).max_parallelism(1);
    let handle = env.start(&batch).await;
    diary.shows_times("begin 3", 1).await;
    first.kill();
    let killed = Instant::now();
    diary.quicken();

    let _second = WorkerProcess::start(&env, &diary);
    diary.shows_times("end 3", 1).await;
    let recovered = killed.elapsed();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, u64::from(PAGES));
    assert_eq!((diary.count("begin 3"), diary.count("end 3")), (2, 1));
    for page in (1..=PAGES).filter(|page| *page != 3) {
        assert_eq!(diary.count(&format!("end {page}")), 1, "page {page}");
    }
    replays(&env, batch.id(), "killed").await;
    // The second attempt learns that its page has already been announced.
    let signals = env.signals(batch.id(), "next_page").await;
    assert_eq!(signals, PAGES as usize);
    // This is no limit on speed. It distinguishes the heartbeat timeout from the page timeout, which is five minutes by
    // default.
    assert!(recovered < Duration::from_secs(30), "{recovered:?}");
    println!("recovered {recovered:?} after kill -9, heartbeat timeout {HEARTBEAT_TIMEOUT:?}");
}

/// A processor without a heartbeat timeout of its own waits 15 s, and not the page timeout of five minutes. Temporal
/// keeps the timeout of each attempt in the history.
#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_lost_worker_costs_fifteen_seconds() {
    let env = TestEnv::new("kill-default").await;
    let dir = tempfile::tempdir().unwrap();
    let mut diary = Diary::new(dir.path(), RetryMode::AtLeastOnce);
    diary.heartbeat_timeout = ProcessorSettings::default().heartbeat_timeout;
    let first = WorkerProcess::start(&env, &diary);
    let batch = env.batch::<Diary>(()).max_parallelism(1);
    let handle = env.start(&batch).await;
    diary.shows_times("begin 3", 1).await;
    first.kill();
    diary.quicken();
    let _second = WorkerProcess::start(&env, &diary);
    diary.shows_times("end 3", 1).await;
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
    assert_eq!((diary.count("begin 3"), diary.count("end 3")), (2, 1));
    let limits = heartbeat_timeouts_of_strides(&env, batch.id()).await;
    // One stride for each page, and one that finds no more rows.
    assert!(limits.len() >= PAGES as usize, "{limits:?}");
    assert!(
        limits.iter().all(|limit| limit == "15.000000000s"),
        "{limits:?}"
    );
}

/// The heartbeat timeouts of all strides in the history of a batch.
async fn heartbeat_timeouts_of_strides(env: &TestEnv, batch_id: &str) -> Vec<serde_json::Value> {
    let mut limits = Vec::new();
    for history in env.histories(batch_id).await {
        let history: serde_json::Value = serde_json::from_slice(&history).unwrap();
        for event in history["events"].as_array().unwrap() {
            let scheduled = &event["attributes"]["ActivityTaskScheduledEventAttributes"];
            if scheduled["activity_type"]["name"] == "temporal-batch.stride" {
                limits.push(scheduled["heartbeat_timeout"].clone());
            }
        }
    }
    limits
}

/// The engine sends heartbeats even while user code only waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_may_take_longer_than_the_heartbeat_timeout() {
    let env = TestEnv::new("slow-page").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::new(dir.path(), RetryMode::AtMostOnce);
    let _worker = WorkerProcess::start(&env, &diary);
    let handle = env.start(&env.batch::<Diary>(()).max_parallelism(1)).await;
    diary.shows_times("begin 3", 1).await;
    tokio::time::sleep(HEARTBEAT_TIMEOUT * 2).await;
    diary.quicken();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!((diary.count("begin 3"), diary.count("end 3")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_finishes_its_page_first() {
    if was_a_worker_process().await {
        return;
    }
    let env = TestEnv::new("drain").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::new(dir.path(), RetryMode::AtLeastOnce);
    let mut first = WorkerProcess::start(&env, &diary);
    let handle = env.start(&env.batch::<Diary>(()).max_parallelism(1)).await;
    diary.shows_times("begin 3", 1).await;
    first.terminate();
    diary.quicken();
    first.ends().await;
    let lines = diary.lines();
    assert!(lines.contains(&"end 3".to_owned()), "{lines:?}");

    let _second = WorkerProcess::start(&env, &diary);
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(diary.count("begin 3"), 1, "a drained page is not run again");
}

/// A worker that is suspended, and wakes up when another worker has its page, does not begin that page.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_late_does_not_begin_the_page_of_another_one() {
    let env = TestEnv::new("zombie").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::new(dir.path(), RetryMode::AtLeastOnce);
    let slow_to_read = dir.path().join("slow to read");
    std::fs::write(&slow_to_read, "").unwrap();
    let mut zombie = WorkerProcess::start(&env, &diary);
    let handle = env.start(&env.batch::<Diary>(()).max_parallelism(1)).await;
    diary.shows_times("read 3", 1).await;
    zombie.signal("STOP");
    std::fs::remove_file(&slow_to_read).unwrap();

    let _second = WorkerProcess::start(&env, &diary);
    diary.shows_times("begin 3", 1).await;
    zombie.signal("CONT");
    // The worker drains, so its attempt is over once the process has ended.
    zombie.terminate();
    zombie.ends().await;
    diary.quicken();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!((diary.count("begin 3"), diary.count("end 3")), (1, 1));
}

/// A page that kills its workers must be noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_loses_its_worker_again_and_again_counts_as_failing() {
    let env = TestEnv::new("kill-thrice").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::new(dir.path(), RetryMode::AtLeastOnce);
    let handle = env.start(&env.batch::<Diary>(()).max_parallelism(1)).await;
    for times in 1..=3 {
        let worker = WorkerProcess::start(&env, &diary);
        diary.shows_times("begin 3", times).await;
        worker.kill();
    }
    diary.quicken();
    let _worker = WorkerProcess::start(&env, &diary);
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.retries, 1, "retries after Temporal's own");
    assert_eq!((diary.count("begin 3"), diary.count("end 3")), (4, 1));
    replays(&env, handle.id(), "killed-thrice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_does_not_repeat_the_page_of_a_lost_worker() {
    let env = TestEnv::new("kill-once").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::new(dir.path(), RetryMode::AtMostOnce);
    let first = WorkerProcess::start(&env, &diary);
    let handle = env.start(&env.batch::<Diary>(()).max_parallelism(1)).await;
    diary.shows_times("begin 3", 1).await;
    first.kill();
    diary.quicken();
    let _second = WorkerProcess::start(&env, &diary);
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    assert_eq!((diary.count("begin 3"), diary.count("end 3")), (1, 0));
    let failed = &report.progress.failed[0];
    assert_eq!(
        (failed.error_type.as_str(), failed.attempts),
        ("WorkerLost", 1)
    );
    assert_eq!(failed.start.as_ref().unwrap().as_str(), "2");
    assert_eq!(failed.end.as_ref().unwrap().as_str(), "3");
    assert_eq!(report.progress.pages_completed, u64::from(PAGES) - 1);
}

/// A page whose heartbeat was the last one is not repeated: the worker may have processed it.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_a_worker_lost_at_the_end_of_the_data_costs_its_current_page() {
    let env = TestEnv::new("kill-tail").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::keeping_letters(dir.path(), RetryMode::AtMostOnce);
    let first = WorkerProcess::start(&env, &diary);
    let batch = env.batch::<Diary>(()).stride(100).max_parallelism(1);
    let handle = env.start(&batch).await;
    diary.shows_times("begin 3", 1).await;
    first.kill();
    diary.quicken();
    let _second = WorkerProcess::start(&env, &diary);
    page_3_is_given_up(&report(&handle).await);
    for page in 1..=PAGES {
        assert_eq!(diary.count(&format!("begin {page}")), 1, "page {page}");
    }
}

fn page_3_is_given_up(report: &BatchReport) {
    assert_eq!(
        report.outcome,
        Outcome::CompletedWithFailures,
        "{report:#?}"
    );
    assert_eq!(report.progress.pages_completed, u64::from(PAGES) - 1);
    let [failed] = &report.progress.failed[..] else {
        panic!("{:#?}", report.progress.failed)
    };
    assert_eq!(failed.error_type, "WorkerLost");
    let range = [&failed.start, &failed.end].map(|token| token.as_ref().unwrap().as_str());
    assert_eq!(range, ["2", "3"]);
}

/// The page kills three workers at its attempt, and a fourth that would have set it aside.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_kills_every_worker_that_reads_it_is_given_up() {
    let env = TestEnv::new("kill-readers").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::keeping_letters(dir.path(), RetryMode::AtLeastOnce);
    diary.quicken();
    std::fs::write(dir.path().join("deadly to read"), "").unwrap();
    let handle = env.start(&env.batch::<Diary>(()).max_parallelism(1)).await;
    for times in 1..=4 {
        let worker = WorkerProcess::start(&env, &diary);
        diary.shows_times("read 3", times).await;
        worker.dies().await;
    }
    let _worker = WorkerProcess::start(&env, &diary);
    page_3_is_given_up(&report(&handle).await);
    assert_eq!((diary.count("read 3"), diary.count("begin 3")), (4, 0));
    replays(&env, handle.id(), "killed-readers").await;
}
