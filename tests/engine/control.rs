//! Requests of operators: pause, resume, parallelism, cancel.

use temporal_batch::{Outcome, PageReport, errors::ControlError, progress::Phase};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, gated},
    replay::replays,
    support::{TestEnv, progress_shows, report},
};

#[tokio::test]
async fn pausing_drains_and_resuming_continues() {
    let env = TestEnv::new("pause").await;
    let (numbers, gate) = gated();
    let numbers = numbers.skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 40 })
        .page_size(10)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    numbers
        .shows("two pages are in flight", |r| r.in_flight == 2)
        .await;

    handle.pause("the replica lags").await.unwrap();
    let progress = handle.progress().await.unwrap();
    assert_eq!(progress.phase, Phase::Pausing);
    assert_eq!(progress.pause_reason.as_deref(), Some("the replica lags"));
    gate.open();
    let progress = progress_shows(&handle, "paused", |p| p.phase == Phase::Paused).await;
    assert_eq!((progress.pages_completed, progress.pages_in_flight), (2, 0));
    assert_eq!(numbers.record().begun.len(), 2);

    handle.resume().await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 4);
    assert_eq!(report.progress.pause_reason, None);
    replays(&env, handle.id(), "paused").await;
}

#[tokio::test]
async fn one_resume_ends_two_pauses() {
    let env = TestEnv::new("pause-twice").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 20 })
        .page_size(10)
        .max_parallelism(0);
    let handle = env.start(&batch).await;
    handle.pause("first").await.unwrap();
    handle.pause("second").await.unwrap();
    handle.set_max_parallelism(3).await.unwrap();
    // Requests are applied even before a worker has reported the settings of the processor.
    let prepared = progress_shows(&handle, "preparing ends", |p| p.phase != Phase::Preparing);
    let progress = prepared.await;
    assert_eq!(progress.phase, Phase::Paused);
    assert_eq!(progress.pause_reason.as_deref(), Some("second"));
    assert!(numbers.record().fetches.is_empty());
    handle.resume().await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_batch_that_starts_with_no_parallelism_waits_for_it() {
    let env = TestEnv::new("start-paused").await;
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 50 })
        .page_size(10)
        .max_parallelism(0);
    let handle = env.start(&batch).await;
    handle.accepted().await.unwrap();
    let progress = progress_shows(&handle, "paused", |p| p.phase == Phase::Paused).await;
    assert_eq!(progress.pages_completed, 0);
    assert!(numbers.record().fetches.is_empty());
    handle.set_max_parallelism(5).await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.pages_completed, 5);
}

#[tokio::test]
async fn parallelism_changes_up_and_down_while_the_batch_runs() {
    let env = TestEnv::new("up-down").await;
    let (numbers, gate) = gated();
    let numbers = numbers.skipping_ahead();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(5)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    numbers.shows("two in flight", |r| r.in_flight == 2).await;
    handle.set_max_parallelism(5).await.unwrap();
    numbers.shows("five in flight", |r| r.in_flight == 5).await;
    handle.set_max_parallelism(1).await.unwrap();
    gate.let_through(5);
    numbers
        .shows("one in flight after the five are done", |r| {
            r.done.len() == 5 && r.in_flight == 1
        })
        .await;
    let progress = progress_shows(&handle, "one in flight", |p| {
        p.pages_completed == 5 && p.pages_in_flight == 1
    });
    assert_eq!(progress.await.max_parallelism, 1);
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.max_parallelism_achieved, 5);
    assert_eq!(numbers.record().most_in_flight, 5);
}

#[tokio::test]
async fn a_pause_stops_a_long_stride_at_a_page_boundary() {
    let env = TestEnv::new("pause-stride").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(|_| async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 10_000 })
        .page_size(10)
        .stride(500)
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    numbers
        .shows("the stride is under way", |r| r.done.len() >= 3)
        .await;
    handle.pause("").await.unwrap();
    let progress = progress_shows(&handle, "paused", |p| p.phase == Phase::Paused).await;
    assert!(progress.pages_completed >= 3 && progress.pages_completed < 200);
    let done = numbers.record().done.len() as u64;
    assert_eq!(
        progress.pages_completed, done,
        "the finished pages of the stride are counted"
    );
    handle.cancel("seen enough").await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn cancelling_lets_running_pages_finish_and_says_how_far_the_batch_got() {
    let env = TestEnv::new("cancel").await;
    let (numbers, gate) = gated();
    let numbers = numbers.skipping_ahead();
    let numbers = numbers.settings(|s| s.heartbeat_timeout = std::time::Duration::from_secs(2));
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    numbers.shows("two in flight", |r| r.in_flight == 2).await;
    handle.cancel("wrong table").await.unwrap();
    let progress = progress_shows(&handle, "cancelling", |p| p.phase == Phase::Cancelling).await;
    assert_eq!(progress.pages_in_flight, 2);
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Cancelled);
    let reason = report.reason.unwrap();
    assert!(
        reason.contains("everything up to 20 is finished"),
        "{reason}"
    );
    assert_eq!(report.progress.pages_completed, 2);
    assert_eq!(numbers.record().begun.len(), 2, "no other page was begun");
    replays(&env, handle.id(), "cancelled").await;
    let late = handle.pause("too late").await.unwrap_err();
    assert!(matches!(late, ControlError::NotRunning { .. }), "{late}");
    let late = handle.cancel("too late").await.unwrap_err();
    assert!(matches!(late, ControlError::NotRunning { .. }), "{late}");
}

#[tokio::test]
async fn a_processor_can_see_the_cancellation() {
    let env = TestEnv::new("cancel-seen").await;
    let numbers = Patient;
    let _worker = env.worker(numbers).await;
    let handle = env
        .start(&env.batch::<Patient>(()).max_parallelism(1))
        .await;
    progress_shows(&handle, "the page runs", |p| p.pages_in_flight == 1).await;
    handle.cancel("").await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert_eq!(report.progress.items.skipped, 1);
}

/// A processor whose one page runs until it is cancelled.
pub struct Patient;

#[async_trait::async_trait]
impl temporal_batch::PageProcessor for Patient {
    const NAME: &'static str = "patient";
    type Args = ();
    type Cursor = u8;
    type Item = u8;

    async fn fetch(
        &self,
        ctx: &temporal_batch::PageContext<Self>,
    ) -> Result<temporal_batch::Page<u8, u8>, temporal_batch::PageError> {
        let more = ctx.range().start().is_none();
        temporal_batch::Page::keyset(if more { vec![1] } else { vec![] }, |n| *n)
    }

    async fn process(
        &self,
        ctx: &temporal_batch::PageContext<Self>,
        _: Vec<u8>,
    ) -> Result<PageReport, temporal_batch::PageError> {
        ctx.cancelled().await;
        let mut report = PageReport::all_processed();
        report.skip("made to");
        Ok(report)
    }

    fn settings(&self) -> temporal_batch::ProcessorSettings {
        temporal_batch::ProcessorSettings {
            heartbeat_timeout: std::time::Duration::from_secs(2),
            ..temporal_batch::ProcessorSettings::default()
        }
    }
}
