//! Batches that share the slots of too few workers.

use std::sync::Arc;

use temporal_batch::{BatchHandle, PageReport, progress::Progress};
use tokio::sync::{Semaphore, watch};

use crate::{
    numbers_processor::{NumbersProcessor, Seen, UpTo},
    support::{TestEnv, eventually, progress_shows, report},
};

/// The most pages of the early batch in flight.
const LONG_QUEUE: u32 = 100;
/// The slots of the only worker, which both batches share.
const SLOTS: u32 = 2;
/// The most pages of the late batch in flight.
const QUEUE: u32 = 100;
/// Pages that begin before counting starts: pages dispatched just before may still be on their way.
const SKIPPED: usize = 10;
/// Pages that are counted. They all wait for a slot before the first of them begins, so that the speed of the
/// controllers does not matter.
const LOOKED_AT: usize = 40;

/// The percentage of the next pages that a late batch gets from a worker whose slots are all taken by another batch.
async fn share_of_late(weight: Option<f32>) -> usize {
    let env = TestEnv::new("fair").await;
    // Each page of the early batch takes a permit; those of the late one wait for the gate.
    let early_may = Arc::new(Semaphore::new(0));
    let (gate, at_gate) = watch::channel(false);
    let mut late = env
        .batch::<NumbersProcessor>(UpTo { n: 50_000 })
        .page_size(10)
        .max_parallelism(QUEUE);
    if let Some(weight) = weight {
        late = late.weight(weight);
    }
    let late_id = late.id().to_owned();
    let permits = Arc::clone(&early_may);
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(move |seen| {
            let (mut at_gate, permits) = (at_gate.clone(), Arc::clone(&permits));
            let is_late = seen.batch_id == late_id;
            async move {
                if is_late {
                    at_gate.wait_for(|open| *open).await.unwrap();
                } else {
                    permits.acquire().await.unwrap().forget();
                }
                Ok(PageReport::all_processed())
            }
        });
    let _worker = env
        .worker_with(numbers.clone(), |worker| worker.max_pages(SLOTS))
        .await;
    let early = env
        .batch::<NumbersProcessor>(UpTo { n: 50_000 })
        .page_size(10)
        .max_parallelism(LONG_QUEUE);
    let early = env.start(&early).await;
    let is_long = |p: &Progress| p.pages_in_flight == LONG_QUEUE;
    progress_shows(&early, "the early batch has a long queue", is_long).await;
    // Everything but the pages in the slots waits at the server.
    let waiting = async || early.look().await.ok()?.workers?.page_backlog;
    let queue = u64::from(LONG_QUEUE - SLOTS);
    let all_wait = async || waiting().await.filter(|waiting| *waiting >= queue);
    let before = eventually("the early batch waits at the server", all_wait).await;
    let late = env.start(&late).await;
    let begun_by = |handle: &BatchHandle, begun: &[Seen]| {
        begun.iter().filter(|s| s.batch_id == handle.id()).count()
    };
    let one_more = async || waiting().await.filter(|waiting| *waiting > before);
    eventually("the late batch waits at the server", one_more).await;
    // The slots are freed one by one, until the late batch has one.
    while begun_by(&late, &numbers.record().begun) == 0 {
        let before = numbers.record().begun.len();
        early_may.add_permits(1);
        eventually("the next page has the free slot", || async {
            (numbers.record().begun.len() > before).then_some(())
        })
        .await;
    }
    progress_shows(&late, "the late one queues", |p| p.pages_in_flight == QUEUE).await;
    let enough = |p: &Progress| p.pages_in_flight as usize > LOOKED_AT;
    progress_shows(&early, "the early batch still has a queue", enough).await;

    let from = numbers.record().begun.len() + SKIPPED;
    early_may.add_permits(1_000);
    gate.send_replace(true);
    eventually("enough pages have begun", || async {
        (numbers.record().begun.len() >= from + LOOKED_AT).then_some(())
    })
    .await;
    let begun = numbers.record().begun;
    let share = begun_by(&late, &begun[from..from + LOOKED_AT]) * 100 / LOOKED_AT;
    for batch in [&early, &late] {
        batch.cancel("enough").await.unwrap();
        report(batch).await;
    }
    share
}

/// The late batch would get next to nothing in order of arrival.
#[tokio::test]
async fn a_late_batch_gets_its_share_beside_a_long_queue() {
    let share = share_of_late(None).await;
    assert!((25..=75).contains(&share), "{share} %");
}

/// The late batch would get half at the same weight.
#[tokio::test]
async fn a_batch_of_more_weight_gets_more() {
    let share = share_of_late(Some(8.0)).await;
    assert!((65..=100).contains(&share), "{share} %");
}
