//! Items paced one by one: permits of the rate, and further tries of one item within its page.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport, Permits, ProcessorSettings,
    async_trait, client::PauseOptions, progress::Phase, settings::ItemRetry,
};
use tokio::{sync::watch, time::sleep};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, page_of, quick_retries},
    support::{TestEnv, progress_shows, report, within},
};

type Attempt = dyn Fn(u64, u32) -> Result<(), PageError> + Send + Sync;

/// An API that is called for each number, and records the calls.
#[derive(Clone)]
struct Api {
    settings: ProcessorSettings,
    /// The result of the nth call for a number.
    answers: Arc<Attempt>,
    /// The time of each call, and its number.
    calls: Arc<Mutex<Vec<(Instant, u64)>>>,
    pages: Arc<watch::Sender<u32>>,
    in_flight: Arc<AtomicU32>,
    most_in_flight: Arc<AtomicU32>,
}

impl Api {
    fn new(permits: Permits) -> Self {
        Self {
            settings: ProcessorSettings {
                permits,
                retry: quick_retries(),
                ..ProcessorSettings::default()
            },
            answers: Arc::new(|_, _| Ok(())),
            calls: Arc::default(),
            pages: Arc::default(),
            in_flight: Arc::default(),
            most_in_flight: Arc::default(),
        }
    }

    fn trying(mut self, retry: ItemRetry) -> Self {
        self.settings.item_retry = retry;
        self
    }

    fn answering(
        mut self,
        answers: impl Fn(u64, u32) -> Result<(), PageError> + Send + Sync + 'static,
    ) -> Self {
        self.answers = Arc::new(answers);
        self
    }

    async fn call(&self, number: u64) -> Result<(), PageError> {
        let times = {
            let mut calls = self.calls.lock().unwrap();
            calls.push((Instant::now(), number));
            calls.iter().filter(|(_, n)| *n == number).count()
        };
        sleep(Duration::from_millis(5)).await;
        (self.answers)(number, times as u32)
    }

    fn times_called(&self, number: u64) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(_, n)| *n == number).count()
    }
}

#[async_trait]
impl PageProcessor for Api {
    const NAME: &'static str = "api";
    type Args = UpTo;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        page_of(ctx)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        let page = ctx.page().expect("the page is processed");
        assert_eq!(page.start().copied().unwrap_or(0) + 1, items[0]);
        assert_eq!(page.end(), items.last());
        self.pages.send_modify(|pages| *pages += 1);
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let mut report = PageReport::all_processed();
        let called = async {
            for (position, number) in items.into_iter().enumerate() {
                if let Err(error) = ctx.try_item(|| self.call(number)).await? {
                    report.fail(position, error.error_type(), error.message());
                }
            }
            Ok(report)
        };
        let called = called.await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        called
    }

    fn settings(&self) -> ProcessorSettings {
        self.settings.clone()
    }
}

/// The most calls that began in any second.
fn most_in_a_second(calls: &[(Instant, u64)]) -> usize {
    let second = Duration::from_secs(1);
    let from = |(i, (at, _)): (usize, &(Instant, u64))| {
        calls[i..]
            .iter()
            .take_while(|(t, _)| *t < *at + second)
            .count()
    };
    calls.iter().enumerate().map(from).max().unwrap_or(0)
}

#[tokio::test]
async fn no_second_has_more_item_calls_than_the_rate_and_those_in_flight() {
    const RATE: usize = 150;
    const SLOTS: usize = 4;
    let env = TestEnv::new("permits").await;
    let api = Api::new(Permits::PerItem);
    let (_one, _two) = (env.worker(api.clone()).await, env.worker(api.clone()).await);
    // Each page announces the next one, and holds as many items as the rate allows in more than half a second.
    let batch = env
        .batch::<Api>(UpTo { n: 1_200 })
        .page_size(100)
        .max_parallelism(SLOTS as u32)
        .rate(RATE as f64);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::Completed);
    let mut calls = api.calls.lock().unwrap().clone();
    calls.sort_unstable();
    assert_eq!(calls.len(), 1_200);
    // A call may be recorded later than it was permitted, once for each page in flight.
    let most = most_in_a_second(&calls);
    assert!(most <= RATE + 2 * SLOTS, "{most} calls in a second");
    let in_flight = api.most_in_flight.load(Ordering::SeqCst);
    assert!(
        in_flight > 1,
        "pages that are found one by one do not run together"
    );
}

/// The permits of one page take three hours to earn at this rate.
#[tokio::test]
async fn the_first_page_does_not_wait_for_all_its_permits_and_a_warning_names_the_settings() {
    let env = TestEnv::new("first-page").await;
    for permits in [Permits::PerPage, Permits::PerItem] {
        let api = Api::new(permits);
        let worker = env.worker(api.clone()).await;
        let batch = env
            .batch::<Api>(UpTo { n: 5_000 })
            .page_size(1_000)
            .max_parallelism(10)
            .rate(1.0);
        let handle = env.start(&batch).await;
        let mut pages = api.pages.subscribe();
        let begun = pages.wait_for(|pages| *pages > 0);
        within("the first page begins", begun).await.unwrap();
        let progress = progress_shows(&handle, "a warning is shown", |p| !p.warnings.is_empty());
        let warnings = progress.await.warnings;
        assert!(
            warnings[0].contains("--max-parallelism 5 --page-size 1 would make that 5s"),
            "{warnings:?}"
        );
        handle.cancel("seen").await.unwrap();
        assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
        worker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn an_item_that_fails_twice_is_tried_again_alone() {
    let env = TestEnv::new("item-retry").await;
    let api = Api::new(Permits::PerPage)
        .trying(ItemRetry::attempts(3).first_backoff(Duration::from_millis(10)))
        .answering(|number, times| match (number, times) {
            (7, 1 | 2) | (20, _) => Err(PageError::retryable("500").with_type("ServerError")),
            (30, _) => Err(PageError::non_retryable("BadRequest", "422")),
            _ => Ok(()),
        });
    let _worker = env.worker(api.clone()).await;
    let batch = env.batch::<Api>(UpTo { n: 100 }).page_size(50);
    let report = env.run(&batch).await;
    assert_eq!(report.outcome, Outcome::CompletedWithFailures);
    let items = report.progress.items;
    assert_eq!((items.processed, items.failed), (98, 2));
    assert_eq!(report.progress.retries, 0, "no page was tried again");
    let times = [1, 7, 20, 30, 100].map(|number| api.times_called(number));
    assert_eq!(times, [1, 3, 3, 1, 1]);
}

#[tokio::test]
async fn a_pause_at_once_ends_the_wait_for_the_next_try_and_nothing_counts_as_failed() {
    let env = TestEnv::new("item-pause").await;
    let hour = Duration::from_secs(3_600);
    let mut api = Api::new(Permits::PerPage)
        .trying(ItemRetry::attempts(2).first_backoff(hour))
        .answering(|number, times| match (number, times) {
            (3, 1) => Err(PageError::retryable("500")),
            _ => Ok(()),
        });
    // The wait must fit into the rest of the page's timeout.
    api.settings.page_timeout = 2 * hour;
    let _worker = env.worker(api.clone()).await;
    let batch = env.batch::<Api>(UpTo { n: 10 }).page_size(5);
    let handle = env.start(&batch).await;
    let failed = || async { (api.times_called(3) == 1).then_some(()) };
    crate::support::eventually("item 3 has failed", failed).await;
    handle.pause_with(PauseOptions::new().now()).await.unwrap();
    progress_shows(&handle, "paused", |p| p.phase == Phase::Paused).await;
    handle.resume().await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.items.failed, 0);
    assert_eq!(report.progress.retries, 0);
    assert_eq!(api.times_called(3), 2);
}

#[tokio::test]
async fn a_stride_on_a_source_that_cannot_skip_ahead_is_reported_as_ignored() {
    let env = TestEnv::new("stride-ignored").await;
    for skips in [false, true] {
        let numbers = match skips {
            true => NumbersProcessor::new().skipping_ahead(),
            false => NumbersProcessor::new(),
        };
        let worker = env.worker(numbers).await;
        let batch = env.batch::<NumbersProcessor>(UpTo { n: 100 });
        let ended = env.run(&batch.page_size(10).stride(8)).await;
        let warnings = ended.progress.warnings;
        match skips {
            true => assert!(warnings.is_empty(), "{warnings:?}"),
            false => assert!(
                warnings[0].starts_with("stride 8 is ignored, as the source cannot skip ahead"),
                "{warnings:?}"
            ),
        }
        worker.stop().await.unwrap();
    }
}
