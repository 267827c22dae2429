//! Steps of whole pages.

use temporal_batch::{Outcome, PageError};
use temporal_batch_pipeline::{Items, step};

use crate::{
    numbers::{AtOnce, Numbers, UpTo, Watched, counters_of},
    support::{TestEnv, report},
};

type Whole = Numbers<Items<u64>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_step_fails_is_listed_and_the_next_pages_run() {
    let env = TestEnv::new("page-error").await;
    let numbers = Numbers::new(|page| {
        page.step(step("validate", async |_, items: Items<u64>| {
            match items.contains(&25) {
                true => Err(PageError::non_retryable("Invalid", "25 is not allowed")),
                false => Ok(items),
            }
        }))
        .step(step("process", async |ctx, items: Items<u64>| {
            ctx.count("pages", 1);
            Ok(items)
        }))
    });
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Whole>(UpTo { n: 95 });
    let report = env.run(&batch.page_size(10)).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    let progress = &report.progress;
    assert_eq!((progress.pages_completed, progress.pages_failed), (9, 1));
    assert_eq!(progress.items.processed, 85);
    assert_eq!(progress.failed[0].error_type, "Invalid");
    assert_eq!(counters_of(&report)["pages"], 9);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn five_pages_run_at_once_and_no_more() {
    let env = TestEnv::new("pages-at-once").await;
    let gate = Watched::<AtOnce>::new();
    let held = gate.clone();
    let numbers = Numbers::new(move |page| {
        page.step(step("work", move |_, items: Items<u64>| {
            let held = held.clone();
            async move {
                held.pass().await;
                Ok(items)
            }
        }))
    });
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Whole>(UpTo { n: 120 });
    let handle = env.start(&batch.page_size(10).max_parallelism(5)).await;
    gate.shows("five pages run", |state| state.now == 5).await;
    gate.change(|state| state.open = true);
    let report = report(&handle).await;
    assert_eq!(gate.get().most, 5);
    assert_eq!(report.progress.max_parallelism_achieved, 5);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_side_runs_for_each_page_and_a_skipped_page_counts_with_its_reason() {
    let env = TestEnv::new("page-branch").await;
    let numbers = Numbers::new(|page| {
        page.branch(
            "large numbers",
            |items: &Items<u64>| items.iter().any(|n| *n > 40),
            |page| page.step(step("work", async |_, items: Items<u64>| Ok(items))),
            |page| page.skip("No processing needed"),
        )
    });
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Whole>(UpTo { n: 100 });
    let report = env.run(&batch.page_size(10)).await;
    assert_eq!(report.outcome, Outcome::Completed);
    let items = report.progress.items;
    assert_eq!((items.processed, items.skipped, items.failed), (60, 40, 0));
    assert_eq!(report.progress.skip_reasons["No processing needed"], 40);
    let counters = counters_of(&report);
    assert_eq!(
        (
            counters["large numbers: yes"],
            counters["large numbers: no"]
        ),
        (6, 4)
    );
    worker.stop().await.unwrap();
}
