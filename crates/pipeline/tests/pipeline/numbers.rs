//! A processor over the numbers from 1 to n, whose work is a pipeline.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use temporal_batch::{
    BatchReport, Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings,
    Reducer,
    settings::RetryPolicy,
    store::{DeadLetters, JsonlDeadLetters},
};
use temporal_batch_pipeline::{Items, Pipeline, Steps, counters};
use tokio::sync::watch;

use crate::support::{number_pages::numbers_of, within};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UpTo {
    pub n: u64,
}

pub struct Numbers<O: Send + 'static> {
    pub pipeline: Pipeline<u64, O>,
    pub settings: ProcessorSettings,
    pub letters: Option<Arc<JsonlDeadLetters>>,
    /// Whether a page that is not full says that the data ends.
    pub says_end: bool,
}

impl<O: Send + 'static> Numbers<O> {
    pub fn new(steps: impl FnOnce(Steps<Items<u64>>) -> Steps<Items<u64>, O>) -> Self {
        Self::of(Pipeline::new(steps).unwrap())
    }

    pub fn of(pipeline: Pipeline<u64, O>) -> Self {
        let retry = RetryPolicy::default()
            .initial_interval(Duration::from_millis(20))
            .max_interval(Duration::from_millis(200))
            .extended(None);
        let settings = ProcessorSettings {
            retry,
            ..ProcessorSettings::default()
        };
        Self {
            pipeline,
            settings,
            letters: None,
            says_end: false,
        }
    }
}

#[async_trait]
impl<O: Send + 'static> PageProcessor for Numbers<O> {
    const NAME: &'static str = "pipeline-numbers";
    type Args = UpTo;
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        let page = Page::keyset(numbers_of(ctx, ctx.args().n), |n| *n)?;
        let is_last = self.says_end && page.items().len() < ctx.page_size();
        Ok(if is_last { page.last() } else { page })
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        self.pipeline.process(ctx, items).await
    }

    fn reducer(&self, _: &UpTo) -> Option<Reducer> {
        Some(counters())
    }

    fn dead_letters(&self, _: &UpTo) -> Option<Arc<dyn DeadLetters>> {
        let letters = self.letters.clone();
        letters.map(|letters| letters as Arc<dyn DeadLetters>)
    }

    fn settings(&self) -> ProcessorSettings {
        self.settings.clone()
    }
}

/// The counters of a batch.
pub fn counters_of(report: &BatchReport) -> BTreeMap<String, i64> {
    report.output_as().unwrap().unwrap_or_default()
}

/// A state that steps change and tests wait for.
#[derive(Clone)]
pub struct Watched<T>(Arc<watch::Sender<T>>);

impl<T: Clone + Default> Watched<T> {
    pub fn new() -> Self {
        Self(Arc::new(watch::channel(T::default()).0))
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = Mutex::new(None);
        self.0.send_modify(|state| {
            *result.lock().unwrap() = Some(change(state));
        });
        result.into_inner().unwrap().unwrap()
    }

    pub fn get(&self) -> T {
        self.0.borrow().clone()
    }

    pub async fn shows(&self, what: &str, condition: impl Fn(&T) -> bool) -> T {
        let mut watch = self.0.subscribe();
        within(what, async {
            watch
                .wait_for(|state| condition(state))
                .await
                .unwrap()
                .clone()
        })
        .await
    }
}

/// The number of things that run, and the most that ran at once.
#[derive(Clone, Debug, Default)]
pub struct AtOnce {
    pub now: usize,
    pub most: usize,
    pub open: bool,
}

impl Watched<AtOnce> {
    /// Counts itself as running until the test opens the gate.
    pub async fn pass(&self) {
        self.change(|state| {
            state.now += 1;
            state.most = state.most.max(state.now);
        });
        self.shows("the gate is open", |state| state.open).await;
        self.change(|state| state.now -= 1);
    }
}
