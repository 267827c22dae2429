//! Named locks: batches that must not run together.

use std::time::Duration;

use temporal_batch::{
    BatchHandle, Outcome, PageReport,
    errors::{AcceptError, ResultError, StartError},
    progress::Phase,
};
use temporalio_client::{UntypedWorkflow, WorkflowExecutionStatus};

use crate::{
    bridge::{HandOver, LATE},
    numbers_processor::{NumbersProcessor, UpTo, gated, gated_where},
    replay::replays,
    support::{TestEnv, progress_shows, report, within},
};

/// Waits until the batch waits for the other one, which has the lock.
async fn waits_for(handle: &BatchHandle, holder: &BatchHandle) {
    progress_shows(handle, "the batch waits for the lock", |p| {
        p.lock_held_by.as_deref() == Some(holder.id())
    })
    .await;
}

/// The Temporal run that represents a lock while it is taken.
async fn lock_run(env: &TestEnv, name: &str) -> Option<String> {
    let id = format!("temporal-batch.lock/{name}");
    let lock = env
        .client
        .temporal()
        .get_workflow_handle::<UntypedWorkflow>(id);
    let lock = lock.describe(Default::default()).await.ok()?;
    let taken = lock.status() == WorkflowExecutionStatus::Running;
    // No task waits for a worker, since no worker polls for it.
    assert!(lock.raw().pending_workflow_task.is_none());
    taken.then(|| lock.run_id().to_owned())
}

#[tokio::test]
async fn a_second_batch_is_refused_with_the_name_of_the_first() {
    let env = TestEnv::new("lock").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let name = env.new_id();
    let batch = || env.batch::<NumbersProcessor>(UpTo { n: 10 }).lock(&name);
    let first = env.start(&batch()).await;
    numbers
        .shows("the first batch runs", |r| r.in_flight == 1)
        .await;
    let second = env.start(&batch()).await;
    let Err(AcceptError::Refused { reason }) = second.accepted().await else {
        panic!("the second batch was not refused");
    };
    let held = format!(
        "lock \"{name}\" is held by batch \"{}\" since 20",
        first.id()
    );
    assert!(reason.starts_with(&held), "{reason}");
    assert!(reason.contains("--wait-for-lock"), "{reason}");
    assert!(matches!(
        second.result().await.unwrap_err(),
        ResultError::Refused { .. }
    ));
    let progress = first.progress().await.unwrap();
    assert_eq!(progress.lock, Some(name.clone()));
    assert_eq!(progress.lock_held_by, None);
    // A batch with another lock is not affected.
    let other = env
        .batch::<NumbersProcessor>(UpTo { n: 0 })
        .lock(env.new_id());
    assert_eq!(env.run(&other).await.outcome, Outcome::Completed);
    gate.open();
    assert_eq!(report(&first).await.outcome, Outcome::Completed);
    // The lock was given back before the first batch ended.
    assert_eq!(lock_run(&env, &name).await, None);
    assert_eq!(env.run(&batch()).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_name_that_cannot_be_a_lock_is_refused_by_the_client() {
    let env = TestEnv::new("lock-name").await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1 })
        .lock("two words");
    let Err(StartError::Invalid(error)) = env.client.start(&batch).await else {
        panic!("the batch was started");
    };
    assert!(error.to_string().contains("1 to 200 characters"), "{error}");
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Completed,
    Cancelled,
    Stopped,
    Terminated,
    Refused,
}

/// Has a second batch wait for a first one that ends in this way.
async fn starts_when_the_first_ends(end: End) {
    let env = TestEnv::new("lock-wait").await;
    let first_id = env.new_id();
    let held = first_id.clone();
    let (numbers, gate) = gated_where(move |seen| seen.batch_id == held);
    let _worker = env.worker(numbers.clone()).await;
    let name = env.new_id();
    let named = |id: &str| {
        temporal_batch::Batch::of::<NumbersProcessor>(id, UpTo { n: 20 })
            .task_queue(&env.queue)
            .page_size(10)
            .lock(&name)
    };
    let mut first = named(&first_id);
    if end == End::Stopped {
        first = first.deadline(Duration::from_secs(2));
    }
    let first = env.start(&first).await;
    numbers
        .shows("the first batch runs", |r| r.in_flight > 0)
        .await;
    let second = env.start(&named(&env.new_id()).wait_for_lock(true)).await;
    waits_for(&second, &first).await;
    let progress = second.progress().await.unwrap();
    assert_eq!(progress.phase, Phase::Preparing);
    second.accepted().await.unwrap();
    match end {
        End::Completed => gate.open(),
        End::Stopped => {
            progress_shows(&first, "the batch stops", |p| p.phase == Phase::Stopping).await;
            gate.open();
        }
        End::Cancelled => {
            first.cancel("enough").await.unwrap();
            gate.open();
        }
        End::Terminated => {
            let temporal = env.client.temporal();
            let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(&*first_id);
            workflow.terminate(Default::default()).await.unwrap();
        }
        End::Refused => unreachable!("the first batch has the lock"),
    }
    let report = report(&second).await;
    assert_eq!(report.outcome, Outcome::Completed, "{end:?}");
    assert_eq!(report.progress.lock_held_by, None);
    assert_eq!(report.progress.items.processed, 20);
    assert_eq!(lock_run(&env, &name).await, None, "{end:?}");
    let done = numbers.record();
    if end != End::Terminated {
        let begun = done.begun.iter().position(|s| s.batch_id == second.id());
        let of_first = |s: &crate::numbers_processor::Seen| s.batch_id == first_id;
        let last = done.begun.iter().rposition(of_first);
        assert!(last < begun, "{end:?}");
    }
    gate.open();
    replays(&env, second.id(), "waited").await;
}

#[tokio::test]
async fn a_batch_that_waits_starts_when_the_first_completes() {
    starts_when_the_first_ends(End::Completed).await;
}

#[tokio::test]
async fn a_batch_that_waits_starts_when_the_first_is_cancelled() {
    starts_when_the_first_ends(End::Cancelled).await;
}

#[tokio::test]
async fn a_batch_that_waits_starts_when_the_first_stops_itself() {
    starts_when_the_first_ends(End::Stopped).await;
}

#[tokio::test]
async fn a_batch_that_waits_starts_when_the_first_is_terminated() {
    starts_when_the_first_ends(End::Terminated).await;
}

#[tokio::test]
async fn a_lock_is_held_over_continue_as_new() {
    let env = TestEnv::new("lock-runs").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let name = env.new_id();
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 60 })
        .page_size(10)
        .max_parallelism(1)
        .pages_per_run(1)
        .lock(&name);
    let first = env.start(&batch).await;
    numbers.shows("the batch runs", |r| r.in_flight == 1).await;
    let lock = lock_run(&env, &name).await;
    assert!(lock.is_some());
    let waiting = env.batch::<NumbersProcessor>(UpTo { n: 20 }).lock(&name);
    let second = env.start(&waiting.wait_for_lock(true)).await;
    waits_for(&second, &first).await;
    for page in 1..=5 {
        gate.let_through(1);
        numbers
            .shows("the next page runs", |r| {
                r.done.len() == page && r.in_flight == 1
            })
            .await;
        assert_eq!(lock_run(&env, &name).await, lock, "after page {page}");
    }
    assert!(
        numbers
            .record()
            .begun
            .iter()
            .all(|s| s.batch_id == first.id())
    );
    gate.open();
    let first = report(&first).await;
    assert!(first.progress.runs > 3, "{} runs", first.progress.runs);
    assert_eq!(report(&second).await.outcome, Outcome::Completed);
    replays(&env, batch.id(), "locked").await;
}

#[tokio::test]
async fn a_batch_that_waits_for_a_lock_is_cancelled_at_once() {
    let env = TestEnv::new("lock-cancel").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let name = env.new_id();
    let batch = || env.batch::<NumbersProcessor>(UpTo { n: 10 }).lock(&name);
    let first = env.start(&batch()).await;
    numbers
        .shows("the first batch runs", |r| r.in_flight == 1)
        .await;
    let lock = lock_run(&env, &name).await;
    let waiting = env.start(&batch().wait_for_lock(true)).await;
    waits_for(&waiting, &first).await;
    waiting.cancel("enough").await.unwrap();
    let ended = report(&waiting).await;
    assert_eq!(ended.outcome, Outcome::Cancelled);
    assert_eq!(ended.progress.pages_completed, 0);
    assert_eq!(
        lock_run(&env, &name).await,
        lock,
        "the waiting batch gave back the lock of the other one"
    );
    replays(&env, waiting.id(), "waiting-cancelled").await;
    // A deadline ends the waiting too.
    let late = batch().wait_for_lock(true).deadline(Duration::from_secs(1));
    let late = env.start(&late).await;
    let ended = report(&late).await;
    assert_eq!(ended.outcome, Outcome::Stopped);
    assert_eq!(ended.reason.unwrap(), "the deadline is over");
    replays(&env, late.id(), "waiting-late").await;
    gate.open();
    assert_eq!(report(&first).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn batches_that_contend_for_a_lock_never_overlap_and_all_complete() {
    let env = TestEnv::new("lock-five").await;
    let numbers = NumbersProcessor::new().on_process(|_| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(PageReport::all_processed())
    });
    let _worker = env.worker(numbers.clone()).await;
    // A lock does not depend on the task queue.
    let elsewhere = TestEnv::new("lock-five-elsewhere").await;
    let _other = elsewhere.worker(numbers.clone()).await;
    let name = env.new_id();
    let mut handles = Vec::new();
    for n in 0..5 {
        let env = if n % 2 == 0 { &env } else { &elsewhere };
        let batch = env
            .batch::<NumbersProcessor>(UpTo { n: 60 })
            .page_size(10)
            .pages_per_run(3)
            .lock(&name)
            .wait_for_lock(true);
        handles.push(env.start(&batch).await);
    }
    for handle in &handles {
        let report = report(handle).await;
        assert_eq!(report.outcome, Outcome::Completed);
        assert_eq!(report.progress.items.processed, 60);
    }
    let record = within(
        "pages end",
        numbers.shows("none runs", |r| r.in_flight == 0),
    )
    .await;
    let mut order: Vec<_> = record.begun.iter().map(|s| &s.batch_id).collect();
    order.dedup();
    assert_eq!(order.len(), 5, "batches overlapped: {order:?}");
    assert_eq!(record.done.len(), 30);
    assert_eq!(lock_run(&env, &name).await, None);
}

/// A terminated batch gives nothing back. The next batch finds that out, without waiting.
#[tokio::test]
async fn a_terminated_batch_can_be_run_again_with_its_lock() {
    let env = TestEnv::new("lock-again").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let name = env.new_id();
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 10 }).lock(&name);
    env.start(&batch).await;
    numbers.shows("the batch runs", |r| r.in_flight == 1).await;
    let lock = lock_run(&env, &name).await;
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    workflow.terminate(Default::default()).await.unwrap();
    assert_eq!(lock_run(&env, &name).await, lock, "the lock is gone");
    gate.open();
    let report = env.run(&batch.rerun(true)).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(lock_run(&env, &name).await, None);
}

/// The worker on which a batch waits may stop: the batch waits on another one then.
#[tokio::test]
async fn waiting_outlives_the_worker() {
    let env = TestEnv::new("lock-worker").await;
    let elsewhere = TestEnv::new("lock-holder").await;
    let (numbers, gate) = gated();
    let _worker = elsewhere.worker(numbers.clone()).await;
    let name = env.new_id();
    let first = elsewhere
        .batch::<NumbersProcessor>(UpTo { n: 10 })
        .lock(&name);
    let first = elsewhere.start(&first).await;
    numbers
        .shows("the first batch runs", |r| r.in_flight == 1)
        .await;
    let worker = env.worker(NumbersProcessor::new()).await;
    let waiting = env.batch::<NumbersProcessor>(UpTo { n: 10 }).lock(&name);
    let waiting = env.start(&waiting.wait_for_lock(true)).await;
    waits_for(&waiting, &first).await;
    within("the worker stops", worker.stop()).await.unwrap();
    let _worker = env.worker(NumbersProcessor::new()).await;
    gate.open();
    assert_eq!(report(&waiting).await.outcome, Outcome::Completed);
    assert_eq!(report(&first).await.outcome, Outcome::Completed);
}

/// Ends a batch that takes its lock again after a hand-over, while pages of its earlier run are on a bridge.
async fn ends_while_taking_its_lock_again(end: End) {
    let t = HandOver::new("lock-bridge").await;
    let _worker = t.env.worker(t.numbers.clone()).await;
    let name = t.env.new_id();
    let mut batch = t.batch().lock(&name).wait_for_lock(end != End::Refused);
    if end == End::Stopped {
        batch = batch.deadline(Duration::from_secs(25));
    }
    let handle = t.env.start(&batch).await;
    t.begins(&handle).await;
    // Another batch gets the lock, so that it cannot be taken again.
    let temporal = t.env.client.temporal();
    let lock =
        temporal.get_workflow_handle::<UntypedWorkflow>(format!("temporal-batch.lock/{name}"));
    lock.terminate(Default::default()).await.unwrap();
    let elsewhere = TestEnv::new("lock-bridge-elsewhere").await;
    let (others, gate) = gated();
    let _other = elsewhere.worker(others.clone()).await;
    let other = elsewhere
        .batch::<NumbersProcessor>(UpTo { n: 10 })
        .lock(&name);
    let other = elsewhere.start(&other).await;
    others.shows("the other runs", |r| r.in_flight == 1).await;
    t.first.open();
    if end != End::Refused {
        waits_for(&handle, &other).await;
    }
    if end == End::Cancelled {
        handle.cancel("enough").await.unwrap();
    }
    let ends = progress_shows(&handle, "the batch ends", |p| {
        use Phase::{Cancelling, Ended, Finishing, Stopping};
        [Cancelling, Ended, Finishing, Stopping].contains(&p.phase)
    });
    let ends = ends.await;
    assert_eq!(ends.pages_in_flight, 2);
    let waits = [Phase::Cancelling, Phase::Stopping].contains(&ends.phase);
    assert!(waits, "no wait for running pages: {ends:#?}");
    t.late.open();
    let report = report(&handle).await;
    assert_eq!(report.progress.pages_completed, LATE / 10 + 2, "{end:?}");
    let (outcome, says) = match end {
        End::Cancelled => (Outcome::Cancelled, "cancelled; "),
        End::Stopped => (Outcome::Stopped, "the deadline is over; "),
        _ => (Outcome::Stopped, "is held by batch"),
    };
    assert_eq!(report.outcome, outcome);
    let reason = report.reason.unwrap();
    assert!(reason.contains(says), "{reason}");
    replays(&t.env, handle.id(), "lock-bridge").await;
    gate.open();
    assert_eq!(
        crate::support::report(&other).await.outcome,
        Outcome::Completed
    );
}

#[tokio::test]
async fn a_batch_that_is_cancelled_while_it_takes_its_lock_again_waits_for_its_pages() {
    ends_while_taking_its_lock_again(End::Cancelled).await;
}

#[tokio::test]
async fn a_batch_whose_deadline_passes_while_it_takes_its_lock_again_waits_for_its_pages() {
    ends_while_taking_its_lock_again(End::Stopped).await;
}

#[tokio::test]
async fn a_batch_that_has_lost_its_lock_to_another_waits_for_its_pages() {
    ends_while_taking_its_lock_again(End::Refused).await;
}
