//! Records and pages that are given up.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use proptest::prelude::*;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    SkipAhead,
    settings::{RetryMode, RetryPolicy},
    store::{DeadLetter, DeadLetters, JsonlDeadLetters, LetterFilter},
    testing::Simulator,
};

use crate::{
    block_on,
    support::number_pages::{numbers_of, skip},
};

const BATCH: &str = "letters";

/// A processor over the numbers from 1 to n, some of which cannot be processed, and some not even read.
struct Poisoned {
    store: Arc<JsonlDeadLetters>,
    poison: BTreeSet<u64>,
    unreadable: BTreeSet<u64>,
    skips_ahead: bool,
    mode: RetryMode,
    /// Whether pages have tokens instead of keys.
    opaque: bool,
    processed: Mutex<BTreeSet<u64>>,
    calls: AtomicU64,
}

impl Poisoned {
    fn new(dir: &Path, poison: impl IntoIterator<Item = u64>) -> Self {
        Self {
            store: Arc::new(JsonlDeadLetters::new(dir.join("letters.jsonl"))),
            poison: poison.into_iter().collect(),
            unreadable: BTreeSet::new(),
            skips_ahead: false,
            mode: RetryMode::AtLeastOnce,
            opaque: false,
            processed: Mutex::default(),
            calls: AtomicU64::new(0),
        }
    }

    fn letters(&self) -> Vec<DeadLetter> {
        let filter = LetterFilter::of(BATCH);
        let mut letters = block_on(self.store.list(&filter, None, 10_000)).unwrap();
        letters.sort_by_key(|letter| letter.start.as_ref().map_or(0, |t| t.decode().unwrap()));
        letters
    }

    /// The ranges of letters that stand for more than one record.
    fn ranges(&self) -> Vec<(u64, Option<u64>)> {
        let letters = self.letters().into_iter().filter(|l| l.key.is_none());
        let range = |letter: DeadLetter| {
            let start = letter.start.map_or(0, |t| t.decode().unwrap());
            (start, letter.end.map(|t| t.decode().unwrap()))
        };
        letters.map(range).collect()
    }

    fn keys(&self) -> Vec<u64> {
        let letters = self.letters().into_iter();
        letters.filter_map(|l| l.key?.parse().ok()).collect()
    }

    fn processed(&self) -> Vec<u64> {
        self.processed.lock().unwrap().iter().copied().collect()
    }
}

#[async_trait]
impl PageProcessor for Poisoned {
    const NAME: &'static str = "poisoned";
    type Args = u64;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let numbers = numbers_of(ctx, *ctx.args());
        if numbers.iter().any(|n| self.unreadable.contains(n)) {
            return Err(PageError::retryable("checksum mismatch").with_type("Checksum"));
        }
        if !self.opaque {
            return Page::keyset(numbers, |n| *n);
        }
        let next = numbers.last().copied().filter(|last| last < ctx.args());
        Ok(Page::opaque(numbers, next))
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        numbers: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(n) = numbers.iter().find(|n| self.poison.contains(n)) {
            return Err(PageError::retryable(format_args!("{n} is poison")).with_type("Poison"));
        }
        self.processed.lock().unwrap().extend(numbers);
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        Ok(if self.skips_ahead {
            skip(ctx, pages, *ctx.args())
        } else {
            SkipAhead::Unsupported
        })
    }

    fn dead_letters(&self, _: &Self::Args) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::clone(&self.store) as Arc<dyn DeadLetters>)
    }

    fn settings(&self) -> ProcessorSettings {
        let retry = match self.mode {
            RetryMode::AtLeastOnce => RetryPolicy::default().max_attempts(2).extended(None),
            RetryMode::AtMostOnce => RetryPolicy::never(),
        };
        ProcessorSettings {
            retry,
            retry_mode: self.mode,
            ..ProcessorSettings::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The promise holds however pages and strides are cut, and whatever is run twice.
    #[test]
    fn every_poison_record_is_one_dead_letter_and_everything_else_is_done(
        n in 0u64..200,
        page_size in 1u32..40,
        stride in 1u32..6,
        skips_ahead in any::<bool>(),
        lose_every in prop::option::of(1u64..5),
        poison in prop::collection::btree_set(1u64..200, 0..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let poison: Vec<u64> = poison.into_iter().filter(|p| *p <= n).collect();
        let processor = Poisoned { skips_ahead, ..Poisoned::new(dir.path(), poison.clone()) };
        let batch = Batch::of::<Poisoned>(BATCH, n).page_size(page_size).stride(stride);
        let mut simulator = Simulator::new();
        if let Some(every) = lose_every {
            simulator = simulator.lose_worker_every(every);
        }
        let run = block_on(simulator.run(&processor, &batch)).unwrap();
        let expected = if poison.is_empty() { Outcome::Completed } else { Outcome::CompletedWithFailures };
        prop_assert_eq!(run.outcome, expected);
        prop_assert_eq!(run.items.failed, poison.len() as u64);
        prop_assert_eq!(run.items.processed, n - poison.len() as u64);
        prop_assert_eq!(run.pages, n.div_ceil(u64::from(page_size)));
        prop_assert_eq!(processor.keys(), poison.clone());
        prop_assert_eq!(processor.letters().len(), poison.len());
        let good: Vec<u64> = (1..=n).filter(|i| !poison.contains(i)).collect();
        prop_assert_eq!(processor.processed(), good);
    }
}

#[test]
fn splitting_a_page_costs_two_attempts_for_each_halving() {
    let dir = tempfile::tempdir().unwrap();
    let processor = Poisoned::new(dir.path(), [517]);
    let batch = Batch::of::<Poisoned>(BATCH, 1_000).page_size(1_000);
    let run = block_on(Simulator::new().run(&processor, &batch)).unwrap();
    assert_eq!(run.items.failed, 1);
    assert_eq!(processor.letters()[0].attempts, 2);
    let calls = processor.calls.load(Ordering::Relaxed);
    assert!(calls <= 2 + 2 * 10, "{calls} attempts");
}

/// The batch continues at the next page, which only a source that can skip ahead knows.
#[test]
fn a_page_that_cannot_be_read_is_set_aside_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let processor = Poisoned {
        skips_ahead: true,
        unreadable: BTreeSet::from([25]),
        ..Poisoned::new(dir.path(), [])
    };
    let batch = Batch::of::<Poisoned>(BATCH, 100).page_size(10);
    for stride in [1, 5] {
        let batch = batch.clone().stride(stride);
        let run = block_on(Simulator::new().run(&processor, &batch)).unwrap();
        assert_eq!(run.outcome, Outcome::CompletedWithFailures);
        assert_eq!(run.items.processed, 90, "stride {stride}");
        assert_eq!(run.failed.len(), 1);
        assert_eq!(run.failed[0].error_type, "Checksum");
        assert!(
            processor.ranges().contains(&(20, Some(30))),
            "{:?}",
            processor.ranges()
        );
    }
}

#[test]
fn a_batch_that_cannot_skip_ahead_fails_where_coverage_stops() {
    let dir = tempfile::tempdir().unwrap();
    let processor = Poisoned {
        unreadable: BTreeSet::from([25]),
        ..Poisoned::new(dir.path(), [])
    };
    let batch = Batch::of::<Poisoned>(BATCH, 100).page_size(10);
    let run = block_on(Simulator::new().run(&processor, &batch)).unwrap();
    assert_eq!(run.outcome, Outcome::Failed);
    let reason = run.reason.unwrap();
    assert!(reason.starts_with("coverage stops at 20"), "{reason}");
}

/// Tokens cannot be split, and at most once must not repeat an attempt.
#[test]
fn a_page_that_cannot_be_split_is_one_dead_letter() {
    for (opaque, mode) in [
        (true, RetryMode::AtLeastOnce),
        (false, RetryMode::AtMostOnce),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let processor = Poisoned {
            opaque,
            mode,
            ..Poisoned::new(dir.path(), [33, 38, 95])
        };
        let batch = Batch::of::<Poisoned>(BATCH, 100).page_size(10);
        let run = block_on(Simulator::new().run(&processor, &batch)).unwrap();
        assert_eq!(run.outcome, Outcome::CompletedWithFailures);
        assert_eq!(run.pages, 8);
        let end = if opaque { None } else { Some(100) };
        assert_eq!(processor.ranges(), [(30, Some(40)), (90, end)]);
        let attempts = if opaque { 12 } else { 10 };
        assert_eq!(processor.calls.load(Ordering::Relaxed), attempts);
    }
}
