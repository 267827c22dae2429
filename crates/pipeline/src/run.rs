//! One run of a pipeline over a page, or over one item of it. Nothing here knows Temporal, a clock or a database:
//! they are behind [`Host`] and [`StepStore`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use temporal_batch::{PageError, settings::ItemRetry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    context::{Place, StepContext},
    outcomes::Outcomes,
    store::{KeptStep, StepStore},
};

/// The reason why a run does not reach its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The item or the page is left alone.
    Skip(String),
    /// The item is given up at this step.
    Fail { step: String, error: PageError },
    /// The page must run again because of this item or step. Other items may finish first.
    RetryPage(PageError),
    /// The page cannot go on at all: its environment is at fault, or it was told to end.
    Page(PageError),
}

/// One attempt after another at a step.
pub(crate) type Attempts<'a> = Box<dyn FnMut() -> BoxFuture<'a, Result<(), PageError>> + Send + 'a>;

/// The page that a pipeline runs in.
#[async_trait]
pub(crate) trait Host: Send + Sync {
    /// Makes attempts with waits in between. The outer error says that the page must end.
    async fn attempts<'w>(
        &self,
        retry: ItemRetry,
        work: Attempts<'w>,
    ) -> Result<Result<(), PageError>, PageError>;
    /// Waits for a permit of the batch's rate.
    async fn permit(&self) -> Result<(), PageError>;
    fn page_attempt(&self) -> u32;
    fn batch_id(&self) -> &str;
    fn batch_run(&self) -> &str;
    fn item_key(&self, item: &Value) -> String;
}

/// The number of items of a `for_each` that run at once, as one of them sees it.
pub(crate) struct Slot {
    all: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Slot {
    pub fn new(all: &Arc<Semaphore>) -> Self {
        Self {
            all: Arc::clone(all),
            held: Mutex::new(None),
        }
    }

    pub async fn hold(&self) {
        if lock(&self.held).is_some() {
            return;
        }
        let permit = Arc::clone(&self.all).acquire_owned().await;
        *lock(&self.held) = Some(permit.expect("the semaphore is never closed"));
    }

    /// Lets another item run, while this one waits for its next attempt.
    pub fn release(&self) {
        lock(&self.held).take();
    }
}

/// The results of a run's steps that an earlier attempt kept.
pub(crate) type KeptResults = BTreeMap<String, Value>;

/// The pipeline over one page, or over one item of it.
pub(crate) struct Run<'a> {
    pub host: &'a dyn Host,
    pub store: Option<&'a dyn StepStore>,
    pub key: String,
    pub kept: KeptResults,
    /// The number of items in the page; 1 for one item.
    pub items: usize,
    pub slot: Option<Slot>,
    pub outcomes: Mutex<Outcomes>,
}

/// The result of a step with everything that had happened until then, or the counts of an action alone.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    /// The items of the page when the step was done. A page that has others by now does not continue there: the outcomes
    /// name items by their positions. `None` for an action, whose counts concern no item.
    items: Option<usize>,
    result: Value,
    outcomes: Outcomes,
}

impl<'a> Run<'a> {
    pub fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        lock(&self.outcomes)
    }

    pub fn into_outcomes(self) -> Outcomes {
        self.outcomes
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn step_context(&self, step: &str) -> StepContext {
        StepContext {
            place: Arc::new(Place {
                step: step.to_owned(),
                key: self.key.clone(),
                page_attempt: self.host.page_attempt(),
                batch_id: self.host.batch_id().to_owned(),
                batch_run: self.host.batch_run().to_owned(),
            }),
            counts: Arc::default(),
        }
    }

    /// Stores the result of a step before anything else happens. Nothing is stored after a failure, because a redrive
    /// would find the failure again instead of trying the step.
    pub async fn keep(&self, step: &str, result: Value) -> Result<(), Stop> {
        let outcomes = self.outcomes().clone();
        let items = Some(self.items);
        let checkpoint = Checkpoint {
            items,
            result,
            outcomes,
        };
        self.keep_checkpoint(step, checkpoint).await
    }

    /// Stores that an action was done, with what it has counted. It stores no outcomes of items: an attempt that repeats the page
    /// runs their steps again and finds them.
    pub async fn keep_action(
        &self,
        step: &str,
        before: &BTreeMap<String, i64>,
    ) -> Result<(), Stop> {
        let counts = self.outcomes().counts_since(before);
        let outcomes = Outcomes {
            counts,
            ..Outcomes::default()
        };
        let checkpoint = Checkpoint {
            items: None,
            result: Value::Null,
            outcomes,
        };
        self.keep_checkpoint(step, checkpoint).await
    }

    async fn keep_checkpoint(&self, step: &str, checkpoint: Checkpoint) -> Result<(), Stop> {
        let has_failed = self.outcomes().has_failed();
        let Some(store) = self.store.filter(|_| !has_failed) else {
            return Ok(());
        };
        let kept = KeptStep {
            key: self.key.clone(),
            step: step.to_owned(),
            result: serde_json::to_value(checkpoint).map_err(|error| not_kept(step, &error))?,
        };
        let kept = store.keep(self.host.batch_run(), &kept).await;
        kept.map_err(Stop::Page)
    }

    /// Returns the kept result of a step, and takes over what had happened until then. `None` if there is none, or if the page
    /// has another number of items by now.
    pub fn restore<O: DeserializeOwned>(&self, step: &str) -> Option<Result<O, Stop>> {
        let kept = self.kept.get(step)?;
        let read = Checkpoint::deserialize(kept).and_then(|checkpoint| {
            if checkpoint.items != Some(self.items) {
                return Ok(None);
            }
            let result = O::deserialize(checkpoint.result)?;
            Ok(Some((result, checkpoint.outcomes)))
        });
        match read {
            Ok(read) => read.map(|(result, outcomes)| {
                *self.outcomes() = outcomes;
                Ok(result)
            }),
            Err(error) => Some(Err(not_readable(step, &error))),
        }
    }

    /// Adds what a kept action has counted. `None` if it was not done.
    pub fn recount(&self, step: &str) -> Option<Result<(), Stop>> {
        let kept = self.kept.get(step)?;
        Some(match Checkpoint::deserialize(kept) {
            Ok(checkpoint) => {
                self.outcomes().count_all(checkpoint.outcomes.counts);
                Ok(())
            }
            Err(error) => Err(not_readable(step, &error)),
        })
    }
}

/// Groups kept results by the page or item that they belong to.
pub(crate) fn by_key(kept: Vec<KeptStep>) -> BTreeMap<String, KeptResults> {
    let mut by_key: BTreeMap<String, KeptResults> = BTreeMap::new();
    for step in kept {
        let results = by_key.entry(step.key).or_default();
        results.insert(step.step, step.result);
    }
    by_key
}

pub(crate) fn not_kept(step: &str, error: &serde_json::Error) -> Stop {
    Stop::Page(PageError::non_retryable(
        "StepNotKept",
        format_args!("the result of step \"{step}\" does not serialize to JSON: {error}"),
    ))
}

fn not_readable(step: &str, error: &serde_json::Error) -> Stop {
    let message =
        format_args!("the kept result of step \"{step}\" is not one of this code: {error}");
    Stop::Page(PageError::environment(message).with_type("KeptStepNotReadable"))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
