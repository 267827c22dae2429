//! Equal ids of fan-outs and of items.

use temporal_batch::settings::IfRunning;
use temporal_batch_fanout::{Duplicates, Fanout, InvalidFanout, StartError};

use crate::{
    jobs::{Work, fanout, jobs, report, run, start, waits, worker_on},
    support::TestEnv,
};

#[tokio::test]
async fn a_running_fan_out_is_refused_or_attached_to_by_policy() {
    let env = TestEnv::new("same-ids").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let first = fanout(&env, vec![waits("A")]);
    let handle = start(&env, &first).await;

    let refused = first.start(&env.client).await.unwrap_err();
    assert!(
        matches!(refused, StartError::AlreadyRunning { .. }),
        "{refused}"
    );
    let attached = first.clone().if_running(IfRunning::Attach);
    let attached = attached.start(&env.client).await.unwrap();
    assert_eq!(attached.id(), handle.id());
    let other = Fanout::over::<Work>(first.id(), vec![waits("B")])
        .task_queue(&env.queue)
        .if_running(IfRunning::Attach);
    let refused = other.start(&env.client).await.unwrap_err();
    assert!(
        matches!(refused, StartError::RunsOtherItems { .. }),
        "{refused}"
    );

    work.happened("go");
    assert_eq!(report(&attached).await.progress.completed, 1);
    assert_eq!(work.attempts_of("A"), 1);
    let refused = first.start(&env.client).await.unwrap_err();
    assert!(
        matches!(refused, StartError::AlreadyEnded { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_rerun_processes_every_item_again() {
    let env = TestEnv::new("same-ids").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let fanout = fanout(&env, jobs(3));
    run(&env, &fanout).await;
    let again = run(&env, &fanout.rerun(true)).await;
    assert_eq!((again.progress.completed, again.progress.failed), (3, 0));
    assert_eq!(work.attempts.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn duplicates_in_a_list_count_once_or_refuse_the_start() {
    let env = TestEnv::new("same-ids").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let mut items = jobs(3);
    items.push(items[1].clone());
    let fanout = fanout(&env, items);
    let report = run(&env, &fanout).await;
    assert_eq!((report.progress.completed, report.progress.total), (3, 3));
    assert_eq!(report.progress.duplicates, 1);
    assert_eq!(work.attempts_of("ITEM-002"), 1);

    let refused = fanout
        .duplicates(Duplicates::Refuse)
        .start(&env.client)
        .await;
    let StartError::Invalid(InvalidFanout::Duplicate { id, first, second }) = refused.unwrap_err()
    else {
        panic!("the duplicate is refused");
    };
    assert_eq!((id.as_str(), first, second), ("ITEM-002", 1, 3));
}
