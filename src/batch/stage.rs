//! Stages: a batch proves itself on a few items before it processes the rest.
//!
//! Each stage but the last ends at a mark, the total number of items up to there. The
//! [scheduler](crate::decisions::scheduler) dispatches nothing beyond the mark, and the controller checks what
//! is finished. Pure.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::base::text::given;

/// Maximum number of stages of a batch.
const MAX_STAGES: usize = 20;

/// The point up to which a batch runs before it is checked, counted in items from its beginning.
///
/// Text form: `100`, `100rows` or `100items`, `2.5%`, `all`.
///
/// ```
/// use temporal_batch::settings::Stage;
///
/// assert_eq!("100rows".parse(), Ok(Stage::Items(100)));
/// assert_eq!("1%".parse(), Ok(Stage::Percent(1.0)));
/// assert_eq!(Stage::Items(100).to_string(), "100items");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Stage {
    /// A number of items.
    Items(u64),
    /// A percentage of the expected items ([`PageProcessor::size_hint`](crate::PageProcessor::size_hint)),
    /// rounded up.
    Percent(f64),
    /// All items. The last stage is always this one, whether named or not.
    All,
}

/// Stages that are not allowed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStages {
    /// The text is not a stage.
    #[error("\"{given}\" is not a stage; use a number of items (100rows), a share (1%) or all")]
    NotAStage {
        /// The text, shortened.
        given: String,
    },
    /// A stage would have no items.
    #[error("a stage of no items is not allowed; use at least 1")]
    Empty,
    /// The percentage is not between 0 and 100.
    #[error("a stage of {given} % is not allowed; use more than 0 and less than 100, or all")]
    Percent {
        /// The percentage that was given.
        given: f64,
    },
    /// A stage is not larger than an earlier one.
    #[error("stage {after} comes after {before}; stages must grow, and all is the last one")]
    Order {
        /// The earlier stage.
        before: Stage,
        /// The later stage, which is not larger.
        after: Stage,
    },
    /// The list of stages is too long.
    #[error("{given} stages are named; at most {MAX_STAGES} are allowed")]
    TooMany {
        /// The number of stages that were given.
        given: usize,
    },
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Items(items) => write!(f, "{items}items"),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Stage {
    type Err = InvalidStages;

    fn from_str(text: &str) -> Result<Self, InvalidStages> {
        let text = text.trim();
        let wrong = || InvalidStages::NotAStage {
            given: given(text, 40),
        };
        if text == "all" {
            return Ok(Self::All);
        }
        let stage = match text.strip_suffix('%') {
            Some(percent) => Self::Percent(percent.trim().parse().map_err(|_| wrong())?),
            None => {
                let items = ["rows", "items"]
                    .into_iter()
                    .find_map(|unit| text.strip_suffix(unit))
                    .unwrap_or(text);
                Self::Items(items.trim().parse().map_err(|_| wrong())?)
            }
        };
        stage.validate()?;
        Ok(stage)
    }
}

impl From<Stage> for String {
    fn from(stage: Stage) -> Self {
        stage.to_string()
    }
}

impl TryFrom<String> for Stage {
    type Error = InvalidStages;

    fn try_from(text: String) -> Result<Self, InvalidStages> {
        text.parse()
    }
}

impl Stage {
    fn validate(self) -> Result<(), InvalidStages> {
        match self {
            Self::Items(0) => Err(InvalidStages::Empty),
            Self::Percent(given) if !(given > 0.0 && given < 100.0) => {
                Err(InvalidStages::Percent { given })
            }
            _ => Ok(()),
        }
    }

    /// Returns whether this stage can come before `next`, as far as can be decided without the size of the
    /// data.
    fn is_before(self, next: Self) -> bool {
        match (self, next) {
            (Self::Items(a), Self::Items(b)) => a < b,
            (Self::Percent(a), Self::Percent(b)) => a < b,
            (Self::All, _) => false,
            _ => true,
        }
    }
}

/// Rejects stages that are not in ascending order.
pub(crate) fn validate(stages: &[Stage]) -> Result<(), InvalidStages> {
    if stages.len() > MAX_STAGES {
        let given = stages.len();
        return Err(InvalidStages::TooMany { given });
    }
    for stage in stages {
        stage.validate()?;
    }
    let kind = |stage: &Stage| std::mem::discriminant(stage);
    for (i, after) in stages.iter().enumerate() {
        let unlike = |before: &&Stage| **before == Stage::All || kind(before) == kind(after);
        if let Some(before) = stages[..i].iter().rev().find(unlike)
            && !before.is_before(*after)
        {
            return Err(InvalidStages::Order {
                before: *before,
                after: *after,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn parsed(text: &str) -> Result<Vec<Stage>, InvalidStages> {
        let stages: Vec<Stage> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        validate(&stages)?;
        Ok(stages)
    }

    #[test]
    fn stages_are_read_and_written() {
        for (text, written) in [
            ("100", "100items"),
            (" 100rows", "100items"),
            ("100items", "100items"),
            ("0.5%", "0.5%"),
            ("all", "all"),
        ] {
            let stage: Stage = text.parse().unwrap();
            assert_eq!(stage.to_string(), written);
            let json = serde_json::to_string(&stage).unwrap();
            assert_eq!(serde_json::from_str::<Stage>(&json).unwrap(), stage);
        }
    }

    #[test]
    fn stages_that_make_no_sense_are_refused_with_what_is_allowed() {
        let message = |text: &str| parsed(text).unwrap_err().to_string();
        for text in ["ten", "10percent", "", "-1", "1.5rows", "%"] {
            assert!(message(text).contains("is not a stage; use"), "{text}");
        }
        assert!(message("0").contains("at least 1"));
        for text in ["0%", "100%", "-1%", "NaN%"] {
            assert!(
                message(text).contains("more than 0 and less than 100"),
                "{text}"
            );
        }
        for text in [
            "100,100",
            "200,1%,100",
            "2%,1%",
            "all,5",
            "all,all",
            "5,all,1%",
        ] {
            assert!(message(text).contains("stages must grow"), "{text}");
        }
        let many = vec!["all"; 30].join(",");
        assert!(message(&many).contains("at most 20"));
    }
}
