//! The limits that apply to a batch at a given moment.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Credit, Earned, Openings, PaceSample, PageSample, PageSizer, ParallelismTuner, RampState,
    RateUse, StrideLength, StrideSample, Throughput,
};
use crate::{
    base::time::{Timestamp, earliest},
    batch::{
        pace_settings::{
            page_size::AutoPageSize, parallelism::AutoParallelism, ramp::Ramp, stride::AutoStride,
            window::Window,
        },
        spec::BatchSpec,
    },
    processor::throttle::Verdict,
    progress::{Throttled, TimeLeft, phase::HeldBy},
    protocol::StrideReport,
};

/// The longest time that a batch is held for the first answer of its throttles. Also the shortest time between two
/// computations of windows that seem to be over.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time before the end of the known openings at which more are requested.
const WINDOWS_AHEAD: Duration = Duration::from_secs(3_600);
/// The longest pause that a throttle makes between pages. A hold serves for longer ones.
const LONGEST_IDLE: Duration = Duration::from_secs(30);
/// The fraction of attempts that may fail before the parallelism is lowered.
const TOLERABLE: f64 = 0.02;
/// The number of recent pages over which failures are counted.
const LATELY: u32 = 500;
/// The time that [`Pacing::items_per_second`] looks back on.
const LOOKS_BACK: Duration = Duration::from_secs(60);
/// The error type of an attempt that was too slow for its page size.
const PAGE_TIMEOUT: &str = "PageTimeout";

/// The limits on the speed of a batch, and its measured speed. Carried over continue-as-new.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pacing {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// The previous rate, and the time of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_before: Option<(Option<f64>, Timestamp)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_pause: Option<Duration>,
    page_size: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sizer: Option<PageSizer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tuner: Option<ParallelismTuner>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ramp: Option<RampState>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    windows: Vec<Window>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    openings: Option<Openings>,
    /// The time at which `openings` was last computed.
    worked_out_at: Timestamp,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    throttles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    throttled: Option<Throttled>,
    /// The throttles have answered.
    throttles_known: bool,
    /// The time since which the batch has been waiting for answers.
    waiting_since: Timestamp,
    throughput: Throughput,
    /// The recent average duration of a page, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page_ms: Option<u64>,
    /// The numbers of recently finished pages and failed attempts. Both are halved now and then.
    lately: (u32, u32),
    /// The source was asked to skip ahead, and cannot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cannot_skip: bool,
    /// Items that may begin at once.
    credit: Credit,
    /// Pages that may begin at once.
    page_credit: Credit,
    /// Absent while all strides have the length that the batch was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stride: Option<StrideLength>,
}

/// The limits that hold at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PaceNow {
    pub parallelism: u32,
    /// The limit that keeps the parallelism from being higher.
    pub parallelism_by: HeldBy,
    pub rate: Option<f64>,
    pub page_rate: Option<f64>,
    /// The reason why no page may start; absent if pages may.
    pub held: Option<HeldBy>,
}

/// # Construct and change
impl Pacing {
    pub fn of(spec: &BatchSpec, now: Timestamp) -> Self {
        let pace = &spec.pace;
        let mut pacing = Self {
            rate: spec.rate,
            page_rate: pace.page_rate,
            page_pause: pace.page_pause,
            page_size: spec.page_size,
            windows: pace.windows.clone(),
            throttles: pace.throttles.clone(),
            waiting_since: now,
            ..Self::default()
        };
        if let Some(auto) = &pace.auto_page_size {
            pacing.tune_page_size(*auto);
        }
        if let Some(auto) = &pace.auto_stride {
            pacing.stride = Some(StrideLength::tuned(*auto, spec.stride));
        }
        if let Some(auto) = &pace.auto_parallelism {
            pacing.tune_parallelism(*auto, now);
        }
        if let Some(ramp) = &pace.ramp {
            pacing.begin_ramp(ramp.clone(), now);
        }
        pacing
    }

    /// Returns the pace that `spec` asks for, as at the start of a batch. Open strides keep the length to which they
    /// were cut: `before` pages if no length was ever set or tuned.
    pub fn begun_again(&self, spec: &BatchSpec, before: u32) -> Self {
        let mut pacing = Self::of(spec, Timestamp(0));
        let lengths = pacing.stride.take();
        let mut lengths = lengths.unwrap_or_else(|| StrideLength::fixed(spec.stride));
        match &self.stride {
            Some(known) => lengths.follow(known),
            None => lengths.follow(&StrideLength::fixed(before)),
        }
        pacing.stride = Some(lengths);
        pacing
    }

    pub fn fix_page_size(&mut self, items: u32) {
        self.page_size = items;
        self.sizer = None;
    }

    pub fn tune_page_size(&mut self, auto: AutoPageSize) {
        self.sizer = Some(PageSizer::new(auto, self.page_size()));
    }

    /// Fixes the stride length at `pages`. If the length was never changed until now, it was `before`.
    pub fn fix_stride(&mut self, pages: u32, before: u32) {
        let stride = &mut self.stride;
        stride
            .get_or_insert_with(|| StrideLength::fixed(before))
            .fix(pages);
    }

    pub fn tune_stride(&mut self, auto: AutoStride, before: u32) {
        let stride = &mut self.stride;
        stride
            .get_or_insert_with(|| StrideLength::fixed(before))
            .tune(auto);
    }

    pub fn fix_parallelism(&mut self) {
        self.tuner = None;
    }

    pub fn tune_parallelism(&mut self, auto: AutoParallelism, now: Timestamp) {
        self.tuner = Some(ParallelismTuner::new(auto, now));
    }

    /// Sets a ramp, whose clock starts when the batch starts running.
    pub fn begin_ramp(&mut self, ramp: Ramp, now: Timestamp) {
        let mut ramp = RampState::begin(ramp, now);
        ramp.halt(now);
        self.ramp = Some(ramp);
    }

    /// Starts the wait for throttles. Settings that operators made before the start stay.
    pub fn begins(&mut self, now: Timestamp) {
        self.waiting_since = now;
    }

    /// Lets the first page start without waiting for the rate.
    pub fn begins_at_once(&mut self, now: Timestamp) {
        self.credit = Credit::of_first(now);
        self.page_credit = Credit::of_first(now);
    }

    /// Sets the rate. The previous rate is kept for as long as throughput looks back on it.
    pub fn set_rate(&mut self, rate: Option<f64>, now: Timestamp) {
        self.rate_before = Some((self.rate, now));
        self.rate = rate;
    }

    /// Ends the wait for throttles: another controller polls them.
    pub fn hears_of_throttles(&mut self) {
        self.throttles_known = true;
    }

    pub fn end_ramp(&mut self) {
        self.ramp = None;
    }

    pub fn set_windows(&mut self, windows: Vec<Window>, now: Timestamp) {
        self.windows = windows;
        self.openings = None;
        self.waiting_since = now;
    }
}

/// # Events
impl Pacing {
    /// Records the time and the number of items done. Ramps and tuning advance only while the batch is running.
    pub fn tick(&mut self, now: Timestamp, going: bool, items: u64) {
        self.throughput.record(now, items);
        if !going {
            self.throughput.halt(now);
        }
        if let Some(ramp) = &mut self.ramp {
            if going {
                ramp.go(now);
            } else {
                ramp.halt(now);
            }
            if ramp.is_over(now) {
                self.ramp = None;
            }
        }
        if let Some(tuner) = &mut self.tuner
            && going
        {
            tuner.tick(now);
        }
    }

    /// Records the report of a stride, which came while `in_flight` pages were in flight, its own included.
    pub fn reported(&mut self, report: &StrideReport, in_flight: u32, now: Timestamp) {
        self.cannot_skip |= report.cannot_skip;
        let timing = &report.timing;
        if let Some(took) = timing.busy_ms.checked_div(u64::from(timing.pages)) {
            self.page_ms = Some(self.page_ms.map_or(took, |before| (3 * before + took) / 4));
        }
        if let Some(stride) = &mut self.stride {
            stride.observe(&StrideSample {
                pages: timing.pages,
                page_size: timing.page_size,
                took: Duration::from_micros(timing.took_us),
                cannot_skip: report.cannot_skip,
            });
        }
        if let Some(sizer) = &mut self.sizer {
            let sample = PageSample {
                page_size: timing.page_size,
                pages: timing.full_pages,
                busy: Duration::from_millis(timing.full_busy_ms),
                slowest: Duration::from_millis(timing.full_slowest_ms),
            };
            if sample.pages > 0 {
                sizer.observe(&sample, now);
            }
            let slow = |f: &&crate::protocol::FailedAttempt| f.error_type == PAGE_TIMEOUT;
            if report.failure.as_ref().filter(slow).is_some() {
                sizer.timed_out(timing.page_size, now);
            }
        }
        if let Some(tuner) = &mut self.tuner {
            if timing.pages > 0 {
                let sample = PaceSample {
                    pages: timing.pages,
                    items: timing.items,
                    busy: Duration::from_millis(timing.busy_ms),
                    in_flight,
                };
                tuner.observe(&sample, now);
            }
            let ill = report.failure.as_ref();
            let ill = ill.is_some_and(|f| f.retryable && !f.not_the_page);
            let (pages, failures) = &mut self.lately;
            *pages = pages.saturating_add(timing.pages);
            *failures = failures.saturating_add(u32::from(ill));
            // An occasional failure does not show how much load the system can take.
            let too_many = f64::from(*failures) > f64::from(*pages) * TOLERABLE;
            if *pages > LATELY {
                *pages /= 2;
                *failures /= 2;
            }
            if ill && too_many {
                tuner.failed(now);
            }
        }
    }

    /// Records the allocated parts of the rates: of items, then of pages.
    pub fn settle_credit(&mut self, rates: [RateUse; 2], now: Timestamp) {
        let [items, pages] = rates;
        self.credit.tick(&items, now);
        self.page_credit.tick(&pages, now);
    }

    /// A stride came back with permits that it had earned and not used: of items, and of pages.
    pub fn rates_given_back(&mut self, rates: [RateUse; 2], left: [(f64, bool); 2]) {
        let [items, pages] = rates;
        self.credit.give_back(left[0].0, left[0].1, &items);
        self.page_credit.give_back(left[1].0, left[1].1, &pages);
    }

    /// The items and pages that the stride begins with which is dispatched now.
    pub fn take_earned(&mut self, by_item: bool) -> [Earned; 2] {
        let unit = self.unit(by_item);
        [self.credit.take(unit), self.page_credit.take(1)]
    }

    /// Records the verdict of the throttles.
    pub fn throttle(&mut self, by: &str, verdict: &Verdict, now: Timestamp) {
        self.throttles_known = true;
        let factor = verdict.factor();
        let Some(reason) = verdict.reason() else {
            self.throttled = None;
            return;
        };
        let before = self.throttled.take();
        let worse = before.as_ref().is_none_or(|b| factor < b.factor);
        let same_kind = before.filter(|b| (b.factor == 0.0) == (factor == 0.0));
        self.throttled = Some(Throttled {
            by: by.to_owned(),
            factor,
            reason: reason.to_owned(),
            since: same_kind.map_or(now, |b| b.since),
        });
        if let Some(tuner) = &mut self.tuner
            && worse
        {
            tuner.throttled(now);
        }
    }

    /// Records the computed openings of the windows.
    pub fn opened(&mut self, openings: Openings, now: Timestamp) {
        self.worked_out_at = now;
        self.openings = Some(openings);
    }
}

/// # Look
impl Pacing {
    /// The pause before each page. A throttle that leaves less than one page in flight makes it longer, so that
    /// the one page works for that part of the time only.
    pub fn page_pause_now(&self, max_parallelism: u32, now: Timestamp) -> Option<Duration> {
        let factor = self.throttled.as_ref().map_or(1.0, |t| t.factor);
        let left = f64::from(self.unthrottled(max_parallelism, now).0) * factor;
        if !(left > 0.0 && left < 1.0) {
            return self.page_pause;
        }
        let idle = self.page_ms.unwrap_or(0) as f64 / 1_000.0 * (1.0 / left - 1.0);
        let idle = Duration::from_secs_f64(idle.min(LONGEST_IDLE.as_secs_f64()));
        Some(self.page_pause.unwrap_or_default().max(idle))
    }

    /// Returns the parallelism without regard to throttles, and the limit that sets it.
    fn unthrottled(&self, max_parallelism: u32, now: Timestamp) -> (u32, HeldBy) {
        let mut parallelism = (max_parallelism, HeldBy::Parallelism);
        if let Some(ramp) = &self.ramp {
            parallelism = lower(parallelism, (ramp.limit(now), HeldBy::Ramp));
        }
        if let Some(tuner) = &self.tuner {
            parallelism = lower(parallelism, (tuner.limit(), HeldBy::Tuning));
        }
        parallelism
    }

    pub fn now(&self, max_parallelism: u32, now: Timestamp) -> PaceNow {
        let mut parallelism = self.unthrottled(max_parallelism, now);
        let slowed = self.throttled.as_ref().map(|t| t.factor);
        let slowed = slowed.filter(|factor| *factor > 0.0);
        if let Some(factor) = slowed {
            let left = (f64::from(parallelism.0) * factor).floor().max(1.0) as u32;
            parallelism = lower(parallelism, (left, HeldBy::Throttle));
        }
        let slower = |limit: f64| limit * slowed.unwrap_or(1.0);
        PaceNow {
            parallelism: parallelism.0,
            parallelism_by: parallelism.1,
            rate: self.rate.map(slower),
            page_rate: self.page_rate.map(slower),
            held: self.held(now),
        }
    }

    fn held(&self, now: Timestamp) -> Option<HeldBy> {
        if !self.is_open(now) {
            return Some(HeldBy::Window);
        }
        let by_throttle = match &self.throttled {
            Some(throttled) => throttled.factor == 0.0,
            None => self.waits_for_throttles(now),
        };
        by_throttle.then_some(HeldBy::Throttle)
    }

    fn is_open(&self, now: Timestamp) -> bool {
        match &self.openings {
            _ if self.windows.is_empty() => true,
            Some(openings) => openings.is_open(now),
            None => false,
        }
    }

    /// Returns whether the batch is held for the first answer of its throttles.
    pub fn waits_for_throttles(&self, now: Timestamp) -> bool {
        let unknown = !self.throttles.is_empty() && !self.throttles_known;
        unknown && now.since(self.waiting_since) < PATIENCE
    }

    /// Returns the next time at which the limits change without an event.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let ramp = self.ramp.as_ref().and_then(|ramp| ramp.next_step(now));
        let tuner = self.tuner.as_ref().map(ParallelismTuner::next_tick);
        let openings = self.openings.as_ref();
        let windows = openings.and_then(|o| earliest(o.opens_at(now), o.closes_at(now)));
        let waits = self.waits_for_throttles(now);
        let patience = waits.then(|| self.waiting_since.plus(PATIENCE));
        [ramp, tuner, windows, patience]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// Returns the windows whose openings have to be computed.
    pub fn windows_to_work_out(&self, now: Timestamp) -> Option<&[Window]> {
        let known = self.openings.as_ref();
        let enough = known.is_some_and(|openings| {
            // Windows that never open again must not be computed over and over.
            let lately = now.since(self.worked_out_at) < PATIENCE;
            lately || !openings.runs_out(now, WINDOWS_AHEAD)
        });
        (!self.windows.is_empty() && !enough).then_some(&self.windows)
    }

    /// Returns the number of items that take their permits together.
    pub fn unit(&self, by_item: bool) -> u32 {
        match by_item {
            true => 1,
            false => self.page_size(),
        }
    }

    pub fn page_size(&self) -> u32 {
        self.sizer.as_ref().map_or(self.page_size, PageSizer::size)
    }

    pub fn stride(&self) -> Option<&StrideLength> {
        self.stride.as_ref()
    }

    pub fn stride_mut(&mut self) -> Option<&mut StrideLength> {
        self.stride.as_mut()
    }

    pub fn auto_page_size(&self) -> Option<&AutoPageSize> {
        self.sizer.as_ref().map(PageSizer::settings)
    }

    pub fn auto_parallelism(&self) -> Option<&AutoParallelism> {
        self.tuner.as_ref().map(ParallelismTuner::settings)
    }

    pub fn ramp(&self) -> Option<&RampState> {
        self.ramp.as_ref()
    }

    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// Returns when the next window opens, if all windows are closed now.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        let openings = self.openings.as_ref().filter(|o| !o.is_open(now));
        openings.and_then(|o| o.opens_at(now))
    }

    pub fn throttles(&self) -> &[String] {
        &self.throttles
    }

    pub fn throttled(&self) -> Option<&Throttled> {
        self.throttled.as_ref()
    }

    pub fn items_per_second(&self, now: Timestamp) -> Option<f64> {
        self.throughput.per_second(now)
    }

    /// Returns the speed to be shown, capped at the rate: reports that arrive together suggest a higher speed than
    /// their pages had.
    pub fn items_per_second_shown(&self, now: Timestamp) -> Option<f64> {
        let lately = self
            .rate_before
            .filter(|(_, at)| now.since(*at) < LOOKS_BACK);
        let before = lately.map_or(Some(0.0), |(before, _)| before);
        let most = self.rate.zip(before).map(|(rate, before)| rate.max(before));
        let shown = self.items_per_second(now)?;
        Some(most.map_or(shown, |most| shown.min(most)))
    }

    /// Estimates the time left, which is never shorter than the limits allow.
    pub fn time_left(&self, now: Timestamp, items_left: u64) -> Option<TimeLeft> {
        let of_pages = self
            .page_rate
            .map(|pages| pages * f64::from(self.largest_page()));
        let most = [self.rate, of_pages].into_iter().flatten();
        let shortest = most.map(|most| items_left as f64 / most);
        let shortest = shortest.fold(0.0, f64::max);
        let left = self.throughput.time_left(now, items_left)?;
        Some(TimeLeft {
            at_least: left.at_least.max(shortest),
            at_most: left.at_most.max(shortest),
        })
    }

    fn largest_page(&self) -> u32 {
        let tuned = self.sizer.as_ref().map(|sizer| sizer.settings().max());
        tuned.unwrap_or(self.page_size)
    }
}

fn lower(a: (u32, HeldBy), b: (u32, HeldBy)) -> (u32, HeldBy) {
    if b.0 < a.0 { b } else { a }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        batch::{Batch, pace_settings::window::Opening},
        protocol::Timing,
    };

    const START: Timestamp = Timestamp(1_000_000);

    fn after(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    fn batch() -> Batch {
        Batch::named("b", "p", serde_json::Value::Null).max_parallelism(8)
    }

    fn hold() -> Verdict {
        Verdict::Hold {
            reason: "replica lag 3s > 2s".to_owned(),
        }
    }

    fn slow(factor: f64) -> Verdict {
        Verdict::Slow {
            factor,
            reason: "replica lag 1.5s > 1s".to_owned(),
        }
    }

    fn report(pages: u32, failed: bool) -> StrideReport {
        let failure = crate::protocol::FailedAttempt {
            page_end: None,
            last_page: false,
            error_type: "Deadlock".to_owned(),
            message: String::new(),
            retryable: true,
            retry_after: None,
            not_the_page: false,
            coverage_stops: false,
            lost: false,
            unread: false,
            blame: crate::base::error::Blame::Moment,
        };
        StrideReport {
            pages,
            failure: failed.then_some(failure),
            timing: Timing {
                page_size: 100,
                pages,
                items: u64::from(pages) * 100,
                busy_ms: u64::from(pages) * 50,
                full_pages: pages,
                full_busy_ms: u64::from(pages) * 50,
                full_slowest_ms: 50,
                took_us: 0,
            },
            ..StrideReport::default()
        }
    }

    /// A stride that was cut long and is taken for a short one would have too little time.
    #[test]
    fn strides_that_are_cut_keep_their_length_when_the_pace_begins_again() {
        let before = batch().stride(AutoStride::default()).spec;
        let mut tuned = Pacing::of(&before, START);
        tuned.stride_mut().unwrap().cut(3, 70, 0);
        let fixed = Pacing::of(&batch().stride(40).spec, START);
        for (pacing, stride_before, lengths) in [(tuned, 1, [1, 70]), (fixed, 40, [40, 40])] {
            for asked in [before.clone(), batch().stride(2).spec] {
                let again = pacing.begun_again(&asked, stride_before);
                let known = again.stride().unwrap();
                assert_eq!([known.of(0), known.of(3)], lengths);
                let pages = known
                    .next(&crate::decisions::pacing::Uncut::default())
                    .pages;
                assert_eq!(pages, asked.stride);
            }
        }
    }

    #[test]
    fn throttles_hold_the_first_page_until_they_answer_but_not_for_ever() {
        let spec = batch().throttle("db").spec;
        let mut pacing = Pacing::of(&spec, START);
        assert_eq!(pacing.now(8, after(59)).held, Some(HeldBy::Throttle));
        assert_eq!(pacing.next_change(START), Some(after(60)));
        assert_eq!(pacing.now(8, after(60)).held, None, "they do not answer");
        pacing.throttle("db", &hold(), after(61));
        assert_eq!(pacing.now(8, after(61)).held, Some(HeldBy::Throttle));
        pacing.throttle("db", &Verdict::Go, after(62));
        assert_eq!(pacing.now(8, after(62)).held, None);
        assert_eq!(pacing.throttled(), None);
    }

    /// A batch of 1,000 items a second until `seconds`, as its reports say.
    fn fast(batch: &Batch, seconds: u64) -> Pacing {
        let mut pacing = Pacing::of(&batch.spec, START);
        for second in 0..=seconds {
            pacing.tick(after(second), true, second * 1_000);
        }
        pacing
    }

    #[test]
    fn the_time_left_promises_no_more_than_the_limits_allow() {
        let left = |batch: Batch| {
            let left = fast(&batch, 20).time_left(after(20), 29_000).unwrap();
            (left.at_least, left.at_most)
        };
        let (at_least, _) = left(batch());
        assert!(at_least < 29.0, "{at_least}");
        assert_eq!(left(batch().rate(100.0)), (290.0, 290.0));
        assert_eq!(left(batch().page_rate(2.0).page_size(50)), (290.0, 290.0));
        let tuned = batch()
            .page_rate(2.0)
            .auto_page_size(AutoPageSize::new(10, 100));
        assert_eq!(left(tuned), (145.0, 145.0));
        let slow = batch().rate(1e6);
        assert_eq!(left(slow), left(batch()));
    }

    #[test]
    fn no_throughput_is_shown_that_was_not_allowed_in_its_minute() {
        let shown = |pacing: &Pacing, at| pacing.items_per_second_shown(after(at)).unwrap();
        assert_eq!(shown(&fast(&batch(), 20), 20), 1_000.0);
        let mut limited = fast(&batch().rate(900.0), 20);
        assert_eq!(shown(&limited, 20), 900.0);
        limited.set_rate(Some(100.0), after(20));
        for second in 21..=80 {
            limited.tick(after(second), true, second * 1_000);
        }
        assert_eq!(shown(&limited, 79), 900.0);
        assert_eq!(shown(&limited, 80), 100.0);
        let mut unlimited = fast(&batch(), 20);
        unlimited.set_rate(Some(100.0), after(20));
        assert_eq!(shown(&unlimited, 20), 1_000.0);
        limited.set_rate(None, after(81));
        limited.tick(after(81), true, 900_000);
        assert!(shown(&limited, 81) > 900.0);
    }

    #[test]
    fn a_throttle_that_leaves_less_than_one_page_makes_it_pause() {
        let mut pacing = Pacing::of(&batch().throttle("db").spec, START);
        pacing.reported(&report(4, false), 1, START);
        assert_eq!(pacing.page_pause_now(1, START), None);
        pacing.throttle("db", &slow(0.2), START);
        assert_eq!(
            pacing.page_pause_now(8, START),
            None,
            "1 of 8 pages is left"
        );
        // A page takes 50 ms, and is to work for a fifth of the time.
        assert_eq!(
            pacing.page_pause_now(1, START),
            Some(Duration::from_millis(200))
        );
        assert_eq!(pacing.now(1, START).parallelism, 1);
    }

    #[test]
    fn since_when_a_throttle_holds_outlives_a_new_reason_but_not_a_new_kind() {
        let mut pacing = Pacing::of(&batch().throttle("db").spec, START);
        let since = |pacing: &Pacing| pacing.throttled().unwrap().since;
        pacing.throttle("db", &hold(), after(1));
        pacing.throttle("db", &hold(), after(9));
        assert_eq!(since(&pacing), after(1));
        pacing.throttle("db", &slow(0.5), after(10));
        assert_eq!(since(&pacing), after(10));
    }

    #[test]
    fn outside_of_its_windows_a_batch_holds_until_the_next_one_opens() {
        let window = "22:00-06:00".parse().unwrap();
        let mut pacing = Pacing::of(&batch().window(window).spec, START);
        assert!(pacing.windows_to_work_out(START).is_some());
        assert_eq!(
            pacing.now(8, START).held,
            Some(HeldBy::Window),
            "not known yet"
        );
        let opening = Opening {
            opens: after(100),
            closes: after(20_000),
        };
        pacing.opened(Openings::new(vec![opening]), START);
        assert_eq!(pacing.now(8, after(99)).held, Some(HeldBy::Window));
        assert_eq!(pacing.next_change(after(1)), Some(after(100)));
        assert_eq!(pacing.now(8, after(100)).held, None);
        assert_eq!(pacing.next_change(after(100)), Some(after(20_000)));
        assert_eq!(pacing.now(8, after(20_000)).held, Some(HeldBy::Window));
        assert!(
            pacing.windows_to_work_out(after(19_000)).is_some(),
            "in time"
        );
        pacing.set_windows(Vec::new(), after(20_001));
        assert_eq!(pacing.now(8, after(20_001)).held, None);
        assert!(pacing.windows_to_work_out(after(20_001)).is_none());
    }

    #[test]
    fn windows_that_never_open_again_are_not_asked_for_all_the_time() {
        let window = "22:00-06:00".parse().unwrap();
        let mut pacing = Pacing::of(&batch().window(window).spec, START);
        pacing.opened(Openings::new(Vec::new()), after(5));
        assert!(pacing.windows_to_work_out(after(60)).is_none());
        assert!(pacing.windows_to_work_out(after(66)).is_some());
    }

    #[test]
    fn a_deadlock_now_and_then_does_not_lower_the_parallelism_but_many_do() {
        let auto = AutoParallelism::new(2, 16);
        let mut pacing = Pacing::of(&batch().auto_parallelism(auto).spec, START);
        let mut now = START;
        let mut go_on = |pacing: &mut Pacing, failing_every: u64, seconds: u64| {
            for n in 1..=seconds * 10 {
                now = now.plus(Duration::from_millis(100));
                pacing.tick(now, true, n);
                let limit = pacing.now(16, now).parallelism;
                pacing.reported(&report(limit, n % failing_every == 0), limit, now);
            }
            pacing.now(16, now).parallelism
        };
        let without = go_on(&mut pacing, u64::MAX, 120);
        assert!(without > 2, "{without}");
        // One of some hundred pages, and one of some ten.
        let few = go_on(&mut pacing, 100, 30);
        assert!(few * 3 > without * 2, "{few} after {without}");
        let many = go_on(&mut pacing, 3, 30);
        assert!(many <= few / 2 + 1, "{many} after {few}");
    }

    proptest! {
        #[test]
        fn limits_are_never_above_what_was_asked_for(
            max in 0u32..=500,
            ramp in prop::option::of((0u32..=500, 0u32..=500, 1u64..1_000)),
            auto in prop::option::of((1u32..=20, 20u32..=500)),
            factor in prop::option::of(0.01f64..0.99),
            rate in prop::option::of(0.1f64..1e6),
            at in 0u64..2_000,
        ) {
            let mut batch = batch();
            if let Some((from, to, over)) = ramp {
                batch = batch.ramp(Ramp::new(from, to, Duration::from_secs(over)));
            }
            if let Some((min, max)) = auto {
                batch = batch.auto_parallelism(AutoParallelism::new(min, max));
            }
            if let Some(rate) = rate {
                batch = batch.rate(rate);
            }
            let mut pacing = Pacing::of(&batch.spec, START);
            if let Some(factor) = factor {
                pacing.throttle("db", &slow(factor), START);
            }
            let now = pacing.now(max, after(at));
            prop_assert!(now.parallelism <= max);
            if let Some((from, to, _)) = ramp {
                prop_assert!(now.parallelism <= from.max(to));
            }
            if let Some((_, most)) = auto {
                prop_assert!(now.parallelism <= most);
            }
            prop_assert_eq!(now.rate, rate.map(|rate| rate * factor.unwrap_or(1.0)));
            // A batch that is only slowed down does not stand still.
            let unslowed = ramp.is_none() && max > 0;
            prop_assert!(!unslowed || now.parallelism > 0);
        }

        #[test]
        fn storing_it_at_any_moment_changes_nothing(stored_at in 0u64..100) {
            let batch = batch()
                .throttle("db")
                .auto_page_size(AutoPageSize::default())
                .ramp(Ramp::new(1, 8, Duration::from_secs(40)));
            let mut kept = Pacing::of(&batch.spec, START);
            let mut restored = kept.clone();
            for second in 0..100 {
                let now = after(second);
                for pacing in [&mut kept, &mut restored] {
                    pacing.tick(now, second % 7 != 0, second * 300);
                    pacing.reported(&report(3, second % 11 == 0), 4, now);
                    if second % 13 == 0 {
                        pacing.throttle("db", &slow(0.5), now);
                    }
                }
                if second == stored_at {
                    let json = serde_json::to_string(&restored).unwrap();
                    restored = serde_json::from_str(&json).unwrap();
                }
                prop_assert_eq!(kept.now(8, now), restored.now(8, now));
                prop_assert_eq!(kept.page_size(), restored.page_size());
                prop_assert_eq!(kept.next_change(now), restored.next_change(now));
            }
        }
    }
}
