//! One batch after another.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Batch, BatchClient, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    errors::ResultError,
};
use temporal_batch_pipeline::{Items, Predecessor, step};

use crate::{
    numbers::{Numbers, UpTo, Watched},
    support::{TestEnv, progress_shows, report, within},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Follows {
    batch: String,
    n: u64,
    by_page: bool,
}

/// A processor over the same numbers that follows a batch.
struct Follower {
    client: BatchClient,
    seen: Watched<Vec<u64>>,
    reads: Watched<Vec<(u64, u64)>>,
}

impl Follower {
    fn predecessor(&self, args: &Follows) -> Predecessor {
        Predecessor::new(&self.client, &args.batch).unwrap()
    }
}

#[async_trait]
impl PageProcessor for Follower {
    const NAME: &'static str = "follower";
    type Args = Follows;
    type Cursor = u64;
    type Item = u64;

    async fn prepare(&self, args: Follows) -> Result<Follows, PageError> {
        if !args.by_page {
            self.predecessor(&args).completed().await?;
        }
        Ok(args)
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let read = async |range: temporal_batch::PageRange<u64>| {
            let first = range.start().copied().unwrap_or(0) + 1;
            let last = range.end().copied().unwrap_or(ctx.args().n);
            self.reads.change(|reads| reads.push((first - 1, last)));
            // These were deleted after the first batch had done them.
            let there = |n: &u64| !(11..=20).contains(n);
            let numbers = (first..=last).filter(there).take(ctx.page_size());
            Page::keyset(numbers.collect(), |n| *n)
        };
        match ctx.args().by_page {
            true => self.predecessor(ctx.args()).fetch(ctx, read).await,
            false => read(ctx.range().clone()).await,
        }
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        self.seen.change(|seen| seen.extend(items));
        Ok(PageReport::all_processed())
    }
}

/// How far the first batch may come, and whether it then gives up a page. Its pages of 18 and of 35 wait.
#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    open_to: u64,
    fails: bool,
}

struct Both {
    env: TestEnv,
    gate: Watched<Gate>,
    seen: Watched<Vec<u64>>,
    /// The ranges that the second batch has read.
    reads: Watched<Vec<(u64, u64)>>,
    workers: Vec<temporal_batch::RunningWorker>,
}

impl Both {
    async fn new(name: &str) -> Self {
        let env = TestEnv::new(name).await;
        let (gate, seen, reads) = (Watched::<Gate>::new(), Watched::new(), Watched::new());
        let held = gate.clone();
        let first = Numbers::new(move |page| {
            page.step(step("work", move |_, items: Items<u64>| {
                let held = held.clone();
                async move {
                    for waits in [18, 35].into_iter().filter(|n| items.contains(n)) {
                        let gate = held
                            .shows("the gate opens", |gate| gate.open_to >= waits)
                            .await;
                        if gate.fails {
                            return Err(PageError::non_retryable("Bad", "made to fail"));
                        }
                    }
                    Ok(items)
                }
            }))
        });
        let follower = Follower {
            client: env.client.clone(),
            seen: seen.clone(),
            reads: reads.clone(),
        };
        let workers = vec![
            env.worker_with(first, |worker| worker.processor(follower))
                .await,
        ];
        Self {
            env,
            gate,
            seen,
            reads,
            workers,
        }
    }

    /// The first batch, and the one that follows it.
    fn batches(&self, by_page: bool) -> (Batch, Batch) {
        let first = self
            .env
            .batch::<Numbers<Items<u64>>>(UpTo { n: 60 })
            .page_size(5);
        let follows = Follows {
            batch: first.id().to_owned(),
            n: 60,
            by_page,
        };
        (first, self.env.batch::<Follower>(follows).page_size(4))
    }

    fn open(&self, open_to: u64) {
        self.gate.change(|gate| gate.open_to = open_to);
    }

    async fn stop(self) {
        for worker in self.workers {
            worker.stop().await.unwrap();
        }
    }
}

fn remaining() -> Vec<u64> {
    (1..=60).filter(|n| !(11..=20).contains(n)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_begins_when_the_one_before_has_completed() {
    let both = Both::new("after-batch").await;
    both.open(18);
    let (first, second) = both.batches(false);
    let second = both.env.start(&second).await;
    let first = both.env.start(&first).await;
    progress_shows(&first, "all but one page are done", |progress| {
        progress.pages_completed >= 11
    })
    .await;
    assert!(
        both.seen.get().is_empty(),
        "nothing of the second batch has begun"
    );
    both.open(35);
    assert_eq!(report(&first).await.outcome, Outcome::Completed);
    assert_eq!(report(&second).await.outcome, Outcome::Completed);
    let mut seen = both.seen.get();
    seen.sort_unstable();
    assert_eq!(seen, remaining());
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_refused_when_the_one_before_has_not_completed() {
    let both = Both::new("after-failure").await;
    both.gate.change(|gate| gate.fails = true);
    both.open(35);
    let (first, second) = both.batches(false);
    let second = both.env.start(&second).await;
    let first = both.env.start(&first).await;
    assert_eq!(report(&first).await.outcome, Outcome::CompletedWithFailures);
    let refused = within("the second batch ends", second.result()).await;
    let Err(ResultError::Refused { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        reason.contains("ended as completed with failures"),
        "{reason}"
    );
    assert!(both.seen.get().is_empty());
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_up_each_range_that_the_one_before_has_finished() {
    let both = Both::new("page-by-page").await;
    let (first, second) = both.batches(true);
    let second = both.env.start(&second).await;
    let first = both.env.start(&first).await;
    // There is nothing left from 11 to 15, and this is not the end of the data.
    both.reads
        .shows("the range from 11 to 15 is read", |reads| {
            reads.contains(&(10, 15))
        })
        .await;
    both.open(18);
    // Everything before the page that waits, across the numbers that are gone, and nothing after it.
    let seen = both
        .seen
        .shows("the second batch has caught up", |seen| seen.contains(&30))
        .await;
    assert!(seen.iter().all(|n| *n <= 30), "{seen:?}");
    both.open(35);
    assert_eq!(report(&first).await.outcome, Outcome::Completed);
    assert_eq!(report(&second).await.outcome, Outcome::Completed);
    let mut seen = both.seen.get();
    seen.sort_unstable();
    assert_eq!(seen, remaining());
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_the_batch_before_has_given_up_holds_what_comes_after_it() {
    let both = Both::new("held-range").await;
    let (first, second) = both.batches(true);
    let second = both.env.start(&second).await;
    let first = both.env.start(&first).await;
    both.open(18);
    both.seen
        .shows("the second batch has caught up", |seen| seen.contains(&30))
        .await;
    both.gate.change(|gate| gate.fails = true);
    both.open(35);
    report(&first).await;
    progress_shows(&second, "the second batch is blocked", |progress| {
        let reason = progress.blocked_reason.as_deref().unwrap_or_default();
        reason.contains("gave up pages or items")
    })
    .await;
    assert!(both.seen.get().iter().all(|n| *n <= 30));
    second.cancel("the test is over").await.unwrap();
    report(&second).await;
    both.stop().await;
}
