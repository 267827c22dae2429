//! Stages of a running batch: the items that it may process, and the results of its checks.

use serde::{Deserialize, Serialize};

use crate::{
    base::error::{MAX_MESSAGE_CHARS, truncate},
    batch::stage::Stage,
    progress::{
        check::Checked,
        parts::{StageProgress, StageState},
    },
};

/// A stage is a share of the items, but their number is unknown.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "stage {stage} is a share of the items, but processor \"{processor}\" does not say how many there are; \
     use numbers of items, such as 1000rows"
)]
pub(crate) struct UnknownSize {
    stage: Stage,
    processor: String,
}

/// The position of a batch in its stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stages {
    /// The stages that have a mark. One more stage follows, with all remaining items.
    marks: Vec<Mark>,
    /// True if an operator must approve each stage.
    approve: bool,
    /// The index of the current stage.
    current: usize,
    state: StageState,
    /// The reason why the batch is not continuing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    stage: Stage,
    /// The total number of items at which the stage is over.
    items: u64,
}

/// The result of a stage's check.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Judged {
    /// The next stage begins.
    GoesOn,
    /// An operator must approve the stage, for this reason.
    Holds(String),
}

/// # Construct
impl Stages {
    /// Computes the marks. A stage that is no larger than the one before it is left out. Returns `None` if no mark is
    /// left.
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
    /// Returns the total number of items that may be processed up to the end of the stage; `None` in the last stage.
    pub fn limit(&self) -> Option<u64> {
        self.marks.get(self.current).map(|mark| mark.items)
    }

    pub fn is_running(&self) -> bool {
        self.state == StageState::Running
    }

    pub fn is_checking(&self) -> bool {
        self.state == StageState::Checking
    }

    /// Returns whether the batch is waiting for a check or for an operator.
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

    /// Returns the reason why no page begins.
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

/// # Continue
impl Stages {
    /// Ends the current stage, all of whose items are done, so that it is checked.
    pub fn reached(&mut self) {
        if self.is_running() {
            self.state = StageState::Checking;
        }
    }

    /// Applies the result of a check. `exceeded` is the message if more failed than is tolerated.
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

    /// Returns the reason why the stage cannot be approved now, if there is one.
    pub fn waits(&self) -> Result<(), String> {
        match self.state {
            StageState::WaitingForApproval | StageState::Failed => Ok(()),
            StageState::Running => Err(format!("{} is not done yet", self.called())),
            StageState::Checking => Err(format!("{} is being checked", self.called())),
        }
    }

    /// Begins the next stage, whatever the check found. Returns the stage that was approved.
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
    use crate::batch::stage::tests::parsed;
    use crate::progress::check::{Check, FailedRange};

    fn planned(text: &str, expected: Option<u64>) -> Vec<u64> {
        let stages = Stages::plan(&parsed(text).unwrap(), false, "p", expected).unwrap();
        stages.map_or(Vec::new(), |s| s.marks.iter().map(|m| m.items).collect())
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
