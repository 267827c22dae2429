//! The total number of items that is shown: never a wrong one, and no estimate once a batch is over.

use temporal_batch::{
    BatchHandle, Outcome, RunningWorker, Size,
    progress::{Certainty, Progress},
};

use crate::{
    numbers_processor::{Gate, NumbersProcessor, UpTo, gated_where},
    support::{TestEnv, progress_shows, report},
};

/// A batch of 40 items of which 20 are done, while the others wait at a gate.
struct Half {
    worker: RunningWorker,
    handle: BatchHandle,
    gate: Gate,
    looked: Progress,
}

impl Half {
    /// Starts the batch. `size` makes the size that the processor reports from the real one.
    async fn of(env: &TestEnv, size: fn(u64) -> Size) -> Self {
        let (numbers, gate) = gated_where(|seen| seen.start >= 20);
        let worker = env.worker(numbers.skipping_ahead().sized(size)).await;
        let batch = env
            .batch::<NumbersProcessor>(UpTo { n: 40 })
            .page_size(5)
            .max_parallelism(1);
        let handle = env.start(&batch).await;
        let looked = progress_shows(&handle, "20 items are done", |p| p.items.processed == 20);
        let looked = looked.await;
        Self {
            worker,
            handle,
            gate,
            looked,
        }
    }
}

#[tokio::test]
async fn an_exceeded_estimate_is_not_shown_and_a_completed_batch_is_at_a_hundred_percent() {
    let env = TestEnv::new("total-passed").await;
    let half = Half::of(&env, |n| Size::Estimate(n / 4)).await;
    let looked = &half.looked;
    assert_eq!((looked.items_expected, looked.percent()), (None, None));
    assert_eq!(looked.items_expected_is, Certainty::Unknown);
    assert_eq!(looked.time_left, None);
    half.gate.open();
    let report = report(&half.handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.size(), Size::Exact(40));
    assert_eq!(report.progress.percent(), Some(100.0));
}

#[tokio::test]
async fn a_batch_is_not_at_a_hundred_percent_before_it_has_ended() {
    let env = TestEnv::new("total-near").await;
    let half = Half::of(&env, |n| Size::Estimate(n / 2)).await;
    assert_eq!(half.looked.size(), Size::Estimate(20));
    assert_eq!(half.looked.percent(), Some(99.9));
    half.gate.open();
    let report = report(&half.handle).await;
    assert_eq!(report.progress.size(), Size::Exact(40));
}

#[tokio::test]
async fn a_cancelled_batch_shows_the_counted_items_and_no_estimate() {
    let env = TestEnv::new("total-cancelled").await;
    for (size, shown) in [
        (Size::Exact as fn(u64) -> Size, Size::Exact(40)),
        (Size::Estimate as fn(u64) -> Size, Size::Unknown),
    ] {
        let half = Half::of(&env, size).await;
        let handle = &half.handle;
        assert_eq!(half.looked.size(), size(40));
        handle.cancel("enough").await.unwrap();
        half.gate.open();
        let report = report(handle).await;
        assert_eq!(report.outcome, Outcome::Cancelled);
        assert!(report.progress.items.processed < 40);
        assert_eq!(report.progress.size(), shown);
        assert_eq!(report.progress.percent().is_some(), shown != Size::Unknown);
        assert_eq!(handle.progress().await.unwrap().size(), shown);
        half.worker.stop().await.unwrap();
    }
}
