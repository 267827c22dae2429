//! What is said of how many items there are: none that is wrong, and no estimate once a batch is over.

use temporal_batch::{Certainty, Outcome, Size};

use crate::{
    numbers::{Numbers, UpTo, gated_where},
    support::{Bed, progress_shows, report},
};

#[tokio::test]
async fn an_estimate_that_was_passed_is_not_shown_and_a_completed_batch_is_whole() {
    let bed = Bed::new("total-passed").await;
    let (numbers, gate) = gated_where(|seen| seen.start >= 20);
    let numbers = numbers.skipping_ahead().sized(|n| Size::Estimate(n / 4));
    let _worker = bed.worker(numbers.clone()).await;
    let batch = bed
        .batch::<Numbers>(UpTo { n: 40 })
        .page_size(5)
        .max_parallelism(1);
    let handle = bed.start(&batch).await;
    let looked = progress_shows(&handle, "20 items are done", |p| p.items.processed == 20).await;
    assert_eq!((looked.items_expected, looked.percent()), (None, None));
    assert_eq!(looked.items_expected_is, Certainty::Unknown);
    assert_eq!(looked.time_left, None);
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.size(), Size::Exact(40));
    assert_eq!(report.progress.percent(), Some(100.0));
}

#[tokio::test]
async fn a_batch_that_is_complete_but_for_its_end_is_not_at_a_hundred_percent() {
    let bed = Bed::new("total-near").await;
    let (numbers, gate) = gated_where(|seen| seen.start >= 20);
    let numbers = numbers.skipping_ahead().sized(|n| Size::Estimate(n / 2));
    let _worker = bed.worker(numbers.clone()).await;
    let batch = bed
        .batch::<Numbers>(UpTo { n: 40 })
        .page_size(5)
        .max_parallelism(1);
    let handle = bed.start(&batch).await;
    let looked = progress_shows(&handle, "20 items are done", |p| p.items.processed == 20).await;
    assert_eq!(looked.size(), Size::Estimate(20));
    assert_eq!(looked.percent(), Some(99.9));
    gate.open();
    let report = report(&handle).await;
    assert_eq!(report.progress.size(), Size::Exact(40));
}

#[tokio::test]
async fn a_batch_that_was_cancelled_shows_what_was_counted_and_no_estimate() {
    let bed = Bed::new("total-cancelled").await;
    for (size, shown) in [
        (Size::Exact as fn(u64) -> Size, Size::Exact(40)),
        (Size::Estimate as fn(u64) -> Size, Size::Unknown),
    ] {
        let (numbers, gate) = gated_where(|seen| seen.start >= 20);
        let numbers = numbers.skipping_ahead().sized(size);
        let worker = bed.worker(numbers.clone()).await;
        let batch = bed
            .batch::<Numbers>(UpTo { n: 40 })
            .page_size(5)
            .max_parallelism(1);
        let handle = bed.start(&batch).await;
        let half = progress_shows(&handle, "20 items are done", |p| p.items.processed == 20).await;
        assert_eq!(half.size(), size(40));
        handle.cancel("enough").await.unwrap();
        gate.open();
        let report = report(&handle).await;
        assert_eq!(report.outcome, Outcome::Cancelled);
        assert!(report.progress.items.processed < 40);
        assert_eq!(report.progress.size(), shown);
        assert_eq!(report.progress.percent().is_some(), shown != Size::Unknown);
        assert_eq!(handle.progress().await.unwrap().size(), shown);
        worker.stop().await.unwrap();
    }
}
