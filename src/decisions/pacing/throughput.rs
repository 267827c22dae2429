//! The measured speed of a batch, and the estimate of the time left.

use serde::{Deserialize, Serialize};

use super::running_time::RunningTime;
use crate::{base::time::Timestamp, progress::TimeLeft};

/// The shortest time, in milliseconds, that a rate is computed from. A shorter one gives a rate by chance.
const YOUNGEST: u64 = 2_000;
/// The time that [`Throughput::per_second`] looks back on.
const MINUTE: u64 = 60_000;
/// The time that is remembered.
const MEMORY: u64 = 600_000;
/// The resolution with which the last minute is remembered.
const FINE: u64 = 5_000;
/// The resolution with which older times are remembered.
const COARSE: u64 = 30_000;
/// Windows whose rates are compared. A longer one is taken where pages are too slow for a shorter one.
const WINDOWS: [u64; 5] = [30_000, 60_000, 120_000, 300_000, MEMORY];

/// The number of items that were done, over the running time of the last ten minutes.
///
/// Items are reported when their page is done, so between two reports they are taken to have been done
/// evenly. Time in which the batch is halted does not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Throughput {
    clock: RunningTime,
    /// Running time in milliseconds and the items done by then: where counting began, then each rise,
    /// thinned out. At most 40.
    rises: Vec<(u64, u64)>,
}

impl Throughput {
    /// Records the number of items done since the batch run began. The count begins with the first call,
    /// so it should come with the beginning of the batch run. A lower number restarts the count. A call after a halt
    /// means that the batch is running again, so a halted batch that still receives reports must be halted again.
    pub fn record(&mut self, now: Timestamp, items_total: u64) {
        let Some(&(_, last)) = self.rises.last() else {
            return self.begin(now, items_total);
        };
        if items_total < last {
            return self.begin(now, items_total);
        }
        self.clock.go(now);
        if items_total > last {
            self.rises.push((self.clock.millis(now), items_total));
            self.thin_out();
        }
    }

    /// Halts the count from now on. Repeated calls do no harm.
    pub fn halt(&mut self, now: Timestamp) {
        if !self.rises.is_empty() {
            self.clock.halt(now);
        }
    }

    /// Items per second over the last minute, or since the beginning where that is later. Earlier halts are
    /// left out; one that lasts counts, so that the rate falls to nothing. `None` for the first 2 s.
    pub fn per_second(&self, now: Timestamp) -> Option<f64> {
        let ran = self.clock.millis(now);
        let stands = self.clock.stands(now);
        let age = ran.saturating_add(stands);
        if self.rises.is_empty() || age < YOUNGEST {
            return None;
        }
        let runs = MINUTE.saturating_sub(stands);
        let items = self.items(ran.saturating_sub(runs), ran);
        Some(items * 1_000.0 / age.min(MINUTE) as f64)
    }

    /// Estimates the time left, from the fastest and slowest rates of the last ten minutes without extremes. The
    /// range is wider if there is little data. `None` if no items are being done, and for the first 2 s.
    pub fn time_left(&self, now: Timestamp, items_left: u64) -> Option<TimeLeft> {
        if items_left == 0 {
            return Some(TimeLeft {
                at_least: 0.0,
                at_most: 0.0,
            });
        }
        let Rates { slow, fast } = self.rates(self.clock.millis(now))?;
        Some(TimeLeft {
            at_least: items_left as f64 / fast,
            at_most: items_left as f64 / slow,
        })
    }

    fn begin(&mut self, now: Timestamp, items_total: u64) {
        self.clock = RunningTime::begin(now);
        self.rises = vec![(0, items_total)];
    }

    /// Keeps the last rise of each bucket, and one from before what is remembered.
    fn thin_out(&mut self) {
        let latest = self.rises.last().map_or(0, |(at, _)| *at);
        let bucket = |at: u64| {
            // Rounded up, so that the beginning is alone in its bucket.
            if latest - at <= MINUTE {
                (FINE, at.div_ceil(FINE))
            } else {
                (COARSE, at.div_ceil(COARSE))
            }
        };
        let forgotten = latest.saturating_sub(MEMORY);
        let outside = self.rises.iter().filter(|(at, _)| *at <= forgotten).count();
        self.rises.drain(..outside.saturating_sub(1));
        // `dedup_by` keeps the first of equals, here the last.
        self.rises.reverse();
        self.rises
            .dedup_by(|(a, _), (b, _)| bucket(*a) == bucket(*b));
        self.rises.reverse();
    }

    /// Items per second, none of them zero.
    fn rates(&self, ran: u64) -> Option<Rates> {
        if ran < YOUNGEST {
            return None;
        }
        let (last_rise, _) = *self.rises.last()?;
        for window in WINDOWS {
            // A silence shorter than a window comes from a page that is not done yet.
            let silent = ran.saturating_sub(last_rise);
            let end = if silent < window { last_rise } else { ran };
            let windows = end.min(MEMORY) / window;
            let mut rates: Vec<f64> = (0..windows)
                .map(|n| self.rate(end - (n + 1) * window, end - n * window))
                .collect();
            rates.sort_by(f64::total_cmp);
            if let Some(rates) = Rates::typical(&rates) {
                return Some(rates);
            }
        }
        Rates::typical(&[self.rate(ran.saturating_sub(MEMORY), ran)])
    }

    fn rate(&self, from: u64, to: u64) -> f64 {
        self.items(from, to) * 1_000.0 / (to - from) as f64
    }

    /// Items that were done between these, in milliseconds of running time.
    fn items(&self, from: u64, to: u64) -> f64 {
        (self.items_by(to) - self.items_by(from)).max(0.0)
    }

    /// Returns the items done by then, since the first remembered rise.
    fn items_by(&self, at: u64) -> f64 {
        let Some(&(_, none)) = self.rises.first() else {
            return 0.0;
        };
        let after = self.rises.partition_point(|(rise, _)| *rise <= at);
        let known = |n: usize| {
            let (at, items) = self.rises[n];
            (at, (items - none) as f64)
        };
        if after == 0 {
            return 0.0;
        }
        let (before_at, before) = known(after - 1);
        if after == self.rises.len() {
            return before;
        }
        let (next_at, next) = known(after);
        let share = (at - before_at) as f64 / (next_at - before_at) as f64;
        before + (next - before) * share
    }
}

/// The slowest and the fastest rate that is likely, in items per second; both positive.
struct Rates {
    slow: f64,
    fast: f64,
}

impl Rates {
    /// The 10th and the 90th percentile of sorted rates, further apart the fewer there are.
    fn typical(rates: &[f64]) -> Option<Self> {
        let last = rates.len().checked_sub(1)?;
        let left_out = last / 10;
        let widen = 1.0 + 1.0 / rates.len() as f64;
        let slow = rates[left_out] / widen;
        let fast = rates[last - left_out] * widen;
        (slow > 0.0).then_some(Self { slow, fast })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const BEGIN: Timestamp = Timestamp(1_700_000_000_000);
    const MOST: usize = 40;

    fn at(millis: u64) -> Timestamp {
        BEGIN.plus(Duration::from_millis(millis))
    }

    /// Pages of so many items, one every so many milliseconds.
    fn steady(items: u64, every: u64, until: u64) -> Throughput {
        let mut throughput = Throughput::default();
        throughput.record(BEGIN, 0);
        for page in 1..=until / every {
            throughput.record(at(page * every), page * items);
        }
        throughput
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= b * 1e-9
    }

    #[test]
    fn steady_progress_is_exact_at_every_age() {
        let mut throughput = steady(10, 100, 0);
        for page in 1..=9_000 {
            let now = at(page * 100);
            throughput.record(now, page * 10);
            if let Some(rate) = throughput.per_second(now) {
                assert!(near(rate, 100.0), "{page}: {rate}");
            } else {
                assert!(page < 20, "{page}");
            }
        }
    }

    #[test]
    fn the_first_two_seconds_say_nothing() {
        let mut throughput = Throughput::default();
        assert_eq!(throughput.per_second(at(60_000)), None);
        assert_eq!(throughput.time_left(at(60_000), 10), None);
        throughput.record(BEGIN, 0);
        throughput.record(at(1_000), 100);
        assert_eq!(throughput.per_second(at(1_999)), None);
        assert_eq!(throughput.time_left(at(1_999), 10), None);
        assert_eq!(throughput.per_second(at(2_000)), Some(50.0));
        assert!(throughput.time_left(at(2_000), 10).is_some());
    }

    #[test]
    fn what_was_done_before_counting_began_does_not_count() {
        let mut throughput = Throughput::default();
        throughput.record(BEGIN, 1_000_000);
        throughput.record(at(10_000), 1_000_100);
        assert_eq!(throughput.per_second(at(10_000)), Some(10.0));
    }

    #[test]
    fn only_the_last_minute_makes_the_rate() {
        let mut throughput = steady(1_000, 1_000, 300_000);
        for second in 301..=360 {
            throughput.record(at(second * 1_000), 300_000 + (second - 300) * 10);
        }
        assert_eq!(throughput.per_second(at(360_000)), Some(10.0));
        assert_eq!(throughput.per_second(at(420_000)), Some(0.0));
    }

    #[test]
    fn a_batch_that_has_stood_for_ten_minutes_has_no_time_left() {
        let throughput = steady(10, 1_000, 100_000);
        assert!(throughput.time_left(at(100_000), 1).is_some());
        assert!(throughput.time_left(at(690_000), 1).is_some());
        assert_eq!(throughput.time_left(at(700_000), 1), None);
        assert_eq!(steady(10, 1_000, 0).time_left(at(50_000), 1), None);
        let nothing = TimeLeft {
            at_least: 0.0,
            at_most: 0.0,
        };
        assert_eq!(throughput.time_left(at(700_000), 0), Some(nothing));
    }

    #[test]
    fn a_change_of_speed_is_inside_of_the_interval() {
        let mut throughput = steady(100, 1_000, 300_000);
        for second in 301..=600 {
            throughput.record(at(second * 1_000), 30_000 + (second - 300) * 20);
        }
        let left = throughput.time_left(at(600_000), 10_000).unwrap();
        assert!(left.at_least < 100.0 && left.at_least > 80.0, "{left:?}");
        assert!(left.at_most > 500.0 && left.at_most < 600.0, "{left:?}");
    }

    #[test]
    fn one_slow_and_one_fast_moment_leave_the_interval_alone() {
        let mut throughput = steady(100, 1_000, 300_000);
        let mut total = 30_000;
        for second in 301..=600 {
            total += match second {
                331..=360 => 1,
                391..=420 => 10_000,
                _ => 100,
            };
            throughput.record(at(second * 1_000), total);
        }
        let even = steady(100, 1_000, 600_000).time_left(at(600_000), 10_000);
        let left = throughput.time_left(at(600_000), 10_000);
        assert_eq!(left, even);
    }

    #[test]
    fn silence_makes_the_interval_wider_and_wider() {
        let throughput = steady(100, 1_000, 300_000);
        let at_most = [300, 400, 500, 600].map(|second| {
            let left = throughput.time_left(at(second * 1_000), 10_000).unwrap();
            left.at_most
        });
        assert!(at_most.is_sorted(), "{at_most:?}");
        assert!(at_most[3] > at_most[0] * 1.5, "{at_most:?}");
    }

    #[test]
    fn a_long_pause_lets_the_rate_fall_and_leaves_the_time_alone() {
        let mut throughput = steady(100, 1_000, 300_000);
        let before = throughput.time_left(at(300_000), 10_000);
        throughput.halt(at(300_000));
        assert_eq!(throughput.per_second(at(330_000)), Some(50.0));
        assert_eq!(throughput.per_second(at(360_000)), Some(0.0));
        assert_eq!(throughput.time_left(at(9_000_000), 10_000), before);
        throughput.record(at(9_000_000), 30_000);
        assert_eq!(throughput.per_second(at(9_000_000)), Some(100.0));
        assert_eq!(throughput.time_left(at(9_000_000), 10_000), before);
    }

    #[test]
    fn another_batch_run_begins_anew() {
        let mut throughput = steady(1_000, 1_000, 300_000);
        throughput.record(at(301_000), 7);
        let mut fresh = Throughput::default();
        fresh.record(at(301_000), 7);
        assert_eq!(throughput, fresh);
    }

    #[test]
    fn a_record_is_a_few_hundred_bytes() {
        let json = serde_json::to_string(&steady(1_000_000, 500, 3_600_000)).unwrap();
        assert!(json.len() < 1_000, "{} {json}", json.len());
    }

    /// Generates events: milliseconds that pass, items that are added, and whether the batch then halts.
    fn events() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
        let wait = prop_oneof![0u64..50, 0u64..5_000, 0u64..200_000];
        let items = prop_oneof![Just(0), 0u64..10, 0u64..10_000_000_000];
        prop::collection::vec((wait, items, prop::bool::weighted(0.1)), 0..200)
    }

    /// Lets the events happen and looks after each.
    fn happen(events: &[(u64, u64, bool)], mut look: impl FnMut(&mut Throughput, u64, u64)) {
        let mut throughput = Throughput::default();
        throughput.record(BEGIN, 0);
        let (mut now, mut total) = (0, 0);
        for (wait, items, halts) in events {
            now += wait;
            total += items;
            throughput.record(at(now), total);
            if *halts {
                throughput.halt(at(now));
            }
            look(&mut throughput, now, total);
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_grow_or_say_nonsense(events in events(), left in any::<u64>()) {
            let mut failure = None;
            happen(&events, |throughput, now, _| {
                let mut fine = throughput.rises.len() <= MOST;
                fine &= throughput.rises.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
                for later in [0, 1, 40_000, 400_000] {
                    let now = at(now + later);
                    let rate = throughput.per_second(now).unwrap_or(0.0);
                    fine &= rate.is_finite() && rate >= 0.0;
                    if let Some(left) = throughput.time_left(now, left) {
                        fine &= left.at_least.is_finite() && left.at_most.is_finite();
                        fine &= left.at_least >= 0.0 && left.at_least <= left.at_most;
                    }
                }
                if !fine {
                    failure = Some((now, throughput.clone()));
                }
            });
            prop_assert_eq!(failure, None);
        }

        #[test]
        fn the_rate_is_between_the_slowest_and_the_fastest_of_the_minute(events in events()) {
            let mut failure = None;
            happen(&events, |throughput, now, _| {
                throughput.clock.go(at(now));
                let ran = throughput.clock.millis(at(now));
                let begin = ran.saturating_sub(MINUTE);
                let mut edges: Vec<u64> = throughput.rises.iter().map(|(at, _)| *at).collect();
                edges.extend([begin, ran]);
                edges.retain(|edge| *edge >= begin);
                edges.sort_unstable();
                edges.dedup();
                let rates: Vec<f64> = edges.windows(2).map(|e| throughput.rate(e[0], e[1])).collect();
                let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
                let fastest = rates.iter().copied().fold(0.0, f64::max);
                if let Some(rate) = throughput.per_second(at(now)) {
                    let inside = rate >= slowest * (1.0 - 1e-9) && rate <= fastest * (1.0 + 1e-9);
                    if !inside {
                        failure = Some((now, rate, throughput.clone()));
                    }
                }
            });
            prop_assert_eq!(failure, None);
        }

        #[test]
        fn steady_progress_gives_its_rate_and_a_tight_interval(
            items in 1u64..100_000, every in 50u64..20_000, minutes in 5u64..30, look in 0u64..1_000,
        ) {
            let until = minutes * 60_000 + every;
            let throughput = steady(items, every, until);
            let truth = items as f64 * 1_000.0 / every as f64;
            let last = until / every * every;
            let rate = throughput.per_second(at(last)).unwrap();
            prop_assert!((rate - truth).abs() <= truth * 0.05, "{} for {}", rate, truth);
            let now = at(last + every * look / 1_000);
            let left = throughput.time_left(now, 1_000_000).unwrap();
            let truth = 1_000_000.0 / truth;
            prop_assert!(left.at_least <= truth && truth <= left.at_most, "{:?} for {}", left, truth);
            prop_assert!(left.at_most <= left.at_least * 1.3, "{:?}", left);
        }

        #[test]
        fn slow_pages_have_an_interval_that_holds_the_truth(
            items in 1u64..100_000, every in 20_000u64..300_000, pages in 3u64..20, look in 0u64..1_000,
        ) {
            let throughput = steady(items, every, every * pages);
            let truth = 1_000.0 * every as f64 / items as f64 / 1_000.0;
            let now = at(every * pages + every * look / 1_000);
            let left = throughput.time_left(now, 1_000).unwrap();
            prop_assert!(left.at_least <= truth && truth <= left.at_most, "{:?} for {}", left, truth);
        }

        #[test]
        fn uneven_pages_keep_the_truth_inside(
            waits in prop::collection::vec(200u64..1_800, 400..900), items in 1u64..1_000,
        ) {
            let mut throughput = Throughput::default();
            throughput.record(BEGIN, 0);
            let (mut now, mut total) = (0, 0);
            let mut pages = Vec::new();
            for wait in waits {
                now += wait;
                total += items;
                throughput.record(at(now), total);
                pages.push(now);
            }
            let of_the_minute = pages.iter().filter(|page| **page > now - MINUTE).count();
            let counted = items as f64 * of_the_minute as f64 / 60.0;
            let rate = throughput.per_second(at(now)).unwrap();
            prop_assert!((rate - counted).abs() <= counted * 0.15, "{} for {}", rate, counted);
            let truth = 1_000.0 / items as f64;
            let left = throughput.time_left(at(now), 1_000).unwrap();
            prop_assert!(left.at_least <= truth && truth <= left.at_most, "{:?} for {}", left, truth);
            prop_assert!(left.at_most <= left.at_least * 2.0, "{:?}", left);
        }

        #[test]
        fn pauses_do_not_count(
            pauses in prop::collection::vec((1u64..60, 0u64..10_000_000), 1..8), items in 1u64..1_000,
        ) {
            let (mut paused, mut straight) = (Throughput::default(), Throughput::default());
            paused.record(BEGIN, 0);
            straight.record(BEGIN, 0);
            let (mut second, mut stood, mut total) = (0, 0, 0);
            for (seconds, pause) in pauses {
                for _ in 0..seconds {
                    second += 1;
                    total += items;
                    paused.record(at(second * 1_000 + stood), total);
                    straight.record(at(second * 1_000), total);
                }
                paused.halt(at(second * 1_000 + stood));
                let json = serde_json::to_string(&paused).unwrap();
                paused = serde_json::from_str(&json).unwrap();
                paused.halt(at(second * 1_000 + stood + pause / 2));
                stood += pause;
                paused.clock.go(at(second * 1_000 + stood));
            }
            let (now, unpaused) = (at(second * 1_000 + stood), at(second * 1_000));
            prop_assert_eq!(paused.per_second(now), straight.per_second(unpaused));
            prop_assert_eq!(paused.time_left(now, 5_000), straight.time_left(unpaused, 5_000));
            prop_assert_eq!(&paused.rises, &straight.rises);
        }

        #[test]
        fn looking_often_changes_nothing(items in 1u64..1_000, every in 100u64..30_000, looks in 1u64..20) {
            let rarely = steady(items, every, 600_000);
            let mut often = Throughput::default();
            often.record(BEGIN, 0);
            for page in 1..=600_000 / every {
                for look in 1..=looks {
                    often.record(at((page - 1) * every + every * look / (looks + 1)), (page - 1) * items);
                }
                often.record(at(page * every), page * items);
            }
            prop_assert_eq!(often.rises, rarely.rises);
        }
    }
}
