//! Steps that are tried again.

use std::time::{Duration, SystemTime};

use temporal_batch::{Outcome, PageError, settings::ItemRetry};
use temporal_batch_pipeline::{Items, step};

use crate::{
    numbers::{Numbers, UpTo, Watched, counters_of},
    support::TestEnv,
};

type Whole = Numbers<Items<u64>>;

fn unavailable() -> PageError {
    PageError::retryable("503").with_type("Unavailable")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_retries_its_page_waits_without_a_slot_and_then_falls_back_as_failed() {
    const FIRST_WAIT: Duration = Duration::from_secs(1);
    let env = TestEnv::new("retried-page").await;
    let calls = Watched::<Vec<(u64, SystemTime)>>::new();
    let called = calls.clone();
    let numbers = Numbers::new(move |page| {
        page.for_each(
            1,
            |n| *n,
            |n| {
                n.step(
                    step("call", move |_, n: u64| {
                        called.change(|calls| calls.push((n, SystemTime::now())));
                        async move { if n == 1 { Err(unavailable()) } else { Ok(n) } }
                    })
                    .retry_page(3, FIRST_WAIT)
                    .fallback(|_, _| 0),
                )
                .step(step("use", async |ctx, n: u64| {
                    ctx.count("used", 1);
                    Ok(n)
                }))
            },
        )
    });
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Whole>(UpTo { n: 3 });
    let report = env.run(&batch.page_size(1).max_parallelism(1)).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    let items = report.progress.items;
    assert_eq!((items.processed, items.failed), (2, 1));
    assert_eq!(report.progress.failed_items[0].error_type, "Unavailable");
    let counters = counters_of(&report);
    assert_eq!((counters["call: fallback"], counters["used"]), (1, 3));
    let calls = calls.get();
    let of_first: Vec<SystemTime> = calls
        .iter()
        .filter(|(n, _)| *n == 1)
        .map(|(_, at)| *at)
        .collect();
    assert_eq!(of_first.len(), 3);
    // The server's timers end by this clock too, and round to milliseconds.
    let rounded = Duration::from_millis(2);
    let wait = |n: usize| of_first[n + 1].duration_since(of_first[n]).unwrap() + rounded;
    assert!(wait(0) >= FIRST_WAIT, "{:?}", wait(0));
    assert!(wait(1) >= FIRST_WAIT * 2, "{:?}", wait(1));
    // The other pages run in between, although there is one slot.
    let others_by_then = calls
        .iter()
        .filter(|(n, at)| *n != 1 && *at < of_first[2])
        .count();
    assert_eq!(others_by_then, 2);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_waits_for_its_next_attempt_lets_other_items_of_its_page_run() {
    let env = TestEnv::new("waiting-item").await;
    let order = Watched::<Vec<u64>>::new();
    let ran = order.clone();
    let numbers = Numbers::new(move |page| {
        page.for_each(
            1,
            |n| *n,
            |n| {
                n.step(
                    step("call", move |_, n: u64| {
                        let times = ran.change(|order| {
                            order.push(n);
                            order.iter().filter(|other| **other == n).count()
                        });
                        async move {
                            if n == 1 && times == 1 {
                                Err(unavailable())
                            } else {
                                Ok(n)
                            }
                        }
                    })
                    .retry(ItemRetry::attempts(2).first_backoff(Duration::from_millis(300))),
                )
            },
        )
    });
    let worker = env.worker(numbers).await;
    let batch = env.batch::<Whole>(UpTo { n: 4 });
    let report = env.run(&batch.page_size(4)).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(order.get(), [1, 2, 3, 4, 1]);
    worker.stop().await.unwrap();
}
