//! The steps of each item of a page, several items at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use futures::future::join_all;
use serde_json::Value;
use temporal_batch::PageError;
use tokio::sync::Semaphore;

use crate::{
    items::Items,
    link::{Link, Part, run_or_resume},
    outcomes::{Ended, Failure, Outcomes},
    run::{KeptResults, Run, Slot, Stop, by_key},
};

pub(crate) type Key<T> = Box<dyn Fn(&T) -> serde_json::Result<Value> + Send + Sync>;

pub(crate) struct ForEach<T, O> {
    pub at_once: usize,
    pub key: Key<T>,
    pub part: Part<T, O>,
    /// True if a step of the items keeps its result.
    pub keeps: bool,
}

/// The items of one page while they run.
struct Round<'a> {
    page: &'a Run<'a>,
    slots: Arc<Semaphore>,
    /// True if no further item should begin, because the page cannot go on.
    ends: AtomicBool,
}

/// The end of an item.
enum Done<O> {
    Item(usize, Outcomes, Result<O, Ended>),
    Page { error: PageError, at_once: bool },
    NotBegun,
}

#[async_trait]
impl<T, O> Link<Items<T>, Items<O>> for ForEach<T, O>
where
    T: Send + Sync + 'static,
    O: Send + 'static,
{
    async fn run(&self, run: &Run<'_>, input: Items<T>) -> Result<Items<O>, Stop> {
        let keys = self.keys(run, &input)?;
        let mut kept = self.kept(run, &keys).await?;
        let round = Round {
            page: run,
            slots: Arc::new(Semaphore::new(self.at_once)),
            ends: AtomicBool::new(false),
        };
        let items = input.with_positions().zip(keys);
        let runs = items.map(|((position, item), key)| {
            let kept = kept.remove(&key).unwrap_or_default();
            self.item(&round, position, item, key, kept)
        });
        gather(run, join_all(runs).await)
    }
}

impl<T, O> ForEach<T, O>
where
    T: Send + Sync + 'static,
    O: Send + 'static,
{
    fn keys(&self, run: &Run<'_>, input: &Items<T>) -> Result<Vec<String>, Stop> {
        let key = |item: &T| match (self.key)(item) {
            Ok(key) => Ok(run.host.item_key(&key)),
            Err(error) => Err(Stop::Page(PageError::non_retryable(
                "ItemKeyNotSerializable",
                format_args!("the key of an item does not serialize to JSON: {error}"),
            ))),
        };
        input.iter().map(key).collect()
    }

    async fn kept(
        &self,
        run: &Run<'_>,
        keys: &[String],
    ) -> Result<BTreeMap<String, KeptResults>, Stop> {
        match run.store {
            Some(store) if self.keeps => {
                let kept = store.load(run.host.batch_run(), keys).await;
                kept.map(by_key).map_err(Stop::Page)
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    async fn item(
        &self,
        round: &Round<'_>,
        position: usize,
        item: T,
        key: String,
        kept: KeptResults,
    ) -> Done<O> {
        let run = Run {
            host: round.page.host,
            store: round.page.store,
            key,
            kept,
            items: 1,
            slot: Some(Slot::new(&round.slots)),
            outcomes: Mutex::default(),
        };
        if let Some(slot) = &run.slot {
            slot.hold().await;
        }
        if round.ends.load(Ordering::Relaxed) {
            return Done::NotBegun;
        }
        let ended = match run_or_resume(&*self.part, &run, item).await {
            Ok(output) => Ok(output),
            Err(Stop::Skip(reason)) => Err(Ended::Skipped(reason)),
            Err(Stop::Fail { step, error }) => Err(Ended::Failed(Failure::at(&step, &error))),
            Err(Stop::RetryPage(error)) => {
                let at_once = false;
                return Done::Page { error, at_once };
            }
            Err(Stop::Page(error)) => {
                round.ends.store(true, Ordering::Relaxed);
                let at_once = true;
                return Done::Page { error, at_once };
            }
        };
        Done::Item(position, run.into_outcomes(), ended)
    }
}

/// Adds the items to the outcomes of the page, unless the page has to run again.
fn gather<O>(page: &Run<'_>, all: Vec<Done<O>>) -> Result<Items<O>, Stop> {
    let mut outputs = Vec::with_capacity(all.len());
    let mut again: Option<PageError> = None;
    let mut outcomes = page.outcomes();
    for done in all {
        match done {
            Done::Item(position, item, Ok(output)) => {
                outcomes.add_item(position, item, None);
                outputs.push((position, output));
            }
            Done::Item(position, item, Err(ended)) => {
                outcomes.add_item(position, item, Some(ended));
            }
            Done::Page { error, at_once } if at_once => return Err(Stop::Page(error)),
            Done::Page { error, .. } => {
                // The longest wait suits all of them.
                let longer = again.as_ref().is_none_or(|a| error.delay() > a.delay());
                again = if longer { Some(error) } else { again };
            }
            Done::NotBegun => {}
        }
    }
    match again {
        Some(error) => Err(Stop::RetryPage(error)),
        None => Ok(Items::at(outputs)),
    }
}
