//! One result of the whole batch, folded from the outputs of its pages.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use temporal_batch::{
    BatchReport, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    ProcessorSettings, Reduce, Reducer, SkipAhead, Worker, client::Continuation,
};

use crate::{
    numbers_processor::{Gate, quick_retries},
    replay::replays,
    support::{
        TestEnv, eventually,
        number_pages::{numbers_of, skip},
        progress_shows, report, within,
        worker_process::WorkerProcess,
    },
};

/// The reducer of the batch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Kind {
    Ready,
    /// The remainders by 1,000, combined by the test's own code.
    Own,
    /// The same reducer, but combining panics.
    Panics,
    /// The same reducer, but combining does not return while `HELD` is set.
    Held,
    /// The same reducer, but combining never returns.
    Hangs,
    /// A reducer whose result is too large to be kept.
    Large,
    /// A reducer whose settings are not allowed.
    Invalid,
}

/// A processor that outputs the numbers from 1 to n.
struct Tally {
    fails_every: usize,
    calls: AtomicUsize,
    gate: Option<Gate>,
    /// The folder in which begun pages are noted. While it has a file called `hold`, the page that begins with 51
    /// waits.
    folder: Option<PathBuf>,
}

impl Tally {
    fn new() -> Self {
        Self {
            fails_every: usize::MAX,
            calls: AtomicUsize::new(0),
            gate: None,
            folder: None,
        }
    }

    async fn hold(&self, first: u64) {
        let Some(folder) = &self.folder else { return };
        let begun = folder.join(format!("begun-{first}-{}", std::process::id()));
        std::fs::write(begun, "").unwrap();
        while first == 51 && folder.join("hold").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct Remainders;

impl Reduce for Remainders {
    type Value = BTreeSet<u64>;

    fn combine(mut a: Self::Value, b: Self::Value) -> Self::Value {
        a.extend(b);
        a
    }
}

struct Panics;

impl Reduce for Panics {
    type Value = BTreeSet<u64>;

    fn combine(_: Self::Value, _: Self::Value) -> Self::Value {
        panic!("made to panic")
    }
}

static HELD: AtomicBool = AtomicBool::new(true);

struct Held;

impl Reduce for Held {
    type Value = BTreeSet<u64>;

    fn combine(a: Self::Value, b: Self::Value) -> Self::Value {
        while HELD.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Remainders::combine(a, b)
    }
}

struct Hangs;

impl Reduce for Hangs {
    type Value = BTreeSet<u64>;

    fn combine(_: Self::Value, _: Self::Value) -> Self::Value {
        loop {
            std::thread::park();
        }
    }
}

#[async_trait]
impl PageProcessor for Tally {
    const NAME: &'static str = "tally";
    type Args = (u64, Kind);
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        Page::keyset(numbers_of(ctx, ctx.args().0), |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        self.hold(items[0]).await;
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if call.is_multiple_of(self.fails_every) {
            return Err(PageError::retryable("made to fail after its work"));
        }
        let mut report = PageReport::all_processed();
        match ctx.args().1 {
            Kind::Own => {
                let remainders: BTreeSet<_> = items.iter().map(|n| n % 1_000).collect();
                report.output(remainders);
            }
            // There is one value for each page, so that only the batch combines values.
            Kind::Panics | Kind::Held | Kind::Hangs => report.output([items[0]]),
            Kind::Large => items.iter().for_each(|n| report.output(format!("{n:050}"))),
            Kind::Ready | Kind::Invalid => {
                items
                    .iter()
                    .for_each(|n| report.output(json!({"n": n, "odd": n % 2 == 1})));
            }
        }
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        Ok(skip(ctx, pages, ctx.args().0))
    }

    fn reducer(&self, args: &(u64, Kind)) -> Option<Reducer> {
        Some(match args.1 {
            Kind::Ready => Reducer::record([
                ("count", Reducer::count()),
                ("sum", Reducer::sum("n")),
                ("largest", Reducer::top(3, "n")),
                ("odd", Reducer::by_key("odd", Reducer::count())),
            ]),
            Kind::Own => Reducer::custom::<Remainders>(),
            Kind::Panics => Reducer::custom::<Panics>(),
            Kind::Held => Reducer::custom::<Held>(),
            Kind::Hangs => Reducer::custom::<Hangs>(),
            Kind::Large => Reducer::by_key("", Reducer::count()),
            Kind::Invalid => Reducer::top(0, "n"),
        })
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: quick_retries(),
            heartbeat_timeout: Duration::from_secs(3),
            ..ProcessorSettings::default()
        }
    }
}

/// Asserts the sum, the count and the bounds of the numbers from 1 to n.
#[track_caller]
fn assert_exact(report: &BatchReport, n: u64) {
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.output_error, None);
    let largest: Vec<_> = (n - 2..=n)
        .rev()
        .map(|n| json!({"n": n, "odd": n % 2 == 1}))
        .collect();
    let exact = json!({
        "count": n, "sum": n * (n + 1) / 2, "largest": largest,
        "odd": {"true": n.div_ceil(2), "false": n / 2},
    });
    assert_eq!(report.output(), Some(&exact));
}

#[derive(Deserialize)]
struct Counted {
    count: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_counts_once_over_failures_and_continue_as_new() {
    let env = TestEnv::new("reduce").await;
    let tally = Tally {
        fails_every: 5,
        ..Tally::new()
    };
    let _worker = env.worker(tally).await;
    let batch = env.batch::<Tally>((400, Kind::Ready));
    let batch = batch
        .page_size(10)
        .stride(3)
        .max_parallelism(4)
        .pages_per_run(12);
    let report = env.run(&batch).await;
    assert_exact(&report, 400);
    assert!(report.progress.retries > 0);
    assert!(report.progress.runs > 1, "the batch was never handed over");
    assert_eq!(report.output_as::<Counted>().unwrap().unwrap().count, 400);
    for history in env.histories(batch.id()).await {
        let history = String::from_utf8(history).unwrap();
        assert!(!history.contains("temporal-batch.combine"));
    }
    replays(&env, batch.id(), "reduced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_so_far_is_shown_while_the_batch_runs() {
    let env = TestEnv::new("reduce-seen").await;
    let gate = Gate::closed();
    let tally = Tally {
        gate: Some(gate.clone()),
        ..Tally::new()
    };
    let _worker = env.worker(tally).await;
    let batch = env
        .batch::<Tally>((40, Kind::Ready))
        .page_size(10)
        .stride(1);
    let handle = env.start(&batch.max_parallelism(1)).await;
    progress_shows(&handle, "nothing is counted", |p| {
        p.output.as_ref().is_some_and(|output| output["count"] == 0)
    })
    .await;
    gate.let_through(2);
    progress_shows(&handle, "two pages are counted", |p| {
        p.output
            .as_ref()
            .is_some_and(|output| output["count"] == 20 && output["sum"] == 210)
    })
    .await;
    gate.open();
    assert_exact(&report(&handle).await, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_not_combined_before_the_end_are_combined_then() {
    let env = TestEnv::new("reduce-few").await;
    let _worker = env.worker(Tally::new()).await;
    let batch = env.batch::<Tally>((20, Kind::Own));
    let report = env.run(&batch.page_size(2).max_parallelism(4)).await;
    let all: BTreeSet<u64> = (1..=20).collect();
    assert_eq!(report.output_as().unwrap(), Some(all));
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_reducers_combine_in_activities() {
    let env = TestEnv::new("reduce-own").await;
    let tally = Tally {
        fails_every: 7,
        ..Tally::new()
    };
    let _worker = env.worker(tally).await;
    let batch = env.batch::<Tally>((400, Kind::Own));
    let batch = batch
        .page_size(2)
        .stride(2)
        .max_parallelism(8)
        .pages_per_run(40);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.output_error, None);
    assert!(report.progress.runs > 1, "the batch was never handed over");
    let all: BTreeSet<u64> = (1..=400).collect();
    assert_eq!(report.output_as().unwrap(), Some(all));
    let mut combined = 0;
    for history in env.histories(batch.id()).await {
        let history: serde_json::Value = serde_json::from_slice(&history).unwrap();
        for event in history["events"].as_array().unwrap() {
            let scheduled = &event["attributes"]["ActivityTaskScheduledEventAttributes"];
            combined += usize::from(scheduled.to_string().contains("temporal-batch.combine"));
            let started = event["attributes"].get("WorkflowExecutionStartedEventAttributes");
            let bytes = started.map_or(0, |started| started.to_string().len());
            assert!(bytes < 64 * 1024, "{bytes} bytes");
        }
    }
    assert!(combined >= 2, "{combined} times");
    replays(&env, batch.id(), "reduced-own").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_computed_is_reported_and_harms_no_page() {
    let env = TestEnv::new("reduce-error").await;
    let _worker = env.worker(Tally::new()).await;
    for (kind, says) in [
        (Kind::Panics, "made to panic"),
        (Kind::Large, "OutputTooLarge"),
    ] {
        let batch = env.batch::<Tally>((400, kind));
        let report = env
            .run(&batch.page_size(20).stride(1).max_parallelism(4))
            .await;
        assert_eq!(report.outcome, Outcome::Completed, "{kind:?}");
        assert_eq!(report.progress.items.processed, 400);
        assert_eq!(report.output(), None);
        let error = report.progress.output_error.unwrap();
        assert!(error.contains(says), "{error}");
    }
}

/// A reducer that hangs costs its batch the result, after a few attempts, and other batches nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_reducer_that_hangs_costs_its_batch_the_result_and_other_batches_nothing() {
    let env = TestEnv::new("reduce-hangs").await;
    let worker = env.worker(Tally::new()).await;
    let batch = |kind| {
        let batch = env.batch::<Tally>((400, kind)).page_size(20).stride(1);
        batch.max_parallelism(4)
    };
    let handle = env.start(&batch(Kind::Hangs)).await;
    progress_shows(&handle, "its pages are done", |p| p.pages_completed == 20).await;
    let other = env.run(&batch(Kind::Own)).await;
    let all: BTreeSet<u64> = (1..=400).collect();
    assert_eq!(other.output_as().unwrap(), Some(all));
    let report = tokio::time::timeout(Duration::from_secs(240), handle.result());
    let report = report.await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.items.processed, 400);
    assert_eq!(report.output(), None);
    let error = report.progress.output_error.unwrap();
    assert!(error.starts_with("CombineTimeout: "), "{error}");
    replays(&env, handle.id(), "reduce-hangs").await;
    within("the worker stops", worker.stop()).await.unwrap();
}

/// The batch waits for its last partial results, or for room for more of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_reducer_hangs_can_be_ended_and_continued_with_its_result() {
    let env = TestEnv::new("reduce-held").await;
    let _worker = env.worker(Tally::new()).await;
    let env = &env;
    let ended = |n: u64, outcome: Outcome| async move {
        let mut batch = env.batch::<Tally>((n, Kind::Held)).page_size(20).stride(1);
        if outcome == Outcome::Stopped {
            batch = batch.deadline(Duration::from_secs(20));
        }
        let handle = env.start(&batch.max_parallelism(16)).await;
        if outcome == Outcome::Cancelled {
            progress_shows(&handle, "no page is in flight any more", |p| {
                p.pages_completed >= 128u64.min(n / 20) && p.pages_in_flight == 0
            })
            .await;
            handle.cancel("enough").await.unwrap();
        }
        let report = report(&handle).await;
        assert_eq!(report.outcome, outcome);
        assert_eq!(report.output(), None, "a partial result was reported");
        let error = report.progress.output_error.unwrap();
        assert!(error.starts_with("NotCombined: "), "{error}");
        replays(env, handle.id(), "reduce-held").await;
        (handle, n)
    };
    let ended = [
        ended(400, Outcome::Cancelled),
        ended(4_000, Outcome::Cancelled),
        ended(4_000, Outcome::Stopped),
    ];
    let ended = futures::future::join_all(ended).await;
    HELD.store(false, Ordering::Relaxed);
    for (handle, n) in ended {
        let continuation = Continuation::of(handle.id());
        let continuation = continuation.deadline(Duration::from_secs(3_600));
        let handle = env.client.continue_batch(&continuation).await.unwrap();
        let report = report(&handle).await;
        assert_eq!(report.outcome, Outcome::Completed);
        assert_eq!(report.progress.output_error, None);
        let firsts: BTreeSet<u64> = (1..=n).step_by(20).collect();
        assert_eq!(report.output_as().unwrap(), Some(firsts));
    }
}

/// The output of one page has to fit. Here 400 values do not fit.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_puts_out_too_much_fails_and_a_reducer_that_cannot_work_is_refused() {
    let env = TestEnv::new("reduce-refused").await;
    let _worker = env.worker(Tally::new()).await;
    let batch = env.batch::<Tally>((400, Kind::Large)).page_size(400);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    let failed = &report.progress.failed[0];
    assert_eq!(
        (failed.error_type.as_str(), failed.attempts),
        ("OutputTooLarge", 1)
    );
    assert!(
        failed.message.contains("at most 6144 are allowed"),
        "{}",
        failed.message
    );
    assert_eq!(
        report.output(),
        Some(&json!({})),
        "a page that is given up counts toward the result"
    );

    let handle = env.start(&env.batch::<Tally>((1, Kind::Invalid))).await;
    let refused = handle.result().await.unwrap_err().to_string();
    assert!(
        refused.contains("the reducer of processor \"tally\" is not allowed"),
        "{refused}"
    );
    assert!(refused.contains("1 to 100 are allowed"), "{refused}");
}

/// The worker process of this test is the test binary itself, started again with this test alone.
const WORKER_PROCESS: &str = "reduce::finished_pages_of_a_killed_worker_count_once";

fn start_worker(env: &TestEnv, folder: &std::path::Path) -> WorkerProcess {
    let variables = [
        ("TALLY_FOLDER", folder.as_os_str()),
        ("TALLY_ADDRESS", crate::support::server_address().as_ref()),
        ("TALLY_QUEUE", env.queue.as_ref()),
    ];
    WorkerProcess::of_test(WORKER_PROCESS, &variables)
}

async fn was_a_worker_process() -> bool {
    let Ok(folder) = std::env::var("TALLY_FOLDER") else {
        return false;
    };
    let (address, queue) = (std::env::var("TALLY_ADDRESS"), std::env::var("TALLY_QUEUE"));
    let env = TestEnv::at(&address.unwrap(), "worker").await;
    let tally = Tally {
        folder: Some(folder.into()),
        ..Tally::new()
    };
    let worker = Worker::new(&env.client, queue.unwrap());
    worker.processor(tally).run().await.unwrap();
    true
}

/// Pages before the checkpoint are not run again, so their output can only come from the checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn finished_pages_of_a_killed_worker_count_once() {
    if was_a_worker_process().await {
        return;
    }
    let env = TestEnv::new("reduce-killed").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hold"), "").unwrap();
    let first = start_worker(&env, folder.path());
    let batch = env.batch::<Tally>((100, Kind::Ready));
    let handle = env
        .start(&batch.page_size(10).stride(10).max_parallelism(1))
        .await;
    // The heartbeat names the page with 51 as the current one, so it also carries the output of the finished pages.
    eventually("the page with 51 is known to run", || async {
        let look = handle.look().await.ok()?;
        let page = look.strides.first()?.page.as_ref()?;
        (page.start.as_ref()?.as_str() == "50").then_some(())
    })
    .await;
    drop(first);
    std::fs::remove_file(folder.path().join("hold")).unwrap();
    let _second = start_worker(&env, folder.path());
    assert_exact(&report(&handle).await, 100);
    let begun = |first: u64| {
        let files = std::fs::read_dir(folder.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with(&format!("begun-{first}-")))
            .count()
    };
    assert_eq!((begun(1), begun(41)), (1, 1), "finished pages ran again");
    assert_eq!(begun(51), 2, "the unfinished page did not run again");
}
