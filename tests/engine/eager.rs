//! Strides that a controller hands to its own worker past the task queue, and the other workers.

use std::time::Duration;

use temporal_batch::{Outcome, PageReport};

use crate::{
    numbers_processor::{NumbersProcessor as Numbers, UpTo},
    support::TestEnv as Bed,
};

const PAGES: usize = 40;

/// All strides come through the queue then. A worker that took them past it would leave few to the other one.
#[tokio::test]
async fn workers_without_eager_strides_share_a_batch() {
    let bed = Bed::new("eager").await;
    let numbers = || {
        Numbers::new().skipping_ahead().on_process(|_| async {
            // Long enough for both to have slots taken.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(PageReport::all_processed())
        })
    };
    let (first, second) = (numbers(), numbers());
    let _first = bed
        .worker_with(first.clone(), |worker| worker.eager_strides(0))
        .await;
    let _second = bed
        .worker_with(second.clone(), |worker| worker.eager_strides(0))
        .await;
    let mut shared = false;
    for _ in 0..5 {
        let done = || [first.record().done.len(), second.record().done.len()];
        let before = done();
        let batch = bed
            .batch::<Numbers>(UpTo {
                n: 10 * PAGES as u64,
            })
            .page_size(10)
            .stride(1)
            .max_parallelism(10);
        assert_eq!(bed.run(&batch).await.outcome, Outcome::Completed);
        let after = done();
        let parts = [after[0] - before[0], after[1] - before[1]];
        assert_eq!(parts[0] + parts[1], PAGES);
        shared |= parts.iter().all(|part| *part >= PAGES / 4);
    }
    assert!(shared, "one worker had nearly all pages of each batch");
}
