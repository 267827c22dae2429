//! Strides that a controller hands to its own worker past the task queue, and the other workers.

use std::time::Duration;

use temporal_batch::{Outcome, PageReport};

use crate::{
    numbers::{Numbers, UpTo},
    support::{Bed, eventually},
};

const PAGES: usize = 40;

/// A worker that went on taking all strides past the queue would leave none to the other one.
#[tokio::test]
async fn a_worker_that_was_alone_notices_another_one_and_leaves_it_its_part() {
    let bed = Bed::new("eager").await;
    let numbers = || {
        Numbers::new().skipping_ahead().on_process(|_| async {
            // Long enough for both to have slots taken.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(PageReport::all_processed())
        })
    };
    let (first, second) = (numbers(), numbers());
    let _first = bed.worker_named("first", first.clone()).await;
    let batch = || {
        bed.batch::<Numbers>(UpTo {
            n: 10 * PAGES as u64,
        })
        .page_size(10)
        .max_parallelism(10)
    };
    // It is alone.
    assert_eq!(bed.run(&batch()).await.outcome, Outcome::Completed);
    assert_eq!(first.record().done.len(), PAGES);
    let _second = bed.worker_named("second", second.clone()).await;
    let done = || [first.record().done.len(), second.record().done.len()];
    eventually(
        "both have a good part of three batches in a row",
        || async {
            for _ in 0..3 {
                let before = done();
                let report = bed.run(&batch()).await;
                assert_eq!(report.outcome, Outcome::Completed);
                let after = done();
                let parts = [after[0] - before[0], after[1] - before[1]];
                assert_eq!(parts[0] + parts[1], PAGES);
                if parts.iter().any(|part| *part < PAGES / 4) {
                    return None;
                }
            }
            Some(())
        },
    )
    .await;
}
