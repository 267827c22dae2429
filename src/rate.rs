//! Keeps a stride to its share of the batch's rate.

use std::{num::NonZeroU32, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Permits are taken in portions of a tenth of a second, so that a fast share does not wake up for
/// every item.
const PORTIONS_PER_SECOND: f64 = 10.0;

/// Lets items through at a share of the rate, without a burst at the start.
///
/// A page of n items waits until n permits have been earned, so it keeps its slot for at least
/// n / share seconds. In any window of w seconds a stride therefore starts at most share x w items plus
/// one page.
pub(crate) struct RateShare {
    limiter: DefaultDirectRateLimiter,
    portion: NonZeroU32,
}

impl RateShare {
    /// `items_per_second` must be positive and finite, which the batch has checked.
    pub fn new(items_per_second: f64) -> Self {
        let portion = (items_per_second / PORTIONS_PER_SECOND).clamp(1.0, 1_000_000.0) as u32;
        let portion = NonZeroU32::new(portion).unwrap_or(NonZeroU32::MIN);
        // governor counts periods in nanoseconds and refuses a period of zero.
        let period = Duration::from_secs_f64((1.0 / items_per_second).clamp(1e-9, 1e9));
        let quota = Quota::with_period(period)
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MAX))
            .allow_burst(portion);
        let limiter = RateLimiter::direct(quota);
        // A limiter starts with a full burst; ours has to be earned.
        let _ = limiter.check_n(portion);
        Self { limiter, portion }
    }

    /// Waits until `items` permits are earned.
    pub async fn take(&self, items: usize) {
        let mut left = u32::try_from(items).unwrap_or(u32::MAX);
        while let Some(n) = NonZeroU32::new(left.min(self.portion.get())) {
            // The portion is the burst, so it always fits.
            if self.limiter.until_n_ready(n).await.is_err() {
                return;
            }
            left -= n.get();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_page_waits_until_its_items_are_earned() {
        for (rate, items) in [(1_000.0, 100), (20.0, 2), (3.0, 1), (1e6, 50_000)] {
            let share = RateShare::new(rate);
            let started = Instant::now();
            share.take(items).await;
            let earned = started.elapsed().as_secs_f64() * rate;
            assert!(earned >= items as f64 * 0.98, "{rate}: {earned} < {items}");
        }
    }
}
