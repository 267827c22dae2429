//! Stages: a batch shows with a few items that it does what it should, before it does the rest.
//!
//! Each stage but the last has a mark: so many items of the batch, in all, may be gone through before it is
//! over. The [scheduler](crate::decisions::scheduler) gives out no more than that, the controller has what is finished
//! checked, and this is where it is kept how far that is. Pure.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    base::error::{MAX_MESSAGE_CHARS, truncate},
    progress::{StageProgress, StageState, check::Checked},
};

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

/// A share of something whose size nobody knows.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "stage {stage} is a share of the items, but processor \"{processor}\" does not say how many there are; \
     use numbers of items, such as 1000rows"
)]
pub(crate) struct UnknownSize {
    stage: Stage,
    processor: String,
}

/// Where a batch with stages stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stages {
    /// Those that have a mark; after them comes everything.
    marks: Vec<Mark>,
    /// An operator has to approve each.
    #[serde(default)]
    approve: bool,
    /// The place of the current one.
    #[serde(default)]
    current: usize,
    #[serde(default)]
    state: StageState,
    /// Why it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Mark {
    stage: Stage,
    /// Items in all at which it is over.
    items: u64,
}

/// What became of a stage that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Judged {
    /// The next one begins.
    GoesOn,
    /// Somebody has to approve it.
    Holds(String),
}

/// # Construct
impl Stages {
    /// Works out the marks. A stage that is no larger than one before it is left out. `None` without any.
    pub fn plan(
        stages: &[Stage],
        approve: bool,
        processor: &str,
        items_expected: Option<u64>,
    ) -> Result<Option<Self>, UnknownSize> {
        let mut marks: Vec<Mark> = Vec::new();
        for stage in stages {
            let items = match (stage, items_expected) {
                (Stage::All, _) => break,
                (Stage::Items(items), _) => *items,
                (Stage::Percent(percent), Some(all)) => {
                    // At least one item; a number that large is not lost in the conversion.
                    ((all as f64 * percent / 100.0).ceil() as u64).max(1)
                }
                (Stage::Percent(_), None) => {
                    return Err(UnknownSize {
                        stage: *stage,
                        processor: processor.to_owned(),
                    });
                }
            };
            if marks.last().is_none_or(|last| last.items < items) {
                let stage = *stage;
                marks.push(Mark { stage, items });
            }
        }
        let planned = Self {
            marks,
            approve,
            current: 0,
            state: StageState::Running,
            reason: None,
        };
        Ok((!planned.marks.is_empty()).then_some(planned))
    }
}

/// # Inspect
impl Stages {
    /// Items in all that may be gone through now; `None` in the last stage.
    pub fn limit(&self) -> Option<u64> {
        self.marks.get(self.current).map(|mark| mark.items)
    }

    pub fn is_running(&self) -> bool {
        self.state == StageState::Running
    }

    pub fn is_checking(&self) -> bool {
        self.state == StageState::Checking
    }

    /// It waits for its check, or for somebody.
    pub fn holds(&self) -> bool {
        !self.is_running()
    }

    pub fn progress(&self) -> StageProgress {
        StageProgress {
            number: u32::try_from(self.current + 1).unwrap_or(u32::MAX),
            of: u32::try_from(self.marks.len() + 1).unwrap_or(u32::MAX),
            stage: self.name(),
            items: self.limit(),
            state: self.state,
            reason: self.reason.clone(),
        }
    }

    fn name(&self) -> String {
        let stage = self.marks.get(self.current).map(|mark| mark.stage);
        stage.unwrap_or(Stage::All).to_string()
    }

    /// Why nothing begins.
    pub fn explained(&self) -> String {
        let stage = self.called();
        match (&self.state, &self.reason) {
            (StageState::Checking, _) => format!("{stage} is done and being checked"),
            (StageState::Failed, Some(reason)) => format!("{stage} is done, but {reason}"),
            (_, Some(reason)) => format!("{stage} is done: {reason}"),
            (_, None) => format!("{stage} is done"),
        }
    }

    /// `stage 1 of 4 (100items)`.
    pub fn called(&self) -> String {
        let of = self.marks.len() + 1;
        format!("stage {} of {of} ({})", self.current + 1, self.name())
    }
}

/// # Go on
impl Stages {
    /// Everything of the current stage is done: it has to be looked at.
    pub fn reached(&mut self) {
        if self.is_running() {
            self.state = StageState::Checking;
        }
    }

    /// It was looked at. `exceeded` says that more failed than is tolerated.
    pub fn judge(&mut self, checked: &Checked, exceeded: Option<String>) -> Judged {
        if !self.is_checking() {
            return Judged::GoesOn;
        }
        let failed = checked.failure().or(exceeded);
        let approval = failed.is_none() && self.approve;
        match failed {
            None if !approval => {
                self.next();
                Judged::GoesOn
            }
            failed => {
                let reason = failed.unwrap_or_else(|| "waiting for approval".to_owned());
                let reason = truncate(&reason, MAX_MESSAGE_CHARS);
                self.state = match approval {
                    true => StageState::WaitingForApproval,
                    false => StageState::Failed,
                };
                self.reason = Some(reason.clone());
                Judged::Holds(reason)
            }
        }
    }

    /// Whether somebody can approve it now.
    pub fn waits(&self) -> Result<(), String> {
        match self.state {
            StageState::WaitingForApproval | StageState::Failed => Ok(()),
            StageState::Running => Err(format!("{} is not done yet", self.called())),
            StageState::Checking => Err(format!("{} is being checked", self.called())),
        }
    }

    /// Goes on with the next stage, whatever was found; tells which one was approved.
    pub fn approve(&mut self) -> Result<String, String> {
        self.waits()?;
        let approved = self.called();
        self.next();
        Ok(approved)
    }

    fn next(&mut self) {
        self.current += 1;
        self.state = StageState::Running;
        self.reason = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::check::{Check, FailedRange};

    fn parsed(text: &str) -> Result<Vec<Stage>, InvalidStages> {
        let stages: Vec<Stage> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        validate(&stages)?;
        Ok(stages)
    }

    fn planned(text: &str, expected: Option<u64>) -> Vec<u64> {
        let stages = Stages::plan(&parsed(text).unwrap(), false, "p", expected).unwrap();
        stages.map_or(Vec::new(), |s| s.marks.iter().map(|m| m.items).collect())
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

    #[test]
    fn marks_count_from_the_beginning_and_grow() {
        assert_eq!(
            planned("100rows,1%,10%,all", Some(50_000)),
            [100, 500, 5_000]
        );
        assert_eq!(planned("100rows,1%,10%", Some(5_000)), [100, 500]);
        assert_eq!(planned("0.1%", Some(0)), [1]);
        assert_eq!(planned("all", None), [0; 0]);
        let stages = parsed("10,1%").unwrap();
        let unknown = Stages::plan(&stages, false, "prices", None).unwrap_err();
        assert!(
            unknown
                .to_string()
                .contains("processor \"prices\" does not say")
        );
    }

    fn found(failed: bool) -> Checked {
        let mut check = Check::default();
        check.passes(10);
        if failed {
            check.fails(FailedRange {
                start: None,
                end: None,
                items: 2,
                message: "not raised".to_owned(),
            });
        }
        Checked {
            found: Some(check),
            ..Checked::default()
        }
    }

    #[test]
    fn what_holds_goes_on_by_itself_and_what_does_not_waits_for_somebody() {
        let stages = parsed("10,20").unwrap();
        let mut stages = Stages::plan(&stages, false, "p", None).unwrap().unwrap();
        assert!(
            stages
                .approve()
                .unwrap_err()
                .contains("stage 1 of 3 (10items) is not done yet")
        );
        stages.reached();
        assert!(stages.approve().unwrap_err().contains("is being checked"));
        assert_eq!(stages.judge(&found(false), None), Judged::GoesOn);
        assert_eq!(stages.limit(), Some(20));
        stages.reached();
        let Judged::Holds(reason) = stages.judge(&found(true), None) else {
            panic!("it went on")
        };
        assert!(reason.contains("1 of 2 ranges"), "{reason}");
        assert_eq!(stages.approve().unwrap(), "stage 2 of 3 (20items)");
        assert_eq!(
            (stages.limit(), stages.called().as_str()),
            (None, "stage 3 of 3 (all)")
        );
    }

    #[test]
    fn each_stage_can_ask_for_approval_and_failures_count() {
        let stages = parsed("10").unwrap();
        let plan = |approve| Stages::plan(&stages, approve, "p", None).unwrap().unwrap();
        let mut asks = plan(true);
        asks.reached();
        let judged = asks.judge(&Checked::default(), None);
        assert_eq!(judged, Judged::Holds("waiting for approval".to_owned()));
        assert_eq!(asks.progress().state, StageState::WaitingForApproval);
        let mut exceeded = plan(false);
        exceeded.reached();
        let judged = exceeded.judge(&found(false), Some("too many".to_owned()));
        assert_eq!(judged, Judged::Holds("too many".to_owned()));
        assert_eq!(exceeded.progress().state, StageState::Failed);
    }
}
