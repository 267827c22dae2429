//! Setting: a number of pages in flight that is tuned while the batch runs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::batch::MAX_PARALLELISM;

/// Tunes the number of pages in flight: up as long as that brings throughput, and down as soon as the system
/// behind the batch is overloaded.
///
/// | setting | default | allowed |
/// |---|---|---|
/// | `min` | 1 page in flight | 1 to `max` |
/// | `max` | 32 pages in flight | `min` to 500 |
///
/// The number begins at `min`. It grows by one every 10 s in which all pages were really in flight. A step that
/// brings less than half of its share in items per second is taken back and tried again later. If items take
/// more than 1.6 times as long as at best, the number shrinks. If more than 2 % of the pages fail, or a
/// throttle closes, the number halves at once, at most every 5 s.
///
/// The tuning looks only at this batch and uses all that a system can give. A [`Throttle`](crate::throttle::Throttle)
/// protects the needs of others.
///
/// Text form: `auto`, `auto:2..16`.
///
/// ```
/// use temporal_batch::settings::AutoParallelism;
///
/// let pages: AutoParallelism = "auto:2..16".parse()?;
/// assert_eq!(pages, AutoParallelism::new(2, 16));
/// assert_eq!(pages.to_string(), "2..16");
/// # Ok::<(), temporal_batch::errors::InvalidAutoParallelism>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoParallelism {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl Default for AutoParallelism {
    fn default() -> Self {
        Self::new(1, 32)
    }
}

impl AutoParallelism {
    /// Sets the bounds in pages in flight. They are checked when the batch is started.
    pub fn new(min: u32, max: u32) -> Self {
        Self { min, max }
    }

    /// Returns the minimum number of pages in flight.
    pub fn min(&self) -> u32 {
        self.min
    }

    /// Returns the maximum number of pages in flight.
    pub fn max(&self) -> u32 {
        self.max
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidAutoParallelism> {
        let Self { min, max } = *self;
        if min < 1 || max < min || max > MAX_PARALLELISM {
            return Err(InvalidAutoParallelism::Bounds { min, max });
        }
        Ok(())
    }
}

impl fmt::Display for AutoParallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min, self.max)
    }
}

impl FromStr for AutoParallelism {
    type Err = InvalidAutoParallelism;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let parsed = parse(given).ok_or_else(|| InvalidAutoParallelism::Syntax {
            given: given.chars().take(60).collect(),
        })?;
        parsed.validate()?;
        Ok(parsed)
    }
}

fn parse(given: &str) -> Option<AutoParallelism> {
    let bounds = given.strip_prefix("auto")?;
    if bounds.is_empty() {
        return Some(AutoParallelism::default());
    }
    let (min, max) = bounds.strip_prefix(':')?.split_once("..")?;
    Some(AutoParallelism::new(min.parse().ok()?, max.parse().ok()?))
}

/// An [`AutoParallelism`] that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAutoParallelism {
    /// The text does not describe bounds.
    #[error(
        "automatic parallelism \"{given}\" is not understood; write it like \"auto\" or \"auto:2..16\""
    )]
    Syntax {
        /// The text, shortened.
        given: String,
    },
    /// The bounds are out of range or in the wrong order.
    #[error(
        "{min} to {max} pages in flight are not allowed; they must go up and be from 1 to {MAX_PARALLELISM}"
    )]
    Bounds {
        /// The lower bound that was given.
        min: u32,
        /// The upper bound that was given.
        max: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_for_bounds() {
        let parsed = |text: &str| text.parse::<AutoParallelism>();
        assert_eq!(parsed("auto"), Ok(AutoParallelism::default()));
        assert_eq!(parsed("auto:2..16"), Ok(AutoParallelism::new(2, 16)));
        assert_eq!(parsed("auto:500..500"), Ok(AutoParallelism::new(500, 500)));
        assert_eq!(AutoParallelism::default().to_string(), "1..32");
        for text in [
            "",
            "8",
            "auto:",
            "auto:2",
            "auto:2..",
            "auto:2...16",
            "auto2..16",
            "auto:-1..2",
        ] {
            let error = parsed(text).unwrap_err();
            assert!(
                matches!(error, InvalidAutoParallelism::Syntax { .. }),
                "{text}: {error}"
            );
        }
        for text in ["auto:0..5", "auto:6..5", "auto:1..501"] {
            let error = parsed(text).unwrap_err();
            assert!(
                matches!(error, InvalidAutoParallelism::Bounds { .. }),
                "{text}: {error}"
            );
        }
    }
}
