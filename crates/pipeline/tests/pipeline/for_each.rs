//! Steps of single items.

use std::time::{Duration, Instant};

use temporal_batch::{Outcome, PageError, Permits};
use temporal_batch_pipeline::{action, step};

use crate::{
    numbers::{AtOnce, Numbers, UpTo, Watched, counters_of},
    support::{TestEnv, report},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_fails_is_marked_and_the_others_continue() {
    let env = TestEnv::new("item-error").await;
    let numbers = Numbers::new(|page| {
        page.for_each(
            4,
            |n| *n,
            |n| {
                n.skip_if("divisible by 5", |n| n % 5 == 0)
                    .step(step("check", async |_, n: u64| match n {
                        7 => Err(PageError::non_retryable("Unlucky", "a 7")),
                        n => Ok(n),
                    }))
                    .action(
                        action("mail", async |_, n: u64| match n {
                            3 => Err(PageError::retryable("no answer")),
                            _ => Ok(()),
                        })
                        .best_effort(),
                    )
            },
        )
    });
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Numbers<temporal_batch_pipeline::Items<u64>>>(UpTo { n: 20 });
    let report = env.run(&batch.page_size(6)).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    let items = report.progress.items;
    assert_eq!((items.processed, items.skipped, items.failed), (15, 4, 1));
    assert_eq!(report.progress.skip_reasons["divisible by 5"], 4);
    let failed = &report.progress.failed_items[0];
    assert_eq!(failed.error_type, "Unlucky");
    assert!(failed.message.contains("step \"check\": a 7"), "{failed:?}");
    assert_eq!(counters_of(&report)["mail: failed"], 1);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_items_of_a_page_run_at_once_as_allowed_and_no_more() {
    let env = TestEnv::new("items-at-once").await;
    let gate = Watched::<AtOnce>::new();
    let held = gate.clone();
    let numbers = Numbers::new(move |page| {
        page.for_each(
            5,
            |n| *n,
            |n| {
                n.step(step("call", move |_, n: u64| {
                    let held = held.clone();
                    async move {
                        held.pass().await;
                        Ok(n)
                    }
                }))
                .step(step("next", async |_, n: u64| Ok(n)))
            },
        )
    });
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Numbers<temporal_batch_pipeline::Items<u64>>>(UpTo { n: 60 });
    let handle = env.start(&batch.page_size(60)).await;
    gate.shows("five items run", |state| state.now == 5).await;
    gate.change(|state| state.open = true);
    report(&handle).await;
    assert_eq!(gate.get().most, 5);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paced_step_keeps_the_rate_of_the_batch_call_by_call() {
    const RATE: usize = 20;
    let env = TestEnv::new("paced").await;
    let calls = Watched::<Vec<Instant>>::new();
    let called = calls.clone();
    let mut numbers = Numbers::new(move |page| {
        page.for_each(
            8,
            |n| *n,
            |n| {
                n.step(step("look", async |_, n: u64| Ok(n))).step(
                    step("call", move |_, n: u64| {
                        called.change(|calls| calls.push(Instant::now()));
                        async move { Ok(n) }
                    })
                    .paced(),
                )
            },
        )
    });
    numbers.settings.permits = Permits::PerItem;
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Numbers<temporal_batch_pipeline::Items<u64>>>(UpTo { n: 60 });
    let batch = batch.page_size(15).max_parallelism(2).rate(RATE as f64);
    let report = env.run(&batch).await;
    assert_eq!(report.progress.items.processed, 60);
    let mut calls = calls.get();
    calls.sort_unstable();
    assert_eq!(calls.len(), 60);
    for (first, begin) in calls.iter().enumerate() {
        let window = calls[first..]
            .iter()
            .take_while(|call| **call - *begin < Duration::from_secs(1));
        let window = window.count();
        assert!(window <= RATE + 2, "{window} calls within a second");
    }
    worker.stop().await.unwrap();
}
