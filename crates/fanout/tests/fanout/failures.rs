//! Policies for failed items, and cancellation.

use temporal_batch_fanout::{
    ClosePolicy, FanoutOutcome, ItemPhase, Mode, OnFailure, Tolerate, failure_types,
};

use crate::{
    jobs::{Act, Job, Work, fanout, item_is, job, jobs, report, run, start, waits, worker_on},
    support::TestEnv,
};

fn with_failures(good: usize, bad: usize) -> Vec<Job> {
    let mut items = jobs(good);
    items.extend((0..bad).map(|n| job(format!("BAD-{n}"), Act::Decline)));
    items
}

#[tokio::test]
async fn by_default_the_outcome_of_every_item_is_collected() {
    let env = TestEnv::new("failures").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    for mode in [Mode::JoinAll, Mode::Signals] {
        let report = run(&env, &fanout(&env, with_failures(4, 1)).mode(mode)).await;
        assert_eq!(report.outcome, FanoutOutcome::Completed, "{mode:?}");
        assert_eq!((report.progress.completed, report.progress.failed), (5, 1));
        let result = report.result.unwrap();
        assert_eq!(result["failed_items"], 1);
        assert_eq!(result["summary"][4]["failed"], "CardDeclined: no funds");
    }
}

#[tokio::test]
async fn fail_fast_cancels_the_children_that_run() {
    let env = TestEnv::new("failures").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    for mode in [Mode::JoinAll, Mode::Signals] {
        let items = vec![
            waits("A"),
            waits("B"),
            job("BAD", Act::WaitFor(format!("fail {mode:?}"))),
            waits("NEVER"),
        ];
        let fanout = fanout(&env, items)
            .mode(mode)
            .window(3)
            .on_failure(OnFailure::FailFast);
        let handle = start(&env, &fanout).await;
        for id in ["A", "B", "BAD"] {
            item_is(&handle, id, ItemPhase::Running).await;
        }
        handle.cancel_item("BAD", "a failure").await.unwrap();
        let report = report(&handle).await;
        assert_eq!(report.outcome, FanoutOutcome::Failed, "{mode:?}");
        assert!(report.reason.unwrap().contains("BAD"));
        assert_eq!((report.progress.failed, report.not_started), (3, 1));
        for id in ["A", "B"] {
            let status = handle.item_status(id).await.unwrap();
            assert_eq!(status.phase, ItemPhase::Failed, "{id}");
        }
        let types = report.failures.iter().map(|f| &f.failure.error_type);
        assert!(types.into_iter().all(|t| t == failure_types::CANCELLED));
        assert_eq!(work.attempts_of("NEVER"), 0);
    }
}

#[tokio::test]
async fn one_failure_more_than_tolerated_fails_the_fan_out_and_not_its_siblings() {
    let env = TestEnv::new("failures").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let tolerate = |n| OnFailure::CollectAll {
        tolerate: Tolerate::Count(n),
    };
    let tolerated = fanout(&env, with_failures(3, 2)).on_failure(tolerate(2));
    assert_eq!(
        run(&env, &tolerated).await.outcome,
        FanoutOutcome::Completed
    );

    let mut items = with_failures(0, 3);
    items.push(waits("A"));
    let too_many = fanout(&env, items).on_failure(tolerate(2));
    let handle = start(&env, &too_many).await;
    for n in 0..3 {
        item_is(&handle, &format!("BAD-{n}"), ItemPhase::Failed).await;
    }
    item_is(&handle, "A", ItemPhase::Running).await;
    work.happened("go");
    let report = report(&handle).await;
    assert_eq!(report.outcome, FanoutOutcome::Failed);
    assert_eq!((report.progress.completed, report.progress.failed), (4, 3));
    assert!(report.reason.unwrap().contains("2 are tolerated"));
    assert_eq!(report.result.unwrap()["total_items"], 4);
}

#[tokio::test]
async fn a_percentage_is_compared_at_the_end() {
    let env = TestEnv::new("failures").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    for (percent, outcome) in [
        (40.0, FanoutOutcome::Completed),
        (39.0, FanoutOutcome::Failed),
    ] {
        let on_failure = OnFailure::CollectAll {
            tolerate: Tolerate::Percent(percent),
        };
        let report = run(
            &env,
            &fanout(&env, with_failures(3, 2)).on_failure(on_failure),
        )
        .await;
        assert_eq!(report.outcome, outcome, "{percent}");
        assert_eq!(report.progress.completed, 5);
    }
}

#[tokio::test]
async fn a_cancelled_fan_out_cancels_its_children_and_waits_for_them() {
    let env = TestEnv::new("failures").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let fanout =
        fanout(&env, vec![waits("A"), waits("B")]).close_policy(ClosePolicy::RequestCancel);
    let handle = start(&env, &fanout).await;
    work.seen("began A").await;
    work.seen("began B").await;
    handle.cancel("the shop is closed").await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, FanoutOutcome::Cancelled);
    assert_eq!(report.reason.as_deref(), Some("the shop is closed"));
    assert_eq!(
        (report.progress.completed, report.progress.in_flight),
        (2, 0)
    );
}
