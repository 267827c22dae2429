//! Setting: a planned change of the parallelism.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    base::text::{exactly, given, in_units},
    batch::MAX_PARALLELISM,
};

const SHORTEST: Duration = Duration::from_secs(1);

const LONGEST: Duration = Duration::from_secs(30 * 86_400);

const MAX_SHOWN: usize = 60;

/// Moves the limit on pages in flight from one number to another, in even steps of one page.
///
/// Only the running time of the batch counts: a pause stops the ramp where it is. A ramp may go down.
///
/// The text form, which is also the stored form, is `FROM..TO/TIME`. The bounds are checked with the batch:
/// both numbers from 0 to 500, the time from one second to 30 days.
///
/// ```
/// use std::time::Duration;
/// use temporal_batch::settings::Ramp;
///
/// let ramp: Ramp = "1..32/10m".parse().unwrap();
/// assert_eq!(ramp, Ramp::new(1, 32, Duration::from_secs(600)));
/// assert_eq!(ramp.to_string(), "1..32/10m");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ramp {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) over: Duration,
}

impl Ramp {
    /// Creates a ramp between two numbers of pages in flight, over a running time.
    pub fn new(from: u32, to: u32, over: Duration) -> Self {
        Self { from, to, over }
    }

    /// Returns the pages in flight at the beginning.
    pub fn from(&self) -> u32 {
        self.from
    }

    /// Returns the pages in flight at the end.
    pub fn to(&self) -> u32 {
        self.to
    }

    /// Returns the duration, not counting pauses.
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

    pub(crate) fn steps(&self) -> u32 {
        self.from.abs_diff(self.to)
    }

    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.over.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Ramp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a space the text is one word on a command line.
        let over = in_units(self.over);
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
    given(text, MAX_SHOWN)
}

/// A ramp that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRamp {
    /// The text is not a ramp.
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
    #[error("the ramp takes {}; it must take from 1s to 30 days", exactly(*given))]
    Lasts {
        /// The time that was given.
        given: Duration,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let ramp: Ramp = "1..32/10m".parse().unwrap();
        assert_eq!(serde_json::to_value(&ramp).unwrap(), "1..32/10m");
    }

    pub(crate) fn ramps() -> impl Strategy<Value = Ramp> {
        let over = prop_oneof![1_000u64..20_000, 1_000u64..2_592_000_000];
        (0u32..=MAX_PARALLELISM, 0u32..=MAX_PARALLELISM, over)
            .prop_map(|(from, to, over)| Ramp::new(from, to, Duration::from_millis(over)))
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
        }
}
