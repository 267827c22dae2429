//! Setting: a page size that is tuned while the batch runs.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    base::text::{exactly, in_units},
    batch::MAX_PAGE_SIZE,
};

const TARGETS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(600);

/// Tunes the page size of a batch: the largest size within the bounds whose pages take about the target time.
///
/// | setting | default | allowed |
/// |---|---|---|
/// | `min` | 100 items | 1 to `max` |
/// | `max` | 10,000 items | `min` to 1,000,000 |
/// | `target` | 1 s to fetch and process a page | 10 ms to 10 min |
///
/// Pages grow by at most a half every 10 s, and only after eight full pages of the same size were clearly
/// faster than the target. A page with fewer items than requested is ignored, so a gap in the data does not
/// make pages larger. If pages are too slow they shrink at once, by at most a half each time. A page that times
/// out halves the size. The size then stays below three quarters of the size that timed out for ten minutes.
///
/// Text form: `auto`, `auto:100..5000`, `auto:100..5000@500ms`, `auto@500ms`.
///
/// ```
/// use std::time::Duration;
/// use temporal_batch::settings::AutoPageSize;
///
/// let size: AutoPageSize = "auto:100..5000@500ms".parse()?;
/// assert_eq!(size, AutoPageSize::new(100, 5_000).target(Duration::from_millis(500)));
/// assert_eq!(size.to_string(), "100..5000 at 500ms");
/// # Ok::<(), temporal_batch::errors::InvalidAutoPageSize>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoPageSize {
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) target: Duration,
}

impl Default for AutoPageSize {
    fn default() -> Self {
        Self::new(100, 10_000)
    }
}

impl AutoPageSize {
    /// Sets the bounds in items per page, with a target of 1 s. They are checked when the batch is started.
    pub fn new(min: u32, max: u32) -> Self {
        Self {
            min,
            max,
            target: Duration::from_secs(1),
        }
    }

    /// Sets the target time to fetch and process a page.
    #[must_use]
    pub fn target(mut self, target: Duration) -> Self {
        self.target = target;
        self
    }

    /// Returns the minimum number of items per page.
    pub fn min(&self) -> u32 {
        self.min
    }

    /// Returns the maximum number of items per page.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// Returns the target time to fetch and process a page.
    pub fn target_duration(&self) -> Duration {
        self.target
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidAutoPageSize> {
        let Self { min, max, target } = *self;
        if min < 1 || max < min || max > MAX_PAGE_SIZE {
            return Err(InvalidAutoPageSize::Bounds { min, max });
        }
        if !TARGETS.contains(&target) {
            return Err(InvalidAutoPageSize::Target { given: target });
        }
        Ok(())
    }
}

impl fmt::Display for AutoPageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = in_units(self.target);
        write!(f, "{}..{} at {target}", self.min, self.max)
    }
}

impl FromStr for AutoPageSize {
    type Err = InvalidAutoPageSize;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let parsed = parse(given).ok_or_else(|| InvalidAutoPageSize::Syntax {
            given: given.chars().take(60).collect(),
        })?;
        parsed.validate()?;
        Ok(parsed)
    }
}

fn parse(given: &str) -> Option<AutoPageSize> {
    let rest = given.strip_prefix("auto")?;
    let (bounds, target) = match rest.split_once('@') {
        Some((bounds, target)) => (bounds, Some(target)),
        None => (rest, None),
    };
    let mut parsed = AutoPageSize::default();
    if !bounds.is_empty() {
        let (min, max) = bounds.strip_prefix(':')?.split_once("..")?;
        parsed.min = min.parse().ok()?;
        parsed.max = max.parse().ok()?;
    }
    if let Some(target) = target {
        parsed.target = humantime::parse_duration(target).ok()?;
    }
    Some(parsed)
}

/// An [`AutoPageSize`] that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAutoPageSize {
    /// The text does not describe bounds and a target.
    #[error(
        "automatic page size \"{given}\" is not understood; write it like \"auto\" or \"auto:100..5000@500ms\""
    )]
    Syntax {
        /// The text, shortened.
        given: String,
    },
    /// The bounds are out of range or in the wrong order.
    #[error(
        "page sizes from {min} to {max} are not allowed; they must go up and be from 1 to {MAX_PAGE_SIZE}"
    )]
    Bounds {
        /// The lower bound that was given.
        min: u32,
        /// The upper bound that was given.
        max: u32,
    },
    /// The target is out of range.
    #[error(
        "the target for a page is {}; it must be from {} to {}",
        exactly(*given), exactly(*TARGETS.start()), exactly(*TARGETS.end())
    )]
    Target {
        /// The target that was given.
        given: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_for_bounds_and_target() {
        let parsed = |text: &str| text.parse::<AutoPageSize>();
        assert_eq!(parsed("auto"), Ok(AutoPageSize::default()));
        assert_eq!(
            parsed("auto:1..1000000"),
            Ok(AutoPageSize::new(1, MAX_PAGE_SIZE))
        );
        let half = Duration::from_millis(500);
        assert_eq!(
            parsed("auto@500ms"),
            Ok(AutoPageSize::default().target(half))
        );
        let all = parsed("auto:100..5000@500ms").unwrap();
        assert_eq!(all, AutoPageSize::new(100, 5_000).target(half));
        assert_eq!(all.to_string(), "100..5000 at 500ms");
        assert_eq!(AutoPageSize::default().to_string(), "100..10000 at 1s");
        let minutes = parsed("auto@1m 30s").unwrap();
        assert_eq!(minutes.to_string(), "100..10000 at 1m 30s");
    }

    #[test]
    fn text_that_means_nothing_is_refused() {
        for text in [
            "",
            "1000",
            "Auto",
            "auto:",
            "auto:5",
            "auto:1..",
            "auto:-1..5",
            "auto@",
            "auto@5",
            "auto@-1s",
            "auto5",
        ] {
            let error = text.parse::<AutoPageSize>().unwrap_err();
            assert!(
                matches!(error, InvalidAutoPageSize::Syntax { .. }),
                "{text}: {error}"
            );
        }
        for text in ["auto:0..5", "auto:9..8", "auto:1..1000001"] {
            let error = text.parse::<AutoPageSize>().unwrap_err();
            assert!(
                matches!(error, InvalidAutoPageSize::Bounds { .. }),
                "{text}: {error}"
            );
        }
        for text in ["auto@9ms", "auto@601s"] {
            let error = text.parse::<AutoPageSize>().unwrap_err();
            assert!(
                matches!(error, InvalidAutoPageSize::Target { .. }),
                "{text}: {error}"
            );
        }
        assert_eq!(
            "auto@1ms".parse::<AutoPageSize>().unwrap_err().to_string(),
            "the target for a page is 1ms; it must be from 10ms to 10m"
        );
    }
}
