//! Workers that are lost in the middle of a page.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use proptest::prelude::*;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    SkipAhead,
    settings::{RetryMode, RetryPolicy},
    store::{DeadLetter, DeadLetters, JsonlDeadLetters, LetterFilter, PageTransaction},
    testing::{SimulatedRun, Simulator, lose_worker},
};

use crate::{
    block_on,
    support::number_pages::{numbers_of, skip},
};

const BATCH: &str = "lost";

/// A file of dead letters whose calls fail while the store is down.
struct Store {
    file: JsonlDeadLetters,
    is_down: Box<dyn Fn(u64) -> bool + Send + Sync>,
    calls: AtomicU64,
}

#[async_trait]
impl DeadLetters for Store {
    async fn put(&self, letters: &[DeadLetter]) -> Result<(), PageError> {
        if (self.is_down)(self.calls.fetch_add(1, Ordering::Relaxed)) {
            return Err(PageError::retryable("the store is down").with_type("StoreDown"));
        }
        self.file.put(letters).await
    }

    async fn list(
        &self,
        filter: &LetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PageError> {
        self.file.list(filter, after, limit).await
    }

    async fn take(
        &self,
        letter: &DeadLetter,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        self.file.take(letter).await
    }
}

/// An error that a later attempt does not meet.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Each attempt counts.
    Flaky,
    /// No attempt counts.
    Environment,
}

impl Fault {
    fn error(self) -> PageError {
        match self {
            Self::Flaky => PageError::retryable("made to fail").with_type("Flaky"),
            Self::Environment => PageError::environment("made to fail"),
        }
    }
}

/// A processor over the numbers from 1 to n.
struct DeadlyNumbers {
    mode: RetryMode,
    store: Option<Arc<Store>>,
    skips_ahead: bool,
    /// Whether the last page says that it is the last.
    says_end: bool,
    /// The number whose page kills the worker that reads it.
    deadly_to_read: u64,
    /// The number whose page kills the worker that processes it.
    deadly: u64,
    /// The number whose page fails when it is processed, and the error.
    fails: (u64, Fault),
    /// The number of times that reading the deadly page fails once all its attempts are spent, and the error.
    hard_to_read: (u64, Fault),
    /// The number whose page cannot be read at first, and for how many attempts.
    unreadable: (u64, u64),
    reads: Mutex<BTreeMap<u64, u64>>,
    processed: Mutex<BTreeMap<u64, u64>>,
}

impl DeadlyNumbers {
    fn new(mode: RetryMode) -> Self {
        Self {
            mode,
            store: None,
            skips_ahead: false,
            says_end: false,
            deadly_to_read: 0,
            deadly: 0,
            fails: (0, Fault::Flaky),
            hard_to_read: (0, Fault::Flaky),
            unreadable: (0, 0),
            reads: Mutex::default(),
            processed: Mutex::default(),
        }
    }

    fn keeping_letters(self, dir: &Path) -> Self {
        self.with_store_failures(dir, |_| false)
    }

    /// Makes the store fail in those calls, which are counted from 0.
    fn with_store_failures(
        mut self,
        dir: &Path,
        is_down: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.store = Some(Arc::new(Store {
            file: JsonlDeadLetters::new(dir.join("letters.jsonl")),
            is_down: Box::new(is_down),
            calls: AtomicU64::new(0),
        }));
        self
    }

    fn run(&self, batch: &Batch) -> SimulatedRun {
        block_on(Simulator::new().run(self, batch)).unwrap()
    }

    fn letters(&self) -> Vec<DeadLetter> {
        let Some(store) = &self.store else {
            return Vec::new();
        };
        block_on(store.list(&LetterFilter::of(BATCH), None, 10_000)).unwrap()
    }

    fn ranges(&self) -> Vec<(u64, Option<u64>)> {
        let number = |token: temporal_batch::PageToken| token.decode::<u64>().unwrap();
        let letters = self.letters().into_iter();
        let ranges = letters.map(|l| (l.start.map_or(0, number), l.end.map(number)));
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        ranges
    }

    /// The number of times that the page after this number was read.
    fn times_read(&self, start: u64) -> u64 {
        let reads = self.reads.lock().unwrap();
        reads.get(&start).copied().unwrap_or(0)
    }
}

#[async_trait]
impl PageProcessor for DeadlyNumbers {
    const NAME: &'static str = "numbers";
    type Args = u64;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        let times = {
            let mut reads = self.reads.lock().unwrap();
            let times = reads.entry(start).or_default();
            *times += 1;
            *times
        };
        let numbers = numbers_of(ctx, *ctx.args());
        if numbers.contains(&self.deadly_to_read) {
            lose_worker().await;
        }
        // There are two attempts at the page, with three workers each.
        let (often, fault) = self.hard_to_read;
        if numbers.contains(&self.deadly) && (7..7 + often).contains(&times) {
            return Err(fault.error());
        }
        let (unreadable, often) = self.unreadable;
        if numbers.contains(&unreadable) && times <= often {
            return Err(PageError::retryable("try again").with_type("ConnectionLost"));
        }
        let last = self.says_end && numbers.last() == Some(ctx.args());
        let page = Page::keyset(numbers, |n| *n)?;
        Ok(if last { page.last() } else { page })
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        numbers: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        for number in &numbers {
            *self.processed.lock().unwrap().entry(*number).or_default() += 1;
        }
        if numbers.contains(&self.deadly) {
            lose_worker().await;
        }
        let (fails, fault) = self.fails;
        if numbers.contains(&fails) {
            return Err(fault.error());
        }
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

    fn dead_letters(&self, _: &u64) -> Option<Arc<dyn DeadLetters>> {
        let store = self.store.clone()?;
        Some(store)
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: match self.mode {
                RetryMode::AtLeastOnce => RetryPolicy::default().max_attempts(2).extended(None),
                RetryMode::AtMostOnce => RetryPolicy::never(),
            },
            retry_mode: self.mode,
            ..ProcessorSettings::default()
        }
    }
}

fn batch(n: u64) -> Batch {
    Batch::of::<DeadlyNumbers>(BATCH, n).page_size(10)
}

proptest! {
    /// The promise holds whatever fails, which workers are lost, and whether letters can be kept.
    #[test]
    fn at_most_once_no_item_is_processed_twice_or_forgotten(
        n in 1u64..200,
        page_size in 1u32..40,
        stride in 1u32..120,
        skips_ahead in any::<bool>(),
        says_end in any::<bool>(),
        letters in any::<bool>(),
        down_every in 2u64..5,
        lose_every in prop::option::of(1u64..5),
        deadly in 0u64..200,
        fails in 0u64..200,
        fault in prop::sample::select(vec![Fault::Flaky, Fault::Environment]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = DeadlyNumbers {
            skips_ahead, says_end, deadly, fails: (fails, fault),
            ..DeadlyNumbers::new(RetryMode::AtMostOnce)
        };
        if letters {
            let is_down = move |call: u64| call.is_multiple_of(down_every);
            numbers = numbers.with_store_failures(dir.path(), is_down);
        }
        let mut simulator = Simulator::new();
        if let Some(every) = lose_every {
            simulator = simulator.lose_worker_every(every);
        }
        let batch = batch(n).page_size(page_size).stride(stride);
        let run = block_on(simulator.run(&numbers, &batch)).unwrap();
        let processed = numbers.processed.lock().unwrap().clone();
        prop_assert!(processed.values().all(|times| *times == 1), "{:?}", processed);
        if run.outcome == Outcome::Failed {
            let reason = run.reason.unwrap();
            prop_assert!(reason.contains("coverage stops at") || reason.contains("more than 50"));
            return Ok(());
        }
        let number = |token: &temporal_batch::PageToken| token.decode::<u64>().unwrap();
        let mut ranges = numbers.ranges();
        ranges.extend(run.failed.iter().map(|page| {
            (page.start.as_ref().map_or(0, number), page.end.as_ref().map(number))
        }));
        for i in 1..=n {
            let given_up = ranges.iter().any(|(from, to)| *from < i && to.is_none_or(|to| i <= to));
            prop_assert!(given_up || processed.contains_key(&i), "{} is missing", i);
        }
    }
}

#[test]
fn at_most_once_only_the_page_of_a_lost_worker_is_given_up_at_the_end_of_the_data() {
    for (says_end, deadly, letters) in [
        (false, 25, false),
        (false, 25, true),
        (true, 25, true),
        (true, 50, false),
        (true, 50, true),
        (false, 50, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = DeadlyNumbers {
            skips_ahead: true,
            says_end,
            deadly,
            ..DeadlyNumbers::new(RetryMode::AtMostOnce)
        };
        if letters {
            numbers = numbers.keeping_letters(dir.path());
        }
        let run = numbers.run(&batch(50).stride(100));
        assert_eq!(run.outcome, Outcome::CompletedWithFailures, "{run:?}");
        let [failed] = &run.failed[..] else {
            panic!("{:?}", run.failed)
        };
        assert_eq!(failed.error_type, "WorkerLost");
        let start: u64 = failed.start.as_ref().unwrap().decode().unwrap();
        assert_eq!(start, (deadly - 1) / 10 * 10);
        assert_eq!(run.pages, 4);
        let processed = numbers.processed.lock().unwrap();
        assert!(processed.values().all(|times| *times == 1));
        assert_eq!(processed.len(), 50);
    }
}

#[test]
fn at_most_once_a_page_waits_for_its_store_and_keeps_its_own_error() {
    let dir = tempfile::tempdir().unwrap();
    let numbers = DeadlyNumbers {
        fails: (25, Fault::Environment),
        ..DeadlyNumbers::new(RetryMode::AtMostOnce)
    };
    let numbers = numbers.with_store_failures(dir.path(), |call| call < 3);
    let run = numbers.run(&batch(50));
    assert_eq!(run.outcome, Outcome::CompletedWithFailures);
    assert_eq!(numbers.ranges(), [(20, Some(30))]);
    let letter = &numbers.letters()[0];
    assert_eq!((&*letter.error_type, letter.attempts), ("Environment", 1));
    assert_eq!(numbers.processed.lock().unwrap()[&25], 1);
}

/// The page gets two attempts with three workers each, and one that would have set it aside.
#[test]
fn a_page_that_kills_every_worker_that_reads_it_is_given_up() {
    for stride in [1, 5, 100] {
        let dir = tempfile::tempdir().unwrap();
        let numbers = DeadlyNumbers {
            skips_ahead: true,
            deadly_to_read: 25,
            ..DeadlyNumbers::new(RetryMode::AtLeastOnce)
        };
        let numbers = numbers.keeping_letters(dir.path());
        let run = numbers.run(&batch(100).stride(stride));
        assert_eq!(run.outcome, Outcome::CompletedWithFailures, "{run:?}");
        assert_eq!(run.items.processed, 90, "stride {stride}");
        assert_eq!(numbers.ranges(), [(20, Some(30))], "stride {stride}");
        assert_eq!(run.failed[0].error_type, "WorkerLost");
        assert_eq!(run.lost_workers, 7, "stride {stride}");
        assert!(run.duration >= Duration::from_secs(1), "{:?}", run.duration);
    }
}

#[test]
fn coverage_stops_at_a_page_that_kills_its_readers_where_the_next_page_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let numbers = DeadlyNumbers {
        deadly_to_read: 25,
        ..DeadlyNumbers::new(RetryMode::AtLeastOnce)
    };
    let numbers = numbers.keeping_letters(dir.path());
    let run = numbers.run(&batch(100));
    assert_eq!(run.outcome, Outcome::Failed);
    let reason = run.reason.unwrap();
    assert!(reason.starts_with("coverage stops at 20"), "{reason}");
    assert_eq!(numbers.times_read(20), 12);
}

/// The page is at the frontier, where its end is not known otherwise.
#[test]
fn a_lost_page_that_cannot_be_read_for_a_while_is_set_aside_later() {
    for (often, fault) in [(5, Fault::Flaky), (50, Fault::Environment)] {
        let dir = tempfile::tempdir().unwrap();
        let numbers = DeadlyNumbers {
            says_end: true,
            deadly: 45,
            hard_to_read: (often, fault),
            ..DeadlyNumbers::new(RetryMode::AtLeastOnce)
        };
        let numbers = numbers.keeping_letters(dir.path());
        let run = numbers.run(&batch(45));
        assert_eq!(run.outcome, Outcome::CompletedWithFailures, "{run:?}");
        assert_eq!(numbers.ranges(), [(40, Some(45))]);
        assert_eq!(numbers.letters()[0].error_type, "WorkerLost");
        assert_eq!(numbers.letters()[0].attempts, 2);
        assert_eq!(numbers.times_read(40), 6 + often + 1);
        assert_eq!(run.items.processed, 40);
    }
}

/// A page that was not read has not begun.
#[test]
fn at_most_once_a_page_that_cannot_be_read_for_a_while_is_read_again() {
    // Once its attempts are used up, the controller has its end looked up as many times.
    for (skips_ahead, often, reads) in [
        (false, 9, 10),
        (true, 9, 10),
        (false, 10, 11),
        (true, 10, 10),
        (false, 50, 20),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let numbers = DeadlyNumbers {
            skips_ahead,
            unreadable: (45, often),
            ..DeadlyNumbers::new(RetryMode::AtMostOnce)
        };
        let numbers = numbers.keeping_letters(dir.path());
        let run = numbers.run(&batch(100));
        let processed = numbers.processed.lock().unwrap();
        assert!(processed.values().all(|times| *times == 1), "{run:?}");
        assert_eq!(numbers.times_read(40), reads, "{run:?}");
        match often {
            9 => {
                assert_eq!(run.outcome, Outcome::Completed, "{run:?}");
                assert_eq!(processed.len(), 100);
            }
            10 => {
                assert_eq!(run.outcome, Outcome::CompletedWithFailures, "{run:?}");
                assert_eq!(numbers.ranges(), [(40, Some(50))]);
                assert_eq!(processed.len(), 90);
            }
            _ => {
                assert_eq!(run.outcome, Outcome::Failed, "{run:?}");
                let reason = run.reason.unwrap();
                assert!(reason.starts_with("coverage stops at 40"), "{reason}");
            }
        }
    }
}
