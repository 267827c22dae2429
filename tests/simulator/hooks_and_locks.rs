//! Hooks that a batch names, and locks that other batches hold.

use std::time::Duration;

use temporal_batch::{
    Batch, Outcome,
    progress::HeldBy,
    testing::{HookCall, Request, SimulatedRun, Simulator},
};

use crate::{FailingNumbers, block_on};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Ten pages of ten numbers, one after the other, of ten seconds each.
fn batch() -> Batch {
    Batch::of::<FailingNumbers>("b", 100)
        .page_size(10)
        .max_parallelism(1)
}

fn simulate(simulator: &Simulator, batch: &Batch) -> SimulatedRun {
    let numbers = FailingNumbers::new(true, &[]);
    block_on(simulator.run(&numbers, batch)).unwrap()
}

fn timed() -> Simulator {
    Simulator::new().page_takes(SECOND * 10)
}

#[test]
fn a_tracker_is_told_at_its_interval_and_at_the_end() {
    let tracked = batch().track("wall").track_every(SECOND * 33);
    let run = simulate(&timed(), &tracked);
    let told: Vec<_> = run
        .hooks
        .iter()
        .map(|call| match &call.call {
            HookCall::Progress(progress) => (call.after.as_secs(), progress.pages_completed),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(0, 0), (33, 3), (66, 6), (99, 9), (100, 10)]);
    assert!(run.hooks.iter().all(|call| call.hook == "wall"));
}

#[test]
fn a_batch_that_would_wait_forever_is_not_tracked_forever() {
    let tracked = batch().track("wall").track_every(SECOND * 30);
    let run = simulate(
        &timed().after_pages(3, Request::pause("for good")),
        &tracked,
    );
    assert!(run.stood_still.unwrap().contains("for good"));
}

#[test]
fn the_completion_hook_is_told_how_the_batch_ended() {
    let hooked = batch().on_completion("done");
    let run = simulate(&timed(), &hooked);
    let [call] = &run.hooks[..] else {
        panic!("{:#?}", run.hooks);
    };
    assert_eq!((call.hook.as_str(), call.after), ("done", SECOND * 100));
    assert!(
        matches!(&call.call, HookCall::Completed(report) if report.outcome == Outcome::Completed)
    );
    let run = simulate(&timed().after_pages(2, Request::cancel("no")), &hooked);
    let [call] = &run.hooks[..] else {
        panic!("{:#?}", run.hooks);
    };
    assert!(matches!(&call.call, HookCall::Failed(report) if report.outcome == Outcome::Cancelled));
}

#[test]
fn a_batch_without_hooks_calls_none() {
    assert_eq!(simulate(&timed(), &batch()).hooks, []);
}

#[test]
fn a_batch_waits_for_the_lock_that_another_one_holds() {
    let locked = batch().lock("prices").wait_for_lock(true);
    let simulator = timed()
        .lock_held("stock", "another", HOUR * 2)
        .lock_held("prices", "nightly", HOUR);
    let run = simulate(&simulator, &locked);
    assert_eq!(run.outcome, Outcome::Completed);
    assert_eq!(run.duration, HOUR + SECOND * 100);
    let waited = run
        .progress
        .iter()
        .find(|p| p.held_by == Some(HeldBy::Lock));
    let waited = waited.expect("the progress has the lock");
    assert_eq!(waited.lock_held_by.as_deref(), Some("nightly"));
    assert!(
        waited.explanation.contains("nightly"),
        "{}",
        waited.explanation
    );
    let last = &run.report.progress;
    assert_eq!((&last.lock_held_by, last.held_by), (&None, None));
}

#[test]
fn a_batch_that_does_not_wait_for_its_lock_is_refused_without_a_page() {
    let numbers = FailingNumbers::new(true, &[]);
    let simulator = timed().lock_held("prices", "nightly", HOUR);
    let refused = block_on(simulator.run(&numbers, &batch().lock("prices"))).unwrap_err();
    let message = refused.to_string();
    assert!(message.contains("held by batch \"nightly\""), "{message}");
    assert!(numbers.processed().is_empty());
}

#[test]
fn a_deadline_and_a_cancellation_end_the_wait_for_a_lock() {
    let locked = batch().lock("prices").wait_for_lock(true);
    let held = timed().lock_held("prices", "nightly", HOUR);
    let run = simulate(&held, &locked.clone().deadline(SECOND * 60));
    assert_eq!((run.outcome, run.pages), (Outcome::Stopped, 0));
    let cancelled = held.at(SECOND * 5, Request::cancel("no"));
    let run = simulate(&cancelled, &locked);
    assert_eq!(
        (run.outcome, run.duration),
        (Outcome::Cancelled, SECOND * 5)
    );
}

#[test]
fn a_lock_that_is_free_is_taken_at_once() {
    let run = simulate(
        &timed().lock_held("prices", "nightly", Duration::ZERO),
        &batch().lock("prices"),
    );
    assert_eq!(run.duration, SECOND * 100);
}
