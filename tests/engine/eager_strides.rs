//! Strides that a controller gives to its own worker without the task queue, beside other workers.

use std::time::Duration;

use temporal_batch::{Outcome, PageReport};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo},
    support::TestEnv,
};

const PAGES: usize = 40;

/// All strides go through the queue here. A worker that took its own strides directly would leave few to the other one.
#[tokio::test]
async fn workers_without_eager_strides_share_a_batch() {
    let env = TestEnv::new("eager").await;
    let numbers = || {
        NumbersProcessor::new()
            .skipping_ahead()
            .on_process(|_| async {
                // The page takes long enough for both workers to have slots taken.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(PageReport::all_processed())
            })
    };
    let (first, second) = (numbers(), numbers());
    let _first = env
        .worker_with(first.clone(), |worker| worker.eager_strides(0))
        .await;
    let _second = env
        .worker_with(second.clone(), |worker| worker.eager_strides(0))
        .await;
    let mut shared = false;
    for _ in 0..5 {
        let done = || [first.record().done.len(), second.record().done.len()];
        let before = done();
        let batch = env
            .batch::<NumbersProcessor>(UpTo {
                n: 10 * PAGES as u64,
            })
            .page_size(10)
            .stride(1)
            .max_parallelism(10);
        assert_eq!(env.run(&batch).await.outcome, Outcome::Completed);
        let after = done();
        let parts = [after[0] - before[0], after[1] - before[1]];
        assert_eq!(parts[0] + parts[1], PAGES);
        shared |= parts.iter().all(|part| *part >= PAGES / 4);
    }
    assert!(shared, "one worker had nearly all pages of each batch");
}
