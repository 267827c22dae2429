//! Stages: a batch shows with a few items that it does what it should, before it does the rest.
//!
//! Each stage but the last has a mark: so many items of the batch, in all, may be gone through before it is
//! over. The [scheduler](crate::decisions::scheduler) gives out no more than that, the controller has what is finished
//! checked, and this is where it is kept how far that is. Pure.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::base::error::truncate;

/// Stages of a batch.
const MAX_STAGES: usize = 20;

/// How far a batch goes before it is looked at: so many items in all, from its beginning.
///
/// As text: `100`, `100rows` or `100items`, `2.5%`, `all`.
///
/// ```
/// use temporal_batch::Stage;
///
/// assert_eq!("100rows".parse(), Ok(Stage::Items(100)));
/// assert_eq!("1%".parse(), Ok(Stage::Percent(1.0)));
/// assert_eq!(Stage::Items(100).to_string(), "100items");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Stage {
    /// So many items.
    Items(u64),
    /// This share of the items that the batch is expected to have
    /// ([`PageProcessor::size_hint`](crate::PageProcessor::size_hint)), rounded up.
    Percent(f64),
    /// Everything. It is always the last stage, said or not.
    All,
}

/// Stages that make no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStages {
    /// A text is not a stage.
    #[error("\"{given}\" is not a stage; use a number of items (100rows), a share (1%) or all")]
    NotAStage {
        /// The text, shortened.
        given: String,
    },
    /// A stage would have no items.
    #[error("a stage of no items is not allowed; use at least 1")]
    Empty,
    /// A share is not one of a part.
    #[error("a stage of {given} % is not allowed; use more than 0 and less than 100, or all")]
    Percent {
        /// The share that was given.
        given: f64,
    },
    /// A stage ends before the one that it comes after.
    #[error("stage {after} comes after {before}; stages have to grow, and all is the last one")]
    Order {
        /// The stage that comes first.
        before: Stage,
        /// The one that is not larger.
        after: Stage,
    },
    /// There are too many.
    #[error("{given} stages are named; at most {MAX_STAGES} are allowed")]
    TooMany {
        /// How many were given.
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
            given: truncate(&text.escape_debug().to_string(), 40),
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

    /// Whether it can come before `next`, as far as that can be told without the size of the data.
    fn is_before(self, next: Self) -> bool {
        match (self, next) {
            (Self::Items(a), Self::Items(b)) => a < b,
            (Self::Percent(a), Self::Percent(b)) => a < b,
            (Self::All, _) => false,
            _ => true,
        }
    }
}

/// Refuses stages that could not follow each other.
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
            assert!(message(text).contains("stages have to grow"), "{text}");
        }
        let many = vec!["all"; 30].join(",");
        assert!(message(&many).contains("at most 20"));
    }
}
