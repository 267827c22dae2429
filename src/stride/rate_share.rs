//! The share of a stride in the batch's rate, enforced page by page or item by item.

use std::{
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::decisions::pacing::Earned;

/// Maximum wait of a page, however small its share is. It also keeps governor's arithmetic within its types.
const LONGEST_WAIT_SECONDS: f64 = 1e9;

/// The threshold for a page that was held up; see [`RateShare`].
const HELD_UP: f64 = 2.0;

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Limits items or pages to a share of a rate.
///
/// The share begins with the permits that the controller gives it, at most one page. A page takes all of its
/// permits at once, when they have been earned. Unused permits accumulate up to one page, so in any window of w
/// seconds at most share × w items plus one page are admitted. If a page is one item, the share is enforced
/// item by item.
///
/// A page earns permits for the next one while it runs; otherwise its running time would be lost for the rate.
/// A page that was held up for longer than [`HELD_UP`] times the time to earn a page forfeits them
/// ([`page_took`](Self::page_took)). This prevents a burst after many pages were held up together.
///
/// A page with more items than the page size takes its permits in portions.
///
/// Owed permits are earned before a page gets any, except for the permits with which the share begins.
pub(crate) struct RateShare<C: Clock = DefaultClock> {
    bucket: Mutex<Bucket<C>>,
    quota: Quota,
    clock: C,
}

struct Bucket<C: Clock> {
    limiter: Limiter<C>,
    owed: u32,
    /// True until the permits that were given in advance are taken. Owed permits are earned only after that.
    in_advance: bool,
}

impl RateShare {
    /// Creates a share of `per_second`, of which a page takes at most `per_page` at once. The share must be
    /// positive and finite, which the batch has already checked.
    pub fn new(per_second: f64, per_page: u32, earned: Earned) -> Self {
        Self::with_clock(per_second, per_page, earned, DefaultClock::default())
    }
}

impl<C: Clock + Clone> RateShare<C> {
    pub fn with_clock(per_second: f64, per_page: u32, earned: Earned, clock: C) -> Self {
        let per_page = NonZeroU32::new(per_page).unwrap_or(NonZeroU32::MIN);
        let longest = LONGEST_WAIT_SECONDS / f64::from(per_page.get());
        // The period is in whole nanoseconds, rounded up so that the rate is never exceeded.
        let nanos = ((1.0 / per_second).min(longest) * 1e9).ceil().max(1.0);
        let quota = Quota::with_period(Duration::from_nanos(nanos as u64))
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MAX))
            .allow_burst(per_page);
        let Earned { ready, owed } = earned;
        Self {
            bucket: Mutex::new(Bucket {
                limiter: holding(ready, quota, &clock),
                owed,
                in_advance: ready > 0 && owed > 0,
            }),
            quota,
            clock,
        }
    }

    /// Records the running time of a page.
    pub fn page_took(&self, took: Duration) {
        let to_earn_a_page = self.quota.replenish_interval().as_secs_f64()
            * f64::from(self.quota.burst_size().get());
        if took.as_secs_f64() <= to_earn_a_page * HELD_UP {
            return;
        }
        self.bucket().limiter = holding(0, self.quota, &self.clock);
    }

    /// Takes all earned permits and returns their number, which is negative if more are owed. Also returns
    /// whether the permits given in advance are still unused.
    pub fn take_rest(&self) -> (f64, bool) {
        let mut bucket = self.bucket();
        let most = self.quota.burst_size();
        let all = f64::from(most.get());
        let rest = match bucket.limiter.check_n(most) {
            Ok(Ok(())) => all,
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(self.clock.now()).as_secs_f64();
                all - wait / self.quota.replenish_interval().as_secs_f64()
            }
            Err(_) => 0.0,
        };
        bucket.limiter = holding(0, self.quota, &self.clock);
        let owed = std::mem::take(&mut bucket.owed);
        (rest.clamp(0.0, all) - f64::from(owed), bucket.in_advance)
    }

    /// Waits until this many permits are earned, and takes them. If dropped before that, it has taken none,
    /// unless more permits were requested than a page may have.
    pub async fn take(&self, permits: usize) {
        self.take_with(permits, tokio::time::sleep).await;
    }

    /// Like [`take`](Self::take), by a clock with a `sleep` of its own.
    pub async fn take_with<F: Future<Output = ()>>(
        &self,
        permits: usize,
        sleep: impl Fn(Duration) -> F,
    ) {
        let mut left = u32::try_from(permits).unwrap_or(u32::MAX);
        while let Some(n) = NonZeroU32::new(left.min(self.quota.burst_size().get())) {
            match self.try_take(n) {
                Ok(()) => left -= n.get(),
                Err(wait) => sleep(wait).await,
            }
        }
    }

    /// Takes all of the permits, or returns how long to wait for them, or for owed permits before them.
    fn try_take(&self, permits: NonZeroU32) -> Result<(), Duration> {
        let mut bucket = self.bucket();
        while let Some(owed) = NonZeroU32::new(bucket.owed.min(self.quota.burst_size().get()))
            && !bucket.in_advance
        {
            self.check(&bucket.limiter, owed)?;
            bucket.owed -= owed.get();
        }
        self.check(&bucket.limiter, permits)?;
        bucket.in_advance = false;
        Ok(())
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket<C>> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, limiter: &Limiter<C>, permits: NonZeroU32) -> Result<(), Duration> {
        match limiter.check_n(permits) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
            // The number exceeds the burst size, which callers never request.
            Err(_) => Err(Duration::from_secs_f64(LONGEST_WAIT_SECONDS)),
        }
    }
}

/// Creates a limiter with `ready` permits. A new limiter is full, so the others are taken out first.
fn holding<C: Clock + Clone>(ready: u32, quota: Quota, clock: &C) -> Limiter<C> {
    let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
    if let Some(missing) = NonZeroU32::new(quota.burst_size().get().saturating_sub(ready)) {
        let _ = limiter.check_n(missing);
    }
    limiter
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    type Fake = RateShare<FakeRelativeClock>;

    fn ready(ready: u32) -> Earned {
        Earned { ready, owed: 0 }
    }

    /// Advances the clock until the permits are available.
    fn take(share: &Fake, clock: &FakeRelativeClock, permits: u32) {
        let mut left = permits;
        while let Some(n) = NonZeroU32::new(left.min(share.quota.burst_size().get())) {
            match share.try_take(n) {
                Ok(()) => left -= n.get(),
                Err(wait) => clock.advance(wait.max(Duration::from_nanos(1))),
            }
        }
    }

    fn seconds(clock: &FakeRelativeClock) -> f64 {
        Duration::from_nanos(clock.now().as_u64()).as_secs_f64()
    }

    /// Shares from one in a thousand seconds to a million per second.
    fn shares() -> impl Strategy<Value = f64> {
        (-3.0..6.0f64).prop_map(|exponent| 10f64.powf(exponent))
    }

    /// Asserts the bound for any window, over all its pages but the first, which may have been held up.
    fn assert_bounded(
        pages: &[(f64, u32, bool)],
        share: f64,
        page: u32,
    ) -> Result<(), TestCaseError> {
        for first in 0..pages.len() {
            let (since, _, held_up) = pages[first];
            let mut items = 0.0;
            for (n, (at, more, _)) in pages[first + 1..].iter().enumerate() {
                items += f64::from(*more);
                let earned = if held_up && n == 0 { 0 } else { page };
                let allowed = share * (at - since) + f64::from(earned);
                prop_assert!(
                    items <= allowed * (1.0 + 1e-6) + 1e-6,
                    "{items} > {allowed} after {since} s"
                );
            }
        }
        Ok(())
    }

    proptest! {
        /// Tests arbitrary pauses between pages, some of them long enough to earn several pages.
        #[test]
        fn in_any_window_at_most_the_share_and_one_page_are_let_through(
            share in shares(),
            page in 1u32..1_000,
            pages in prop::collection::vec((0.01..1.0f64, 0.0..3.0f64), 1..30),
        ) {
            let clock = FakeRelativeClock::default();
            let limit = Fake::with_clock(share, page, ready(0), clock.clone());
            let mut let_through = Vec::new();
            for (part, pause) in pages {
                // The pause is given as a multiple of the time to earn a page.
                clock.advance(Duration::from_secs_f64(f64::from(page) / share * pause));
                let items = (f64::from(page) * part).ceil() as u32;
                take(&limit, &clock, items);
                let_through.push((seconds(&clock), items));
            }
            for first in 0..let_through.len() {
                let mut items = 0.0;
                for (at, more) in &let_through[first..] {
                    items += f64::from(*more);
                    let allowed = share * (at - let_through[first].0) + f64::from(page);
                    prop_assert!(items <= allowed * (1.0 + 1e-9) + 1e-6, "{items} > {allowed}");
                }
            }
        }

        /// Tests the bound counted at the end of pages, where all effects of a page may happen: one page more.
        /// After a long hold-up, permits earned in the meantime do not follow at once.
        #[test]
        fn counted_at_the_end_of_pages_it_is_one_page_more_but_not_after_a_hold_up(
            share in shares(),
            page in 1u32..1_000,
            pages in prop::collection::vec((0.01..2.0f64, 0.0..3.0f64, 0.0..3.0f64), 1..30),
        ) {
            let clock = FakeRelativeClock::default();
            let limit = Fake::with_clock(share, page, ready(0), clock.clone());
            let to_earn_a_page = f64::from(page) / share;
            let mut ended = Vec::new();
            for (part, reads, runs) in pages {
                clock.advance(Duration::from_secs_f64(to_earn_a_page * reads));
                // Some pages have more items than the page size.
                let items = (f64::from(page) * part).ceil() as u32;
                take(&limit, &clock, items);
                let took = Duration::from_secs_f64(to_earn_a_page * runs);
                clock.advance(took);
                limit.page_took(took);
                ended.push((seconds(&clock), items, runs > HELD_UP * 1.001));
            }
            assert_bounded(&ended, share, page)?;
        }

        #[test]
        fn a_share_is_used_in_full_by_whoever_waits_for_it(
            share in shares(),
            page in 1u32..1_000,
            pages in 1u32..20,
        ) {
            let clock = FakeRelativeClock::default();
            let limit = Fake::with_clock(share, page, ready(0), clock.clone());
            for _ in 0..pages {
                take(&limit, &clock, page);
            }
            let expected = f64::from(page * pages) / share;
            // Governor counts in nanoseconds.
            let rounding = f64::from(page * pages + pages) * 1e-9;
            let took = seconds(&clock);
            prop_assert!(took >= expected * (1.0 - 1e-9) && took <= expected + rounding,
                "{took} s instead of {expected} s");
        }
    }

    proptest! {
        /// Tests a stride that returns its earned permits to the controller, with which the next one begins. No
        /// permit is lost or doubled, and the bound is that of one continuous stride.
        #[test]
        fn what_is_handed_on_is_neither_lost_nor_doubled(
            share in shares(),
            page in 1u32..1_000,
            turns in prop::collection::vec((0.01..1.0f64, 0.0..3.0f64), 1..30),
        ) {
            let clock = FakeRelativeClock::default();
            let mut let_through = vec![(0.0, 0)];
            let mut kept = f64::from(page);
            for (part, pause) in turns {
                let has = kept.min(f64::from(page)).floor();
                let limit = Fake::with_clock(share, page, ready(has as u32), clock.clone());
                clock.advance(Duration::from_secs_f64(f64::from(page) / share * pause));
                let items = (f64::from(page) * part).ceil() as u32;
                take(&limit, &clock, items);
                let_through.push((seconds(&clock), items));
                let (rest, _) = limit.take_rest();
                prop_assert!(rest <= f64::from(page));
                prop_assert!(limit.try_take(NonZeroU32::MIN).is_err(), "it was handed on");
                // A fraction of a permit is lost when all slots are taken.
                kept = rest;
            }
            for first in 0..let_through.len() {
                let mut items = 0.0;
                for (at, more) in &let_through[first..] {
                    items += f64::from(*more);
                    let allowed = share * (at - let_through[first].0) + f64::from(page);
                    prop_assert!(items <= allowed * (1.0 + 1e-6) + 1e-6, "{items} > {allowed}");
                }
            }
        }

        /// Tests the bound item by item: in any window from the first call on, share × w calls plus one.
        #[test]
        fn item_by_item_there_is_no_burst(
            share in shares(),
            begins_with in 0u32..2,
            pauses in prop::collection::vec(0.0..3.0f64, 2..40),
        ) {
            let clock = FakeRelativeClock::default();
            let limit = Fake::with_clock(share, 1, ready(begins_with), clock.clone());
            let mut calls = Vec::new();
            for pause in pauses {
                take(&limit, &clock, 1);
                calls.push(seconds(&clock));
                clock.advance(Duration::from_secs_f64(pause / share));
            }
            prop_assert!(begins_with == 0 || calls[0] == 0.0, "the first call waits {} s", calls[0]);
            for first in 0..calls.len() {
                for last in first..calls.len() {
                    let allowed = share * (calls[last] - calls[first]) + 2.0;
                    let made = (last - first + 1) as f64;
                    prop_assert!(made <= allowed * (1.0 + 1e-6), "{made} > {allowed}");
                }
            }
        }
    }

    #[test]
    fn a_first_page_that_is_ready_begins_at_once() {
        let clock = FakeRelativeClock::default();
        let limit = Fake::with_clock(20.0, 1_000, ready(1_000), clock.clone());
        take(&limit, &clock, 1_000);
        assert_eq!(seconds(&clock), 0.0);
        take(&limit, &clock, 1_000);
        assert!(
            (49.0..51.0).contains(&seconds(&clock)),
            "{}",
            seconds(&clock)
        );
    }

    fn assert_near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 0.01, "{value}, not {expected}");
    }

    #[test]
    fn what_a_first_page_owes_is_earned_before_the_second_one() {
        let clock = FakeRelativeClock::default();
        let (ready, owed) = (1_000, 1_000);
        let limit = Fake::with_clock(20.0, 1_000, Earned { ready, owed }, clock.clone());
        take(&limit, &clock, 400);
        assert_near(seconds(&clock), 0.0);
        // 600 of the ready permits are left, and 400 more are earned for the owed ones.
        take(&limit, &clock, 1_000);
        assert_near(seconds(&clock), 70.0);
        take(&limit, &clock, 1_000);
        assert_near(seconds(&clock), 120.0);
    }

    #[test]
    fn a_stride_that_comes_back_before_it_has_paid_says_how_much_is_owed() {
        let clock = FakeRelativeClock::default();
        let (ready, owed) = (1_000, 1_000);
        let limit = Fake::with_clock(20.0, 1_000, Earned { ready, owed }, clock.clone());
        take(&limit, &clock, 1_000);
        clock.advance(Duration::from_secs(10));
        let (rest, untouched) = limit.take_rest();
        assert_near(rest, -800.0);
        assert!(!untouched);
        let next = Fake::with_clock(
            20.0,
            1_000,
            Earned {
                ready: 0,
                owed: 800,
            },
            clock.clone(),
        );
        take(&next, &clock, 1_000);
        assert_near(seconds(&clock), 100.0);
    }

    #[test]
    fn a_stride_that_comes_back_before_its_first_page_says_so() {
        for (owed, untouched) in [(1_000, true), (0, false)] {
            let clock = FakeRelativeClock::default();
            let ready = 1_000;
            let limit = Fake::with_clock(20.0, 1_000, Earned { ready, owed }, clock);
            let (rest, said) = limit.take_rest();
            assert_near(rest, f64::from(ready - owed));
            assert_eq!(said, untouched);
        }
    }

    #[test]
    fn the_largest_page_at_the_smallest_share_can_be_waited_for() {
        let clock = FakeRelativeClock::default();
        let limit = Fake::with_clock(f64::MIN_POSITIVE, 1_000_000, ready(0), clock.clone());
        take(&limit, &clock, 1_000_000);
        take(&limit, &clock, 1_000_000);
        assert!(seconds(&clock) >= 2e9 * 0.99, "{}", seconds(&clock));
    }

    #[tokio::test]
    async fn a_page_waits_until_its_items_are_earned() {
        for (rate, items) in [(1_000.0, 100), (20.0, 2), (3.0, 1), (1e6, 50_000)] {
            let share = RateShare::new(rate, 1_000, ready(0));
            let started = Instant::now();
            share.take(items).await;
            let earned = started.elapsed().as_secs_f64() * rate;
            assert!(earned >= items as f64 * 0.98, "{rate}: {earned} < {items}");
        }
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_has_taken_nothing() {
        let share = RateShare::new(100.0, 10, ready(0));
        let started = Instant::now();
        let never = tokio::time::timeout(Duration::from_millis(5), share.take(10)).await;
        assert!(never.is_err(), "ten take a tenth of a second");
        tokio::time::sleep(Duration::from_millis(100)).await;
        // All permits are still there.
        let all = NonZeroU32::new(10).unwrap();
        assert_eq!(share.try_take(all), Ok(()), "after {:?}", started.elapsed());
    }
}
