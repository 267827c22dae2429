//! Item-by-item work on a page: permits of the rate, and retries of one item.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;

use crate::{
    base::{error::PageError, text::exactly},
    batch::retry::RetryMode,
};

/// The way in which a processor takes permits for its items, if the batch has a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permits {
    /// A page takes the permits of all its items before it is processed. In any window of w seconds, work
    /// begins on at most rate × w items plus one page for each page in flight.
    #[default]
    PerPage,
    /// `process` takes a permit for each item, with [`PageContext::permit`](crate::PageContext::permit) or
    /// [`PageContext::try_item`](crate::PageContext::try_item). In any window of w seconds at most rate × w
    /// permits are granted, plus one for each page in flight. If `process` takes no permits, the page pays for
    /// its processed items when it ends.
    PerItem,
}

/// The attempts at one item within its page before the item is given up; see
/// [`PageContext::try_item`](crate::PageContext::try_item).
///
/// | setting | default | allowed |
/// |---|---|---|
/// | attempts | 1: an item is tried once | 1 to 100 |
/// | `first_backoff`, before the second attempt | 200 ms | up to 1 h |
/// | `max_backoff`; each wait doubles, up to this | 5 s | `first_backoff` to 1 h |
///
/// ```
/// use std::time::Duration;
/// use temporal_batch::{settings::ItemRetry, ProcessorSettings};
///
/// let settings = ProcessorSettings {
///     item_retry: ItemRetry::attempts(4).first_backoff(Duration::from_millis(100)),
///     ..ProcessorSettings::default()
/// };
/// assert_eq!(settings.validate(), Ok(()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ItemRetry {
    attempts: u32,
    first_backoff: Duration,
    max_backoff: Duration,
}

impl Default for ItemRetry {
    fn default() -> Self {
        Self::attempts(1)
    }
}

const MOST_ATTEMPTS: u32 = 100;
const LONGEST_BACKOFF: Duration = Duration::from_secs(3_600);

impl ItemRetry {
    /// Sets the number of attempts at each item, including the first. It is checked when the processor is
    /// registered.
    pub fn attempts(attempts: u32) -> Self {
        Self {
            attempts,
            first_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
        }
    }

    /// Sets the wait before the second attempt.
    pub fn first_backoff(mut self, wait: Duration) -> Self {
        self.first_backoff = wait;
        self.max_backoff = self.max_backoff.max(wait);
        self
    }

    /// Sets the longest wait between two attempts. A [waiting time of the error itself](PageError::retry_after)
    /// may exceed it.
    pub fn max_backoff(mut self, wait: Duration) -> Self {
        self.max_backoff = wait;
        self
    }

    /// Checks the attempts and the waits, for a processor with this retry mode.
    ///
    /// # Errors
    /// The first setting that is wrong, with the allowed values.
    pub fn validate(&self, mode: RetryMode) -> Result<(), InvalidItemRetry> {
        if !(1..=MOST_ATTEMPTS).contains(&self.attempts) {
            return Err(InvalidItemRetry::Attempts {
                given: self.attempts,
            });
        }
        if self.attempts > 1 && mode == RetryMode::AtMostOnce {
            return Err(InvalidItemRetry::AtMostOnce);
        }
        if self.max_backoff > LONGEST_BACKOFF || self.first_backoff > self.max_backoff {
            return Err(InvalidItemRetry::Backoff {
                first: self.first_backoff,
                max: self.max_backoff,
            });
        }
        Ok(())
    }

    /// Returns the wait after this many failed attempts. `None` after the last attempt.
    pub(crate) fn wait_after(&self, attempts: u32) -> Option<Duration> {
        if attempts >= self.attempts {
            return None;
        }
        let doubled = 1u32.checked_shl(attempts.saturating_sub(1));
        let wait = doubled.and_then(|factor| self.first_backoff.checked_mul(factor));
        Some(wait.map_or(self.max_backoff, |wait| wait.min(self.max_backoff)))
    }
}

/// An [`ItemRetry`] that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidItemRetry {
    /// The number of attempts is out of range.
    #[error("an item has {given} attempts; it must be 1 to {MOST_ATTEMPTS}")]
    Attempts {
        /// The number that was given.
        given: u32,
    },
    /// Items would be retried although the retry mode is `AtMostOnce`.
    #[error("items are tried again, but the retry mode is AtMostOnce; give an item 1 attempt")]
    AtMostOnce,
    /// The waits are out of range.
    #[error(
        "the first backoff of an item is {} and the longest {}; the longest must be from the first to {}",
        exactly(*first), exactly(*max), exactly(LONGEST_BACKOFF)
    )]
    Backoff {
        /// The first wait.
        first: Duration,
        /// The longest wait.
        max: Duration,
    },
}

/// The environment of an item: permits and waits.
#[async_trait]
pub(crate) trait ItemHost: Send + Sync {
    /// Waits until one more item may start.
    async fn permit(&self);
    /// Waits before an item is retried.
    async fn back_off(&self, wait: Duration);
    /// Takes note of the items of the page that are done.
    fn marks(&self, _done: usize, _of: usize) {}
}

/// A host without a rate, in which waits take no time.
pub(crate) struct Timeless;

#[async_trait]
impl ItemHost for Timeless {
    async fn permit(&self) {}
    async fn back_off(&self, _wait: Duration) {}
}

/// The items of one page, while it is processed.
pub(crate) struct ItemWork {
    host: Arc<dyn ItemHost>,
    terms: ItemTerms,
    clock: WorkClock,
    permits_taken: AtomicU64,
    /// The number of items of the page.
    count: usize,
    /// The number of them that an earlier attempt did.
    done_before: usize,
}

/// The settings of a processor for its items.
#[derive(Clone, Debug, Default)]
pub(crate) struct ItemTerms {
    pub permits: Permits,
    pub retry: ItemRetry,
    pub non_retryable: Arc<[String]>,
}

impl ItemWork {
    /// Creates the items of one page, whose work may take `limit`, not counting waits for permits.
    pub fn new(host: Arc<dyn ItemHost>, terms: ItemTerms, limit: Duration) -> Self {
        Self {
            host,
            terms,
            clock: WorkClock::new(limit),
            permits_taken: AtomicU64::new(0),
            count: 0,
            done_before: 0,
        }
    }

    /// Sets the number of items, and the number of those that an earlier attempt did.
    pub fn of_page(mut self, count: usize, done_before: usize) -> Self {
        (self.count, self.done_before) = (count, done_before);
        if done_before > 0 {
            self.host.marks(done_before, count);
        }
        self
    }

    pub fn done_before(&self) -> usize {
        self.done_before
    }

    /// Takes note of the items that are done.
    pub fn marks(&self, done: usize) {
        self.host.marks(done.min(self.count), self.count);
    }

    /// Returns the items of a context without a page.
    pub fn none() -> Arc<Self> {
        let terms = ItemTerms::default();
        Arc::new(Self::new(Arc::new(Timeless), terms, Duration::MAX))
    }

    pub fn clock(&self) -> &WorkClock {
        &self.clock
    }

    /// Returns the number of items for which a page still owes permits after processing `processed` items.
    pub fn unpaid(&self, processed: u64) -> u64 {
        let took_none = self.permits_taken.load(Ordering::Relaxed) == 0;
        match self.terms.permits {
            Permits::PerItem if took_none => processed,
            Permits::PerItem | Permits::PerPage => 0,
        }
    }

    /// Returns the retry of the settings.
    pub fn retry(&self) -> ItemRetry {
        self.terms.retry
    }

    pub async fn permit(&self) {
        if self.terms.permits == Permits::PerItem {
            let _waiting = self.clock.waits();
            self.host.permit().await;
            self.permits_taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for something that is not part of the page's time.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "for calls of an API")
    )]
    pub async fn beside(&self, wait: impl Future<Output = ()>) {
        let _waiting = self.clock.waits();
        wait.await;
    }

    /// Returns the wait before the next attempt at an item that has failed this many times. `None` if no attempt is
    /// left, or if the wait would exceed the time of the page.
    pub fn next_try(&self, retry: ItemRetry, attempts: u32, error: &PageError) -> Option<Duration> {
        let wait = retry.wait_after(attempts)?;
        if error.is_final(&self.terms.non_retryable) {
            return None;
        }
        let wait = error.delay().unwrap_or(wait);
        (wait < self.clock.left()).then_some(wait)
    }

    pub async fn back_off(&self, wait: Duration) {
        self.host.back_off(wait).await;
    }
}

/// The precision with which a page's time limit is kept.
const TICK: Duration = Duration::from_millis(5);

/// The remaining working time of a page, which does not run while items wait for permits.
pub(crate) struct WorkClock {
    limit: Duration,
    since: Instant,
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    /// The number of items that are waiting.
    waiting: u32,
    /// The time since which at least one item waits.
    since: Option<Instant>,
    over: Duration,
}

impl WorkClock {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: Instant::now(),
            waits: Mutex::default(),
        }
    }

    /// Returns the total time in which items have waited for permits.
    pub fn waited(&self) -> Duration {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.over + waits.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub fn left(&self) -> Duration {
        let busy = self.since.elapsed().saturating_sub(self.waited());
        self.limit.saturating_sub(busy)
    }

    /// Runs the work within the time limit. `None` if it took too long.
    pub async fn limits<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let left = self.left();
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                // The timer is at least as long as its resolution, since the limit moves while an item waits
                // for a permit.
                () = tokio::time::sleep(left.max(TICK)) => {
                    if self.left().is_zero() {
                        return None;
                    }
                }
            }
        }
    }

    fn waits(&self) -> Waiting<'_> {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.waiting += 1;
        waits.since.get_or_insert_with(Instant::now);
        Waiting(self)
    }
}

/// An item that is waiting for its permit.
struct Waiting<'a>(&'a WorkClock);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.0.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.waiting -= 1;
        if waits.waiting == 0
            && let Some(since) = waits.since.take()
        {
            waits.over += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::Batch,
        page::Page,
        processor::{
            PageProcessor, context::PageContext, report::PageReport, settings::ProcessorSettings,
        },
        testing::{Simulator, run_page},
    };

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_longest_and_end_with_the_attempts() {
        let retry = ItemRetry::attempts(6)
            .first_backoff(SECOND)
            .max_backoff(SECOND * 5);
        let waits: Vec<_> = (1..=6).map(|n| retry.wait_after(n)).collect();
        let seconds = |n: u32| Some(SECOND * n);
        let expected = [1, 2, 4, 5, 5].map(seconds);
        assert_eq!(waits[..5], expected);
        assert_eq!(waits[5], None);
        assert_eq!(ItemRetry::attempts(100).wait_after(99), Some(SECOND * 5));
        assert_eq!(ItemRetry::default().wait_after(1), None, "once by default");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let once = RetryMode::AtLeastOnce;
        let message = |retry: ItemRetry, mode| retry.validate(mode).unwrap_err().to_string();
        assert!(message(ItemRetry::attempts(0), once).contains("1 to 100"));
        assert!(message(ItemRetry::attempts(101), once).contains("1 to 100"));
        let long = ItemRetry::attempts(2).first_backoff(SECOND * 3_601);
        assert!(message(long, once).contains("to 1h"));
        let short = ItemRetry::attempts(2).max_backoff(SECOND / 10);
        assert!(message(short, once).contains("from the first"));
        let again = message(ItemRetry::attempts(2), RetryMode::AtMostOnce);
        assert!(again.contains("AtMostOnce"), "{again}");
        assert_eq!(ItemRetry::default().validate(RetryMode::AtMostOnce), Ok(()));
    }

    fn work(retry: ItemRetry, limit: Duration) -> ItemWork {
        let terms = ItemTerms {
            permits: Permits::PerItem,
            retry,
            non_retryable: vec!["Gone".to_owned()].into(),
        };
        ItemWork::new(Arc::new(SlowPermits), terms, limit)
    }

    /// Permits that take longer than the page may.
    struct SlowPermits;

    const PERMIT: Duration = Duration::from_millis(1_500);

    #[async_trait]
    impl ItemHost for SlowPermits {
        async fn permit(&self) {
            tokio::time::sleep(PERMIT).await;
        }
        async fn back_off(&self, wait: Duration) {
            tokio::time::sleep(wait).await;
        }
    }

    #[test]
    fn an_item_is_not_tried_again_for_longer_than_its_page_may_take() {
        let retry = ItemRetry::attempts(3).first_backoff(SECOND);
        let work = work(retry, SECOND * 100);
        let failed = PageError::retryable("500");
        assert_eq!(work.next_try(retry, 1, &failed), Some(SECOND));
        assert_eq!(work.next_try(retry, 3, &failed), None);
        let asked = PageError::retry_after(SECOND * 4, "429");
        assert_eq!(work.next_try(retry, 1, &asked), Some(SECOND * 4));
        let long = PageError::retry_after(SECOND * 101, "429");
        assert_eq!(work.next_try(retry, 1, &long), None);
        for never in [
            PageError::non_retryable("Refused", "422"),
            PageError::retryable("410").with_type("Gone"),
        ] {
            assert_eq!(work.next_try(retry, 1, &never), None);
        }
    }

    #[tokio::test]
    async fn waits_for_permits_are_not_part_of_the_time_of_a_page() {
        let work = work(ItemRetry::default(), SECOND);
        // Several concurrent waits count once.
        let page = async { tokio::join!(work.permit(), work.permit()) };
        assert!(work.clock().limits(page).await.is_some());
        let waited = work.clock().waited();
        assert!(waited >= PERMIT, "{waited:?}");
        let hangs = work.clock().limits(std::future::pending::<()>());
        assert_eq!(hangs.await, None);
        assert_eq!(work.clock().waited(), waited);
    }

    #[tokio::test]
    async fn a_page_that_takes_no_permit_pays_for_all_of_its_items() {
        let work = work(ItemRetry::default(), SECOND * 10);
        assert_eq!(work.unpaid(7), 7);
        work.permit().await;
        assert_eq!(work.unpaid(7), 0);
        assert_eq!(ItemWork::none().unpaid(7), 0);
    }

    /// An API that fails the first two times for every third number.
    struct Fickle {
        calls: AtomicU64,
        attempts: u32,
    }

    #[async_trait]
    impl PageProcessor for Fickle {
        const NAME: &'static str = "fickle";
        type Args = ();
        type Cursor = u64;
        type Item = u64;

        async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
            let first = ctx.range().start().copied().unwrap_or(0) + 1;
            let last = ctx.range().end().copied().unwrap_or(30);
            Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)
        }

        async fn process(
            &self,
            ctx: &PageContext<Self>,
            items: Vec<u64>,
        ) -> Result<PageReport, PageError> {
            let page = ctx.page().expect("it is processed");
            assert_eq!(page.end(), items.last());
            let mut report = PageReport::all_processed();
            for (position, number) in items.into_iter().enumerate() {
                let mut times = 0;
                let called = ctx.try_item(|| {
                    times += 1;
                    self.calls.fetch_add(1, Ordering::Relaxed);
                    let fails = number % 3 == 0 && times < 3;
                    async move {
                        match fails {
                            true => Err(PageError::retryable("500").with_type("ServerError")),
                            false => Ok(()),
                        }
                    }
                });
                if let Err(error) = called.await? {
                    report.fail(position, error.error_type(), error.message());
                }
            }
            Ok(report)
        }

        fn settings(&self) -> ProcessorSettings {
            ProcessorSettings {
                permits: Permits::PerItem,
                // Without a server, waits take no time.
                item_retry: ItemRetry::attempts(self.attempts).first_backoff(SECOND * 250),
                ..ProcessorSettings::default()
            }
        }
    }

    #[tokio::test]
    async fn without_a_server_items_are_tried_again_at_once() {
        let calls = AtomicU64::new(0);
        let fickle = Fickle { calls, attempts: 3 };
        let page = run_page(&fickle, (), None).await.unwrap();
        assert_eq!((page.counts.processed, page.counts.failed), (30, 0));
        assert_eq!(fickle.calls.swap(0, Ordering::Relaxed), 50);
        let batch = Batch::of::<Fickle>("fickle", ()).page_size(10).rate(1.0);
        let simulator = Simulator::new().stop_before_every(2);
        let run = simulator.run(&fickle, &batch).await.unwrap();
        assert_eq!((run.items.processed, run.retries), (30, 0));
        let once = Fickle {
            calls: AtomicU64::new(0),
            attempts: 1,
        };
        let run = Simulator::new().run(&once, &batch).await.unwrap();
        assert_eq!((run.items.processed, run.items.failed), (20, 10));
    }
}
