//! Large items, records, cursors and arguments; many failures and many batches.
//!
//! `MANY_BATCHES=1000 cargo test --test engine -- many_batches --nocapture` runs the long form of the last test.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    store::{DeadLetters, JsonlDeadLetters, LetterFilter},
};

use crate::support::{TestEnv, report, settings::setting};

const MB: usize = 1_000_000;

/// Items of one size, each with its number before it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sizes {
    items: usize,
    item: usize,
    cursor: usize,
    /// Every item whose number is a multiple of this fails.
    fails: usize,
    padding: String,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            items: 10,
            item: 10,
            cursor: 10,
            fails: usize::MAX,
            padding: String::new(),
        }
    }
}

#[derive(Clone)]
struct Large(Arc<JsonlDeadLetters>);

impl Large {
    fn new(folder: &Path) -> Self {
        Self(Arc::new(JsonlDeadLetters::new(
            folder.join("letters.jsonl"),
        )))
    }
}

fn number(text: &str) -> usize {
    text.split('-').next().unwrap().parse().unwrap()
}

fn padded(number: usize, size: usize) -> String {
    format!("{number:06}-{}", "x".repeat(size))
}

#[async_trait]
impl PageProcessor for Large {
    const NAME: &'static str = "large";
    type Args = Sizes;
    type Cursor = String;
    type Item = String;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<String, String>, PageError> {
        let sizes = ctx.args();
        let first = ctx.range().start().map_or(1, |last| number(last) + 1);
        let last = ctx.range().end().map_or(sizes.items, |end| number(end));
        let items = (first..=last).take(ctx.page_size());
        let items: Vec<_> = items.map(|n| padded(n, sizes.item)).collect();
        Page::keyset(items, |item| padded(number(item), sizes.cursor))
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<String>,
    ) -> Result<PageReport, PageError> {
        let mut report = PageReport::all_processed();
        for (position, item) in items.iter().enumerate() {
            if number(item).is_multiple_of(ctx.args().fails) {
                report.fail_with_record(position, "Made", "made to fail", item.clone());
            }
        }
        Ok(report)
    }

    async fn prepare(&self, mut args: Sizes) -> Result<Sizes, PageError> {
        if !args.padding.is_empty() {
            args.padding.push('y');
        }
        Ok(args)
    }

    fn dead_letters(&self, _: &Self::Args) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::clone(&self.0) as Arc<dyn DeadLetters>)
    }
}

/// The number of bytes of all histories of a batch.
async fn history(env: &TestEnv, batch_id: &str) -> usize {
    env.histories(batch_id).await.iter().map(Vec::len).sum()
}

#[tokio::test]
async fn items_of_five_megabytes_do_not_travel_and_their_records_are_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let env = TestEnv::new("large-items").await;
    let large = Large::new(folder.path());
    let _worker = env.worker(large.clone()).await;
    let sizes = Sizes {
        items: 8,
        item: 5 * MB,
        fails: 3,
        ..Sizes::default()
    };
    let batch = env.batch::<Large>(sizes).page_size(2);
    let report = env.run(&batch).await;
    assert_eq!(
        report.outcome,
        Outcome::CompletedWithFailures,
        "{report:#?}"
    );
    let items = report.progress.items;
    assert_eq!((items.processed, items.failed), (6, 2));
    let all = LetterFilter::of(batch.id());
    let letters = large.0.list(&all, None, 100).await.unwrap();
    let records: BTreeSet<_> = letters.iter().map(|l| l.record.clone()).collect();
    let expected = [3, 6].map(|n| Some(padded(n, 5 * MB)));
    assert!(records == BTreeSet::from(expected));
    let history = history(&env, batch.id()).await;
    assert!(history < MB, "{history} bytes of history");
}

#[tokio::test]
async fn a_cursor_of_64_kib_is_refused_with_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let env = TestEnv::new("large-cursors").await;
    let _worker = env.worker(Large::new(folder.path())).await;
    let sizes = Sizes {
        cursor: 64 * 1024,
        ..Sizes::default()
    };
    let batch = env.batch::<Large>(sizes).page_size(2);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Failed, "{report:#?}");
    let reason = report.reason.unwrap_or_default();
    assert!(reason.contains("CursorTooLarge"), "{reason}");
}

#[tokio::test]
async fn arguments_of_two_megabytes_are_refused_before_the_start() {
    let env = TestEnv::new("large-args").await;
    let sizes = Sizes {
        padding: "x".repeat(2 * MB),
        ..Sizes::default()
    };
    let batch = env.batch::<Large>(sizes);
    let error = env.client.start(&batch).await.err().unwrap().to_string();
    assert!(error.contains("at most 524288 are allowed"), "{error}");
    assert!(error.len() < 500, "{} bytes of message", error.len());
}

#[tokio::test]
async fn arguments_of_400_kilobytes_are_in_the_history_a_few_times_and_not_with_every_page() {
    let folder = tempfile::tempdir().unwrap();
    let env = TestEnv::new("kept-args").await;
    let _worker = env.worker(Large::new(folder.path())).await;
    let sizes = Sizes {
        items: 60,
        fails: 50,
        padding: "x".repeat(400_000),
        ..Sizes::default()
    };
    let batch = env.batch::<Large>(sizes).page_size(1);
    let report = env.run(&batch).await;
    let items = report.progress.items;
    assert_eq!((items.processed, items.failed), (59, 1), "{report:#?}");
    let bytes = history(&env, batch.id()).await;
    assert!(bytes < 8 * MB, "{bytes} bytes of history");
    let redrive = env.client.redrive(LetterFilter::of(batch.id())).await;
    let again = crate::support::report(&redrive.unwrap()).await;
    assert_eq!(again.progress.items.failed, 1, "{again:#?}");
}

/// Two workers keep their dead letters in one file.
#[tokio::test]
async fn each_of_a_hundred_thousand_failed_items_is_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let env = TestEnv::new("many-failures").await;
    let large = Large::new(folder.path());
    let other = Large::new(folder.path());
    let _workers = [env.worker(large.clone()).await, env.worker(other).await];
    let sizes = Sizes {
        items: 100_000,
        fails: 1,
        ..Sizes::default()
    };
    let batch = env.batch::<Large>(sizes).page_size(500).max_parallelism(8);
    let report = env.run(&batch).await;
    assert_eq!(
        report.outcome,
        Outcome::CompletedWithFailures,
        "{report:#?}"
    );
    assert_eq!(report.progress.items.failed, 100_000);
    let all = LetterFilter::of(batch.id());
    let (mut numbers, mut after) = (Vec::new(), None::<String>);
    loop {
        let letters = large.0.list(&all, after.as_deref(), 20_000).await.unwrap();
        let Some(last) = letters.last() else {
            break;
        };
        after = Some(last.id.clone());
        numbers.extend(letters.iter().map(|l| number(l.record.as_deref().unwrap())));
    }
    numbers.sort_unstable();
    assert!(
        numbers == (1..=100_000).collect::<Vec<_>>(),
        "{} letters",
        numbers.len()
    );
}

#[tokio::test]
async fn many_batches_on_one_worker_all_end() {
    let count = setting("MANY_BATCHES", 100);
    let folder = tempfile::tempdir().unwrap();
    let env = TestEnv::new("many-batches").await;
    let worker = env.worker(Large::new(folder.path())).await;
    let began = Instant::now();
    let handles = futures::stream::iter(0..count).map(async |_| {
        let batch = env.batch::<Large>(Sizes::default()).page_size(2);
        env.start(&batch).await
    });
    let handles: Vec<_> = handles.buffer_unordered(16).collect().await;
    println!("{count} batches started within {:?}", began.elapsed());
    for handle in &handles {
        let report = report(handle).await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        assert_eq!(report.progress.items.processed, 10);
    }
    println!("ended within {:?}", began.elapsed());
    worker.stop().await.unwrap();
}
