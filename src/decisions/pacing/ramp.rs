//! A planned change of the parallelism.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::running_time::RunningTime;
use crate::{
    base::{error::truncate, text::exactly},
    batch::MAX_PARALLELISM,
    progress::Timestamp,
};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
const MAX_SHOWN: usize = 60;

/// Moves the limit on pages in flight from one number to another, in even steps of one page.
///
/// Only the time counts in which the batch runs: a pause stops the ramp where it is. A ramp may go down.
///
/// Its text is `FROM..TO/TIME`, and so it is stored. Its bounds are checked with the batch that it is for:
/// both numbers from 0 to 500, the time from one second to 30 days.
///
/// ```
/// use std::time::Duration;
/// use temporal_batch::Ramp;
///
/// let ramp: Ramp = "1..32/10m".parse().unwrap();
/// assert_eq!(ramp, Ramp::new(1, 32, Duration::from_secs(600)));
/// assert_eq!(ramp.to_string(), "1..32/10m");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ramp {
    from: u32,
    to: u32,
    over: Duration,
}

impl Ramp {
    /// From `from` to `to` pages in flight, over so much time of running.
    pub fn new(from: u32, to: u32, over: Duration) -> Self {
        Self { from, to, over }
    }

    /// Pages in flight at the beginning.
    pub fn from(&self) -> u32 {
        self.from
    }

    /// Pages in flight at the end.
    pub fn to(&self) -> u32 {
        self.to
    }

    /// How long the way takes, without pauses.
    pub fn over(&self) -> Duration {
        self.over
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidRamp> {
        for given in [self.from, self.to] {
            if given > MAX_PARALLELISM {
                return Err(InvalidRamp::Parallelism { given });
            }
        }
        if !(SHORTEST..=LONGEST).contains(&self.over) {
            return Err(InvalidRamp::Lasts { given: self.over });
        }
        Ok(())
    }

    fn steps(&self) -> u32 {
        self.from.abs_diff(self.to)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.over.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Ramp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a space it is one word of a command line.
        let over = humantime::format_duration(self.over).to_string();
        write!(f, "{}..{}/{}", self.from, self.to, over.replace(' ', ""))
    }
}

impl FromStr for Ramp {
    type Err = InvalidRamp;

    fn from_str(text: &str) -> Result<Self, InvalidRamp> {
        let syntax = || InvalidRamp::Syntax {
            given: shown(text.trim()),
        };
        let (numbers, over) = text.split_once('/').ok_or_else(syntax)?;
        let (from, to) = numbers.split_once("..").ok_or_else(syntax)?;
        let number = |text: &str| match text.trim().parse() {
            Ok(number) => Ok(number),
            Err(_) => Err(syntax()),
        };
        let over = over.trim();
        Ok(Self {
            from: number(from)?,
            to: number(to)?,
            over: humantime::parse_duration(over)
                .map_err(|_| InvalidRamp::Duration { given: shown(over) })?,
        })
    }
}

impl TryFrom<String> for Ramp {
    type Error = InvalidRamp;

    fn try_from(text: String) -> Result<Self, InvalidRamp> {
        text.parse()
    }
}

impl From<Ramp> for String {
    fn from(ramp: Ramp) -> Self {
        ramp.to_string()
    }
}

fn shown(text: &str) -> String {
    truncate(&text.escape_debug().to_string(), MAX_SHOWN)
}

/// A ramp that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRamp {
    /// The text is not one of a ramp.
    #[error("\"{given}\" is not a ramp; write FROM..TO/TIME, such as 1..32/10m")]
    Syntax {
        /// The text, shortened.
        given: String,
    },
    /// The time in the text is not a duration.
    #[error("the ramp's time \"{given}\" is not a duration; write it as in 90s, 10m or 1h30m")]
    Duration {
        /// The time, shortened.
        given: String,
    },
    /// One of the two numbers is too high.
    #[error(
        "the ramp has {given} pages in flight; both its ends must be from 0 to {MAX_PARALLELISM}"
    )]
    Parallelism {
        /// The number that was given.
        given: u32,
    },
    /// The ramp is too short or too long.
    #[error("the ramp takes {}; it must take from 1s to 30days", exactly(*given))]
    Lasts {
        /// The time that was given.
        given: Duration,
    },
}

/// A ramp under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RampState {
    ramp: Ramp,
    clock: RunningTime,
}

impl RampState {
    pub fn begin(ramp: Ramp, now: Timestamp) -> Self {
        Self {
            ramp,
            clock: RunningTime::begin(now),
        }
    }

    /// Stops its clock while the batch does not run. Once is enough, more do no harm.
    pub fn halt(&mut self, now: Timestamp) {
        self.clock.halt(now);
    }

    /// Starts its clock again. Once is enough, more do no harm.
    pub fn go(&mut self, now: Timestamp) {
        self.clock.go(now);
    }

    /// Pages in flight that it allows now.
    pub fn limit(&self, now: Timestamp) -> u32 {
        let taken = self.steps_taken(now);
        if self.ramp.to >= self.ramp.from {
            self.ramp.from + taken
        } else {
            self.ramp.from - taken
        }
    }

    /// When the limit changes next, if the batch keeps running. `None` while it is halted and once it is over.
    pub fn next_step(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.steps_taken(now) + 1;
        let steps = self.ramp.steps();
        if next > steps {
            return None;
        }
        let all = u128::from(self.ramp.millis());
        let at = (all * u128::from(next)).div_ceil(u128::from(steps));
        self.clock.when(u64::try_from(at).unwrap_or(u64::MAX))
    }

    /// Whether the limit has reached its end.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.steps_taken(now) == self.ramp.steps()
    }

    /// How much time of running is left.
    pub fn left(&self, now: Timestamp) -> Duration {
        if self.is_over(now) {
            return Duration::ZERO;
        }
        let ran = self.clock.millis(now);
        Duration::from_millis(self.ramp.millis().saturating_sub(ran))
    }

    pub fn ramp(&self) -> &Ramp {
        &self.ramp
    }

    fn steps_taken(&self, now: Timestamp) -> u32 {
        let steps = self.ramp.steps();
        let all = u128::from(self.ramp.millis());
        let ran = u128::from(self.clock.millis(now));
        if ran >= all {
            return steps;
        }
        // Less than `steps`, because ran < all.
        u32::try_from(ran * u128::from(steps) / all).unwrap_or(steps)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGIN: Timestamp = Timestamp(1_700_000_000_000);

    fn at(millis: u64) -> Timestamp {
        BEGIN.plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_ramp_goes_up_in_even_steps_and_ends_exactly_at_its_end() {
        let state = RampState::begin("1..5/8s".parse().unwrap(), BEGIN);
        let limits: Vec<u32> = (0..=9).map(|s| state.limit(at(s * 1_000))).collect();
        assert_eq!(limits, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
        assert_eq!(state.next_step(BEGIN), Some(at(2_000)));
        assert_eq!(state.left(at(3_000)), Duration::from_secs(5));
        assert!(!state.is_over(at(7_999)));
        assert!(state.is_over(at(8_000)));
        assert_eq!(state.next_step(at(8_000)), None);
        assert_eq!(state.left(at(9_000)), Duration::ZERO);
    }

    #[test]
    fn a_ramp_may_go_down_to_nothing() {
        let state = RampState::begin(Ramp::new(2, 0, Duration::from_secs(2)), BEGIN);
        let limits = [0, 999, 1_000, 1_999, 2_000].map(|ms| state.limit(at(ms)));
        assert_eq!(limits, [2, 2, 1, 1, 0]);
    }

    #[test]
    fn a_ramp_without_a_step_is_over_at_once() {
        let state = RampState::begin(Ramp::new(4, 4, Duration::from_secs(60)), BEGIN);
        assert_eq!(state.limit(BEGIN), 4);
        assert!(state.is_over(BEGIN));
        assert_eq!(state.next_step(BEGIN), None);
        assert_eq!(state.left(BEGIN), Duration::ZERO);
    }

    #[test]
    fn a_pause_stops_the_ramp_where_it_is() {
        let mut state = RampState::begin("0..10/10s".parse().unwrap(), BEGIN);
        state.halt(at(3_500));
        assert_eq!(state.limit(at(1_000_000)), 3);
        assert_eq!(state.next_step(at(1_000_000)), None);
        assert_eq!(state.left(at(1_000_000)), Duration::from_millis(6_500));
        state.go(at(1_000_000));
        assert_eq!(state.next_step(at(1_000_000)), Some(at(1_000_500)));
        assert_eq!(state.limit(at(1_000_500)), 4);
    }

    #[test]
    fn a_text_that_is_no_ramp_says_what_is_allowed() {
        for text in [
            "",
            "1",
            "1..2",
            "1/10m",
            "a..2/10m",
            "-1..2/10m",
            "1..2..3/1m",
            "1..5000000000/1m",
        ] {
            let error = text.parse::<Ramp>().unwrap_err();
            assert!(matches!(error, InvalidRamp::Syntax { .. }), "{text}");
            assert!(error.to_string().contains("1..32/10m"), "{error}");
        }
        for text in ["1..2/", "1..2/10", "1..2/soon", "1..2/-1m", "1..2/1m/2m"] {
            let error = text.parse::<Ramp>().unwrap_err();
            assert!(
                matches!(error, InvalidRamp::Duration { .. }),
                "{text}: {error}"
            );
        }
        let long = "x".repeat(10_000).parse::<Ramp>().unwrap_err().to_string();
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn spaces_do_not_matter() {
        let ramp: Ramp = " 1 .. 32 / 1h 30m ".parse().unwrap();
        assert_eq!(ramp.to_string(), "1..32/1h30m");
    }

    #[test]
    fn bounds_are_checked() {
        let second = Duration::from_secs(1);
        assert_eq!(Ramp::new(0, 500, second).validate(), Ok(()));
        assert_eq!(Ramp::new(500, 0, LONGEST).validate(), Ok(()));
        assert_eq!(
            Ramp::new(1, 501, second).validate(),
            Err(InvalidRamp::Parallelism { given: 501 })
        );
        assert!(Ramp::new(501, 1, second).validate().is_err());
        for over in [Duration::ZERO, Duration::from_millis(999), LONGEST + second] {
            assert_eq!(
                Ramp::new(1, 2, over).validate(),
                Err(InvalidRamp::Lasts { given: over })
            );
        }
    }

    #[test]
    fn a_ramp_is_stored_as_its_text() {
        let state = RampState::begin("1..32/10m".parse().unwrap(), BEGIN);
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["ramp"], "1..32/10m");
    }

    fn ramps() -> impl Strategy<Value = Ramp> {
        let over = prop_oneof![1_000u64..20_000, 1_000u64..2_592_000_000];
        (0u32..=MAX_PARALLELISM, 0u32..=MAX_PARALLELISM, over)
            .prop_map(|(from, to, over)| Ramp::new(from, to, Duration::from_millis(over)))
    }

    /// Runs and halts, in turns: milliseconds of each.
    fn pauses() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0u64..5_000, 0u64..10_000_000), 0..8)
    }

    proptest! {
        #[test]
        fn every_ramp_is_read_as_it_is_written(
            from in any::<u32>(), to in any::<u32>(), secs in 0u64..10_000_000_000, nanos in 0u32..1_000_000_000,
        ) {
            let ramp = Ramp::new(from, to, Duration::new(secs, nanos));
            let text = ramp.to_string();
            prop_assert!(!text.contains(' '), "{}", text);
            prop_assert_eq!(text.parse(), Ok(ramp));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9./ a-z-]{0,20}") {
            let _ = text.parse::<Ramp>();
        }

        #[test]
        fn the_limit_walks_between_its_ends_and_never_turns_back(
            ramp in ramps(), mut moments in prop::collection::vec(0u64..3_000_000_000, 1..20),
        ) {
            prop_assert_eq!(ramp.validate(), Ok(()));
            let state = RampState::begin(ramp.clone(), BEGIN);
            moments.sort_unstable();
            let mut walked = 0;
            for moment in moments {
                let limit = state.limit(at(moment));
                let low = ramp.from().min(ramp.to());
                let high = ramp.from().max(ramp.to());
                prop_assert!((low..=high).contains(&limit));
                let distance = limit.abs_diff(ramp.from());
                prop_assert!(distance >= walked);
                walked = distance;
                prop_assert_eq!(state.is_over(at(moment)), limit == ramp.to());
                prop_assert_eq!(state.left(at(moment)).is_zero(), limit == ramp.to());
            }
            prop_assert_eq!(state.limit(BEGIN), ramp.from());
            let end = BEGIN.plus(ramp.over());
            prop_assert_eq!(state.limit(end), ramp.to());
            if ramp.from() != ramp.to() {
                prop_assert_ne!(state.limit(Timestamp(end.0 - 1)), ramp.to());
            }
        }

        #[test]
        fn every_step_is_one_page_and_comes_when_it_was_foretold(ramp in ramps()) {
            let state = RampState::begin(ramp.clone(), BEGIN);
            let (mut now, mut steps) = (BEGIN, 0);
            while let Some(next) = state.next_step(now) {
                prop_assert!(next > now);
                let before = state.limit(now);
                prop_assert_eq!(state.limit(Timestamp(next.0 - 1)), before);
                prop_assert_eq!(state.limit(next).abs_diff(before), 1);
                prop_assert_eq!(state.next_step(Timestamp(next.0 - 1)), Some(next));
                now = next;
                steps += 1;
            }
            prop_assert_eq!(steps, ramp.from().abs_diff(ramp.to()));
            prop_assert_eq!(state.limit(now), ramp.to());
        }

        #[test]
        fn neither_halting_nor_storing_changes_the_schedule(
            ramp in ramps(), pauses in pauses(), further in 0u64..30_000,
        ) {
            let undisturbed = RampState::begin(ramp.clone(), BEGIN);
            let mut state = undisturbed.clone();
            let (mut now, mut ran) = (0, 0);
            for (run, halt) in pauses {
                now += run;
                ran += run;
                state.halt(at(now));
                let json = serde_json::to_string(&state).unwrap();
                state = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(state.next_step(at(now)), None);
                state.halt(at(now + halt / 2));
                prop_assert_eq!(state.limit(at(now + halt)), undisturbed.limit(at(ran)));
                now += halt;
                state.go(at(now));
                state.go(at(now));
                let json = serde_json::to_string(&state).unwrap();
                prop_assert_eq!(&serde_json::from_str::<RampState>(&json).unwrap(), &state);
            }
            now += further;
            ran += further;
            prop_assert_eq!(state.limit(at(now)), undisturbed.limit(at(ran)));
            prop_assert_eq!(state.left(at(now)), undisturbed.left(at(ran)));
            prop_assert_eq!(state.is_over(at(now)), undisturbed.is_over(at(ran)));
            let halted = now - ran;
            let foretold = undisturbed.next_step(at(ran)).map(|t| Timestamp(t.0 + halted));
            prop_assert_eq!(state.next_step(at(now)), foretold);
        }
    }
}
