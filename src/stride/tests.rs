//! Tests of one stride, with a scripted host.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::{
    base::time::Timestamp,
    batch::{
        letter_filter::LetterFilter,
        retry::RetryMode,
        tolerance::{Limit, StrideTolerance, Tally, Tolerance},
    },
    page::Page,
    processor::{
        SkipAhead,
        context::PageContext,
        report::PageReport,
        store::{
            dead_letter::{DeadLetter, DeadLetters},
            page_ledger::{PageTransaction, StrideTotals},
        },
    },
    protocol::GiveUp,
};

/// The behaviour of `process`.
#[derive(Clone, Copy)]
enum Does {
    Work,
    /// Waits to be told to end, then fails.
    GiveUpWhenTold,
    /// Fails, regardless of orders.
    Fail,
    /// Fails, and says that the environment is at fault.
    FailInEnvironment,
    /// Does its work, except for the first item of each page.
    FailItems,
    /// Does its work, and reports more items than there are.
    Misreport,
    /// Hangs forever.
    Hang,
}

/// A dead-letter store that fails for a number of calls.
#[derive(Default)]
struct Store {
    down_for: AtomicU32,
    kept: Mutex<Vec<DeadLetter>>,
}

impl Store {
    fn down_for(calls: u32) -> Arc<Self> {
        Arc::new(Self {
            down_for: calls.into(),
            ..Self::default()
        })
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn put(&self, letters: &[DeadLetter]) -> Result<(), PageError> {
        let less = |left: u32| left.checked_sub(1);
        let down = self
            .down_for
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if down.is_ok() {
            return Err(PageError::retryable("the store is down").with_type("StoreDown"));
        }
        self.kept.lock().unwrap().extend_from_slice(letters);
        Ok(())
    }

    async fn list(
        &self,
        _: &LetterFilter,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<DeadLetter>, PageError> {
        unreachable!("a stride only keeps letters")
    }

    async fn take(&self, _: &DeadLetter) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        unreachable!("a stride only keeps letters")
    }
}

/// The numbers from 1 to 25.
struct Numbers {
    told: watch::Sender<StopSignal>,
    tells: StopSignal,
    does: Does,
    hangs_in_fetch: bool,
    /// The error of everything that reads.
    reading_fails: Option<fn() -> PageError>,
    /// A number whose page cannot be read, and the type of that error.
    unreadable: Option<(u64, &'static str)>,
    skips_ahead: bool,
    mode: RetryMode,
    letters: Option<Arc<Store>>,
    fetched: AtomicU32,
    saw_it: Mutex<Vec<bool>>,
    done: Mutex<Vec<u64>>,
}

impl Numbers {
    fn that(does: Does, tells: StopSignal) -> Self {
        Self {
            told: watch::Sender::default(),
            tells,
            does,
            hangs_in_fetch: false,
            reading_fails: None,
            unreadable: None,
            skips_ahead: false,
            mode: RetryMode::AtLeastOnce,
            letters: None,
            fetched: AtomicU32::new(0),
            saw_it: Mutex::default(),
            done: Mutex::default(),
        }
    }

    fn at_most_once(does: Does) -> Self {
        Self {
            mode: RetryMode::AtMostOnce,
            ..Self::that(does, NOTHING)
        }
    }

    fn done(&self) -> u64 {
        self.done.lock().unwrap().len() as u64
    }
}

#[async_trait]
impl PageProcessor for Numbers {
    const NAME: &'static str = "numbers";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        if self.hangs_in_fetch {
            self.told.send_replace(self.tells);
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.reading_fails {
            return Err(error());
        }
        let first = ctx.range().start().map_or(1, |last| last + 1);
        let last = ctx.range().end().copied().unwrap_or(25);
        let numbers: Vec<u64> = (first..=last).take(ctx.page_size()).collect();
        if let Some((number, error_type)) = self.unreadable
            && numbers.contains(&number)
        {
            let error = PageError::retryable("made to fail").with_type(error_type);
            return Err(error.blaming(Blame::Page));
        }
        Page::keyset(numbers, |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        numbers: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        tracing::info!("from user code");
        self.told.send_replace(self.tells);
        tokio::task::yield_now().await;
        self.saw_it.lock().unwrap().push(ctx.is_cancelled());
        match self.does {
            Does::Work => {}
            Does::GiveUpWhenTold => {
                ctx.cancelled().await;
                return Err(PageError::non_retryable("ToldTo", "giving up"));
            }
            Does::FailInEnvironment => return Err(PageError::environment("made to fail")),
            Does::FailItems => {
                let mut report = PageReport::all_processed();
                report.fail(0, "Unlucky", "the first of its page");
                return Ok(report);
            }
            Does::Misreport => {
                let mut report = PageReport::all_processed();
                report.fail(1_000, "MadeUp", "there is no such item");
                return Ok(report);
            }
            Does::Fail => return Err(PageError::retryable("made to fail")),
            Does::Hang => std::future::pending().await,
        }
        self.done.lock().unwrap().extend(numbers);
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        if let Some(error) = self.reading_fails {
            return Err(error());
        }
        let to = ctx.range().start().unwrap_or(&0) + u64::from(pages) * ctx.page_size() as u64;
        Ok(match (self.skips_ahead, to <= 25) {
            (true, true) => SkipAhead::To(to),
            (true, false) => SkipAhead::PastEnd,
            (false, _) => SkipAhead::Unsupported,
        })
    }

    fn dead_letters(&self, (): &()) -> Option<Arc<dyn DeadLetters>> {
        let letters = self.letters.clone()?;
        Some(letters)
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry_mode: self.mode,
            ..ProcessorSettings::default()
        }
    }
}

/// A host that follows a script.
struct Script {
    told: watch::Sender<StopSignal>,
    /// Stops the stride during the rate wait of this page.
    stop_at_rate: Option<u32>,
    wait: Duration,
    waited: Mutex<Duration>,
    rates: AtomicU32,
    events: Mutex<Vec<PageEvent>>,
    pages: Mutex<Vec<Option<RunningPage>>>,
    announced: Mutex<Vec<PageToken>>,
    /// The question to which the host answers that the batch run is gone.
    gone_at: Option<Asked>,
    /// Reports that the batch run is gone after the page was read.
    gone_while_waiting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Announce,
    AcceptedEnd,
    StillCounts,
}

impl Script {
    fn of(numbers: &Numbers) -> Self {
        Self {
            told: numbers.told.clone(),
            stop_at_rate: None,
            wait: Duration::ZERO,
            waited: Mutex::default(),
            rates: AtomicU32::new(0),
            events: Mutex::default(),
            pages: Mutex::default(),
            announced: Mutex::default(),
            gone_at: None,
            gone_while_waiting: false,
        }
    }

    fn asked(&self, what: Asked) -> Result<(), HostError> {
        match self.gone_at == Some(what) {
            true => Err(HostError::Gone),
            false => Ok(()),
        }
    }

    fn events(&self, which: impl Fn(&PageEvent) -> bool) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| which(event)).count()
    }
}

#[async_trait]
impl StrideHost for Script {
    async fn announce(&self, starts: &[PageToken]) -> Result<(), HostError> {
        self.announced.lock().unwrap().extend_from_slice(starts);
        self.asked(Asked::Announce)
    }

    fn is_repeat(&self) -> bool {
        self.gone_at == Some(Asked::AcceptedEnd)
    }

    async fn accepted_end(&self) -> Result<AcceptedEnd, HostError> {
        self.asked(Asked::AcceptedEnd)?;
        Ok(AcceptedEnd {
            open: true,
            end: None,
        })
    }

    async fn still_counts(&self) -> Result<(), HostError> {
        self.asked(Asked::StillCounts)
    }

    async fn clear_to_go(&self) -> Go {
        Go::On
    }

    fn item_host(&self) -> std::sync::Arc<dyn crate::processor::item::ItemHost> {
        std::sync::Arc::new(crate::processor::item::Timeless)
    }

    async fn rate_permits(&self, _: usize) -> Go {
        let started = std::time::Instant::now();
        tokio::time::sleep(self.wait).await;
        if self.gone_while_waiting {
            self.told.send_replace(GONE);
        }
        *self.waited.lock().unwrap() += started.elapsed();
        let n = self.rates.fetch_add(1, Ordering::Relaxed) + 1;
        if self.stop_at_rate == Some(n) {
            Go::Stop
        } else {
            Go::On
        }
    }

    fn works_on(&self, page: Option<RunningPage>) {
        self.pages.lock().unwrap().push(page);
    }

    fn checkpoint(&self, _: &StrideReport) {}

    fn stop_signal(&self) -> watch::Receiver<StopSignal> {
        self.told.subscribe()
    }

    fn observe(&self, event: PageEvent) {
        self.events.lock().unwrap().push(event);
    }
}

pub(crate) fn order() -> StrideOrder {
    StrideOrder {
        batch_run: "run".to_owned(),
        batch_id: "batch".to_owned(),
        processor: "numbers".to_owned(),
        args: serde_json::Value::Null,
        stride: 0,
        start: None,
        end: Some(PageToken::encode(&25).unwrap()),
        pages: 10,
        look_ahead: 0,
        page_size: 10,
        attempt: 1,
        rate_share: None,
        page_timeout: Duration::from_secs(60),
        done: StrideTotals::default(),
        attempts_allowed: None,
        failing_since: None,
        take_apart: false,
        give_up: None,
        redrive: false,
        is_kept: false,
        dispatch: 1,
        page_share: None,
        page_pause: None,
        throttles: Vec::new(),
        max_items: None,
        reducer: None,
        time_limit: None,
        min_pages_per_stride: 1,
        controller: None,
        partition: None,
        last: None,
        owner: None,
        rate_ready: 0,
        page_rate_ready: 0,
        rate_owed: 0,
        page_rate_owed: 0,
        tolerance: None,
    }
}

async fn run(numbers: &Numbers, host: &Script) -> StrideReport {
    run_order(numbers, host, order()).await
}

async fn run_order(numbers: &Numbers, host: &Script, order: StrideOrder) -> StrideReport {
    let running = run_stride(numbers, &order, StrideReport::default(), host);
    tokio::time::timeout(Duration::from_secs(60), running)
        .await
        .expect("the stride ends")
        .expect("the batch run is there")
}

fn token(n: u64) -> Option<PageToken> {
    Some(PageToken::encode(&n).unwrap())
}

const STOP: StopSignal = StopSignal {
    stop: true,
    stop_now: false,
    cancelled: false,
    gone: false,
};
const STOP_NOW: StopSignal = StopSignal {
    stop: false,
    stop_now: true,
    cancelled: false,
    gone: false,
};
const CANCELLED: StopSignal = StopSignal {
    stop: false,
    stop_now: false,
    cancelled: true,
    gone: false,
};
const GONE: StopSignal = StopSignal {
    stop: true,
    stop_now: false,
    cancelled: false,
    gone: true,
};
const NOTHING: StopSignal = StopSignal {
    stop: false,
    stop_now: false,
    cancelled: false,
    gone: false,
};

#[tokio::test]
async fn only_full_pages_say_something_of_the_page_size_and_waits_say_nothing() {
    let numbers = Numbers::that(Does::Work, NOTHING);
    let host = Script {
        wait: Duration::from_millis(20),
        ..Script::of(&numbers)
    };
    let started = std::time::Instant::now();
    let report = run(&numbers, &host).await;
    let took = started.elapsed();
    let timing = report.timing;
    assert_eq!((timing.page_size, timing.pages, timing.items), (10, 3, 25));
    assert_eq!(timing.full_pages, 2);
    assert!(timing.full_slowest_ms <= timing.full_busy_ms);
    assert!(timing.full_busy_ms <= timing.busy_ms);
    let waited = *host.waited.lock().unwrap();
    assert!(waited >= Duration::from_millis(3 * 20));
    let busy = Duration::from_millis(timing.busy_ms);
    assert!(
        busy <= took - waited,
        "{busy:?} of {took:?}, {waited:?} waited"
    );
}

#[tokio::test]
async fn where_the_data_ends_it_is_cut_finer_but_not_below_what_is_worth_a_stride() {
    for (shortest, expected) in [(1, vec![16, 18, 20, 22, 24, 25]), (4, vec![16, 20, 24])] {
        let mut numbers = Numbers::that(Does::Work, NOTHING);
        numbers.skips_ahead = true;
        let host = Script::of(&numbers);
        let order = StrideOrder {
            end: None,
            pages: 16,
            page_size: 1,
            look_ahead: 50,
            time_limit: Some(Duration::from_secs(60)),
            min_pages_per_stride: shortest,
            ..order()
        };
        run_order(&numbers, &host, order).await;
        let announced = host.announced.lock().unwrap();
        let starts: Vec<u64> = announced.iter().map(|t| t.decode().unwrap()).collect();
        assert_eq!(starts, expected, "strides of at least {shortest} pages");
        assert_eq!(numbers.done(), 16);
    }
}

#[tokio::test]
async fn an_attempt_that_failed_is_in_no_timing() {
    let numbers = Numbers::that(Does::Fail, NOTHING);
    let report = run(&numbers, &Script::of(&numbers)).await;
    assert!(report.failure.is_some());
    assert_eq!((report.timing.page_size, report.timing.pages), (10, 0));
}

#[tokio::test]
async fn a_stride_that_is_stopped_before_its_first_page_has_done_nothing_and_has_not_failed() {
    for told in [STOP, STOP_NOW, CANCELLED, GONE] {
        let numbers = Numbers::that(Does::Work, NOTHING);
        let host = Script::of(&numbers);
        host.told.send_replace(told);
        let report = run(&numbers, &host).await;
        let expected = StrideReport {
            timing: report.timing,
            ..StrideReport::default()
        };
        assert_eq!(report, expected, "{told:?}");
        assert_eq!(numbers.fetched.load(Ordering::Relaxed), 0);
        assert_eq!(numbers.done(), 0);
    }
}

#[tokio::test]
async fn a_page_that_is_stopped_while_it_waits_is_not_in_the_report() {
    let numbers = Numbers::that(Does::Work, NOTHING);
    let host = Script {
        stop_at_rate: Some(2),
        ..Script::of(&numbers)
    };
    let report = run(&numbers, &host).await;
    assert_eq!(report.covered_to, token(10));
    assert_eq!((report.pages, report.items.processed), (1, 10));
    assert_eq!((report.failure, report.end_of_data), (None, false));
    assert_eq!(numbers.done(), 10);
    assert_eq!(host.events(|e| matches!(e, PageEvent::Stopped)), 1);
    assert_eq!(host.events(|e| matches!(e, PageEvent::Failed { .. })), 0);
}

#[tokio::test]
async fn told_at_its_boundary_a_page_knows_nothing_and_is_the_last() {
    let numbers = Numbers::that(Does::Work, STOP);
    let report = run(&numbers, &Script::of(&numbers)).await;
    assert_eq!((report.pages, report.failure), (1, None));
    assert_eq!(*numbers.saw_it.lock().unwrap(), [false]);
}

/// Tests each call in which the host can report that the batch run is gone.
#[tokio::test]
async fn a_stride_that_finds_its_batch_run_gone_stops_before_process() {
    for asked in [Asked::Announce, Asked::AcceptedEnd, Asked::StillCounts] {
        let numbers = Numbers::that(Does::Work, NOTHING);
        let host = Script {
            gone_at: Some(asked),
            ..Script::of(&numbers)
        };
        // The first page finds the start of the next stride.
        let open = StrideOrder {
            end: None,
            pages: 1,
            ..order()
        };
        let ended = run_stride(&numbers, &open, StrideReport::default(), &host).await;
        assert!(ended.is_none(), "{asked:?}");
        assert_eq!(numbers.done(), 0, "{asked:?}");
    }
}

/// Tests a batch run that is gone after the page was read.
#[tokio::test]
async fn a_page_whose_batch_run_is_gone_while_it_is_read_is_not_processed() {
    let numbers = Numbers::that(Does::Work, NOTHING);
    let host = Script {
        wait: Duration::from_millis(1),
        gone_while_waiting: true,
        ..Script::of(&numbers)
    };
    let report = run(&numbers, &host).await;
    assert_eq!((report.pages, report.failure), (0, None));
    assert_eq!(numbers.fetched.load(Ordering::Relaxed), 1);
    assert_eq!(numbers.done(), 0);
    assert_eq!(host.events(|e| matches!(e, PageEvent::Stopped)), 1);
}

/// Tests code that reacts in its own way, including an error that rules out a retry.
#[tokio::test]
async fn a_page_that_gives_up_because_it_was_told_to_has_not_failed() {
    for told in [STOP_NOW, CANCELLED, GONE] {
        let numbers = Numbers::that(Does::GiveUpWhenTold, told);
        let report = run(&numbers, &Script::of(&numbers)).await;
        assert_eq!((report.pages, report.failure), (0, None), "{told:?}");
        assert_eq!(*numbers.saw_it.lock().unwrap(), [true]);
    }
}

#[tokio::test]
async fn a_page_that_was_told_may_finish() {
    for told in [STOP_NOW, CANCELLED] {
        let numbers = Numbers::that(Does::Work, told);
        let report = run(&numbers, &Script::of(&numbers)).await;
        assert_eq!((report.pages, report.failure), (1, None), "{told:?}");
        assert_eq!(numbers.done(), 10);
    }
}

#[tokio::test]
async fn at_most_once_a_pause_does_not_touch_a_page_and_its_errors_count() {
    let at_most_once = |does, tells| Numbers {
        mode: RetryMode::AtMostOnce,
        ..Numbers::that(does, tells)
    };
    let numbers = at_most_once(Does::Work, STOP_NOW);
    let report = run(&numbers, &Script::of(&numbers)).await;
    assert_eq!((report.pages, report.failure), (1, None));
    assert_eq!(*numbers.saw_it.lock().unwrap(), [false]);

    for told in [STOP_NOW, CANCELLED] {
        let numbers = at_most_once(Does::Fail, told);
        let report = run(&numbers, &Script::of(&numbers)).await;
        assert!(report.failure.is_some(), "{told:?}");
    }
}

/// Tests errors that would not count otherwise, because the effects may have happened.
#[tokio::test]
async fn at_most_once_a_page_is_spent_when_its_process_has_begun() {
    for (does, error_type) in [
        (Does::FailInEnvironment, "Environment"),
        (Does::Misreport, "PageReportMismatch"),
    ] {
        let once = run_failing(&Numbers::at_most_once(does)).await;
        assert_eq!(once.error_type, error_type);
        assert!(!once.not_the_page && !once.retryable, "{once:?}");
        assert_eq!(once.page_end, token(10));
        let again = run_failing(&Numbers::that(does, NOTHING)).await;
        assert!(again.not_the_page && again.retryable, "{again:?}");
    }
}

/// Tests a page that other pages speak against, which would be split after any other error.
#[tokio::test]
async fn a_page_whose_environment_is_at_fault_is_neither_split_nor_given_up() {
    let letters = Store::down_for(0);
    let numbers = Numbers {
        letters: Some(letters.clone()),
        ..Numbers::that(Does::FailInEnvironment, NOTHING)
    };
    let order = StrideOrder {
        attempt: 9,
        attempts_allowed: Some(1),
        take_apart: true,
        ..order()
    };
    let report = run_order(&numbers, &Script::of(&numbers), order).await;
    assert_eq!((report.pages, report.pages_failed), (0, 0));
    let failure = report.failure.expect("the page fails");
    assert!(failure.not_the_page && failure.retryable, "{failure:?}");
    assert_eq!(numbers.fetched.load(Ordering::Relaxed), 1);
    assert!(letters.kept.lock().unwrap().is_empty());
}

async fn run_failing(numbers: &Numbers) -> FailedAttempt {
    let report = run(numbers, &Script::of(numbers)).await;
    report.failure.expect("the page fails")
}

/// Tests that the next activity only has to store the letter.
#[tokio::test]
async fn at_most_once_a_page_whose_letter_cannot_be_kept_comes_back_with_its_own_error() {
    let numbers = Numbers {
        letters: Some(Store::down_for(1)),
        ..Numbers::at_most_once(Does::FailInEnvironment)
    };
    let failure = run_failing(&numbers).await;
    assert_eq!(failure.error_type, "Environment");
    assert!(!failure.not_the_page && !failure.retryable, "{failure:?}");
    assert_eq!(failure.page_end, token(10));
}

fn giving_up(failure: FailedAttempt, failed: u32, lost: u32) -> StrideOrder {
    StrideOrder {
        give_up: Some(GiveUp {
            failure,
            failed,
            lost,
        }),
        ..order()
    }
}

fn lost() -> FailedAttempt {
    FailedAttempt::lost("WorkerLost".to_owned(), "made to be lost")
}

#[tokio::test]
async fn a_page_that_is_given_up_is_read_unless_that_has_cost_a_worker_or_its_end_is_known() {
    use RetryMode::{AtLeastOnce, AtMostOnce};
    let known = FailedAttempt {
        page_end: token(5),
        ..lost()
    };
    let failed = FailedAttempt {
        lost: false,
        ..lost()
    };
    for (mode, order, reads, end) in [
        (AtLeastOnce, giving_up(lost(), 0, 0), 1, 10),
        (AtLeastOnce, giving_up(lost(), 9, 0), 1, 10),
        (AtLeastOnce, giving_up(lost(), 10, 0), 0, 10),
        (AtLeastOnce, giving_up(lost(), 1, 1), 0, 10),
        (AtLeastOnce, giving_up(lost(), 2, 2), 0, 25),
        (AtLeastOnce, giving_up(known.clone(), 0, 0), 0, 5),
        (AtMostOnce, giving_up(known, 0, 0), 0, 5),
        (AtMostOnce, giving_up(failed, 0, 0), 1, 10),
        (AtMostOnce, giving_up(lost(), 0, 0), 0, 25),
    ] {
        let numbers = Numbers {
            letters: Some(Store::down_for(0)),
            skips_ahead: true,
            mode,
            ..Numbers::that(Does::Work, NOTHING)
        };
        let report = run_order(&numbers, &Script::of(&numbers), order.clone()).await;
        let given_up = order.give_up;
        assert_eq!(report.covered_to, token(end), "{mode:?} {given_up:?}");
        assert_eq!((report.pages, report.pages_failed), (0, 1));
        assert_eq!(numbers.fetched.load(Ordering::Relaxed), reads);
        assert_eq!(numbers.done(), 0);
    }
}

/// Tests a source that cannot jump, where only reading tells the start of the next page.
#[tokio::test]
async fn a_page_without_a_known_end_is_read_until_six_workers_are_lost_over_it() {
    for (workers_lost, read) in [(0, true), (1, true), (2, true), (5, true), (6, false)] {
        let numbers = Numbers {
            letters: Some(Store::down_for(0)),
            ..Numbers::that(Does::Work, NOTHING)
        };
        let order = StrideOrder {
            end: None,
            ..giving_up(lost(), workers_lost, workers_lost)
        };
        let report = run_order(&numbers, &Script::of(&numbers), order).await;
        assert_eq!(report.covered_to.is_some(), read, "{workers_lost}");
        let stops = report.failure.is_some_and(|failure| failure.coverage_stops);
        assert_eq!(stops, !read, "{workers_lost}");
        assert_eq!(numbers.fetched.load(Ordering::Relaxed), u32::from(read));
    }
}

#[tokio::test]
async fn a_page_that_is_given_up_and_cannot_be_read_for_a_while_is_given_up_later() {
    let lost_connection = || PageError::retryable("made to fail").with_type("ConnectionLost");
    let no_connection = || PageError::environment("made to fail");
    let errors: [(fn() -> PageError, _); 2] = [(lost_connection, false), (no_connection, true)];
    for (error, not_the_page, workers_lost) in errors
        .into_iter()
        .flat_map(|(error, not_the_page)| [0, 1].map(|lost| (error, not_the_page, lost)))
    {
        let numbers = Numbers {
            letters: Some(Store::down_for(0)),
            reading_fails: Some(error),
            ..Numbers::that(Does::Work, NOTHING)
        };
        let order = StrideOrder {
            end: None,
            ..giving_up(lost(), workers_lost, workers_lost)
        };
        let report = run_order(&numbers, &Script::of(&numbers), order).await;
        let failure = report.failure.expect("it is not put aside");
        assert!(failure.retryable && !failure.coverage_stops, "{failure:?}");
        assert_eq!(failure.not_the_page, not_the_page);
    }
}

/// Tests that the controller always knows what a lost worker may have done.
#[tokio::test]
async fn at_most_once_no_page_is_processed_before_the_controller_knows_where_it_ends() {
    for skips_ahead in [true, false] {
        let numbers = Numbers {
            skips_ahead,
            ..Numbers::at_most_once(Does::Work)
        };
        let host = Script::of(&numbers);
        let order = StrideOrder {
            end: None,
            pages: 100,
            look_ahead: 1,
            ..order()
        };
        let report = run_order(&numbers, &host, order).await;
        let end = token(10);
        assert_eq!(*host.announced.lock().unwrap(), [end.clone().unwrap()]);
        assert_eq!((report.pages, report.covered_to), (1, end));
    }
}

#[tokio::test]
async fn a_fetch_is_dropped_by_a_pause_at_once() {
    for mode in [RetryMode::AtLeastOnce, RetryMode::AtMostOnce] {
        let numbers = Numbers {
            hangs_in_fetch: true,
            mode,
            ..Numbers::that(Does::Work, STOP_NOW)
        };
        let report = run(&numbers, &Script::of(&numbers)).await;
        assert_eq!((report.pages, report.failure), (0, None));
    }
}

/// Tests that a page without a ledger is never cut off, because its effects may be done in part.
#[tokio::test]
async fn without_a_ledger_process_is_not_dropped() {
    let numbers = Numbers::that(Does::Hang, STOP_NOW);
    let host = Script::of(&numbers);
    let order = order();
    let running = run_stride(&numbers, &order, StrideReport::default(), &host);
    let ended = tokio::time::timeout(Duration::from_millis(50), running).await;
    assert!(ended.is_err());
    assert_eq!(*numbers.saw_it.lock().unwrap(), [true]);
}

#[tokio::test]
async fn the_page_that_runs_is_known() {
    let numbers = Numbers::that(Does::Work, NOTHING);
    let host = Script::of(&numbers);
    let before = Timestamp::from(std::time::SystemTime::now());
    run(&numbers, &host).await;
    let pages = host.pages.lock().unwrap();
    let begun: Vec<_> = pages.iter().flatten().collect();
    let starts: Vec<_> = begun.iter().map(|page| page.start.clone()).collect();
    assert_eq!(starts, [None, token(10), token(20)]);
    assert!(begun.iter().all(|p| p.attempt == 1 && p.since >= before));
    assert_eq!(pages.last(), Some(&None), "nothing runs any more");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_line_of_user_code_says_which_page_and_which_attempt() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone())
        .finish();
    // With only one subscriber, `tracing` asks the first thread that reaches a line whether it is enabled, and
    // caches the answer. That thread may belong to another test without a subscriber.
    let _another = tracing::Dispatch::new(
        tracing_subscriber::fmt()
            .with_writer(std::io::sink)
            .finish(),
    );
    let guard = tracing::subscriber::set_default(subscriber);
    let numbers = Numbers::that(Does::Work, NOTHING);
    run(&numbers, &Script::of(&numbers)).await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let pages: Vec<_> = lines
        .filter(|line| line["fields"]["message"] == "from user code")
        .map(|line| {
            (
                line["span"]["page"].clone(),
                line["span"]["attempt"].clone(),
            )
        })
        .collect();
    let expected = ["beginning", "10", "20"].map(|page| (page.into(), 1.into()));
    assert_eq!(pages, expected);
}

/// Counts every read, so that nothing known is read again.
#[tokio::test]
async fn a_record_that_cannot_be_read_is_found_by_halves_and_the_rest_of_its_page_is_read_at_once()
{
    // Reads of the page: 10 items, 5, 2, 1, and the remaining 7. A record breaks three connections before it is
    // blamed.
    for (unreadable, end, error_type, reads) in [
        (13, 25, "NotANumber", 7),
        (13, 25, "ConnectionLost", 9),
        // If the range ends before the page would, nothing is read after it.
        (22, 22, "NotANumber", 7),
    ] {
        let store = Store::down_for(0);
        let numbers = Numbers {
            letters: Some(Arc::clone(&store)),
            unreadable: Some((unreadable, error_type)),
            skips_ahead: true,
            ..Numbers::that(Does::Work, NOTHING)
        };
        let order = StrideOrder {
            end: token(end),
            attempts_allowed: Some(1),
            ..order()
        };
        let report = run_order(&numbers, &Script::of(&numbers), order).await;
        assert_eq!((report.failure, report.covered_to), (None, token(end)));
        let done = ItemCounts {
            processed: end - 1,
            failed: 1,
            ..ItemCounts::default()
        };
        assert_eq!(report.items, done);
        let kept = store.kept.lock().unwrap();
        let keys: Vec<_> = kept.iter().map(|letter| letter.key.clone()).collect();
        assert_eq!(keys, [Some(unreadable.to_string())]);
        let read = numbers.fetched.load(Ordering::Relaxed);
        assert_eq!(read, reads, "{unreadable} up to {end}: {error_type}");
    }
}

#[tokio::test]
async fn a_stride_tells_of_its_failures_before_the_page_that_would_be_too_much() {
    let tolerance = |items| StrideTolerance {
        tolerance: Tolerance::new().items(Limit::count(items)),
        tally: Tally::default(),
        strides: 1,
    };
    for (tolerated, pages) in [(Some(0), 1), (Some(1), 2), (Some(2), 3), (None, 3)] {
        let numbers = Numbers::that(Does::FailItems, NOTHING);
        let order = StrideOrder {
            tolerance: tolerated.map(tolerance),
            ..order()
        };
        let report = run_order(&numbers, &Script::of(&numbers), order).await;
        assert_eq!((report.pages, report.failure), (pages, None));
        assert_eq!(report.items.failed, u64::from(pages));
    }
}
