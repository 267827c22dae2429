//! Requests of operators, with a worker and without.

use std::time::{Duration, SystemTime};

use temporal_batch::{
    BatchReport, Outcome, Timestamp,
    client::{PauseOptions, Steered},
    errors::{ControlError, InvalidBatch, PauseWaitError},
    progress::Phase,
    settings::Settings,
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, gated},
    support::{TestEnv, progress_shows, report, within},
};

/// The requests of operators in their order, without the start. Requests that were kept for the first worker are noted
/// before the start.
fn audited(report: &BatchReport) -> Vec<&str> {
    let actions = report.progress.audit.iter().map(|e| e.action.as_str());
    actions.filter(|action| *action != "start").collect()
}

#[tokio::test]
async fn a_pause_without_a_worker_takes_effect_before_the_first_page() {
    let env = TestEnv::new("queued").await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 50 }).page_size(10);
    let handle = env.start(&batch).await;
    let queued = within("the pause is accepted", handle.pause("not yet")).await;
    let queued = queued.unwrap();
    assert_eq!(
        queued,
        Steered::Queued {
            task_queue: env.queue.clone(),
            polling: false,
        }
    );
    assert_eq!(
        queued.to_string(),
        format!(
            "no worker is polling task queue \"{}\": the request is kept and takes effect when a worker is back",
            env.queue
        )
    );

    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let paused = within("the batch is paused", handle.wait_until_paused()).await;
    let paused = paused.unwrap();
    assert_eq!(paused.pause_reason.as_deref(), Some("not yet"));
    assert_eq!((paused.pages_completed, paused.pages_in_flight), (0, 0));
    assert!(numbers.record().fetches.is_empty(), "a page was read");
    assert_eq!(handle.resume().await.unwrap(), Steered::Applied);
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(audited(&report), ["pause", "resume"]);
    assert_eq!(numbers.record().processed(), (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn requests_that_are_kept_are_applied_in_their_order() {
    let env = TestEnv::new("order").await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 20 })
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    let limit = |pages| Settings::new().max_parallelism(pages);
    for steered in [
        handle.set(limit(3)).await,
        handle.pause("first").await,
        handle.set(limit(7)).await,
        handle.resume().await,
        handle.pause("last").await,
    ] {
        assert!(!steered.unwrap().is_applied());
    }
    let numbers = NumbersProcessor::new();
    let _worker = env.worker(numbers.clone()).await;
    let paused = within("the batch is paused", handle.wait_until_paused()).await;
    let paused = paused.unwrap();
    assert_eq!(paused.pause_reason.as_deref(), Some("last"));
    assert_eq!(paused.max_parallelism, 7);
    assert!(numbers.record().fetches.is_empty(), "a page was read");
    handle.resume().await.unwrap();
    let report = report(&handle).await;
    assert_eq!(
        audited(&report),
        [
            "set max_parallelism to 3",
            "pause",
            "set max_parallelism to 7",
            "resume",
            "pause",
            "resume"
        ]
    );
}

/// The server still lists a worker that has just gone, so the client asks the controller first.
#[tokio::test]
async fn a_pause_after_the_worker_has_gone_applies_when_another_one_starts() {
    let env = TestEnv::new("gone").await;
    let (numbers, gate) = gated();
    let worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .page_size(10)
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    numbers.shows("a page runs", |r| r.in_flight == 1).await;
    gate.let_through(1);
    worker.stop().await.unwrap();
    let done = numbers.record().begun.len();

    let steered = within("the pause is accepted", handle.pause("")).await;
    assert!(matches!(steered.unwrap(), Steered::Queued { .. }));
    gate.open();
    let _worker = env.worker(numbers.clone()).await;
    within("the batch is paused", handle.wait_until_paused())
        .await
        .unwrap();
    // Pages that were already dispatched may run; no page is dispatched after the pause.
    assert!(numbers.record().begun.len() <= done + 1);
    handle.cancel("").await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn a_request_sent_as_update_and_as_signal_is_applied_once() {
    let env = TestEnv::new("both-ways").await;
    let numbers = NumbersProcessor::new();
    let worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 100 })
        .max_parallelism(0);
    let handle = env.start(&batch).await;
    handle.accepted().await.unwrap();
    worker.stop().await.unwrap();
    // The worker is still listed, so the client sends an update, and a signal when no answer arrives.
    let paused = handle.pause("").await.unwrap();
    assert!(
        matches!(paused, Steered::Queued { polling: true, .. }),
        "{paused:?}"
    );
    let _worker = env.worker(numbers.clone()).await;
    let progress = progress_shows(&handle, "the pause is applied", |p| p.audit.len() > 1);
    progress.await;
    // Requests that were sent before an answered request have been applied by the time of the answer.
    handle.set_max_parallelism(1).await.unwrap();
    handle.resume().await.unwrap();
    let report = report(&handle).await;
    let expected = ["pause", "set max_parallelism to 1", "resume"];
    assert_eq!(audited(&report), expected);
}

#[tokio::test]
async fn with_a_worker_requests_are_applied_and_answered_without_a_signal() {
    let env = TestEnv::new("applied").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 10 })
        .max_parallelism(0);
    let handle = env.start(&batch).await;
    handle.accepted().await.unwrap();
    for steered in [
        handle.pause("").await,
        handle.set(Settings::new().max_parallelism(2)).await,
        handle.because("it is time").resume().await,
    ] {
        assert_eq!(steered.unwrap(), Steered::Applied);
    }
    let report = report(&handle).await;
    assert_eq!(
        audited(&report),
        ["pause", "set max_parallelism to 2", "resume"]
    );
    let why = report.progress.audit.last().unwrap().why.as_deref();
    assert_eq!(why, Some("it is time"));
    assert_eq!(env.signals(batch.id(), "steer").await, 0);
}

/// The batch does not exist: had a request been sent, its error would say so.
#[tokio::test]
async fn bad_values_are_refused_before_a_request_is_sent() {
    let env = TestEnv::new("bad-values").await;
    let handle = env.client.handle(env.new_id()).unwrap();
    for settings in [
        Settings::new().max_parallelism(501),
        Settings::new().rate(0.0),
        Settings::new().page_rate(f64::NAN),
        Settings::new().page_pause(Duration::ZERO),
    ] {
        let error = handle.set(settings).await.unwrap_err();
        assert!(matches!(error, ControlError::Invalid(_)), "{error}");
    }
    let error = handle.set(Settings::new()).await.unwrap_err();
    assert!(matches!(error, ControlError::NothingToSet), "{error}");
    let past = Timestamp::from(SystemTime::now() - Duration::from_secs(3_600));
    let over = handle.pause_with(PauseOptions::new().until(past)).await;
    let over = over.unwrap_err();
    assert!(matches!(over, ControlError::PauseIsOver { .. }), "{over}");
    assert!(over.to_string().contains("its end was 1h"), "{over}");
    let short = PauseOptions::new().lasting(Duration::ZERO);
    let short = handle.pause_with(short).await.unwrap_err();
    assert!(
        matches!(short, ControlError::Invalid(InvalidBatch::Lasts { .. })),
        "{short}"
    );
    let sent = handle.set(Settings::new().rate(None)).await.unwrap_err();
    assert!(matches!(sent, ControlError::NotFound { .. }), "{sent}");
}

#[tokio::test]
async fn waiting_for_a_pause_ends_with_the_last_page_or_without_a_pause() {
    let env = TestEnv::new("wait").await;
    let (numbers, gate) = gated();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 30 })
        .page_size(10)
        .max_parallelism(1);
    let handle = env.start(&batch).await;
    numbers.shows("a page runs", |r| r.in_flight == 1).await;

    handle.pause("").await.unwrap();
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.wait_until_paused().await }
    });
    progress_shows(&handle, "pausing", |p| p.phase == Phase::Pausing).await;
    assert!(!waiting.is_finished(), "the wait ended early");
    gate.let_through(1);
    let paused = within("the batch is paused", waiting).await.unwrap();
    assert_eq!(paused.unwrap().pages_completed, 1);

    handle.resume().await.unwrap();
    gate.open();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
    let ended = handle.wait_until_paused().await.unwrap_err();
    assert!(matches!(ended, PauseWaitError::Ended { .. }), "{ended}");
    let late = handle.pause("").await.unwrap_err();
    assert!(matches!(late, ControlError::NotRunning { .. }), "{late}");
}
