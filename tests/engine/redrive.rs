//! Dead letters in a file, and their redrive.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use temporal_batch::{
    Outcome, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    errors::ResultError,
    settings::RetryPolicy,
    store::{DeadLetter, DeadLetters, JsonlDeadLetters, LetterFilter},
};

use crate::support::{TestEnv, number_pages::numbers_of, report};

/// A processor over the numbers from 1 to 40. Its first version fails multiples of 7, and gives up the page from 31 to
/// 40.
#[derive(Clone)]
struct Sevens {
    store: Arc<JsonlDeadLetters>,
    repaired: bool,
    /// The batch whose letters another redrive settles between a failure and what is written about it.
    overtaken: Option<String>,
    /// The number of successes for each number, by the idempotency key of its effect.
    effects: Arc<Mutex<BTreeMap<u64, Vec<String>>>>,
}

impl Sevens {
    fn new(dir: &Path) -> Self {
        Self {
            store: Arc::new(JsonlDeadLetters::new(dir.join("letters.jsonl"))),
            repaired: false,
            overtaken: None,
            effects: Arc::default(),
        }
    }

    async fn letters(&self, batch_id: &str) -> Vec<DeadLetter> {
        let all = LetterFilter::of(batch_id);
        self.store.list(&all, None, 100).await.unwrap()
    }

    async fn settle_all(&self, batch_id: &str) {
        for letter in self.letters(batch_id).await {
            let taken = self.store.take(&letter).await.unwrap();
            taken.expect("the letter is there").commit().await.unwrap();
        }
    }
}

#[async_trait]
impl PageProcessor for Sevens {
    const NAME: &'static str = "sevens";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        Page::keyset(numbers_of(ctx, 40), |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        numbers: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        if !self.repaired && numbers.iter().any(|n| *n > 30) {
            return Err(PageError::non_retryable("Thirties", "not these"));
        }
        let mut report = PageReport::all_processed();
        for (position, n) in numbers.iter().enumerate() {
            if !self.repaired && n % 7 == 0 {
                report.fail(position, "Seven", format_args!("{n} divides by 7"));
                continue;
            }
            let mut effects = self.effects.lock().unwrap();
            effects.entry(*n).or_default().push(ctx.item_key(n));
        }
        Ok(report)
    }

    fn dead_letters(&self, _: &Self::Args) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::clone(&self.store) as Arc<dyn DeadLetters>)
    }

    /// Called between the failure of a letter and what is written about it.
    fn redact(&self, message: String) -> String {
        if let Some(batch_id) = &self.overtaken {
            let settle = || tokio::runtime::Handle::current().block_on(self.settle_all(batch_id));
            tokio::task::block_in_place(settle);
        }
        message
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            retry: RetryPolicy::default().extended(None),
            ..ProcessorSettings::default()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_another_redrive_has_settled_does_not_come_back() {
    let env = TestEnv::new("overtaken").await;
    let dir = tempfile::tempdir().unwrap();
    let sevens = Sevens::new(dir.path());
    let worker = env.worker(sevens.clone()).await;
    let batch = env.start(&env.batch::<Sevens>(()).page_size(1)).await;
    report(&batch).await;
    worker.stop().await.unwrap();
    let overtaken = Sevens {
        overtaken: Some(batch.id().to_owned()),
        ..sevens.clone()
    };
    let _worker = env.worker(overtaken).await;
    let thirties = LetterFilter {
        error_type: Some("Thirties".to_owned()),
        ..LetterFilter::of(batch.id())
    };
    let redrive = env.client.redrive(thirties).await.unwrap();
    let items = report(&redrive).await.progress.items;
    assert_eq!((items.failed, items.skipped), (0, 10), "{items:?}");
    assert_eq!(sevens.letters(batch.id()).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_in_a_file_are_redriven_by_type_and_each_record_once() {
    let env = TestEnv::new("jsonl").await;
    let dir = tempfile::tempdir().unwrap();
    let sevens = Sevens::new(dir.path());
    let worker = env.worker(sevens.clone()).await;
    let first = env.start(&env.batch::<Sevens>(()).page_size(10)).await;
    let progress = report(&first).await.progress;
    assert_eq!((progress.items.processed, progress.items.failed), (26, 14));
    let letters = sevens.letters(first.id()).await;
    assert_eq!(letters.len(), 14);
    let failed: Vec<_> = letters.iter().filter(|l| l.error_type == "Seven").collect();
    assert_eq!(failed.len(), 4);
    worker.stop().await.unwrap();

    let repaired = Sevens {
        repaired: true,
        ..sevens.clone()
    };
    let _worker = env.worker(repaired).await;
    let only_sevens = LetterFilter {
        error_type: Some("Seven".to_owned()),
        ..LetterFilter::of(first.id())
    };
    let redrive = env.client.redrive(only_sevens).await.unwrap();
    assert_eq!(report(&redrive).await.progress.items.processed, 4);
    assert_eq!(sevens.letters(first.id()).await.len(), 10);

    let rest = || LetterFilter::of(first.id());
    let (one, other) = tokio::join!(env.client.redrive(rest()), env.client.redrive(rest()));
    let (one, other) = (report(&one.unwrap()).await, report(&other.unwrap()).await);
    assert_eq!(one.outcome, Outcome::Completed);
    assert_eq!(other.outcome, Outcome::Completed);
    let done = one.progress.items.processed + other.progress.items.processed;
    assert_eq!(done, 10);
    assert!(sevens.letters(first.id()).await.is_empty());

    let effects = sevens.effects.lock().unwrap();
    assert_eq!(effects.len(), 40);
    assert!(effects.values().all(|keys| keys.len() == 1), "{effects:?}");
    let mut keys: Vec<_> = effects.values().flatten().collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 40, "every item should have a key of its own");
}

#[tokio::test]
async fn a_processor_without_dead_letters_has_nothing_to_redrive() {
    use crate::numbers_processor::{NumbersProcessor, UpTo};
    let env = TestEnv::new("no-letters").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 5 });
    env.run(&batch).await;
    let redrive = env
        .client
        .redrive(LetterFilter::of(batch.id()))
        .await
        .unwrap();
    match redrive.result().await.unwrap_err() {
        ResultError::Refused { reason } => {
            assert!(reason.contains("keeps no dead letters"), "{reason}");
        }
        other => panic!("{other}"),
    }
}

/// The key is the same at every attempt, whichever page the item is part of.
#[tokio::test]
async fn idempotency_keys_stay_the_same_over_attempts_and_redrives() {
    let env = TestEnv::new("keys").await;
    let dir = tempfile::tempdir().unwrap();
    let keys: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let keeper = KeyKeeper {
        store: Arc::new(JsonlDeadLetters::new(dir.path().join("letters.jsonl"))),
        keys: Arc::clone(&keys),
    };
    let _worker = env.worker(keeper).await;
    let first = env.start(&env.batch::<KeyKeeper>(())).await;
    assert_eq!(report(&first).await.progress.items.failed, 1);
    let redrive = env
        .client
        .redrive(LetterFilter::of(first.id()))
        .await
        .unwrap();
    assert_eq!(report(&redrive).await.outcome, Outcome::Completed);
    let keys = keys.lock().unwrap();
    assert_eq!(keys.len(), 4, "three attempts and a redrive: {keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

/// A processor with a single record that succeeds at the fourth attempt.
struct KeyKeeper {
    store: Arc<JsonlDeadLetters>,
    keys: Arc<Mutex<Vec<(String, String)>>>,
}

#[async_trait]
impl PageProcessor for KeyKeeper {
    const NAME: &'static str = "key-keeper";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let page = if ctx.range().start().is_none() {
            vec![7]
        } else {
            vec![]
        };
        Page::keyset(page, |n| *n)
    }

    async fn process(&self, ctx: &PageContext<Self>, _: Vec<u64>) -> Result<PageReport, PageError> {
        let mut keys = self.keys.lock().unwrap();
        keys.push((ctx.page_key(), ctx.item_key(7)));
        if keys.len() < 4 {
            return Err(PageError::retryable("not yet"));
        }
        Ok(PageReport::all_processed())
    }

    fn dead_letters(&self, _: &Self::Args) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::clone(&self.store) as Arc<dyn DeadLetters>)
    }

    fn settings(&self) -> ProcessorSettings {
        let retry = RetryPolicy::default().max_attempts(3).extended(None);
        ProcessorSettings {
            retry: retry.initial_interval(std::time::Duration::from_millis(20)),
            ..ProcessorSettings::default()
        }
    }
}
