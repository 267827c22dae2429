//! The page loop and the decisions together, without a server.

mod blame;
mod dead_letters;
mod hooks_and_locks;
mod limits;
mod lost_workers;
#[cfg(feature = "sqlite")]
mod once_per_page;
mod partitions;
mod stages;
mod steering;

#[path = "../support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use proptest::prelude::*;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    SkipAhead,
    settings::RetryPolicy,
    testing::{Simulator, run_page},
};

use crate::support::number_pages::{numbers_of, skip};

/// A processor over the numbers from 1 to n. Each listed page, named by its last number, fails this many times.
struct FailingNumbers {
    skips_ahead: bool,
    failures: Vec<(u64, AtomicU32)>,
    processed: std::sync::Mutex<Vec<u64>>,
}

impl FailingNumbers {
    fn new(skips_ahead: bool, failures: &[(u64, u32)]) -> Self {
        let failures = failures
            .iter()
            .map(|(n, times)| (*n, AtomicU32::new(*times)));
        Self {
            skips_ahead,
            failures: failures.collect(),
            processed: std::sync::Mutex::default(),
        }
    }

    /// Asserts that every number was processed this many times.
    fn all_processed(&self) -> Vec<u64> {
        let mut all = self.processed.lock().unwrap().clone();
        all.sort_unstable();
        all
    }

    fn processed(&self) -> Vec<u64> {
        let mut all = self.all_processed();
        all.dedup();
        all
    }
}

#[async_trait]
impl PageProcessor for FailingNumbers {
    const NAME: &'static str = "numbers";
    type Args = u64;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        Page::keyset(numbers_of(ctx, *ctx.args()), |n| *n)
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        for (number, times) in &self.failures {
            let fails = items.contains(number)
                && times
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_ok();
            if fails {
                return Err(PageError::retryable("made to fail"));
            }
        }
        self.processed.lock().unwrap().extend(items);
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
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #[test]
    fn every_item_is_processed_whatever_is_lost_or_duplicated(
        n in 0u64..300,
        page_size in 1u32..40,
        stride in 1u32..6,
        skips_ahead in any::<bool>(),
        lose_every in prop::option::of(1u64..5),
        failures in prop::collection::vec((1u64..300, 1u32..5), 0..4),
    ) {
        let numbers = FailingNumbers::new(skips_ahead, &failures);
        let batch = Batch::of::<FailingNumbers>("b", n).page_size(page_size).stride(stride);
        let mut simulator = Simulator::new().duplicate_announcements();
        if let Some(every) = lose_every {
            simulator = simulator.lose_worker_every(every);
        }
        let run = block_on(simulator.run(&numbers, &batch)).unwrap();
        prop_assert_eq!(run.outcome, Outcome::Completed);
        prop_assert_eq!(run.items.processed, n);
        prop_assert_eq!(run.pages, n.div_ceil(u64::from(page_size)));
        prop_assert_eq!(numbers.processed(), (1..=n).collect::<Vec<_>>());
    }
}

proptest! {
    /// The page is not even processed twice, since it had not begun.
    #[test]
    fn a_page_whose_stride_is_stopped_while_it_waits_is_processed_later(
        n in 0u64..300,
        page_size in 1u32..40,
        stride in 1u32..6,
        skips_ahead in any::<bool>(),
        stop_before in prop::option::of(2u64..7),
        stop_while_waiting in prop::option::of(2u64..7),
    ) {
        let numbers = FailingNumbers::new(skips_ahead, &[]);
        let batch = Batch::of::<FailingNumbers>("b", n).page_size(page_size).stride(stride);
        let mut simulator = Simulator::new().duplicate_announcements();
        if let Some(every) = stop_before {
            simulator = simulator.stop_before_every(every);
        }
        if let Some(every) = stop_while_waiting {
            simulator = simulator.stop_while_every_waits(every);
        }
        let run = block_on(simulator.run(&numbers, &batch)).unwrap();
        let pages = n.div_ceil(u64::from(page_size));
        prop_assert_eq!(run.outcome, Outcome::Completed);
        prop_assert_eq!(run.items.processed, n);
        prop_assert_eq!((run.pages, run.retries), (pages, 0));
        prop_assert_eq!(numbers.all_processed(), (1..=n).collect::<Vec<_>>());
        // Each page was begun at least once.
        for every in [stop_before, stop_while_waiting].into_iter().flatten() {
            prop_assert!(run.told_to_stop >= pages / every, "{} times", run.told_to_stop);
        }
    }
}

#[test]
fn hours_of_waiting_take_no_time() {
    let numbers = FailingNumbers::new(false, &[(15, 14)]);
    let batch = Batch::of::<FailingNumbers>("b", 30).page_size(10);
    let run = block_on(Simulator::new().run(&numbers, &batch)).unwrap();
    assert_eq!(run.outcome, Outcome::Completed);
    assert_eq!(run.retries, 14);
    assert!(run.duration.as_secs() > 4 * 300, "{:?}", run.duration);
}

#[test]
fn one_page_can_be_run_alone() {
    let numbers = FailingNumbers::new(false, &[]);
    let run = block_on(run_page(&numbers, 1_500, Some(20))).unwrap();
    assert_eq!((run.items, run.next), (1_000, Some(1_020)));
    let broken = FailingNumbers::new(false, &[(5, 1)]);
    let error = block_on(run_page(&broken, 10, None)).unwrap_err();
    assert_eq!(error.message(), "made to fail");
}

/// An API whose pages end somewhere else when they are fetched again.
struct Fickle {
    fetches: AtomicU32,
}

#[async_trait]
impl PageProcessor for Fickle {
    const NAME: &'static str = "fickle";
    type Args = ();
    type Cursor = String;
    type Item = u32;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<String, u32>, PageError> {
        let call = self.fetches.fetch_add(1, Ordering::Relaxed);
        let next = match ctx.range().start() {
            None if call == 0 => Some("first cut".to_owned()),
            None => Some(format!("cut {call}")),
            Some(_) => None,
        };
        Ok(Page::opaque(vec![call], next))
    }

    async fn process(&self, ctx: &PageContext<Self>, _: Vec<u32>) -> Result<PageReport, PageError> {
        if ctx.range().start().is_none() && ctx.attempt() == 1 {
            return Err(PageError::retryable("the first attempt"));
        }
        Ok(PageReport::all_processed())
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default().max_attempts(3).extended(None),
            ..ProcessorSettings::default()
        }
    }
}

#[test]
fn a_page_of_opaque_tokens_that_ends_elsewhere_is_not_followed_past_its_end() {
    for stride in [1, 5] {
        let fickle = Fickle {
            fetches: AtomicU32::new(0),
        };
        let batch = Batch::of::<Fickle>("b", ()).stride(stride);
        let run = block_on(Simulator::new().run(&fickle, &batch)).unwrap();
        assert_eq!(run.outcome, Outcome::CompletedWithFailures);
        assert_eq!(run.failed[0].error_type, "PageEndMoved");
        assert_eq!(
            run.failed[0].end.as_ref().unwrap().as_str(),
            "\"first cut\""
        );
        assert_eq!(
            run.pages, 1,
            "the page after the failed one was processed again"
        );
    }
}
