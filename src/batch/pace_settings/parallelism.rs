//! Setting: pages in flight that the batch finds by itself.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::batch::MAX_PARALLELISM;

/// Lets a batch find how many pages it has in flight: as many as bring throughput, and fewer as soon as the
/// system behind them complains.
///
/// | setting | default | allowed |
/// |---|---|---|
/// | `min` | 1 page in flight | 1 to `max` |
/// | `max` | 32 pages in flight | `min` to 500 |
///
/// It begins at `min`. Every 10 s in which all pages were really in flight it adds one. What brings less than
/// half of its share in items per second is taken back, and tried again later. Where items take more than 1.6
/// times as long as at the best of times, pages are taken away. Failures of more than 2 % of the pages, and a
/// throttle that begins, halve the limit at once, at most every 5 s.
///
/// It looks at the batch alone, and takes what a system has to give. What others need of it is for a
/// [`Throttle`](crate::Throttle) to say.
///
/// As text: `auto`, `auto:2..16`.
///
/// ```
/// use temporal_batch::AutoParallelism;
///
/// let pages: AutoParallelism = "auto:2..16".parse()?;
/// assert_eq!(pages, AutoParallelism::new(2, 16));
/// assert_eq!(pages.to_string(), "2..16");
/// # Ok::<(), temporal_batch::InvalidAutoParallelism>(())
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
    /// Bounds in pages in flight. Nothing is checked before the batch is started.
    pub fn new(min: u32, max: u32) -> Self {
        Self { min, max }
    }

    /// Pages in flight at least.
    pub fn min(&self) -> u32 {
        self.min
    }

    /// Pages in flight at most.
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

/// What is wrong with an [`AutoParallelism`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAutoParallelism {
    /// The text is not one that stands for bounds.
    #[error(
        "automatic parallelism \"{given}\" is not understood; write it like \"auto\" or \"auto:2..16\""
    )]
    Syntax {
        /// The text, shortened.
        given: String,
    },
    /// The bounds are outside of their range or the wrong way round.
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
