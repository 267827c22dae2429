//! Behaviour of every batch: pages, tokens, parallelism, strides, progress.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, Timestamp,
    progress::Phase,
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, gated, gated_where},
    support::{TestEnv, logged, progress_shows, report},
};

fn all(n: u64) -> Vec<u64> {
    (1..=n).collect()
}

#[tokio::test]
async fn one_page_completes() {
    let env = TestEnv::new("one-page").await;
    let numbers = NumbersProcessor::new().saying_where_it_ends();
    let _worker = env.worker(numbers.clone()).await;
    let before = Timestamp::from(SystemTime::now());
    let report = env.run(&env.batch::<NumbersProcessor>(UpTo { n: 3 })).await;
    let after = Timestamp::from(SystemTime::now());

    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.phase, Phase::Ended);
    assert_eq!(report.progress.pages_completed, 1);
    assert_eq!(report.progress.items.processed, 3);
    assert_eq!(report.progress.max_parallelism_achieved, 1);
    assert!(report.progress.end_of_data);
    assert!(before <= report.progress.started_at && report.ended_at <= after);
    let record = numbers.record();
    assert_eq!(record.processed(), all(3));
    assert_eq!(
        record.fetches.len(),
        1,
        "a source that announces its end saves a fetch"
    );
}

#[tokio::test]
async fn an_empty_source_completes_without_pages() {
    let env = TestEnv::new("empty").await;
    let numbers = NumbersProcessor::new().skipping_ahead().with_size_hint();
    let _worker = env.worker(numbers.clone()).await;
    let report = env.run(&env.batch::<NumbersProcessor>(UpTo { n: 0 })).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 0);
    assert_eq!(report.progress.percent(), Some(100.0));
    assert!(numbers.record().begun.is_empty());
}

#[tokio::test]
async fn pages_are_even_and_the_data_is_read_once() {
    let env = TestEnv::new("even").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 49 }).page_size(5);
    let report = env.run(&batch).await;

    let record = numbers.record();
    assert_eq!(record.processed(), all(49));
    let mut pages: Vec<_> = record
        .begun
        .iter()
        .map(|s| (s.start, s.items.len()))
        .collect();
    pages.sort_unstable();
    let expected: Vec<_> = (0..10)
        .map(|i| (i * 5, if i < 9 { 5 } else { 4 }))
        .collect();
    assert_eq!(pages, expected);
    // One fetch for each page, and one that finds no more rows.
    assert_eq!(record.fetches.len(), 11);
    assert_eq!(report.progress.pages_completed, 10);
    // The engine sends one signal for each page.
    let signals = env.signals(batch.id(), "next_page");
    assert_eq!(signals.await, 10);
}

#[tokio::test]
async fn the_next_page_starts_before_the_current_one_is_finished() {
    let env = TestEnv::new("token-first").await;
    let (numbers, gate) = gated_where(|seen| seen.start == 0);
    let _worker = env.worker(numbers.clone()).await;
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 20 }).page_size(10))
        .await;
    let record = numbers
        .shows("page 2 is done while page 1 runs", |r| r.done.len() == 1)
        .await;
    assert_eq!(record.done[0].start, 10);
    assert_eq!(record.times_begun(0), 1);
    gate.open();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn max_parallelism_applies_to_three_workers_together() {
    let env = TestEnv::new("parallelism").await;
    let (numbers, gate) = gated();
    let numbers = numbers.skipping_ahead();
    let worker = || env.worker(numbers.clone());
    let _workers = (worker().await, worker().await, worker().await);
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 60 })
        .page_size(2)
        .max_parallelism(3);
    let handle = env.start(&batch).await;
    numbers
        .shows("three pages are in flight", |r| r.in_flight == 3)
        .await;
    gate.open();
    let report = report(&handle).await;
    let record = numbers.record();
    assert_eq!(record.processed(), all(60));
    assert_eq!(record.most_in_flight, 3);
    assert_eq!(report.progress.max_parallelism_achieved, 3);
}

#[tokio::test]
async fn two_hundred_pages_run_at_once() {
    let env = TestEnv::new("wide").await;
    let (numbers, gate) = gated();
    let numbers = numbers.skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 400 })
        .page_size(1)
        .max_parallelism(200);
    let handle = env.start(&batch).await;
    let shows = numbers.shows("200 pages are in flight", |r| r.in_flight == 200);
    assert_eq!(shows.await.most_in_flight, 200);
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 400);
    assert_eq!(numbers.record().most_in_flight, 200);
}

#[tokio::test]
async fn a_stride_takes_several_pages_in_one_activity() {
    let env = TestEnv::new("stride").await;
    let numbers = NumbersProcessor::new().skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 403 })
        .page_size(10)
        .stride(8);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(403));
    assert_eq!(report.progress.pages_completed, 41);
    // Six strides and the look-up of the processor.
    let activities = env.events(batch.id(), "ActivityTaskScheduled").await;
    assert_eq!(activities, 7);
}

#[tokio::test]
async fn a_source_that_cannot_skip_ahead_gets_one_page_per_activity() {
    let env = TestEnv::new("no-skip").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 20 })
        .page_size(5)
        .stride(3);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.record().processed(), all(20));
    let activities = env.events(batch.id(), "ActivityTaskScheduled").await;
    assert_eq!(activities, 6, "the look-up, four pages, an empty one");
}

#[tokio::test]
async fn arguments_first_cursor_and_batch_id_reach_the_processor() {
    let env = TestEnv::new("args").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 30 })
        .page_size(4)
        .first_cursor(&20u64);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    let record = numbers.record();
    assert_eq!(record.processed(), (21..=30).collect::<Vec<_>>());
    assert!(record.begun.iter().all(|seen| seen.batch_id == batch.id()));
    assert_eq!(report.progress.low_water_mark.unwrap().as_str(), "30");
}

#[tokio::test]
async fn progress_can_be_read_while_the_batch_runs() {
    let env = TestEnv::new("progress").await;
    let (numbers, gate) = gated_where(|seen| seen.start >= 20);
    let numbers = numbers.skipping_ahead().with_size_hint();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 40 })
        .page_size(10)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    let progress = progress_shows(&handle, "two pages are done and two run", |p| {
        p.pages_completed == 2 && p.pages_in_flight == 2
    });
    let progress = progress.await;
    assert_eq!(progress.phase, Phase::Running);
    assert_eq!(progress.items.processed, 20);
    assert_eq!(progress.percent(), Some(50.0));
    assert_eq!(progress.low_water_mark.unwrap().as_str(), "20");
    assert_eq!(progress.runs, 1);
    assert_eq!(progress.max_parallelism, 2);
    gate.open();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
    // The server still answers after the batch has ended.
    assert_eq!(handle.progress().await.unwrap().phase, Phase::Ended);
}

/// An API that issues its own tokens: `n` pages of one item, then the ending that `after` names.
struct Tokens {
    next: fn(u32) -> Option<u32>,
}

#[async_trait]
impl PageProcessor for Tokens {
    const NAME: &'static str = "tokens";
    type Args = ();
    type Cursor = String;
    type Item = u32;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<String, u32>, PageError> {
        let at = match ctx.range().start() {
            Some(token) => token.trim_start_matches("token-").parse()?,
            None => 0,
        };
        let next = (self.next)(at).map(|next| format!("token-{next}"));
        Ok(Page::opaque(vec![at], next))
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<u32>) -> Result<PageReport, PageError> {
        Ok(PageReport::all_processed())
    }
}

#[tokio::test]
async fn opaque_tokens_are_followed_to_the_end_of_the_source() {
    let env = TestEnv::new("opaque").await;
    let next = |at| (at < 9).then_some(at + 1);
    let _worker = env.worker(Tokens { next }).await;
    let report = env.run(&env.batch::<Tokens>(()).stride(4)).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 10);
}

/// A quiet end here would leave out the rest of the data.
#[tokio::test]
async fn a_token_that_repeats_ends_the_batch_as_failed() {
    let env = TestEnv::new("repeats").await;
    let _worker = env
        .worker(Tokens {
            next: |at| Some(at.min(1) + u32::from(at == 0)),
        })
        .await;
    let report = env.run(&env.batch::<Tokens>(())).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let reason = report.reason.unwrap();
    assert!(reason.contains("CursorDidNotAdvance"), "{reason}");
    assert!(reason.contains("token-1"), "{reason}");
}

#[tokio::test]
async fn tokens_that_run_in_a_circle_end_the_batch_as_failed() {
    let env = TestEnv::new("circle").await;
    let _worker = env
        .worker(Tokens {
            next: |at| Some(if at == 6 { 3 } else { at + 1 }),
        })
        .await;
    let batch: Batch = env.batch::<Tokens>(()).max_parallelism(2);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let reason = report.reason.unwrap();
    assert!(reason.contains("CursorDidNotAdvance"), "{reason}");
    assert!(report.progress.pages_completed < 30);
}

#[tokio::test]
async fn the_rate_applies_to_the_whole_batch() {
    let env = TestEnv::new("rate").await;
    let numbers = NumbersProcessor::new().skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(5)
        .max_parallelism(4)
        .rate(50.0);
    let report = env.run(&batch).await;
    assert_eq!(numbers.record().processed(), all(100));
    // All items at the rate, less one page for each page in flight.
    let fastest = Duration::from_secs_f64((100.0 - 4.0 * 5.0) / 50.0);
    assert!(report.duration() >= fastest, "{:?}", report.duration());
}

/// Lines that the user's own code logs carry the batch too.
#[tokio::test]
async fn every_line_of_the_log_says_which_batch_it_belongs_to() {
    let env = TestEnv::new("logs").await;
    let numbers = NumbersProcessor::new().on_process(|seen| async move {
        if seen.times == 1 {
            return Err(PageError::retryable("first attempt"));
        }
        tracing::info!("a line of the user's own");
        Ok(PageReport::all_processed())
    });
    let _worker = env.worker(numbers).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 3 });
    env.run(&batch).await;
    let log = logged();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(batch.id()))
        .collect();
    for message in [
        "batch started",
        "stride started",
        "page failed",
        "a line of the user's own",
        "batch completed",
    ] {
        let found = lines.iter().any(|line| line.contains(message));
        assert!(found, "{message:?} is not among {lines:#?}");
    }
}
