//! Requests of an operator to a simulated batch.

use std::time::Duration;

use temporal_batch::{
    Batch, Outcome,
    progress::{HeldBy, Phase},
    settings::Settings,
    testing::{Request, SimulatedRun, Simulator},
};

use crate::{FailingNumbers, block_on};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Ten pages of ten numbers, one after the other.
fn batch() -> Batch {
    Batch::of::<FailingNumbers>("b", 100)
        .page_size(10)
        .max_parallelism(1)
}

fn simulate(simulator: Simulator, batch: &Batch) -> SimulatedRun {
    let numbers = FailingNumbers::new(true, &[]);
    let run = block_on(simulator.run(&numbers, batch)).unwrap();
    let processed = run.items.processed as usize;
    assert_eq!(numbers.all_processed().len(), processed, "each once");
    run
}

fn phases(run: &SimulatedRun) -> Vec<Phase> {
    let mut phases: Vec<Phase> = run.progress.iter().map(|p| p.phase).collect();
    phases.dedup();
    phases
}

#[test]
fn a_paused_batch_finishes_its_page_and_goes_on_when_it_is_resumed() {
    let simulator = Simulator::new()
        .page_takes(SECOND * 10)
        .at(SECOND * 25, Request::pause("the replica is behind"))
        .at(HOUR, Request::resume());
    let run = simulate(simulator, &batch());
    assert_eq!((run.outcome, run.pages), (Outcome::Completed, 10));
    // Three pages, the third of which was running, and seven more after the hour.
    assert_eq!(run.duration, HOUR + SECOND * 70);
    assert_eq!(
        phases(&run),
        [
            Phase::Running,
            Phase::Pausing,
            Phase::Paused,
            Phase::Running
        ]
    );
    let paused = run.progress.iter().find(|p| p.phase == Phase::Paused);
    let paused = paused.unwrap();
    assert_eq!(paused.pages_completed, 3);
    assert_eq!(
        paused.pause_reason.as_deref(),
        Some("the replica is behind")
    );
    let audit = run.report.progress.audit.iter();
    let actions: Vec<_> = audit.map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["start", "pause", "resume"]);
}

#[test]
fn a_pause_at_once_drops_the_running_page() {
    let simulator = Simulator::new()
        .page_takes(SECOND * 10)
        .at(SECOND * 25, Request::pause_now("at once"))
        .at(HOUR, Request::resume());
    let run = simulate(simulator, &batch());
    assert_eq!((run.outcome, run.pages), (Outcome::Completed, 10));
    assert_eq!(run.duration, HOUR + SECOND * 80);
    assert_eq!(run.told_to_stop, 1);
}

#[test]
fn a_request_can_wait_for_a_number_of_pages_and_a_pause_can_end_by_itself() {
    let simulator = Simulator::new()
        .after_pages(4, Request::pause_for(HOUR, "lunch"))
        .after_pages(
            8,
            Request::set(Settings::new().page_pause(Duration::from_secs(60))),
        );
    for stride in [1, 3, 100] {
        let run = simulate(simulator.clone(), &batch().stride(stride));
        assert_eq!((run.outcome, run.pages), (Outcome::Completed, 10));
        let paused = run.progress.iter().find(|p| p.phase == Phase::Paused);
        assert_eq!(paused.unwrap().pages_completed, 4);
        // A stride that runs keeps the pause between pages with which it began.
        let pauses = run.duration - HOUR;
        assert!(pauses <= SECOND * 60 * 3, "{stride}: {pauses:?}");
    }
}

#[test]
fn a_rate_is_kept_and_a_set_reaches_strides_that_run() {
    let slow = batch().rate(1.0).max_parallelism(4);
    let run = simulate(Simulator::new(), &slow);
    // The first page is free, and the last two have a quarter of the rate each.
    assert!(
        (90..=120).contains(&run.duration.as_secs()),
        "{:?}",
        run.duration
    );
    let limited = run.progress.iter().any(|p| p.held_by == Some(HeldBy::Rate));
    assert!(limited, "{:#?}", run.progress);
    let faster = Simulator::new().at(SECOND * 20, Request::set(Settings::new().rate(None)));
    let run = simulate(faster, &slow);
    assert_eq!(run.duration, SECOND * 20);
    assert_eq!(run.report.progress.rate, None);
}

#[test]
fn strides_share_the_parallelism_and_a_lower_one_takes_slots_back() {
    let parallel = batch().max_parallelism(5);
    let timed = Simulator::new().page_takes(SECOND * 10);
    let run = simulate(timed.clone(), &parallel);
    assert_eq!(run.report.progress.max_parallelism_achieved, 5);
    assert!(run.duration <= SECOND * 30, "{:?}", run.duration);
    let one = timed.at(SECOND, Request::set(Settings::new().max_parallelism(1)));
    let run = simulate(one, &parallel);
    assert_eq!(run.outcome, Outcome::Completed);
    assert!(run.duration >= SECOND * 60, "{:?}", run.duration);
}

#[test]
fn a_cancelled_batch_says_how_far_it_came() {
    let simulator = Simulator::new().after_pages(3, Request::cancel("the wrong table"));
    let run = simulate(simulator, &batch());
    assert_eq!((run.outcome, run.pages), (Outcome::Cancelled, 3));
    assert_eq!(run.stood_still, None);
    let mark = run.report.progress.low_water_mark.unwrap();
    assert_eq!(mark.as_str(), "30");
    let cancel = run.report.progress.audit.last().unwrap();
    assert_eq!(cancel.action, "cancel");
    assert_eq!(cancel.why.as_deref(), Some("the wrong table"));
}

#[test]
fn a_batch_that_would_wait_forever_says_for_what() {
    let simulator = Simulator::new().after_pages(3, Request::pause("for good"));
    let run = simulate(simulator, &batch());
    assert_eq!((run.outcome, run.pages), (Outcome::Cancelled, 3));
    let why = run.stood_still.unwrap();
    assert!(why.contains("for good"), "{why}");
}

#[test]
fn a_deadline_stops_the_batch() {
    let simulator = Simulator::new().page_takes(SECOND * 10);
    let run = simulate(simulator, &batch().deadline(SECOND * 35));
    assert_eq!((run.outcome, run.pages), (Outcome::Stopped, 4));
    let reason = run.reason.unwrap();
    assert!(reason.starts_with("the deadline is over"), "{reason}");
}

#[test]
fn a_batch_continues_as_new_and_goes_on_where_it_was() {
    let simulator = Simulator::new()
        .page_takes(SECOND)
        .after_pages(7, Request::pause_for(HOUR, "lunch"));
    let run = simulate(simulator, &batch().max_parallelism(3).pages_per_run(2));
    assert_eq!((run.outcome, run.pages), (Outcome::Completed, 10));
    assert!(
        run.report.progress.runs >= 3,
        "{}",
        run.report.progress.runs
    );
}

#[test]
fn two_simulations_of_a_batch_are_the_same() {
    let simulate = || {
        let numbers = FailingNumbers::new(true, &[(15, 3), (40, 9), (72, 1)]);
        let simulator = Simulator::new()
            .page_takes(SECOND * 3)
            .lose_worker_every(4)
            .at(SECOND * 7, Request::set(Settings::new().rate(5.0)))
            .at(SECOND * 20, Request::pause_for(HOUR, "lunch"));
        let batch = batch().max_parallelism(4).stride(2).pages_per_run(3);
        let mut run = block_on(simulator.run(&numbers, &batch)).unwrap();
        let processed = numbers.processed.lock().unwrap().clone();
        for progress in run.progress.iter_mut().chain([&mut run.report.progress]) {
            progress.batch_run.clear();
        }
        (run, processed)
    };
    assert_eq!(simulate(), simulate());
}

#[test]
fn a_setting_that_is_not_allowed_is_refused_before_anything_runs() {
    let numbers = FailingNumbers::new(true, &[]);
    let simulator = Simulator::new().at(HOUR, Request::set(Settings::new().rate(-1.0)));
    let refused = block_on(simulator.run(&numbers, &batch())).unwrap_err();
    assert!(
        refused.to_string().contains("items per second"),
        "{refused}"
    );
    assert!(numbers.processed().is_empty());
}

#[tokio::test]
async fn a_simulation_can_be_spawned() {
    let run = tokio::spawn(async {
        let numbers = FailingNumbers::new(true, &[]);
        Simulator::new().run(&numbers, &batch()).await
    });
    assert_eq!(run.await.unwrap().unwrap().pages, 10);
}
