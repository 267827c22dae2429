//! Activities beside the pages, which have slots of their own.

use std::time::Duration;

use async_trait::async_trait;
use temporal_batch::{
    Outcome, PageError, PageReport, Worker,
    hooks::{FailureHandler, FailureNotice, HookResult, Tracker},
    metrics::Metrics,
    progress::Progress,
};

use crate::{
    numbers_processor::{Gate, NumbersProcessor, UpTo},
    support::{TestEnv, eventually, progress_shows, report},
};

/// A failure handler and tracker that counts its calls.
#[derive(Clone)]
struct Counts(tokio::sync::watch::Sender<(usize, usize)>);

impl Counts {
    fn new() -> Self {
        Self(tokio::sync::watch::channel((0, 0)).0)
    }

    fn failures(&self) -> usize {
        self.0.borrow().0
    }

    fn looks(&self) -> usize {
        self.0.borrow().1
    }
}

#[async_trait]
impl FailureHandler for Counts {
    const NAME: &'static str = "counts";

    async fn on_failure(&self, _: &FailureNotice) -> HookResult {
        self.0.send_modify(|told| told.0 += 1);
        Ok(())
    }
}

#[async_trait]
impl Tracker for Counts {
    const NAME: &'static str = "counts";

    async fn track(&self, _: &Progress) -> HookResult {
        self.0.send_modify(|told| told.1 += 1);
        Ok(())
    }
}

/// A processor whose first page is given up, and whose other pages wait at the gate.
fn bad_then_stuck() -> (NumbersProcessor, Gate) {
    let gate = Gate::closed();
    let held = gate.clone();
    let numbers = NumbersProcessor::new().on_process(move |seen| {
        let gate = held.clone();
        async move {
            if seen.start == 0 {
                return Err(PageError::non_retryable("Poison", "never"));
            }
            gate.pass().await;
            Ok(PageReport::all_processed())
        }
    });
    (numbers, gate)
}

#[tokio::test]
async fn pages_that_take_every_slot_hold_up_no_hook_and_no_other_batch() {
    let env = TestEnv::new("aside").await;
    let (numbers, gate) = bad_then_stuck();
    let told = Counts::new();
    let _worker = env
        .worker_with(numbers.clone(), |worker| {
            worker
                .max_pages(1)
                .failure_handler(told.clone())
                .tracker(told.clone())
        })
        .await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 30 })
        .page_size(10)
        .track_every(Duration::from_secs(1))
        .track("counts")
        .on_failure("counts");
    let first = env.start(&batch).await;
    numbers
        .shows("the only slot has a page that hangs", |r| r.in_flight == 1)
        .await;
    let before = told.looks();
    eventually("the tracker is called while the page hangs", || async {
        (told.looks() > before + 1).then_some(())
    })
    .await;
    eventually("the handler has been told of the page before", || async {
        (told.failures() == 1).then_some(())
    })
    .await;
    let second = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 30 }))
        .await;
    second.accepted().await.unwrap();
    assert_eq!(numbers.record().in_flight, 1, "the page no longer hangs");
    gate.open();
    assert_eq!(report(&first).await.outcome, Outcome::CompletedWithFailures);
    report(&second).await;
}

/// A worker that is told to stop does not wait for a hook that hangs.
struct Hangs;

#[async_trait]
impl Tracker for Hangs {
    const NAME: &'static str = "hangs";

    async fn track(&self, _: &Progress) -> HookResult {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_hook_that_hangs_does_not_hold_up_a_stopping_worker() {
    let env = TestEnv::new("aside-hang").await;
    let worker = env
        .worker_with(NumbersProcessor::new(), |worker| {
            worker.tracker(Hangs).drain_timeout(Duration::ZERO)
        })
        .await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 1 })
        .max_parallelism(0)
        .hook_timeout(Duration::from_secs(600))
        .track("hangs");
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the batch is prepared", |p| {
        p.phase != temporal_batch::progress::Phase::Preparing
    })
    .await;
    // A hook has no pages, so that nothing is abandoned.
    crate::support::within("the worker stops", worker.stop())
        .await
        .unwrap();
}

#[tokio::test]
async fn both_queues_are_polled_over_one_connection_and_both_stop() {
    let env = TestEnv::new("aside-polls").await;
    let metrics = Metrics::new();
    let shown = metrics.clone();
    let worker = env
        .worker_with(NumbersProcessor::new(), |worker| worker.metrics(metrics))
        .await;
    let aside = format!("{}.aside", env.queue);
    env.run(&env.batch::<NumbersProcessor>(UpTo { n: 10 }))
        .await;
    let polls = |queue: &str| -> f64 {
        let text = shown.render();
        let of_queue = format!("task_queue=\"{queue}\"");
        text.lines()
            .filter(|l| l.starts_with("temporal_num_pollers{") && l.contains(&of_queue))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    eventually("few pollers poll the second queue", || async {
        let (aside, pages) = (polls(&aside), polls(&env.queue));
        ((1.0..=2.0).contains(&aside) && pages >= 2.0).then_some(())
    })
    .await;
    worker.stop().await.unwrap();
    assert_eq!(polls(&aside) + polls(&env.queue), 0.0);
}

#[tokio::test]
async fn an_invalid_queue_rate_is_refused_and_a_valid_one_lets_batches_run() {
    let env = TestEnv::new("queue-rate").await;
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let worker = Worker::new(&env.client, &env.queue).processor(NumbersProcessor::new());
        let error = worker.queue_rate(rate).start().err().unwrap();
        assert!(error.to_string().contains("more than 0"), "{error}");
    }
    let _worker = env
        .worker_with(NumbersProcessor::new(), |worker| worker.queue_rate(50.0))
        .await;
    let report = env
        .run(&env.batch::<NumbersProcessor>(UpTo { n: 30 }).page_size(10))
        .await;
    assert_eq!(report.outcome, Outcome::Completed);
}
