//! The pace of the calls of one API, derived from its answers. Pure: times are arguments, counted from a fixed moment.
//!
//! | the API says | the pace |
//! |---|---|
//! | wait: `Retry-After` with 429 or 503 | no call starts before that time |
//! | how many calls are left until a reset | no more calls start before the reset, those in flight included |
//! | 429 | calls start more slowly than the API has accepted them, and gradually faster again, until the next 429 |
//!
//! Each 429 shows the quota, and costs a call and a wait. The costlier it is, the longer the time until the next one.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::VecDeque, time::Duration};

/// The fraction of the accepted rate with which calls continue after a refusal.
const CUT: f64 = 0.97;
/// The fraction after another refusal within [`AGAIN`], which means that the quota has become much smaller.
const DEEP_CUT: f64 = 0.8;
const AGAIN: Duration = Duration::from_secs(1);
/// Time in which the rate returns to the refused one. Then it grows beyond it, slowly at first.
const RECOVERY: Duration = Duration::from_secs(2);
/// The growth beyond the refused rate: by this fraction at first, e times as much after each [`GROWTH_TIME`].
const GROWTH: f64 = 0.02;
const GROWTH_TIME: f64 = 0.8;
/// The wait after a refusal, in seconds, up to which these times hold. A longer wait lengthens them in proportion, and
/// so does a rate at which few calls are made in that time.
const CHEAP_WAIT: f64 = 0.3;
const CALLS_BETWEEN: f64 = 80.0;
/// The most that the times are lengthened by.
const MOST_PATIENCE: f64 = 60.0;
/// The time over which accepted calls are counted.
const MEASURED: Duration = Duration::from_secs(1);
/// The wait after a refusal that names none.
const SHORT_WAIT: Duration = Duration::from_millis(100);
/// The time by which calls may be late and still keep their places.
const LATE: Duration = Duration::from_millis(50);
const SLOWEST: f64 = 0.1;
/// Time without a refusal after which calls are no longer limited.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The pace of calls.
#[derive(Debug, Default)]
pub(super) struct Pace {
    hold_until: Duration,
    window: Option<Window>,
    limit: Option<Limit>,
    /// The start of the next call under the limit.
    next_slot: Duration,
    in_flight: u64,
    accepted: VecDeque<Duration>,
}

/// The calls that are left before the API counts again from zero.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    left: u64,
    until: Duration,
}

/// The limit since the last refusal.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// The rate that was too much, in calls per second.
    refused: f64,
    /// The fraction of it with which calls continued.
    cut: f64,
    /// The end of the wait after the refusal.
    since: Duration,
    /// The factor by which recovery and growth take longer.
    patience: f64,
}

impl Limit {
    fn rate(&self, now: Duration) -> f64 {
        let since = now.saturating_sub(self.since).as_secs_f64();
        let recovery = RECOVERY.as_secs_f64() * self.patience;
        let factor = if since < recovery {
            self.cut + (1.0 - self.cut) * since / recovery
        } else {
            let growing = (since - recovery) / (GROWTH_TIME * self.patience);
            1.0 + GROWTH * growing.exp_m1()
        };
        (self.refused * factor).max(SLOWEST)
    }
}

/// The advice of an answer; see [`advice`](super::wait_header::advice).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Advice {
    /// The time to wait before any further call.
    pub wait: Option<Duration>,
    /// The number of calls that are left, and the time until the API counts from zero again.
    pub left: Option<(u64, Duration)>,
}

impl Pace {
    /// Returns how long a call has to wait; zero if it may start. Under a limit the answer zero reserves a place.
    pub fn wait(&mut self, now: Duration) -> Duration {
        let held = self.held(now);
        if !held.is_zero() {
            return held;
        }
        let Some(limit) = self.limit else {
            return Duration::ZERO;
        };
        if now.saturating_sub(limit.since) > FORGET_AFTER.mul_f64(limit.patience) {
            self.limit = None;
            return Duration::ZERO;
        }
        if self.next_slot > now {
            return self.next_slot - now;
        }
        let step = Duration::from_secs_f64(1.0 / limit.rate(now));
        // Timers that fire late must not slow the calls down, and a pause must not allow a burst.
        let behind = now.saturating_sub(self.next_slot) < step.max(LATE);
        let from = if behind { self.next_slot } else { now };
        self.next_slot = from + step;
        Duration::ZERO
    }

    /// Returns the time for which no call may start at all.
    pub fn held(&mut self, now: Duration) -> Duration {
        self.window = self.window.filter(|window| window.until > now);
        let used_up = self.window.filter(|window| window.left == 0);
        let until = used_up.map_or(Duration::ZERO, |window| window.until);
        self.hold_until.max(until).saturating_sub(now)
    }

    /// Counts a call that starts.
    pub fn starts(&mut self) {
        self.in_flight += 1;
        if let Some(window) = &mut self.window {
            window.left = window.left.saturating_sub(1);
        }
    }

    /// Counts a call that ended without an answer.
    pub fn lost(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Takes note of an answer to a call that began at `started`. `refused` means that it came too early.
    pub fn answered(&mut self, started: Duration, now: Duration, refused: bool, advice: Advice) {
        self.lost();
        if let Some((left, reset)) = advice.left {
            let until = now + reset;
            let left = left.saturating_sub(self.in_flight);
            // Answers may arrive in another order than they were made in.
            let known = self.window.filter(|known| known.until > now);
            let left = known.map_or(left, |known| match known.until + AGAIN < until {
                true => left,
                false => known.left.min(left),
            });
            self.window = Some(Window { left, until });
        }
        if let Some(wait) = advice.wait {
            self.hold_until = self.hold_until.max(now + wait);
        }
        if !refused {
            self.accepted.push_back(now);
            self.forget(now);
            return;
        }
        if advice.wait.is_none() {
            self.hold_until = self.hold_until.max(now + SHORT_WAIT);
        }
        self.cut(started, now);
    }

    fn forget(&mut self, now: Duration) {
        while let Some(first) = self.accepted.front()
            && now.saturating_sub(*first) > MEASURED
        {
            self.accepted.pop_front();
        }
    }

    fn cut(&mut self, started: Duration, now: Duration) {
        if let Some(limit) = self.limit
            && started < limit.since
        {
            // The call belongs to the rate that was lowered already.
            return;
        }
        self.forget(now);
        let accepted = self.accepted.len() as f64 / MEASURED.as_secs_f64();
        let (refused, cut) = match self.limit {
            None => (accepted.max(1.0), CUT),
            Some(limit) => {
                let rate = limit.rate(now);
                let again = now.saturating_sub(limit.since) < AGAIN;
                // After a hold, few calls were accepted because few were made.
                let refused = rate.min(accepted.max(rate / 2.0));
                (refused, if again { DEEP_CUT } else { CUT })
            }
        };
        let since = self.hold_until.max(now);
        // Refusals in quick succession mean that the quota is not found yet.
        let found = self
            .limit
            .is_some_and(|limit| now.saturating_sub(limit.since) >= MEASURED);
        let cost = (since - now).as_secs_f64() / CHEAP_WAIT;
        let patience = cost.max(CALLS_BETWEEN / refused);
        self.limit = Some(Limit {
            refused,
            cut,
            since,
            patience: match found {
                true => patience.clamp(1.0, MOST_PATIENCE),
                false => 1.0,
            },
        });
        self.next_slot = since;
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Tells how many calls a second an API allows at a time, in seconds.
    type Quota = fn(f64) -> f64;

    /// An API that accepts calls at a rate that it does not tell, and a tenth of a second of it at once.
    struct Hidden {
        quota: Quota,
        ready: f64,
        at: Duration,
    }

    impl Hidden {
        fn accepts(&mut self, now: Duration) -> bool {
            let quota = (self.quota)(now.as_secs_f64());
            let earned = quota * (now - self.at).as_secs_f64();
            self.ready = (self.ready + earned).min(quota / 10.0);
            self.at = now;
            let accepts = self.ready >= 1.0;
            if accepts {
                self.ready -= 1.0;
            }
            accepts
        }
    }

    /// Latencies from 10 to 30 ms, which a seed determines.
    struct Latencies(u64);

    impl Latencies {
        fn next(&mut self) -> Duration {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
            self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
            MILLI * 10 + Duration::from_micros((self.0 >> 33) % 20_000)
        }
    }

    /// Runs calls for six minutes, 50 in flight. `asks` is the wait that a refusal names. Returns the share of the calls that
    /// were refused, and the share of the quota that was used while the API did not ask to wait.
    fn run(quota: Quota, asks: Option<f64>, seed: u64) -> (f64, f64) {
        let mut api = Hidden {
            quota,
            ready: 0.0,
            at: Duration::ZERO,
        };
        let mut latencies = Latencies(seed);
        let mut pace = Pace::default();
        let mut flying: BinaryHeap<Reverse<(Duration, Duration, bool)>> = BinaryHeap::new();
        let (mut accepted, mut refused, mut allowed) = (0.0, 0.0, 0.0);
        let mut now = Duration::ZERO;
        while now < secs(360.0) {
            while let Some(Reverse((ends, started, accepts))) = flying.peek().copied()
                && ends <= now
            {
                flying.pop();
                let wait = asks.filter(|_| !accepts).map(secs);
                pace.answered(started, now, !accepts, Advice { wait, left: None });
            }
            while flying.len() < 50 && pace.wait(now).is_zero() {
                pace.starts();
                let accepts = api.accepts(now);
                if accepts {
                    accepted += 1.0;
                } else {
                    refused += 1.0;
                }
                flying.push(Reverse((now + latencies.next(), now, accepts)));
            }
            if asks.is_none() || pace.held(now).is_zero() {
                allowed += quota(now.as_secs_f64()) * 0.001;
            }
            now += MILLI;
        }
        (refused / (accepted + refused), accepted / allowed)
    }

    const STEADY: Quota = |_| 200.0;
    const UP: Quota = |at| if at < 120.0 { 100.0 } else { 300.0 };
    const DOWN: Quota = |at| if at < 120.0 { 300.0 } else { 100.0 };
    const UP_AND_DOWN: Quota = |at| match at as u64 / 60 % 4 {
        0 => 200.0,
        1 => 100.0,
        2 => 150.0,
        _ => 300.0,
    };
    const SAW: Quota = |at| 100.0 + 200.0 * (at / 60.0).fract();
    const FALLING_SAW: Quota = |at| 300.0 - 200.0 * (at / 60.0).fract();
    const SMALL: Quota = |at| if at < 120.0 { 20.0 } else { 40.0 };

    fn is_found_and_followed(shapes: &[(&str, Quota)], asks: Option<f64>) {
        for (shape, quota) in shapes {
            for seed in 1..=3 {
                let (refused, used) = run(*quota, asks, seed);
                let (refused, used) = (refused * 100.0, used * 100.0);
                let seen = format!(
                    "{shape}, wait {asks:?}, seed {seed}: {refused:.2} % refused, {used:.1} % used"
                );
                println!("{seen}");
                assert!(refused <= 1.0 && used >= 90.0, "{seen}");
            }
        }
    }

    #[test]
    fn a_hidden_quota_is_found_and_followed() {
        let shapes = [
            ("steady", STEADY),
            ("step up", UP),
            ("step down", DOWN),
            ("up and down", UP_AND_DOWN),
            ("saw", SAW),
            ("falling saw", FALLING_SAW),
            ("small", SMALL),
        ];
        is_found_and_followed(&shapes, None);
    }

    #[test]
    fn a_hidden_quota_is_found_although_each_refusal_costs_a_second() {
        // A quota that falls all the time costs a wait every few seconds, so the falling saw is not among them.
        let shapes = [
            ("steady", STEADY),
            ("step up", UP),
            ("step down", DOWN),
            ("up and down", UP_AND_DOWN),
            ("saw", SAW),
            ("small", SMALL),
        ];
        is_found_and_followed(&shapes, Some(1.0));
    }

    #[test]
    fn without_refusals_nothing_is_limited() {
        let mut pace = Pace::default();
        for n in 0..1_000 {
            assert_eq!(pace.wait(MILLI * n), Duration::ZERO);
            pace.starts();
            pace.answered(MILLI * n, MILLI * n, false, Advice::default());
        }
    }

    #[test]
    fn a_wait_that_is_asked_for_holds_every_call() {
        let mut pace = Pace::default();
        pace.starts();
        let advice = Advice {
            wait: Some(secs(30.0)),
            left: None,
        };
        pace.answered(Duration::ZERO, secs(1.0), true, advice);
        assert_eq!(pace.wait(secs(1.0)), secs(30.0));
        assert_eq!(pace.wait(secs(30.0)), secs(1.0));
        assert_eq!(pace.wait(secs(31.0)), Duration::ZERO);
    }

    #[test]
    fn calls_end_before_the_quota_does_and_continue_after_the_reset() {
        let mut pace = Pace::default();
        for _ in 0..4 {
            pace.starts();
        }
        let advice = Advice {
            wait: None,
            left: Some((5, secs(10.0))),
        };
        // Three more are in flight, which use up three of the five.
        pace.answered(Duration::ZERO, secs(1.0), false, advice);
        for _ in 0..2 {
            assert_eq!(pace.wait(secs(1.0)), Duration::ZERO);
            pace.starts();
        }
        assert_eq!(pace.wait(secs(1.0)), secs(10.0));
        assert_eq!(pace.wait(secs(11.0)), Duration::ZERO);
    }

    #[test]
    fn refusals_of_one_moment_lower_the_rate_once() {
        let mut pace = Pace::default();
        let now = secs(1.0);
        for _ in 0..100 {
            pace.starts();
            pace.answered(MILLI, now, false, Advice::default());
        }
        let mut refused = |at: Duration| {
            pace.starts();
            pace.answered(now, at, true, Advice::default());
            pace.limit.unwrap().since
        };
        let first = now + MILLI + SHORT_WAIT;
        assert_eq!(refused(now + MILLI), first);
        for later in 2..10 {
            assert_eq!(refused(now + MILLI * later), first);
        }
    }

    proptest! {
        #[test]
        fn a_hold_is_never_shortened_and_always_ends(
            waits in prop::collection::vec((0u64..10_000, 0u64..60_000, any::<bool>()), 1..20),
        ) {
            let mut pace = Pace::default();
            let (mut now, mut longest) = (Duration::ZERO, Duration::ZERO);
            for (passes, wait, refused) in waits {
                now += MILLI * passes as u32;
                pace.starts();
                let wait = MILLI * wait as u32;
                longest = longest.max(now + wait);
                let advice = Advice { wait: Some(wait), left: None };
                pace.answered(now, now, refused, advice);
                prop_assert_eq!(pace.held(now), longest - now);
            }
            prop_assert_eq!(pace.held(longest), Duration::ZERO);
        }
    }
}
