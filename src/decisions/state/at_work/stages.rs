//! Properties of stages, their checks and their approvals.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    batch::stage::Stage,
    progress::check::{Check, FailedRange},
    protocol::ApproveRequest,
};

impl Work {
    fn stages(&self) -> &Stages {
        self.state.work.stages.as_ref().expect("it has stages")
    }

    /// The number of the current stage.
    fn stage(&self) -> u32 {
        self.stages().progress().number
    }

    /// Makes the check that is due, if one is. Returns whether it was due.
    fn check(&mut self, passes: bool) -> bool {
        let due = self.state.stage_to_check().is_some();
        if due {
            let mut found = Check::default();
            found.passes(1);
            if !passes {
                found.fails(FailedRange {
                    start: None,
                    end: None,
                    items: 1,
                    message: "wrong".to_owned(),
                });
            }
            self.state.checked(Checked {
                found: Some(found),
                ..Checked::default()
            });
            self.refresh();
        }
        due
    }
}

/// An event of a batch with stages.
#[derive(Clone, Debug)]
enum Step {
    Dispatch,
    Report {
        which: usize,
        rows: u64,
    },
    Check {
        passes: bool,
    },
    Approve,
    /// An earlier approval comes again.
    Repeat {
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Dispatch),
        6 => (any::<usize>(), 0..=STRIDE).prop_map(|(which, rows)| Step::Report { which, rows }),
        2 => any::<bool>().prop_map(|passes| Step::Check { passes }),
        2 => Just(Step::Approve),
        1 => any::<usize>().prop_map(|which| Step::Repeat { which }),
    ]
}

fn staged(marks: BTreeSet<u64>, approve: bool, parallelism: u32) -> impl FnOnce(&mut BatchState) {
    move |state| {
        let spec = &mut state.input.spec;
        spec.stages = marks.into_iter().map(Stage::Items).collect();
        spec.approve_stages = approve;
        spec.max_parallelism = parallelism;
    }
}

fn approval(number: usize) -> Steer {
    Steer::Approve(ApproveRequest {
        id: Some(format!("approval {number}")),
        ..ApproveRequest::default()
    })
}

proptest! {
    /// The rows that are counted and those that running strides may still do stay within the mark. A stage is checked
    /// once, the next one begins after a check that passes or an approval, and nothing begins in between. An approval
    /// that comes again approves nothing.
    #[test]
    fn a_stage_keeps_to_its_mark_is_done_once_and_needs_a_check_or_an_approval_to_be_followed(
        marks in prop::collection::btree_set(1u64..150, 1..4),
        approve in any::<bool>(),
        parallelism in 1u32..6,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut work = Work::new(10, staged(marks, approve, parallelism));
        let (mut stage, mut checked, mut approvals) = (1, 0, 0);
        // A check has found the stage wanting, or the stage has to be approved.
        let mut waits = false;
        for step in steps {
            work.seconds += 1;
            match step {
                Step::Dispatch => {
                    let begins = work.dispatch();
                    prop_assert!(begins.is_empty() || !waits, "{begins:?} before an approval");
                }
                Step::Report { which, rows } => work.report(which, rows, 0),
                Step::Check { passes } => if work.check(passes) {
                    checked += 1;
                    prop_assert_eq!(checked, stage, "each stage once, and none before");
                    waits = approve || !passes;
                    stage += u32::from(!waits);
                },
                Step::Approve => {
                    approvals += 1;
                    work.steer(approval(approvals));
                    stage += u32::from(std::mem::take(&mut waits));
                }
                Step::Repeat { which } => if approvals > 0 {
                    work.steer(approval(which % approvals + 1));
                },
            }
            prop_assert_eq!(work.stage(), stage);
            if let Some(mark) = work.stages().limit() {
                let counted = work.state.work.chain.totals.items.total();
                let granted: u64 = work.running.iter().filter_map(|order| order.max_items).sum();
                prop_assert!(counted + granted <= mark, "{counted} + {granted} > {mark}");
            }
        }
    }

    #[test]
    fn with_checks_that_pass_every_stage_and_every_row_is_done(
        marks in prop::collection::btree_set(1u64..150, 1..4),
        parallelism in 1u32..6,
        rows in prop::collection::vec((any::<usize>(), 1..=STRIDE), 1..20),
    ) {
        let stages = marks.len() as u32;
        let mut work = Work::new(8, staged(marks, false, parallelism));
        let mut checks = 0;
        for (which, rows) in rows.iter().cycle().take(400) {
            if work.dispatch().is_empty() && work.state.work.chain.is_complete() {
                break;
            }
            work.report(*which, *rows, 0);
            checks += u32::from(work.check(true));
        }
        prop_assert!(work.state.work.chain.is_complete());
        prop_assert_eq!(work.state.work.chain.totals.items.processed, 8 * STRIDE);
        prop_assert!(checks <= stages, "{checks} checks of {stages} stages");
        prop_assert_eq!(work.stage(), checks + 1);
    }
}

#[test]
fn an_approval_that_came_too_early_approves_nothing_later() {
    let marks = [STRIDE].into_iter().collect();
    let mut work = Work::new(3, staged(marks, true, 1));
    work.steer(approval(1));
    while !work.dispatch().is_empty() {
        work.report(0, STRIDE, 0);
    }
    assert!(work.check(true));
    work.seconds += 86_400;
    work.steer(approval(1));
    assert_eq!(work.stage(), 1, "the request was answered before");
    work.steer(approval(2));
    assert_eq!(work.stage(), 2);
}
