//! Batches that share the slots of too few workers.

use std::time::Duration;

use temporal_batch::{Outcome, PageReport};

use crate::{
    numbers::{Numbers, Seen, UpTo},
    support::{Bed, progress_shows, report},
};

/// Pages of the early batch that wait for a slot at any time.
const LONG_QUEUE: u32 = 100;

/// A batch that comes late, to a worker that has more than enough to do with another one.
struct Late {
    /// Its own pages that wait for a slot.
    queue: u32,
    pages: u64,
    weight: Option<f32>,
}

impl Late {
    /// Its share, in percent, of the pages that begin while both batches have a queue.
    async fn share(self) -> usize {
        let bed = Bed::new("fair").await;
        let numbers = Numbers::new().skipping_ahead().on_process(|_| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(PageReport::all_processed())
        });
        let _worker = bed
            .worker_with(numbers.clone(), |worker| worker.max_pages(2))
            .await;
        let early = bed
            .batch::<Numbers>(UpTo { n: 50_000 })
            .page_size(10)
            .max_parallelism(LONG_QUEUE);
        let early = bed.start(&early).await;
        progress_shows(&early, "it has a long queue", |p| {
            p.pages_in_flight == LONG_QUEUE
        })
        .await;
        let mut late = bed
            .batch::<Numbers>(UpTo { n: self.pages * 10 })
            .page_size(10)
            .max_parallelism(self.queue);
        if let Some(weight) = self.weight {
            late = late.weight(weight);
        }
        let late = bed.start(&late).await;
        progress_shows(&late, "it has its queue", |p| {
            p.pages_in_flight == self.queue
        })
        .await;
        let from = numbers.record().begun.len();
        assert_eq!(report(&late).await.outcome, Outcome::Completed);
        let begun = numbers.record().begun;
        assert!(begun.len() < 5_000, "the early batch had no work any more");
        early.cancel("enough").await.unwrap();
        let is_late = |s: &&Seen| s.batch_id == late.id();
        // Its last pages are too few for a queue.
        let last = begun.iter().rposition(|s| is_late(&s)).unwrap();
        let both = &begun[from..last - self.queue as usize];
        let share = both.iter().filter(is_late).count() * 100 / both.len();
        report(&early).await;
        share
    }
}

/// By order of arrival it would get a sixth.
#[tokio::test]
async fn a_late_batch_gets_its_share_beside_a_long_queue() {
    let late = Late {
        queue: 20,
        pages: 80,
        weight: None,
    };
    let share = late.share().await;
    assert!((25..=75).contains(&share), "{share} %");
}

/// By order of arrival it would get less than half.
#[tokio::test]
async fn a_batch_of_more_weight_gets_more() {
    let late = Late {
        queue: 60,
        pages: 200,
        weight: Some(3.0),
    };
    let share = late.share().await;
    assert!((60..=95).contains(&share), "{share} %");
}
