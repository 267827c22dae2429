//! Programs that share a task queue: a worker that does not have a processor passes its batches on.

use async_trait::async_trait;
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    errors::AcceptError,
    progress::{HeldBy, Phase},
};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, page_of},
    support::{TestEnv, progress_shows, report, within},
};

/// A processor of another program that does the work of `NumbersProcessor`.
#[derive(Clone)]
struct Letters(NumbersProcessor);

#[async_trait]
impl PageProcessor for Letters {
    const NAME: &'static str = "letters";
    type Args = UpTo;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        page_of(ctx)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        self.0.process_as(ctx.attempt(), items).await
    }
}

#[tokio::test]
async fn a_batch_waits_for_a_worker_that_has_its_processor_and_says_so() {
    let env = TestEnv::new("unknown").await;
    let _other = env.worker_named("other", NumbersProcessor::new()).await;
    let handle = env
        .start(&env.batch::<Letters>(UpTo { n: 30 }).page_size(10))
        .await;
    let accepted = within("the batch is reported as waiting", handle.accepted()).await;
    let waits = accepted.unwrap_err();
    assert!(matches!(waits, AcceptError::NoProcessor { .. }), "{waits}");
    let waits = progress_shows(&handle, "the batch waits for a worker", |p| {
        p.held_by == Some(HeldBy::NoWorker)
    })
    .await;
    assert_eq!(waits.phase, Phase::Preparing);
    assert!(waits.lacks_processor);
    let queue = &env.queue;
    assert_eq!(
        waits.explanation,
        format!(
            "no worker with processor \"letters\" was found on task queue \"{queue}\", only one with numbers; start one that \
             has it"
        )
    );
    let letters = Letters(NumbersProcessor::new());
    let _has_it = env.worker_named("has-it", letters.clone()).await;
    let ended = report(&handle).await;
    assert_eq!(ended.outcome, Outcome::Completed);
    assert_eq!(letters.0.record().processed(), (1..=30).collect::<Vec<_>>());
    let told = env.signals(handle.id(), "waits").await;
    assert_eq!(told, 1, "the wait is signalled once");
}

#[tokio::test]
async fn two_programs_on_one_queue_complete_and_no_page_loses_an_attempt() {
    let env = TestEnv::new("two-programs").await;
    let (numbers, letters) = (NumbersProcessor::new(), Letters(NumbersProcessor::new()));
    let one = env.worker_named("one", numbers.clone()).await;
    let two = env.worker_named("two", letters.clone()).await;
    assert!(
        within("both poll", async {
            one.polling().await && two.polling().await
        })
        .await
    );
    let first = env.batch::<NumbersProcessor>(UpTo { n: 100 }).page_size(10);
    let second = env.batch::<Letters>(UpTo { n: 100 }).page_size(10);
    let (first, second) = (env.start(&first).await, env.start(&second).await);
    for (handle, record) in [(&first, &numbers), (&second, &letters.0)] {
        let ended = report(handle).await;
        assert_eq!(ended.outcome, Outcome::Completed, "{:?}", ended.reason);
        assert_eq!(ended.progress.consecutive_failures, 0);
        assert_eq!(record.record().processed(), (1..=100).collect::<Vec<_>>());
        let attempts = record.record().begun;
        assert!(attempts.iter().all(|seen| seen.attempt == 1));
    }
}

/// The worker that has the processor stops, and that of another program stays.
#[tokio::test]
async fn a_running_batch_waits_for_its_processor() {
    let env = TestEnv::new("goes-away").await;
    let (numbers, gate) = crate::numbers_processor::gated_where(|seen| seen.start == 50);
    let letters = Letters(numbers.clone());
    let has_it = env.worker_named("has-it", letters.clone()).await;
    let batch = env.batch::<Letters>(UpTo { n: 200 });
    let handle = env.start(&batch.page_size(10).max_parallelism(1)).await;
    numbers
        .shows("the sixth page runs", |r| r.begun.len() == 6)
        .await;
    let _other = env.worker_named("other", NumbersProcessor::new()).await;
    let stopping = tokio::spawn(has_it.stop());
    gate.open();
    stopping.await.unwrap().unwrap();
    let blocked = progress_shows(&handle, "the batch waits for a worker", |p| {
        p.phase == Phase::Blocked && p.explanation.contains("no worker with processor")
    })
    .await;
    assert!(
        blocked
            .explanation
            .contains("processor \"letters\" was found on task queue"),
        "{}",
        blocked.explanation
    );
    let _again = env.worker_named("again", letters.clone()).await;
    let ended = report(&handle).await;
    assert_eq!(ended.outcome, Outcome::Completed, "{:?}", ended.reason);
    assert_eq!(
        letters.0.record().processed(),
        (1..=200).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_worker_reports_when_it_polls() {
    let env = TestEnv::new("polling").await;
    // Workers are listed only for a running batch, so its page waits at the gate.
    let (numbers, gate) = crate::numbers_processor::gated();
    let worker = env.worker_named("tells", numbers).await;
    assert!(within("the worker polls", worker.polling()).await);
    // The server lists the worker from now on, without a batch that had to wait for it.
    let handle = env
        .start(&env.batch::<NumbersProcessor>(UpTo { n: 1 }))
        .await;
    let seen = handle.look().await.unwrap().workers.unwrap();
    let tells = seen.polling.iter().find(|w| w.identity == "tells").unwrap();
    assert!(tells.workflows && tells.pages, "{seen:?}");
    gate.open();
    assert_eq!(report(&handle).await.outcome, Outcome::Completed);
    worker.stop().await.unwrap();
}
