//! What a batch writes to its histories, and what it keeps in memory.

use std::{process::Stdio, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport, SkipAhead,
    hooks::{HookResult, Tracker},
    progress::Progress,
    settings::RetryPolicy,
};
use temporalio_client::UntypedWorkflow;

use crate::{
    numbers_processor::{NumbersProcessor, UpTo},
    support::{
        TestEnv,
        number_pages::{numbers_of, skip},
        server_address, within,
    },
};

/// Texts of one length, in pages that can be found ahead.
#[derive(Clone)]
struct Texts;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct TextArgs {
    items: u64,
    bytes: usize,
    /// Write how much memory the process uses here, after a tenth of the items and at the end.
    memory: Option<std::path::PathBuf>,
}

#[async_trait]
impl PageProcessor for Texts {
    const NAME: &'static str = "texts";
    type Args = TextArgs;
    type Cursor = u64;
    type Item = (u64, String);

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, Self::Item>, PageError> {
        let args = ctx.args();
        let numbers = numbers_of(ctx, args.items).into_iter();
        let items = numbers.map(|n| (n, "x".repeat(args.bytes))).collect();
        Page::keyset(items, |(n, _)| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<Self::Item>,
    ) -> Result<PageReport, PageError> {
        let args = ctx.args();
        let (Some(folder), Some((last, _))) = (&args.memory, items.last()) else {
            return Ok(PageReport::all_processed());
        };
        for mark in [args.items / 10, args.items] {
            if (items[0].0..=*last).contains(&mark) {
                std::fs::write(folder.join(mark.to_string()), resident().to_string()).unwrap();
            }
        }
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        Ok(skip(ctx, pages, ctx.args().items))
    }
}

/// The kilobytes of memory that this process occupies now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

/// The attributes of all events of this kind, over all runs.
async fn attributes(env: &TestEnv, batch_id: &str, kind: &str) -> Vec<Value> {
    let kind = format!("{kind}EventAttributes");
    let mut found = Vec::new();
    for history in env.histories(batch_id).await {
        let mut history: Value = serde_json::from_slice(&history).unwrap();
        let events = history["events"].as_array_mut().unwrap();
        let of_kind = events.iter_mut().map(|e| e["attributes"][&kind].take());
        found.extend(of_kind.filter(|attributes| !attributes.is_null()));
    }
    found
}

struct Counts;

#[async_trait]
impl Tracker for Counts {
    const NAME: &'static str = "counts";

    async fn track(&self, _: &Progress) -> HookResult {
        Ok(())
    }
}

#[tokio::test]
async fn every_activity_has_time_limits_and_retries() {
    let env = TestEnv::new("history-options").await;
    let retry = RetryPolicy::default()
        .max_attempts(3)
        .initial_interval(Duration::from_secs(1))
        .max_interval(Duration::from_secs(30));
    let numbers = NumbersProcessor::new().settings(|s| {
        s.page_timeout = Duration::from_secs(300);
        s.heartbeat_timeout = Duration::from_secs(14);
        s.retry = retry;
    });
    let _worker = env
        .worker_with(numbers, |worker| worker.tracker(Counts))
        .await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10);
    let batch = batch.track("counts");
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let scheduled = attributes(&env, batch.id(), "ActivityTaskScheduled").await;
    let mut kinds = Vec::new();
    for activity in &scheduled {
        let kind = activity["activity_type"]["name"].as_str().unwrap();
        kinds.push(kind);
        let seconds = |timeout: &str| -> f64 {
            let text = activity[timeout].as_str().unwrap_or_default();
            text.trim_end_matches('s').parse().unwrap_or_default()
        };
        assert!(seconds("start_to_close_timeout") > 0.0, "{activity:#}");
        assert!(activity["retry_policy"].is_object(), "{activity:#}");
        let beats = seconds("heartbeat_timeout");
        if kind.ends_with("stride") {
            assert_eq!(beats, 14.0, "{activity:#}");
            // Twice the page timeout, and a minute: the page's own limit comes first.
            assert_eq!(seconds("start_to_close_timeout"), 660.0, "{activity:#}");
        } else if seconds("start_to_close_timeout") > 60.0 {
            // A lost worker is noticed by its heartbeats where waiting for the limit would take longer.
            assert_eq!(beats, 15.0, "{activity:#}");
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert!(
        kinds.len() >= 3,
        "strides, the look-up and the tracker: {kinds:?}"
    );
}

#[tokio::test]
async fn a_page_adds_its_bounds_and_counts_but_none_of_its_items() {
    let env = TestEnv::new("history-bytes").await;
    let _worker = env.worker(Texts).await;
    let mut sizes = Vec::new();
    for pages in [10, 40] {
        let args = TextArgs {
            items: pages * 100,
            bytes: 10_000,
            memory: None,
        };
        let batch = env.batch::<Texts>(args).page_size(100);
        let report = env.run(&batch).await;
        assert_eq!(report.progress.pages_completed, pages, "{report:#?}");
        let workflow = env.client.temporal();
        let workflow = workflow.get_workflow_handle::<UntypedWorkflow>(batch.id());
        let described = workflow.describe(Default::default()).await.unwrap();
        let info = described.raw().workflow_execution_info.as_ref().unwrap();
        assert_eq!(report.progress.runs, 1);
        sizes.push((info.history_length, info.history_size_bytes));
    }
    let [(few, small), (many, large)] = sizes[..] else {
        unreachable!("two batches")
    };
    let (events, bytes) = ((many - few) / 30, (large - small) / 30);
    assert!(events <= 8, "{events} events a page");
    assert!(
        bytes < 2_000,
        "{bytes} bytes a page, which has a million bytes of items"
    );
}

#[tokio::test]
async fn ten_thousand_pages_take_runs_of_less_than_ten_thousand_events() {
    let env = TestEnv::new("history-runs").await;
    let _worker = env.worker(Texts).await;
    let args = TextArgs {
        items: 100_000,
        bytes: 10,
        memory: None,
    };
    let batch = env.batch::<Texts>(args).page_size(10).stride(5);
    let report = env.run(&batch.clone().max_parallelism(20)).await;
    assert_eq!(report.progress.pages_completed, 10_000, "{report:#?}");
    assert!(report.progress.runs > 1, "{} run", report.progress.runs);
    for history in env.histories(batch.id()).await {
        let history: Value = serde_json::from_slice(&history).unwrap();
        let events = history["events"].as_array().unwrap().len();
        assert!(events < 10_000, "{events} events in one run");
    }
}

/// A process of its own has the worker, so that other tests do not show in its memory.
#[tokio::test]
async fn a_million_items_pass_through_memory_that_stays_flat() {
    const ITEMS: u64 = 1_000_000;
    const NAME: &str = "what_histories_hold::a_million_items_pass_through_memory_that_stays_flat";
    if let Ok(folder) = std::env::var("FLAT_MEMORY_FOLDER") {
        let address = std::env::var("FLAT_MEMORY_ADDRESS").unwrap();
        let env = TestEnv::at(&address, "flat-memory").await;
        let _worker = env.worker(Texts).await;
        let args = TextArgs {
            items: ITEMS,
            bytes: 100,
            memory: Some(folder.into()),
        };
        let batch = env.batch::<Texts>(args).page_size(500).stride(10);
        let report = env.run(&batch).await;
        assert_eq!(report.progress.items.processed, ITEMS, "{report:#?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let address = tokio::task::spawn_blocking(server_address).await.unwrap();
    let mut process = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env("FLAT_MEMORY_ADDRESS", address)
        .env("FLAT_MEMORY_FOLDER", folder.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ended = within("the process has done its items", process.wait()).await;
    assert!(ended.unwrap().success());
    let at = |items: u64| -> u64 {
        let text = std::fs::read_to_string(folder.path().join(items.to_string())).unwrap();
        text.parse().unwrap()
    };
    let (early, late) = (at(ITEMS / 10), at(ITEMS));
    // All items together are 100 MB.
    let grown = late.saturating_sub(early);
    assert!(grown < 30_000, "{early} kB became {late} kB");
}
