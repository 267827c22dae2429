//! Setting: the number of pages in a stride, fixed or tuned.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::base::text::{exactly, in_units};

const TARGETS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);

const DEFAULT_TARGET: Duration = Duration::from_secs(5);

/// The number of pages that one activity processes in a row: tuned while the batch runs, which is the default, or
/// fixed.
///
/// More than 1 requires a source that can [skip ahead](crate::PageProcessor::skip_ahead). With any other source
/// each activity processes one page. If a number was set, [`Progress::warnings`](crate::progress::Progress::warnings) says so.
///
/// Text form: `8`, `auto`, `auto@10s`.
///
/// ```
/// use std::time::Duration;
/// use temporal_batch::{settings::{AutoStride, Stride}, Batch};
///
/// let batch = || Batch::named("emails", "hash-emails", serde_json::Value::Null);
/// let _ = batch().stride(8);
/// let _ = batch().stride(AutoStride::of(Duration::from_secs(10)));
/// assert_eq!("auto@10s".parse(), Ok(Stride::Auto(AutoStride::of(Duration::from_secs(10)))));
/// assert_eq!("8".parse(), Ok(Stride::Pages(8)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stride {
    /// A fixed number, from 1 to 10,000.
    #[serde(rename = "fixed")]
    Pages(u32),
    /// The number of pages that take about the target time.
    Auto(AutoStride),
}

impl From<u32> for Stride {
    fn from(pages: u32) -> Self {
        Self::Pages(pages)
    }
}

impl From<AutoStride> for Stride {
    fn from(auto: AutoStride) -> Self {
        Self::Auto(auto)
    }
}

impl FromStr for Stride {
    type Err = InvalidAutoStride;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given.parse() {
            Ok(pages) => Ok(Self::Pages(pages)),
            Err(_) => given.parse().map(Self::Auto),
        }
    }
}

/// Tunes the length of strides: as many pages as take about the target time.
///
/// | setting | default | allowed |
/// |---|---|---|
/// | `target` | 5 s for an activity | 100 ms to 10 min |
/// | `beginning_with` | 1 page in the first strides | 1 to 10,000 |
///
/// The time runs from the first page of a stride to its last, including waits for the rate and pauses between
/// pages.
///
/// - The first strides have up to 16 pages, or [`beginning_with`](Self::beginning_with) if that is more. Until
///   the first of them has reported how long its pages took, a stride returns its remaining pages after a
///   twentieth of the target, at the end of a page.
/// - From then on a stride has at most 32 times the recently observed pages and never more than 10,000. It
///   returns its remaining pages after twice the target.
/// - All pages in flight should end together: towards the end of the data no stride has more than half of what
///   remains for each slot. Strides shorter than a twentieth of the target are not created for that purpose.
/// - These rules apply if [`PageProcessor::size_hint`](crate::PageProcessor::size_hint) gives the amount of
///   data. Without it the first strides have one page, no stride has more than half of what was found so far
///   for each slot, and no stride takes more than a quarter of the target.
///
/// Strides have one page if the source cannot [skip ahead](crate::PageProcessor::skip_ahead). The same holds in
/// [`RetryMode::AtMostOnce`](crate::settings::RetryMode::AtMostOnce) without a ledger, where the rest of its stride is given up
/// with a lost worker.
///
/// Text form: `auto`, `auto@10s`.
///
/// ```
/// use std::time::Duration;
/// use temporal_batch::settings::AutoStride;
///
/// let stride: AutoStride = "auto@10s".parse()?;
/// assert_eq!(stride, AutoStride::of(Duration::from_secs(10)));
/// assert_eq!(stride.to_string(), "10s");
/// # Ok::<(), temporal_batch::errors::InvalidAutoStride>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoStride {
    pub(crate) target: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u32>,
}

impl Default for AutoStride {
    fn default() -> Self {
        Self::of(DEFAULT_TARGET)
    }
}

impl AutoStride {
    /// Sets the target time of a stride. It is checked when the batch is started.
    pub fn of(target: Duration) -> Self {
        Self {
            target,
            first: None,
        }
    }

    /// Sets the number of pages in the strides of a new batch before any page was timed. A running batch keeps
    /// its current length.
    #[must_use]
    pub fn beginning_with(mut self, pages: u32) -> Self {
        self.first = Some(pages);
        self
    }

    pub(crate) fn first(&self) -> u32 {
        self.first.unwrap_or(1)
    }

    /// Returns the target time of a stride.
    pub fn target_duration(&self) -> Duration {
        self.target
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidAutoStride> {
        let given = self.target;
        if !TARGETS.contains(&given) {
            return Err(InvalidAutoStride::Target { given });
        }
        Ok(())
    }
}

impl fmt::Display for AutoStride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_units(self.target))
    }
}

impl FromStr for AutoStride {
    type Err = InvalidAutoStride;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let parsed = parse(given).ok_or_else(|| InvalidAutoStride::Syntax {
            given: given.chars().take(60).collect(),
        })?;
        parsed.validate()?;
        Ok(parsed)
    }
}

fn parse(given: &str) -> Option<AutoStride> {
    match given.strip_prefix("auto")? {
        "" => Some(AutoStride::default()),
        rest => {
            let target = humantime::parse_duration(rest.strip_prefix('@')?).ok()?;
            Some(AutoStride::of(target))
        }
    }
}

/// An [`AutoStride`] that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAutoStride {
    /// The text does not describe a target.
    #[error(
        "automatic stride \"{given}\" is not understood; write it like \"auto\" or \"auto@10s\""
    )]
    Syntax {
        /// The text, shortened.
        given: String,
    },
    /// The target is out of range.
    #[error(
        "the target for a stride is {}; it must be from {} to {}",
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
    fn text_stands_for_a_target() {
        let parsed = |text: &str| text.parse::<AutoStride>();
        assert_eq!(parsed("auto"), Ok(AutoStride::default()));
        assert_eq!(
            parsed("auto@1m"),
            Ok(AutoStride::of(Duration::from_secs(60)))
        );
        for bad in [
            "", "5", "auto10s", "auto@", "auto@5", "auto@1ms", "auto@11m", "auto@-1s",
        ] {
            let error = parsed(bad).unwrap_err().to_string();
            let helps = error.contains("auto@10s") || error.contains("from 100ms to 10m");
            assert!(helps, "{error}");
        }
    }
}
