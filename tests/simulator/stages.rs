//! Simulated stages, checks and approvals.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use temporal_batch::{
    Batch, CheckContext, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, Size,
    SkipAhead,
    progress::{Check, FailedRange, HeldBy, Phase, StageState},
    settings::Stage,
    testing::{Request, SimulatedRun, Simulator},
};

use crate::{
    block_on,
    support::number_pages::{numbers_of, skip},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// A hundred numbers, and a check that finds one of them wrong, or cannot be made at first.
#[derive(Default)]
struct Checked {
    wrong: Option<u64>,
    errors: AtomicU32,
    broken: bool,
}

#[async_trait]
impl PageProcessor for Checked {
    const NAME: &'static str = "checked";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        Page::keyset(numbers_of(ctx, 100), |n| *n)
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<u64>) -> Result<PageReport, PageError> {
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        Ok(skip(ctx, pages, 100))
    }

    async fn size(&self, (): &()) -> Result<Size, PageError> {
        Ok(Size::Exact(100))
    }

    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        let fails = |n: u32| n.checked_sub(1);
        if self
            .errors
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails)
            .is_ok()
        {
            return Err(PageError::retryable("no connection"));
        }
        if self.broken {
            return Err(PageError::non_retryable("NoTable", "there is no table"));
        }
        let to = ctx.covered_to().copied().unwrap_or(100);
        let mut check = Check::default();
        match self.wrong.filter(|wrong| *wrong <= to) {
            None => check.passes(to),
            Some(wrong) => check.fails(FailedRange {
                start: None,
                end: None,
                items: 1,
                message: format!("{wrong} is wrong"),
            }),
        }
        Ok(Some(check))
    }
}

fn batch() -> Batch {
    Batch::of::<Checked>("b", ())
        .page_size(10)
        .max_parallelism(3)
        .stages([Stage::Items(5), Stage::Percent(25.0), Stage::All])
}

fn simulate(simulator: &Simulator, checked: &Checked, batch: &Batch) -> SimulatedRun {
    block_on(simulator.run(checked, batch)).unwrap()
}

#[test]
fn stages_whose_checks_pass_follow_each_other() {
    let run = simulate(&Simulator::new(), &Checked::default(), &batch());
    assert_eq!(
        (run.outcome, run.items.processed),
        (Outcome::Completed, 100)
    );
    let audit = run.report.progress.audit.iter();
    let audit: Vec<_> = audit.map(|entry| entry.action.as_str()).collect();
    assert_eq!(audit, ["start", "go on", "go on"]);
    let stage = run.report.progress.stage.unwrap();
    assert_eq!((stage.number, stage.of), (3, 3));
}

#[test]
fn a_stage_waits_for_its_approval() {
    let batch = batch().approve_stages(true);
    let run = simulate(&Simulator::new(), &Checked::default(), &batch);
    assert_eq!((run.outcome, run.items.processed), (Outcome::Cancelled, 5));
    let why = run.stood_still.unwrap();
    assert!(why.contains("waiting for approval"), "{why}");
    let held = run.progress.last().unwrap();
    assert_eq!(
        (held.phase, held.held_by),
        (Phase::Held, Some(HeldBy::Stage))
    );
    let stage = held.stage.as_ref().unwrap();
    assert_eq!(stage.state, StageState::WaitingForApproval);

    let simulator = Simulator::new()
        .at(HOUR, Request::approve())
        .at(HOUR * 3, Request::approve());
    let run = simulate(&simulator, &Checked::default(), &batch);
    assert_eq!(
        (run.outcome, run.items.processed),
        (Outcome::Completed, 100)
    );
    assert_eq!(run.duration, HOUR * 3);
}

#[test]
fn a_failed_check_holds_the_batch_until_it_is_approved_all_the_same() {
    let checked = Checked {
        wrong: Some(20),
        ..Checked::default()
    };
    let simulator = Simulator::new().at(HOUR, Request::approve());
    let run = simulate(&simulator, &checked, &batch());
    // The check at the end finds it too.
    assert_eq!(
        (run.outcome, run.items.processed),
        (Outcome::CompletedWithFailures, 100)
    );
    assert_eq!(run.duration, HOUR);
    let held = run.progress.iter().find(|p| p.phase == Phase::Held);
    let held = held.unwrap();
    assert_eq!(held.items.processed, 25);
    let stage = held.stage.as_ref().unwrap();
    assert_eq!((stage.number, stage.state), (2, StageState::Failed));
    let found = held.check.as_ref().unwrap().found.as_ref().unwrap();
    assert_eq!(found.failed[0].message, "20 is wrong");
}

#[test]
fn a_check_that_fails_for_a_while_is_made_again() {
    let checked = Checked {
        errors: AtomicU32::new(3),
        ..Checked::default()
    };
    let run = simulate(&Simulator::new(), &checked, &batch());
    assert_eq!(
        (run.outcome, run.items.processed),
        (Outcome::Completed, 100)
    );
    assert_eq!(run.duration, Duration::from_secs(1 + 2 + 4));
}

#[test]
fn everything_is_checked_at_the_end() {
    let at_end = Batch::of::<Checked>("b", ())
        .page_size(10)
        .check_at_end(true);
    let run = simulate(&Simulator::new(), &Checked::default(), &at_end);
    assert!(run.report.is_verified(), "{:#?}", run.report);
    let wrong = Checked {
        wrong: Some(99),
        errors: AtomicU32::new(2),
        ..Checked::default()
    };
    let run = simulate(&Simulator::new(), &wrong, &at_end);
    assert_eq!(run.outcome, Outcome::CompletedWithFailures);
    assert_eq!(run.duration, Duration::from_secs(1 + 2));
    let broken = Checked {
        broken: true,
        ..Checked::default()
    };
    let run = simulate(&Simulator::new(), &broken, &at_end);
    let reason = run.reason.unwrap();
    assert!(reason.contains("NoTable: there is no table"), "{reason}");
}
