//! Causes that keep a batch from being faster, created for real, and the explanation that each must produce. Causes in
//! a database are in `tests/backfill/explanations.rs`.

use std::time::{Duration, SystemTime};

use futures::future::join_all;
use temporal_batch::{
    Batch, BatchHandle, Outcome, PageError, PageReport, Timestamp,
    progress::{HeldBy, Phase},
    settings::Settings,
    settings::{AutoParallelism, ExtendedRetries, Ramp, RetryMode, RetryPolicy, Stage, Window},
};

use crate::{
    killed_workers::{Diary, WorkerProcess},
    numbers_processor::{NumbersProcessor, UpTo, gated, gated_where},
    pace::{GO, HOLD, SLOW, Switch},
    support::{TestEnv, progress_shows, report},
};

/// Waits until the batch gives this explanation.
async fn says(handle: &BatchHandle, held_by: HeldBy, part: &str) -> String {
    let what = format!("the explanation contains {part:?}");
    let progress = progress_shows(handle, &what, |p| {
        p.held_by == Some(held_by) && p.explanation.contains(part)
    });
    progress.await.explanation
}

/// Whether the cause is one that a healthy batch is never given.
fn alarms(held_by: Option<HeldBy>) -> bool {
    use HeldBy::{NoWorker, Pages, Preparing, Retries, Workers};
    let alarming = [NoWorker, Pages, Preparing, Retries, Workers];
    held_by.is_some_and(|by| alarming.contains(&by))
}

fn closed_window() -> Window {
    let in_six_hours = Timestamp::from(SystemTime::now() + Duration::from_secs(6 * 3_600));
    let hour = in_six_hours.0 / 3_600_000 % 24;
    let window = format!("{hour:02}:00-{:02}:00", (hour + 1) % 24);
    window.parse().unwrap()
}

/// Ends the one batch that was moved from cause to cause.
async fn cancelled_outcome(handle: &BatchHandle) -> Outcome {
    handle.cancel("seen enough").await.unwrap();
    report(handle).await.outcome
}

#[tokio::test]
async fn limits_that_operators_set_are_named() {
    let env = TestEnv::new("because-limits").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(|_| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100_000_000 })
        .page_size(10)
        .stride(2)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    let set = async |settings: Settings| {
        handle.set(settings).await.unwrap();
    };
    says(&handle, HeldBy::Parallelism, "max parallelism 2 is used up").await;

    handle
        .because("the backup first")
        .pause("the backup first")
        .await
        .unwrap();
    says(&handle, HeldBy::Pause, ": the backup first").await;
    handle.resume().await.unwrap();

    set(Settings::new().max_parallelism(0)).await;
    says(&handle, HeldBy::Parallelism, "max parallelism is 0").await;
    set(Settings::new().max_parallelism(2)).await;

    set(Settings::new().windows([closed_window()])).await;
    says(
        &handle,
        HeldBy::Window,
        "outside of its windows; the next one opens in",
    )
    .await;
    set(Settings::new().windows([])).await;

    set(Settings::new().rate(15.0)).await;
    says(&handle, HeldBy::Rate, "rate limit 15 items/s").await;
    // Pages that are too large for their rate.
    set(Settings::new().page_size(1_000)).await;
    let said = says(&handle, HeldBy::Rate, "a page of 1,000 items takes").await;
    assert!(said.contains("--page-size "), "{said}");
    set(Settings::new().page_size(10).rate(None)).await;

    set(Settings::new().page_rate(2.0)).await;
    says(&handle, HeldBy::Rate, "rate limit 2 pages/s").await;
    set(Settings::new().page_rate(None)).await;

    set(Settings::new().page_pause(Duration::from_secs(4))).await;
    says(&handle, HeldBy::Rate, "a pause of 4s before each page").await;
    set(Settings::new().page_pause(None)).await;

    let ramp = Ramp::new(1, 8, Duration::from_secs(3_600));
    set(Settings::new().ramp(ramp)).await;
    says(&handle, HeldBy::Ramp, "ramp 1..8/1h has reached 1").await;

    set(Settings::new().auto_parallelism(AutoParallelism::new(2, 3))).await;
    says(&handle, HeldBy::Tuning, "parallelism is tuned to").await;

    assert_eq!(cancelled_outcome(&handle).await, Outcome::Cancelled);
}

#[tokio::test]
async fn throttles_are_named_with_their_reason() {
    let env = TestEnv::new("because-throttle").await;
    let switch = Switch::default();
    switch.set(HOLD);
    let throttle = switch.clone();
    let numbers = NumbersProcessor::new().skipping_ahead();
    let _worker = env
        .worker_with(numbers, |worker| worker.throttle(throttle))
        .await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100_000_000 })
        .throttle("switch");
    let handle = env.start(&batch).await;
    says(&handle, HeldBy::Throttle, "held: replica lag 3.2s > 2s").await;
    switch.set(SLOW);
    says(
        &handle,
        HeldBy::Throttle,
        "slowed to 25 %: replica lag 1.5s > 1s",
    )
    .await;
    switch.set(GO);
    progress_shows(&handle, "nothing holds the batch back", |p| {
        p.held_by != Some(HeldBy::Throttle)
    })
    .await;
    cancelled_outcome(&handle).await;
}

#[tokio::test]
async fn another_batch_that_has_the_lock_is_named() {
    let env = TestEnv::new("because-lock").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers).await;
    let name = env.new_id();
    let batch = || env.batch::<NumbersProcessor>(UpTo { n: 10 }).lock(&name);
    let first = env.start(&batch()).await;
    progress_shows(&first, "the batch runs", |p| p.pages_in_flight > 0).await;
    let second = env.start(&batch().wait_for_lock(true)).await;
    let sentence = format!(
        "waiting for the lock \"{name}\", which batch \"{}\" has",
        first.id()
    );
    says(&second, HeldBy::Lock, &sentence).await;
    gate.open();
    report(&second).await;
}

#[tokio::test]
async fn a_stage_that_waits_for_approval_says_so() {
    let env = TestEnv::new("because-stage").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 40 })
        .page_size(5)
        .stages([Stage::Items(10), Stage::All])
        .approve_stages(true);
    let handle = env.start(&batch).await;
    says(
        &handle,
        HeldBy::Stage,
        "stage 1 of 2 (10items) is done: waiting for approval",
    )
    .await;
    handle.approve().await.unwrap();
    report(&handle).await;
}

#[tokio::test]
async fn pages_that_all_fail_are_named_with_their_error() {
    let env = TestEnv::new("because-fail").await;
    let retry = RetryPolicy::default()
        .initial_interval(Duration::from_millis(500))
        .max_interval(Duration::from_millis(500))
        .max_attempts(1_000);
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .settings(|settings| settings.retry = retry)
        .on_process(|_| async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Err(PageError::retryable("no space left on device").with_type("NoRoom"))
        });
    let _worker = env.worker(numbers).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1_000 })
        .page_size(10)
        .stride(1)
        .max_parallelism(4);
    let handle = env.start(&batch).await;
    let sentence = "pages fail, and no other gets through: NoRoom: no space left on device";
    says(&handle, HeldBy::Retries, sentence).await;
    cancelled_outcome(&handle).await;
}

#[tokio::test]
async fn slow_retries_that_alone_remain_say_when_and_why() {
    let env = TestEnv::new("because-slow-retries").await;
    let retry = RetryPolicy::default()
        .max_attempts(1)
        .extended(Some(ExtendedRetries {
            interval: Duration::from_secs(3_600),
            ..ExtendedRetries::default()
        }));
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .settings(|settings| settings.retry = retry)
        .on_process(|page| async move {
            match page.start {
                10 => Err(PageError::retryable("the vendor is away").with_type("Away")),
                _ => Ok(PageReport::all_processed()),
            }
        });
    let _worker = env.worker(numbers).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 50 })
        .page_size(10)
        .stride(1);
    let handle = env.start(&batch).await;
    let sentence = "every page that is left has failed and waits for its next attempt, in ";
    let said = says(&handle, HeldBy::Retries, sentence).await;
    assert!(said.ends_with(": Away: the vendor is away"), "{said}");
    cancelled_outcome(&handle).await;
}

#[tokio::test]
async fn a_page_that_keeps_others_from_being_found_is_named() {
    let env = TestEnv::new("because-discovery").await;
    let (_, gate) = gated();
    let held = gate.clone();
    let numbers = NumbersProcessor::new().on_fetch(move |page| {
        let gate = held.clone();
        async move {
            if page.start == 20 {
                gate.pass().await;
            }
            Ok(())
        }
    });
    let _worker = env.worker(numbers).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 50 })
        .page_size(10)
        .stride(1);
    let handle = env.start(&batch).await;
    let sentence = "waiting for the page after 20 to tell where the next one starts";
    says(&handle, HeldBy::Discovery, sentence).await;
    // It takes longer than other pages do.
    says(
        &handle,
        HeldBy::Pages,
        "the page after 20 has been worked on for 1",
    )
    .await;
    gate.open();
    report(&handle).await;
}

#[tokio::test]
async fn a_page_that_does_not_return_is_named_with_its_worker() {
    let env = TestEnv::new("because-long").await;
    let (numbers, gate) = gated_where(|page| page.start == 30);
    let worker = env.worker_named("the-slow-one", numbers.skipping_ahead());
    let _worker = worker.await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .stride(1)
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    let said = says(
        &handle,
        HeldBy::Pages,
        "the page after 30 has been worked on for ",
    )
    .await;
    assert!(said.ends_with(" at worker the-slow-one"), "{said}");
    gate.open();
    report(&handle).await;
}

#[tokio::test]
async fn a_page_without_a_slot_that_holds_part_of_the_rate_is_reported() {
    let env = TestEnv::new("because-rate-slots").await;
    let numbers = NumbersProcessor::new().skipping_ahead();
    let _worker = env.worker_with(numbers, |worker| worker.max_pages(2)).await;
    // A page takes 3 s at its share, and a stride 18 s. The page without a slot begins when one of the others ends.
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100_000 })
        .page_size(10)
        .stride(6)
        .max_parallelism(3)
        .rate(10.0);
    let handle = env.start(&batch).await;
    let said = says(&handle, HeldBy::Workers, "1 of 3 pages wait").await;
    assert_eq!(
        said,
        "1 of 3 pages wait for a worker that has a free slot, and hold part of the rate of 10 items/s meanwhile; \
         --max-parallelism 2 leaves it to those that run"
    );
    handle
        .set(Settings::new().max_parallelism(2))
        .await
        .unwrap();
    says(&handle, HeldBy::Rate, "rate limit 10 items/s").await;
    cancelled_outcome(&handle).await;
}

#[tokio::test]
async fn pages_without_a_free_slot_say_so() {
    let env = TestEnv::new("because-slots").await;
    let (numbers, gate) = gated();
    let numbers = numbers.skipping_ahead();
    let _worker = env.worker_with(numbers, |worker| worker.max_pages(1)).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1_000 })
        .page_size(10)
        .stride(1)
        .max_parallelism(4);
    let handle = env.start(&batch).await;
    let sentence = "3 of 4 pages wait for a worker that has a free slot";
    says(&handle, HeldBy::Workers, sentence).await;
    gate.open();
    report(&handle).await;
}

#[tokio::test]
async fn a_processor_that_the_workers_of_the_queue_do_not_know_blocks_with_its_name() {
    let env = TestEnv::new("because-unknown").await;
    let (numbers, gate) = gated();
    let worker = env.worker(numbers.clone()).await;
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 50 }).page_size(10))
        .await;
    numbers.shows("a page runs", |r| r.in_flight > 0).await;
    gate.let_through(1);
    worker.stop().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let other = env
        .worker(Diary::new(dir.path(), RetryMode::AtLeastOnce))
        .await;
    let blocked = progress_shows(&handle, "the batch is blocked", |p| {
        p.phase == Phase::Blocked && p.explanation.contains("UnknownProcessor: ")
    });
    let explanation = blocked.await.explanation;
    assert!(explanation.contains("numbers"), "{explanation}");
    other.stop().await.unwrap();
    let (numbers, gate) = gated();
    gate.open();
    let _worker = env.worker(numbers).await;
    cancelled_outcome(&handle).await;
}

#[tokio::test]
async fn a_worker_that_takes_no_new_pages_is_missed() {
    let env = TestEnv::new("because-no-worker").await;
    let (numbers, gate) = gated();
    let worker = env.worker(numbers).await;
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 50 }).page_size(10))
        .await;
    progress_shows(&handle, "the batch runs", |p| p.pages_in_flight > 0).await;
    gate.open();
    worker.stop().await.unwrap();
    let sentence = format!("on task queue \"{}\" for ", env.queue);
    says(&handle, HeldBy::NoWorker, &sentence).await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    report(&handle).await;
}

#[tokio::test]
async fn a_worker_that_dies_is_missed_while_the_server_still_lists_it() {
    let env = TestEnv::new("because-dead").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::new(dir.path(), RetryMode::AtLeastOnce);
    let worker = WorkerProcess::start(&env, &diary);
    let batch = env.batch::<Diary>(()).page_size(1).rate(10_000.0);
    let handle = env.start(&batch).await;
    diary.shows_times("begin 3", 1).await;
    progress_shows(&handle, "the batch runs", |p| p.pages_in_flight > 0).await;
    worker.kill();
    says(&handle, HeldBy::NoWorker, "").await;
    let seen = handle.look().await.unwrap();
    let listed = seen.workers.unwrap().polling.len();
    assert_eq!(
        listed, 1,
        "the worker was missed because the server had forgotten it"
    );
    diary.quicken();
    let _worker = WorkerProcess::start(&env, &diary);
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_stopping_worker_is_named_with_its_remaining_pages() {
    let env = TestEnv::new("because-drains").await;
    let dir = tempfile::tempdir().unwrap();
    let diary = Diary::new(dir.path(), RetryMode::AtLeastOnce);
    let worker = WorkerProcess::start(&env, &diary);
    let handle = env.start(&env.batch::<Diary>(()).page_size(1)).await;
    diary.shows_times("begin 3", 1).await;
    progress_shows(&handle, "the batch runs", |p| p.pages_in_flight > 0).await;
    worker.terminate();
    says(&handle, HeldBy::NoWorker, "1 page is still in flight at ").await;
    diary.quicken();
    let _worker = WorkerProcess::start(&env, &diary);
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
}

/// A batch whose pages get through is no cause for alarm, whichever limit it has. Each batch has a worker of its own.
#[tokio::test]
async fn a_healthy_batch_never_has_an_alarming_explanation() {
    type Limit = fn(Batch) -> Batch;
    let limits: [(u64, Limit); 8] = [
        (3_000, |batch| batch),
        (300, |batch| batch.rate(200.0)),
        (200, |batch| batch.page_rate(10.0)),
        (2_000, |batch| {
            batch.ramp(Ramp::new(1, 8, Duration::from_secs(60)))
        }),
        (2_000, |batch| {
            batch.auto_parallelism(AutoParallelism::new(2, 6))
        }),
        (500, |batch| batch.page_pause(Duration::from_millis(300))),
        (1_000, |batch| batch.stride(1)),
        (0, |batch| batch),
    ];
    // Boxed: eight of these futures do not fit on the stack of a test.
    join_all(limits.map(|(n, limit)| Box::pin(is_never_alarming(n, limit)))).await;
}

async fn is_never_alarming(n: u64, limit: fn(Batch) -> Batch) {
    let env = TestEnv::new("because-healthy").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .on_process(|_| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(PageReport::all_processed())
        });
    let _worker = env.worker(numbers).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n });
    let handle = env
        .start(&limit(batch.page_size(10).max_parallelism(4)))
        .await;
    loop {
        let seen = handle.look().await.unwrap();
        if let Some(p) = &seen.progress {
            assert!(!alarms(p.held_by), "{}: {p:#?}", p.explanation);
        }
        if !seen.state.is_open() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
}
