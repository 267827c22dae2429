//! Stride lengths that follow the time that pages take.
//!
//! A stride costs the server and the controller about the same whatever its length, so strides should be long. Work
//! that is cut into strides can only be distributed as whole strides, so they should not be too long. The target is
//! the time that an activity takes. Mistakes are cheap, since a stride that takes much longer than the target gives
//! its remaining pages back. Lengths therefore follow measurements at once, up and down.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    base::text::in_units,
    batch::{
        MAX_STRIDE,
        pace_settings::stride::{AutoStride, Stride},
    },
};

/// The multiple of the target after which a stride gives its remaining pages back, at a page boundary.
const TIME_LIMIT: u32 = 2;
/// The number of strides per slot into which the uncut pages are divided, where their number is known. The last
/// strides become short, so that all slots end at about the same time.
const ROUNDS: f64 = 2.0;
/// The same where the number of uncut pages is unknown. It is then assumed to equal the number already found.
const ROUNDS_UNKNOWN: f64 = 2.0;
/// The longest stride, as a part of the target, where the number of uncut pages is unknown: any stride may turn out
/// to be the last.
const LONGEST_UNKNOWN: f64 = 1.0 / 4.0;
/// The margin for data beyond the expected end, as a part of the pages already found.
const BEYOND: f64 = 1.0 / 16.0;
/// The shortest stride, as a part of the target, that is cut so that all slots end together: below that, an activity
/// costs more than it saves. Until a page has been timed, strides give their remaining pages back after this part of
/// the target.
const SHORTEST: f64 = 1.0 / 20.0;
/// The length of the first strides, in pages, where there is enough data for several of them per slot.
const FIRST: u32 = 16;
/// The longest stride, as a multiple of the pages from which its length was estimated.
const GROWTH: f64 = 32.0;
/// The weight that older reports keep with each new one.
const FADES: f64 = 7.0 / 8.0;
/// The same when pages have become faster or slower by more than `CHANGED`.
const FADES_FAST: f64 = 1.0 / 4.0;
const CHANGED: f64 = 2.0;
const ROUNDING: f64 = 1e-9;
/// The number of different lengths of open strides that are remembered.
const MAX_CUTS: usize = 16;

/// One stride's measurement of its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StrideSample {
    pub pages: u32,
    /// Items that each page was asked for.
    pub page_size: u32,
    /// The duration of all these pages together, waits included.
    pub took: Duration,
    /// The source cannot skip ahead.
    pub cannot_skip: bool,
}

/// The data that the next strides are cut from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uncut {
    /// Pages that are in no stride yet, where their number is expected.
    pub left: Option<u64>,
    /// Pages that are in a stride, finished ones included.
    pub found: u64,
    /// The largest number of pages in flight.
    pub slots: u32,
    pub page_size: u32,
    /// True if a lost worker costs all the rest of its stride.
    pub runs_once: bool,
}

/// The length of the next strides, and the reason for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Length {
    pub pages: u32,
    pub by: LengthBy,
}

/// The reason for a stride length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LengthBy {
    Setting,
    /// The source cannot skip ahead.
    Source,
    /// Pages run at most once.
    RunsOnce,
    /// The length of the first strides: no page has been timed yet.
    Beginning,
    /// The limit on growth: longer strides are tried next.
    Growth,
    /// The target, given the measured duration of a page.
    PageTime(Duration),
    /// The end of the data: all slots should end together.
    Rest,
    /// The unknown amount of data that is left.
    Unknown,
    /// The maximum length of a stride.
    Longest,
}

impl fmt::Display for LengthBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setting => "as set",
            Self::Source => "the source cannot skip ahead",
            Self::RunsOnce => "a lost worker would cost all pages of its stride",
            Self::Beginning => "no page has been timed yet",
            Self::Growth => "longer ones are tried next",
            Self::PageTime(each) => return write!(f, "a page takes about {}", about(*each)),
            Self::Rest => "what is left is divided among the slots",
            Self::Unknown => "the size of the data is not known",
            Self::Longest => "no stride may be longer",
        })
    }
}

/// A length of time in about three digits.
fn about(time: Duration) -> String {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    let digits = 10u64.pow(nanos.ilog10().saturating_sub(2));
    let time = Duration::from_nanos(nanos / digits * digits);
    in_units(time)
}

/// Decides the length of the next strides, and remembers the lengths of the open ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrideLength {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auto: Option<AutoStride>,
    /// The length that was set. Tuning starts from it.
    pages: u32,
    seen: Seen,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cannot_skip: bool,
    /// The lengths of the open strides, each with the number of the first stride that has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cuts: Vec<(u64, u32)>,
}

/// The sums of recent reports, in which older ones count for less: pages, requested items, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seen(f64, f64, f64);

impl Seen {
    /// Estimates the microseconds of a page for which `page_size` items are requested.
    fn micros(&self, page_size: u32) -> Option<f64> {
        let Self(_, items, micros) = *self;
        (items > 0.0).then(|| (micros / items * f64::from(page_size.max(1))).max(1.0))
    }

    fn add(&mut self, new: Self, part: f64) {
        self.0 = self.0 * part + new.0;
        self.1 = self.1 * part + new.1;
        self.2 = self.2 * part + new.2;
    }
}

/// # Construct and change
impl StrideLength {
    /// Creates a length that is tuned from the beginning.
    pub fn tuned(auto: AutoStride, initial: u32) -> Self {
        Self {
            auto: Some(auto),
            ..Self::fixed(initial)
        }
    }

    /// Creates the length of a batch whose strides have had `pages` pages so far.
    pub fn fixed(pages: u32) -> Self {
        Self {
            auto: None,
            pages,
            seen: Seen::default(),
            cannot_skip: false,
            cuts: vec![(0, pages)],
        }
    }

    /// Fixes the length of the next strides at `pages`.
    pub fn fix(&mut self, pages: u32) {
        self.auto = None;
        self.pages = pages;
    }

    /// Takes over the lengths of the open strides, which `before` has cut.
    pub fn follow(&mut self, before: &Self) {
        self.cuts.clone_from(&before.cuts);
    }

    /// Tunes the length from here on.
    pub fn tune(&mut self, auto: AutoStride) {
        self.auto = Some(auto);
    }
}

/// # Events
impl StrideLength {
    /// Records one stride's measurement of its pages.
    pub fn observe(&mut self, sample: &StrideSample) {
        self.cannot_skip |= sample.cannot_skip;
        if sample.pages == 0 {
            return;
        }
        let pages = f64::from(sample.pages);
        let items = pages * f64::from(sample.page_size.max(1));
        let new = Seen(pages, items, (sample.took.as_micros() as f64).max(1.0));
        let before = self.seen.micros(1).zip(new.micros(1));
        let part = match before {
            None => 0.0,
            // A few slow pages are reason enough to distribute the others in shorter strides.
            Some((before, now)) if now > before * CHANGED => 0.0,
            Some((before, now)) if now * CHANGED < before => FADES_FAST,
            Some(_) => FADES,
        };
        self.seen.add(new, part);
    }

    /// Notes that `stride`, and the strides it announces, are cut to `pages` pages. No stride before `oldest` is
    /// open.
    pub fn cut(&mut self, stride: u64, pages: u32, oldest: u64) {
        let cuts = &mut self.cuts;
        cuts.retain(|(from, _)| *from < stride);
        if cuts.last().is_none_or(|(_, last)| *last != pages) {
            cuts.push((stride, pages));
        }
        while cuts.len() > 1 && cuts[1].0 <= oldest {
            cuts.remove(0);
        }
        while cuts.len() > MAX_CUTS {
            // The longer length, since one that is too long only costs time.
            let (from, pages) = cuts.remove(0);
            cuts[0] = (from, cuts[0].1.max(pages));
        }
    }
}

/// # Queries
impl StrideLength {
    /// Returns the requested setting.
    pub fn setting(&self) -> Stride {
        match self.auto {
            Some(auto) => Stride::Auto(auto),
            None => Stride::Pages(self.pages),
        }
    }

    pub fn auto(&self) -> Option<&AutoStride> {
        self.auto.as_ref()
    }

    /// Returns the time after which a stride gives its remaining pages back.
    pub fn time_limit(&self) -> Option<Duration> {
        let target = self.auto?.target;
        Some(match self.seen.micros(1) {
            Some(_) => target * TIME_LIMIT,
            None => target.mul_f64(SHORTEST),
        })
    }

    /// Returns the number of pages below which a stride is not worthwhile.
    pub fn shortest(&self, page_size: u32) -> u32 {
        let pages = self.auto.zip(self.seen.micros(page_size));
        let pages = pages.map(|(auto, micros)| shortest(&auto, micros) as u32);
        pages.map_or(1, |pages| pages.clamp(1, MAX_STRIDE))
    }

    /// Returns whether waiting for longer strides is worthwhile because too few pages have been timed. The question
    /// arises before each decision, so `uncut` is evaluated only where it matters.
    pub fn is_growing(&self, page_size: u32, uncut: impl FnOnce() -> Uncut) -> bool {
        let Some(auto) = self.auto.filter(|_| !self.cannot_skip) else {
            return false;
        };
        let grown = |micros: f64| self.seen.0 * GROWTH >= auto.target.as_micros() as f64 / micros;
        if self.seen.micros(page_size).is_some_and(grown) {
            return false;
        }
        let by = self.next(&uncut()).by;
        matches!(by, LengthBy::Beginning | LengthBy::Growth)
    }

    /// Returns the number of pages to which this open stride was cut.
    pub fn of(&self, stride: u64) -> u32 {
        let cut = self.cuts.iter().rev().find(|(from, _)| *from <= stride);
        cut.or(self.cuts.first()).map_or(self.pages, |cut| cut.1)
    }

    /// Returns the length of the strides that are cut next.
    pub fn next(&self, uncut: &Uncut) -> Length {
        let Some(auto) = &self.auto else {
            return Length {
                pages: self.pages,
                by: LengthBy::Setting,
            };
        };
        if self.cannot_skip || uncut.runs_once {
            let by = match self.cannot_skip {
                true => LengthBy::Source,
                false => LengthBy::RunsOnce,
            };
            return Length { pages: 1, by };
        }
        let most = f64::from(MAX_STRIDE);
        let (share, by_share) = share(uncut);
        let Some(micros) = self.seen.micros(uncut.page_size) else {
            let (begun, known) = match uncut.left {
                Some(_) => (self.pages.max(FIRST), share),
                // The length was set by an operator or at the start, and there is no better estimate.
                None => (self.pages, f64::MAX),
            };
            let begun = (f64::from(begun), LengthBy::Beginning);
            return lowest([begun, (known, by_share), (most, LengthBy::Longest)]);
        };
        let target = auto.target.as_micros() as f64;
        let mut share = share.max(shortest(auto, micros));
        if uncut.left.is_none() {
            share = share.min(target * LONGEST_UNKNOWN / micros);
        }
        let each = Duration::from_micros(micros as u64);
        lowest([
            (target / micros, LengthBy::PageTime(each)),
            (share, by_share),
            (self.seen.0 * GROWTH, LengthBy::Growth),
            (most, LengthBy::Longest),
        ])
    }
}

/// Returns the number of pages in the shortest stride, if one page takes `micros` microseconds.
fn shortest(auto: &AutoStride, micros: f64) -> f64 {
    auto.target.as_micros() as f64 * SHORTEST / micros
}

/// Returns the share of the uncut pages that one stride may have.
fn share(uncut: &Uncut) -> (f64, LengthBy) {
    let slots = f64::from(uncut.slots.max(1));
    let found = uncut.found as f64;
    match uncut.left {
        Some(left) => {
            let left = (left as f64).max(found * BEYOND);
            (left / (ROUNDS * slots), LengthBy::Rest)
        }
        None => (found / (ROUNDS_UNKNOWN * slots), LengthBy::Unknown),
    }
}

/// Returns the lowest limit, the first if there are several, but at least one page.
fn lowest<const N: usize>(limits: [(f64, LengthBy); N]) -> Length {
    let first = limits
        .into_iter()
        .reduce(|a, b| if b.0 < a.0 { b } else { a });
    let (pages, by) = first.unwrap_or((1.0, LengthBy::Beginning));
    // Sums of reports differ from their summands by rounding.
    let pages = (pages * (1.0 + ROUNDING)).clamp(1.0, f64::from(MAX_STRIDE));
    Length {
        pages: pages as u32,
        by,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const TARGET_MS: u64 = 5_000;

    fn tuned() -> StrideLength {
        StrideLength::tuned(AutoStride::default(), 1)
    }

    /// Much more data than matters.
    fn plenty(page_size: u32) -> Uncut {
        Uncut {
            left: Some(u64::MAX / 2),
            found: 0,
            slots: 10,
            page_size,
            runs_once: false,
        }
    }

    fn sample(pages: u32, page_size: u32, each: Duration) -> StrideSample {
        StrideSample {
            pages,
            page_size,
            took: each * pages,
            cannot_skip: false,
        }
    }

    fn next(length: &StrideLength) -> u32 {
        length.next(&plenty(100)).pages
    }

    /// Returns the number of pages that fit into the target, where there is plenty of data.
    fn fit(each: Duration) -> u32 {
        let pages = Duration::from_millis(TARGET_MS).as_micros() / each.as_micros().max(1);
        u32::try_from(pages)
            .unwrap_or(u32::MAX)
            .clamp(1, MAX_STRIDE)
    }

    #[test]
    fn strides_whose_rest_is_lost_with_a_worker_are_not_made_long() {
        let uncut = Uncut {
            runs_once: true,
            ..plenty(100)
        };
        let mut length = tuned();
        for _ in 0..2 {
            let Length { pages, by } = length.next(&uncut);
            assert_eq!((pages, by), (1, LengthBy::RunsOnce));
            assert!(!length.is_growing(100, || uncut));
            length.observe(&sample(1, 100, Duration::from_millis(1)));
        }
        assert_eq!(StrideLength::fixed(7).next(&uncut).pages, 7);
    }

    #[test]
    fn it_begins_short_and_stays_so_for_a_source_that_cannot_skip() {
        let mut length = tuned();
        assert!(length.is_growing(100, || plenty(100)));
        assert_eq!(next(&length), FIRST);
        let nobody_knows = Uncut {
            left: None,
            ..plenty(100)
        };
        assert_eq!(length.next(&nobody_knows).pages, 1);
        assert_eq!(length.time_limit(), Some(Duration::from_millis(250)));
        assert_eq!(length.shortest(100), 1);
        length.observe(&StrideSample {
            cannot_skip: true,
            ..sample(1, 100, Duration::from_millis(1))
        });
        assert!(!length.is_growing(100, || plenty(100)));
        let Length { pages, by } = length.next(&plenty(100));
        assert_eq!((pages, by), (1, LengthBy::Source));
        assert_eq!(by.to_string(), "the source cannot skip ahead");
    }

    #[test]
    fn a_page_that_takes_minutes_is_alone_at_once() {
        let mut length = tuned();
        for _ in 0..20 {
            let pages = next(&length);
            length.observe(&sample(pages, 100, Duration::from_millis(5)));
        }
        assert_eq!(next(&length), 1_000);
        // It gave the rest back after its first page.
        length.observe(&sample(1, 100, Duration::from_secs(120)));
        let Length { pages, by } = length.next(&plenty(100));
        assert_eq!(pages, 1);
        assert_eq!(by.to_string(), "a page takes about 2m");
    }

    #[test]
    fn a_setting_is_kept_to_and_can_be_tuned_again() {
        let mut length = StrideLength::fixed(20);
        length.observe(&sample(20, 100, Duration::from_millis(50)));
        assert_eq!(length.next(&plenty(100)).pages, 20);
        assert_eq!(length.time_limit(), None);
        length.tune(AutoStride::default());
        assert_eq!(length.time_limit(), Some(Duration::from_secs(10)));
        // Reports in the meantime count.
        assert_eq!(length.next(&plenty(100)).pages, 100);
        assert_eq!((length.shortest(100), length.shortest(50)), (5, 10));
        length.fix(7);
        assert_eq!(
            length.next(&plenty(100)),
            Length {
                pages: 7,
                by: LengthBy::Setting
            }
        );
    }

    #[test]
    fn page_sizes_change_the_length_at_once() {
        let mut length = tuned();
        for _ in 0..20 {
            length.observe(&sample(next(&length), 100, Duration::from_millis(50)));
        }
        assert_eq!(length.next(&plenty(100)).pages, 100);
        assert_eq!(length.next(&plenty(200)).pages, 50);
        assert_eq!(length.next(&plenty(50)).pages, 200);
    }

    #[test]
    fn more_data_than_expected_is_no_reason_for_single_pages() {
        let mut length = tuned();
        for _ in 0..20 {
            length.observe(&sample(next(&length), 100, Duration::from_millis(500)));
        }
        let beyond = Uncut {
            left: Some(0),
            found: 6_400,
            ..plenty(100)
        };
        assert_eq!(length.next(&beyond).pages, 10);
        let Length { pages, by } = length.next(&Uncut {
            found: 1_280,
            ..beyond
        });
        assert_eq!((pages, by), (4, LengthBy::Rest));
    }

    /// Runs pages one after the other in each slot, as decided; tells when the last slot ends, and how many
    /// strides that took.
    fn run(
        pages: u64,
        slots: u32,
        known: bool,
        mut takes: impl FnMut(u64) -> Duration,
    ) -> (Duration, u64) {
        let mut length = tuned();
        let mut slots_end = vec![Duration::ZERO; slots as usize];
        let mut reports: Vec<(Duration, StrideSample)> = Vec::new();
        let mut ready: VecDeque<std::ops::Range<u64>> = VecDeque::new();
        let (mut cut, mut strides) = (0, 0);
        while cut < pages || !ready.is_empty() {
            // The slot that is free first takes the next stride. The length reflects all reports up to then.
            let slot = (0..slots_end.len())
                .min_by_key(|slot| slots_end[*slot])
                .unwrap();
            let now = slots_end[slot];
            reports.sort_by_key(|(at, _)| *at);
            while reports.first().is_some_and(|(at, _)| *at <= now) {
                length.observe(&reports.remove(0).1);
            }
            if ready.is_empty() {
                let uncut = Uncut {
                    left: known.then_some(pages - cut),
                    found: cut,
                    slots,
                    ..plenty(100)
                };
                let next = u64::from(length.next(&uncut).pages);
                // One announcement is for many strides.
                for _ in 0..slots {
                    let end = (cut + next).min(pages);
                    ready.extend((end > cut).then_some(cut..end));
                    cut = end;
                }
            }
            let stride = ready.pop_front().unwrap();
            let limit = length.time_limit().unwrap();
            let (mut took, mut at) = (Duration::ZERO, stride.start);
            while at < stride.end && took < limit {
                took += takes(at);
                at += 1;
            }
            if at < stride.end {
                ready.push_front(at..stride.end);
            }
            strides += 1;
            slots_end[slot] += took;
            let report = StrideSample {
                took,
                ..sample((at - stride.start) as u32, 100, Duration::ZERO)
            };
            reports.push((slots_end[slot], report));
        }
        (slots_end.into_iter().max().unwrap(), strides)
    }

    proptest! {
        /// Strides take the target time after a few reports, whatever the duration of a page.
        #[test]
        fn it_finds_the_length_in_a_few_reports(micros in 1u64..600_000_000, initial in 1u32..200) {
            let each = Duration::from_micros(micros);
            let mut length = StrideLength::tuned(AutoStride::default(), initial);
            for _ in 0..6 {
                length.observe(&sample(next(&length), 100, each));
            }
            prop_assert_eq!(next(&length), fit(each));
        }

        /// The same after any past, up or down.
        #[test]
        fn it_follows_a_change_in_a_few_reports(before in 1u64..100_000_000, after in 1u64..100_000_000) {
            let mut length = tuned();
            let (before, after) = (Duration::from_micros(before), Duration::from_micros(after));
            for _ in 0..20 {
                length.observe(&sample(next(&length), 100, before));
            }
            for _ in 0..40 {
                length.observe(&sample(next(&length), 100, after));
            }
            let (found, fit) = (f64::from(next(&length)), f64::from(fit(after)));
            prop_assert!((found - fit).abs() <= fit * 0.05 + 1.0, "{} for {}", found, fit);
        }

        /// Pages that take from 1/f to f times as long make strides that are from 1/f to f times as long.
        #[test]
        fn noise_is_not_amplified(
            micros in 5_000u64..500_000,
            times in prop::collection::vec(0.25f64..4.0, 20..100),
        ) {
            let each = Duration::from_micros(micros);
            let mut length = tuned();
            for (n, times) in times.iter().enumerate() {
                length.observe(&sample(next(&length), 100, each.mul_f64(*times)));
                if n >= 10 {
                    let (found, fit) = (f64::from(next(&length)), f64::from(fit(each)));
                    prop_assert!(found >= (fit / 4.0).floor().max(1.0) - 1.0, "{} for {}", found, fit);
                    prop_assert!(found <= (fit * 4.0).ceil() + 4.0, "{} for {}", found, fit);
                }
            }
        }

        /// A length lies between 1 page and the maximum, whatever is reported and left.
        #[test]
        fn it_is_always_a_length(
            reports in prop::collection::vec((0u32..20_000, 0u32..2_000_000, 0u64..u64::MAX), 0..20),
            left in prop::option::of(any::<u64>()),
            found in any::<u64>(),
            slots in 0u32..500,
            page_size in 0u32..1_000_000,
            initial in 0u32..20_000,
        ) {
            let mut length = StrideLength::tuned(AutoStride::default(), initial);
            for (pages, page_size, micros) in reports {
                let took = Duration::from_micros(micros);
                let sample = StrideSample { pages, page_size, took, cannot_skip: false };
                length.observe(&sample);
                let uncut = Uncut { left, found, slots, page_size, runs_once: false };
                let Length { pages: next, by } = length.next(&uncut);
                prop_assert!((1..=MAX_STRIDE).contains(&next), "{}", next);
                let grows = matches!(by, LengthBy::Beginning | LengthBy::Growth);
                prop_assert_eq!(length.is_growing(page_size, || uncut), grows);
            }
            let next = length.next(&Uncut { left, found, slots, page_size, runs_once: false }).pages;
            prop_assert!((1..=MAX_STRIDE).contains(&next), "{}", next);
            // A continue-as-new carries the length over unchanged.
            let stored = serde_json::to_string(&length).unwrap();
            prop_assert_eq!(serde_json::from_str::<StrideLength>(&stored).unwrap(), length);
        }

        /// Every slot gets several strides where the amount of data left is known, unless these would be very short.
        #[test]
        fn every_slot_gets_enough_of_what_is_left(
            micros in 1_000u64..1_000_000,
            left in 0u64..1_000_000,
            slots in 1u32..500,
        ) {
            let mut length = tuned();
            for _ in 0..20 {
                length.observe(&sample(next(&length), 100, Duration::from_micros(micros)));
            }
            let uncut = Uncut { left: Some(left), found: 0, slots, page_size: 100, runs_once: false };
            let next = u64::from(length.next(&uncut).pages);
            let short = TARGET_MS * 1_000 / 20 / micros;
            let part = left / (ROUNDS as u64 * u64::from(slots));
            prop_assert!(next <= part.max(short).max(1), "{}", next);
        }

        /// The slots end together: the whole takes little longer than when each page could be given to any of
        /// them at any time.
        #[test]
        fn the_last_slot_does_not_end_much_later_than_the_others(
            pages in 1u64..20_000,
            slots in 1u32..60,
            micros in 1_000u64..2_000_000,
            known in any::<bool>(),
            seed in any::<u64>(),
        ) {
            // From half to one and a half times as long.
            let takes = |page: u64| {
                let random = page.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                Duration::from_micros(micros / 2 + micros * random / (1 << 24))
            };
            let (took, strides) = run(pages, slots, known, takes);
            let all: Duration = (0..pages).map(takes).sum();
            let ideal = all / slots;
            let page = Duration::from_micros(micros * 3 / 2);
            let late = match known {
                true => Duration::from_millis(TARGET_MS / 20 * 2) + page * 2,
                // One more stride than the others, which is as long as the target at most.
                false => Duration::from_millis(TARGET_MS / 20 * 2) + page * 2
                    + Duration::from_millis(TARGET_MS / 2).min(ideal),
            };
            prop_assert!(
                took <= ideal.mul_f64(1.1) + late,
                "{:?} instead of {:?}, {} strides", took, ideal, strides
            );
        }

        /// The length of an open stride is known, or taken to be longer than it is; and little is remembered.
        #[test]
        fn the_lengths_of_open_strides_are_remembered(
            cuts in prop::collection::vec((1u32..50, 1u64..100), 1..60),
            open in 0usize..60,
        ) {
            let mut length = tuned();
            let mut at = 0;
            let mut starts = Vec::new();
            for (n, (pages, strides)) in cuts.iter().enumerate() {
                starts.push((at, *pages));
                let oldest = starts[n.saturating_sub(open)].0;
                length.cut(at, *pages, oldest);
                at += strides;
                for (from, pages) in starts.iter().filter(|(from, _)| *from >= oldest) {
                    prop_assert!(length.of(*from) >= *pages);
                }
                prop_assert_eq!(length.of(at), *pages);
            }
            prop_assert!(length.cuts.len() <= MAX_CUTS);
        }
    }
}
