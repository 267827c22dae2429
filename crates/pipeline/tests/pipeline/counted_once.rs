//! Counters.

use temporal_batch::PageError;
use temporal_batch_pipeline::{Items, step};

use crate::{
    numbers::{Numbers, UpTo, Watched, counters_of},
    support::{TestEnv, progress_shows, report},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_tried_again_counts_once_and_the_counters_are_shown_while_the_batch_runs() {
    let env = TestEnv::new("counted-once").await;
    let attempts = Watched::<u64>::new();
    let open = Watched::<bool>::new();
    let (counted, gate) = (attempts.clone(), open.clone());
    let numbers = Numbers::new(move |page| {
        page.step(step("add", move |ctx, items: Items<u64>| {
            ctx.count("sum", items.iter().sum::<u64>() as i64);
            counted.change(|n| *n += 1);
            let gate = gate.clone();
            async move {
                if ctx.page_attempt() == 1 {
                    return Err(PageError::retryable("the first attempt fails"));
                }
                if items.contains(&100) {
                    gate.shows("the last page may end", |open| *open).await;
                }
                Ok(items)
            }
        }))
    });
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Numbers<Items<u64>>>(UpTo { n: 100 });
    let batch = batch.page_size(10).max_parallelism(5).pages_per_run(7);
    let handle = env.start(&batch).await;
    progress_shows(&handle, "nine pages are counted", |progress| {
        let sum = progress.output.as_ref().map(|output| output["sum"].clone());
        sum == Some((1..=90).sum::<u64>().into())
    })
    .await;
    open.change(|open| *open = true);
    let report = report(&handle).await;
    assert_eq!(counters_of(&report)["sum"], 5_050);
    assert!(attempts.get() >= 20, "every page was tried twice");
    worker.stop().await.unwrap();
}
