//! Arguments that are completed once for each batch run, before its first page. All later calls get the completed ones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    client::Continuation,
    errors::AcceptError,
    progress::HeldBy,
    settings::IfRunning,
    store::{DeadLetters, JsonlDeadLetters, LetterFilter},
    testing,
};

use crate::{
    numbers_processor::Gate,
    replay::replays,
    support::{TestEnv, progress_shows, report, within},
};

/// A processor over the numbers up to a mark that is looked up when the batch is prepared.
#[derive(Clone)]
struct UpToNow {
    prepared: Arc<AtomicU32>,
    /// The mark that the next look-up finds.
    next_mark: Arc<AtomicU32>,
    first: Arc<dyn Fn(u32) -> BoxFuture<'static, Result<(), PageError>> + Send + Sync>,
    gate: Gate,
    fails_at: Option<u32>,
    letters: Option<Arc<JsonlDeadLetters>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mark {
    #[serde(default)]
    high_water: Option<u32>,
}

impl UpToNow {
    fn new(mark: u32) -> Self {
        Self {
            prepared: Arc::default(),
            next_mark: Arc::new(AtomicU32::new(mark)),
            first: Arc::new(|_| Box::pin(async { Ok(()) })),
            gate: Gate::closed(),
            fails_at: None,
            letters: None,
        }
    }

    fn first<F>(mut self, then: impl Fn(u32) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), PageError>> + Send + 'static,
    {
        self.first = Arc::new(move |attempt| Box::pin(then(attempt)));
        self
    }
}

#[async_trait]
impl PageProcessor for UpToNow {
    const NAME: &'static str = "up-to-now";
    type Args = Mark;
    type Cursor = u32;
    type Item = u32;

    async fn prepare(&self, args: Mark) -> Result<Mark, PageError> {
        let attempt = self.prepared.fetch_add(1, Ordering::SeqCst) + 1;
        (self.first)(attempt).await?;
        let found = self.next_mark.fetch_add(1_000, Ordering::SeqCst);
        Ok(Mark {
            high_water: args.high_water.or(Some(found)),
        })
    }

    async fn size_hint(&self, args: &Mark) -> Result<Option<u64>, PageError> {
        Ok(args.high_water.map(u64::from))
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
        let mark = ctx.args().high_water.expect("the arguments are completed");
        let first = ctx.range().start().map_or(1, |last| last + 1);
        let last = ctx.range().end().copied().unwrap_or(mark).min(mark);
        Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)
    }

    fn dead_letters(&self, args: &Mark) -> Option<Arc<dyn DeadLetters>> {
        // The file of dead letters depends on the completed arguments.
        args.high_water?;
        let letters = self.letters.clone()?;
        Some(letters)
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<u32>,
    ) -> Result<PageReport, PageError> {
        self.gate.pass().await;
        if self.fails_at.is_some_and(|n| items.contains(&n)) {
            return Err(PageError::non_retryable("Poison", "made to fail"));
        }
        Ok(PageReport::all_processed())
    }
}

#[tokio::test]
async fn arguments_are_completed_once_and_kept_over_continue_as_new() {
    let env = TestEnv::new("prepared").await;
    let numbers = UpToNow::new(25);
    numbers.gate.let_through(2);
    let _worker = env.worker(numbers.clone()).await;
    let batch = env
        .batch::<UpToNow>(Mark { high_water: None })
        .page_size(5)
        .pages_per_run(2)
        .max_parallelism(1)
        .if_running(IfRunning::Attach);
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the batch has begun", |p| p.pages_completed == 2).await;
    // A second start gives the same arguments as the first, though these were completed meanwhile.
    let again = env.start(&batch).await;
    assert_eq!(again.id(), handle.id());
    numbers.gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.items.processed, 25);
    assert_eq!(report.progress.items_expected, Some(25));
    assert!(report.progress.runs > 1);
    assert_eq!(numbers.prepared.load(Ordering::SeqCst), 1);
    replays(&env, handle.id(), "prepared").await;
}

#[tokio::test]
async fn a_batch_that_is_continued_keeps_its_completed_arguments() {
    let env = TestEnv::new("prepared-continued").await;
    let numbers = UpToNow::new(20);
    numbers.gate.let_through(1);
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<UpToNow>(Mark { high_water: None });
    let batch = batch.page_size(5).max_parallelism(1);
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the batch has begun", |p| p.pages_completed == 1).await;
    handle.cancel("for now").await.unwrap();
    numbers.gate.let_through(1);
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);
    numbers.gate.open();
    let continuation = Continuation::of(handle.id());
    let continued = env.client.continue_batch(&continuation).await.unwrap();
    let report = report(&continued).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(
        report.progress.items.processed, 20,
        "the mark was looked up again"
    );
    assert_eq!(numbers.prepared.load(Ordering::SeqCst), 1);
}

/// A redrive needs the completed arguments. So does a worker that starts later, for which orders only name them.
#[tokio::test]
async fn completed_arguments_outlive_a_hand_over() {
    let env = TestEnv::new("prepared-handed-over").await;
    let numbers = UpToNow::new(20);
    numbers.gate.open();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<UpToNow>(Mark { high_water: None });
    let handle = env.start(&batch.page_size(5).pages_per_run(1)).await;
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(report.progress.runs > 2, "{}", report.progress.runs);
    let redrive = env.client.redrive_of(LetterFilter::of(handle.id())).await;
    let redrive = format!("{:?}", redrive.unwrap());
    assert!(redrive.contains("\"high_water\": Number(20)"), "{redrive}");
}

#[tokio::test]
async fn a_failed_preparation_is_tried_again_and_status_says_why() {
    let env = TestEnv::new("prepared-late").await;
    let numbers = UpToNow::new(5).first(|attempt| async move {
        match attempt {
            1 => Err(PageError::retryable("7 transactions are older").with_type("OldTransactions")),
            // The second attempt takes long enough for the progress to be read.
            2 => Err(PageError::retryable("7 transactions are older").with_type("OldTransactions")),
            _ => Ok(()),
        }
    });
    numbers.gate.open();
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<UpToNow>(Mark { high_water: None });
    let handle = env.start(&batch).await;
    let waiting = progress_shows(&handle, "the batch waits for its preparation", |p| {
        p.held_by == Some(HeldBy::Preparing)
    });
    let waiting = waiting.await;
    assert!(
        waiting
            .explanation
            .contains("OldTransactions: 7 transactions are older"),
        "{}",
        waiting.explanation
    );
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(numbers.prepared.load(Ordering::SeqCst), 3);
    let signals = env.signals(handle.id(), "waits").await;
    assert_eq!(signals, 1, "the error was reported more than once");
    replays(&env, handle.id(), "prepared-late").await;
}

#[tokio::test]
async fn a_processor_can_refuse_a_batch() {
    let env = TestEnv::new("prepared-not").await;
    let numbers = UpToNow::new(5)
        .first(|_| async { Err(PageError::non_retryable("NoTable", "there is no table t")) });
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<UpToNow>(Mark { high_water: None });
    let refused = env.start(&batch).await.accepted().await.unwrap_err();
    assert!(matches!(refused, AcceptError::Refused { .. }), "{refused}");
    let message = refused.to_string();
    assert!(message.contains("there is no table t"), "{message}");
    assert!(
        message.contains("\"up-to-now\" refuses the batch"),
        "{message}"
    );
    assert_eq!(numbers.prepared.load(Ordering::SeqCst), 1);

    let refused = testing::run_page(&numbers, Mark { high_water: None }, None).await;
    assert_eq!(refused.unwrap_err().error_type(), "NoTable");
}

#[tokio::test]
async fn a_batch_can_be_cancelled_or_pass_its_deadline_while_it_is_prepared() {
    let env = TestEnv::new("prepared-never").await;
    let numbers = UpToNow::new(5).first(|_| std::future::pending());
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<UpToNow>(Mark { high_water: None });
    let handle = env.start(&batch).await;
    let begun = async {
        while numbers.prepared.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the batch is being prepared", begun).await;
    handle.cancel("").await.unwrap();
    assert_eq!(report(&handle).await.outcome, Outcome::Cancelled);

    let batch = env.batch::<UpToNow>(Mark { high_water: None });
    let late = env.run(&batch.deadline(Duration::from_secs(2))).await;
    assert_eq!(late.outcome, Outcome::Stopped);
    assert_eq!(late.reason.as_deref(), Some("the deadline is over"));
}

#[tokio::test]
async fn a_batch_that_is_recovered_keeps_its_completed_arguments() {
    let env = TestEnv::new("prepared-recovered").await;
    let numbers = UpToNow::new(20);
    numbers.gate.let_through(2);
    let _worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<UpToNow>(Mark { high_water: None });
    let batch = batch.page_size(5).max_parallelism(1);
    let handle = env.start(&batch).await;
    progress_shows(&handle, "the batch has begun", |p| p.pages_completed == 2).await;
    handle.recover("for the test").await.unwrap();
    numbers.gate.open();
    let report = report(&handle).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(
        report.progress.items.processed, 20,
        "the mark was looked up again"
    );
    assert_eq!(numbers.prepared.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_redrive_gets_the_arguments_that_the_batch_had_completed() {
    let env = TestEnv::new("prepared-redriven").await;
    let dir = tempfile::tempdir().unwrap();
    let mut numbers = UpToNow::new(20);
    numbers.letters = Some(Arc::new(JsonlDeadLetters::new(
        dir.path().join("letters.jsonl"),
    )));
    numbers.fails_at = Some(7);
    numbers.gate.open();
    let worker = env.worker(numbers.clone()).await;
    let batch = env.batch::<UpToNow>(Mark { high_water: None }).page_size(5);
    assert_eq!(env.run(&batch).await.progress.items.failed, 1);
    worker.stop().await.unwrap();
    numbers.fails_at = None;
    let _worker = env.worker(numbers.clone()).await;
    let redrive = env
        .client
        .redrive(LetterFilter::of(batch.id()))
        .await
        .unwrap();
    let report = report(&redrive).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(report.progress.items.processed, 1);
    assert_eq!(numbers.prepared.load(Ordering::SeqCst), 1);

    // Of a batch that Temporal has forgotten, only the given arguments are known.
    let given = serde_json::to_value(Mark { high_water: None }).unwrap();
    let forgotten = Batch::redrive(
        env.new_id(),
        "up-to-now",
        given,
        LetterFilter::of(batch.id()),
    );
    let report = env.run(&forgotten.task_queue(&env.queue)).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(numbers.prepared.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_simulator_prepares_too() {
    let numbers = UpToNow::new(12).first(|attempt| async move {
        match attempt {
            1..=3 => Err(PageError::retryable("not yet")),
            _ => Ok(()),
        }
    });
    numbers.gate.open();
    let batch = Batch::of::<UpToNow>("simulated", Mark { high_water: None }).page_size(5);
    let simulator = testing::Simulator::new();
    let run = simulator.run(&numbers, &batch).await.unwrap();
    assert_eq!(run.items.processed, 12);
    assert_eq!(run.duration, Duration::from_secs(180));
}
