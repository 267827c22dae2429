//! One batch after another.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Batch, BatchClient, BatchHandle, BatchReport, Outcome, Page, PageContext, PageError,
    PageProcessor, PageRange, PageReport, PageToken, ProcessorSettings, SkipAhead,
    errors::ResultError,
    settings::RetryPolicy,
    store::{DeadLetters, JsonlDeadLetters, LetterFilter},
};
use temporal_batch_pipeline::{Items, Predecessor, step};

use crate::{
    numbers::{Numbers, UpTo, Watched},
    support::{TestEnv, number_pages::skip_from, progress_shows, report, within},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Follows {
    batch: String,
    n: u64,
    by_range: bool,
}

/// The numbers that each batch has processed, in this order.
type Seen = BTreeMap<String, Vec<u64>>;

/// A processor over the same numbers that follows a batch.
struct Follower {
    client: BatchClient,
    letters: Option<Arc<JsonlDeadLetters>>,
    predecessors: Mutex<HashMap<String, Predecessor>>,
    attempts: u32,
    seen: Watched<Seen>,
}

impl Follower {
    fn predecessor(&self, batch: &str) -> Predecessor {
        let mut known = self.predecessors.lock().unwrap();
        let new = || {
            let new = Predecessor::new(&self.client, batch).unwrap();
            match &self.letters {
                Some(letters) => new.letters(letters.clone() as Arc<dyn DeadLetters>),
                None => new,
            }
        };
        known.entry(batch.to_owned()).or_insert_with(new).clone()
    }
}

#[async_trait]
impl PageProcessor for Follower {
    const NAME: &'static str = "follower";
    type Args = Follows;
    type Cursor = u64;
    type Item = u64;

    async fn prepare(&self, args: Follows) -> Result<Follows, PageError> {
        if !args.by_range {
            self.predecessor(&args.batch).completed().await?;
        }
        Ok(args)
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let read = async |range: PageRange<u64>| {
            let first = range.start().copied().unwrap_or(0) + 1;
            let last = range.end().copied().unwrap_or(ctx.args().n);
            // These were deleted after the first batch had done them.
            let there = |n: &u64| !(11..=20).contains(n);
            let numbers = (first..=last).filter(there).take(ctx.page_size());
            Page::keyset(numbers.collect(), |n| *n)
        };
        match ctx.args().by_range {
            true => {
                let predecessor = self.predecessor(&ctx.args().batch);
                predecessor.fetch(ctx, read).await
            }
            false => read(ctx.range().clone()).await,
        }
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        let batch = ctx.batch_id().to_owned();
        self.seen
            .change(|seen| seen.entry(batch).or_default().extend(items));
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        let skip = async |range: PageRange<u64>, pages: u32| {
            let last = range.end().copied().unwrap_or(ctx.args().n);
            let start = range.start().copied();
            Ok(skip_from(start, ctx.page_size(), pages, last))
        };
        match ctx.args().by_range {
            true => {
                let predecessor = self.predecessor(&ctx.args().batch);
                predecessor.skip_ahead(ctx, pages, skip).await
            }
            false => skip(ctx.range().clone(), pages).await,
        }
    }

    fn settings(&self) -> ProcessorSettings {
        let retry = RetryPolicy::default()
            .max_attempts(self.attempts)
            .initial_interval(Duration::from_millis(20))
            .max_interval(Duration::from_millis(200));
        ProcessorSettings {
            retry: retry.extended(None),
            ..ProcessorSettings::default()
        }
    }
}

/// How far the first batch may come, and the number that it cannot process. Its pages of 18 and of 35 wait.
#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    open_to: u64,
    poison: u64,
}

struct Chained {
    env: TestEnv,
    gate: Watched<Gate>,
    seen: Watched<Seen>,
    workers: Vec<temporal_batch::RunningWorker>,
    _folder: tempfile::TempDir,
}

impl Chained {
    async fn new(name: &str, attempts: u32, keeps_letters: bool) -> Self {
        let env = TestEnv::new(name).await;
        let (gate, seen) = (Watched::<Gate>::new(), Watched::new());
        let folder = tempfile::tempdir().unwrap();
        let letters = JsonlDeadLetters::new(folder.path().join("letters.jsonl"));
        let letters = keeps_letters.then(|| Arc::new(letters));
        let held = gate.clone();
        let mut first = Numbers::new(move |page| {
            page.step(step("work", move |_, items: Items<u64>| {
                let held = held.clone();
                async move {
                    for waits in [18, 35].into_iter().filter(|n| items.contains(n)) {
                        held.shows("the gate opens", |gate| gate.open_to >= waits)
                            .await;
                    }
                    match items.contains(&held.get().poison) {
                        true => Err(PageError::non_retryable("Bad", "made to fail")),
                        false => Ok(items),
                    }
                }
            }))
        });
        first.letters.clone_from(&letters);
        first.says_end = true;
        let follower = Follower {
            client: env.client.clone(),
            letters,
            predecessors: Mutex::default(),
            attempts,
            seen: seen.clone(),
        };
        let workers = vec![
            env.worker_with(first, |worker| worker.processor(follower))
                .await,
        ];
        Self {
            env,
            gate,
            seen,
            workers,
            _folder: folder,
        }
    }

    /// Starts the first batch after the one that follows it.
    async fn start(&self, by_range: bool) -> (BatchHandle, BatchHandle) {
        let first = self
            .env
            .batch::<Numbers<Items<u64>>>(UpTo { n: 60 })
            .page_size(5);
        let second = self.env.start(&self.after(first.id(), by_range)).await;
        (self.env.start(&first).await, second)
    }

    fn after(&self, batch: &str, by_range: bool) -> Batch {
        let follows = Follows {
            batch: batch.to_owned(),
            n: 60,
            by_range,
        };
        self.env.batch::<Follower>(follows).page_size(4)
    }

    fn open(&self, open_to: u64) {
        self.gate.change(|gate| gate.open_to = open_to);
    }

    /// The numbers that a batch has processed, in their order.
    fn of(&self, batch: &BatchHandle) -> Vec<u64> {
        let seen = self.seen.get();
        let mut numbers = seen.get(batch.id()).cloned().unwrap_or_default();
        numbers.sort_unstable();
        numbers
    }

    /// Waits until a batch has processed exactly these numbers, and each once.
    async fn shows(&self, batch: &BatchHandle, numbers: &[u64]) {
        let what = format!("{} has processed {numbers:?}", batch.id());
        let count = |seen: &Seen| seen.get(batch.id()).map_or(0, Vec::len);
        self.seen
            .shows(&what, |seen| count(seen) >= numbers.len())
            .await;
        assert_eq!(self.of(batch), numbers);
    }

    async fn stop(self) {
        for worker in self.workers {
            worker.stop().await.unwrap();
        }
    }
}

/// Checks that a batch lists this range, which the batch before gave up, and no other.
fn lists_only(report: &BatchReport, (start, end): (u64, u64)) {
    let number =
        |token: &Option<PageToken>| token.as_ref().map(|token| token.decode::<u64>().unwrap());
    let [left_out] = &report.progress.failed[..] else {
        panic!("{:?}", report.progress.failed);
    };
    assert_eq!(number(&left_out.start), Some(start));
    assert_eq!(number(&left_out.end), Some(end));
    assert_eq!(left_out.error_type, "PredecessorGaveUp");
}

/// The numbers that were not deleted, without some.
fn all_but(left_out: impl Fn(u64) -> bool) -> Vec<u64> {
    let there = |n: &u64| !(11..=20).contains(n) && !left_out(*n);
    (1..=60).filter(there).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_begins_when_the_one_before_has_completed() {
    let chained = Chained::new("after-batch", 10, false).await;
    chained.open(18);
    let (first, second) = chained.start(false).await;
    progress_shows(&first, "all but one page are done", |progress| {
        progress.pages_completed >= 11
    })
    .await;
    assert!(
        chained.of(&second).is_empty(),
        "nothing of the second batch has begun"
    );
    chained.open(35);
    assert_eq!(report(&first).await.outcome, Outcome::Completed);
    assert_eq!(report(&second).await.outcome, Outcome::Completed);
    assert_eq!(chained.of(&second), all_but(|_| false));
    chained.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_refused_when_the_one_before_has_not_completed() {
    let chained = Chained::new("after-failure", 10, false).await;
    chained.gate.change(|gate| gate.poison = 33);
    chained.open(35);
    let (first, second) = chained.start(false).await;
    assert_eq!(report(&first).await.outcome, Outcome::CompletedWithFailures);
    let refused = within("the second batch ends", second.result()).await;
    let Err(ResultError::Refused { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        reason.contains("ended as completed with failures"),
        "{reason}"
    );
    assert!(chained.of(&second).is_empty());
    chained.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_up_each_range_that_the_one_before_has_finished() {
    let chained = Chained::new("range-by-range", 1_000, false).await;
    let (first, second) = chained.start(true).await;
    // The page of 18 waits. There is nothing left before it, and this is not the end of the data. Pages behind it are
    // finished, so the second batch goes on with them.
    let finished = |n: u64| n <= 30;
    chained
        .seen
        .shows("the second batch went past the page of 18", |seen| {
            seen.get(second.id()).is_some_and(|seen| seen.contains(&30))
        })
        .await;
    let seen = chained.of(&second);
    assert!(seen.iter().all(|n| finished(*n) || *n > 35), "{seen:?}");
    chained.open(35);
    assert_eq!(report(&first).await.outcome, Outcome::Completed);
    assert_eq!(report(&second).await.outcome, Outcome::Completed);
    assert_eq!(chained.of(&second), all_but(|_| false));
    chained.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_the_batch_before_has_given_up_is_left_out_alone_and_listed() {
    let chained = Chained::new("left-out", 2, false).await;
    chained.gate.change(|gate| gate.poison = 33);
    chained.open(35);
    let (first, second) = chained.start(true).await;
    assert_eq!(report(&first).await.outcome, Outcome::CompletedWithFailures);
    let second_report = report(&second).await;
    assert_eq!(second_report.outcome, Outcome::CompletedWithFailures);
    assert_eq!(
        chained.of(&second),
        all_but(|n| (31..=35).contains(&n)),
        "the page of 33, and nothing else, is left out"
    );
    lists_only(&second_report, (30, 35));
    chained.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_page_that_the_batch_before_has_given_up_is_left_out_and_listed() {
    let chained = Chained::new("left-out-last", 2, false).await;
    chained.gate.change(|gate| gate.poison = 60);
    chained.open(35);
    // The last page has four numbers and says that nothing follows.
    let first = chained.env.batch::<Numbers<Items<u64>>>(UpTo { n: 60 });
    let second = chained.env.start(&chained.after(first.id(), true)).await;
    let first = chained.env.start(&first.page_size(7)).await;
    assert_eq!(report(&first).await.outcome, Outcome::CompletedWithFailures);
    let second_report = report(&second).await;
    assert_eq!(second_report.outcome, Outcome::CompletedWithFailures);
    assert_eq!(chained.of(&second), all_but(|n| n > 56));
    lists_only(&second_report, (56, 60));
    chained.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_given_up_holds_itself_in_all_that_follow_until_it_is_redriven() {
    let chained = Chained::new("redriven", 1_000, true).await;
    chained.gate.change(|gate| gate.poison = 33);
    chained.open(35);
    let (first, second) = chained.start(true).await;
    let third = chained.env.start(&chained.after(second.id(), true)).await;
    let all_but_33 = all_but(|n| n == 33);
    chained.shows(&second, &all_but_33).await;
    chained.shows(&third, &all_but_33).await;
    assert_eq!(report(&first).await.outcome, Outcome::CompletedWithFailures);
    progress_shows(&second, "the second batch says what it lacks", |progress| {
        let lacks = |failure: &temporal_batch::progress::PageFailure| {
            failure.error_type == "PredecessorGaveUp"
        };
        progress.failing.iter().any(lacks)
    })
    .await;
    chained.gate.change(|gate| gate.poison = 0);
    let filter = LetterFilter::of(first.id());
    let redrive = chained.env.client.redrive(filter).await.unwrap();
    assert_eq!(report(&redrive).await.outcome, Outcome::Completed);
    for batch in [&second, &third] {
        assert_eq!(report(batch).await.outcome, Outcome::Completed);
        assert_eq!(chained.of(batch), all_but(|_| false));
    }
    chained.stop().await;
}
