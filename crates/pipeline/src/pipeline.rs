//! The `process` of a processor, as typed steps.

use std::sync::{Arc, Mutex};

use temporal_batch::{PageContext, PageError, PageProcessor, PageReport};

use crate::{
    defects::InvalidPipeline,
    items::Items,
    link::{Part, run_or_resume},
    outcomes::Ended,
    page_host::PageHost,
    run::{Host, KeptResults, Run, Stop, by_key},
    steps::Steps,
    store::StepStore,
};

/// Typed steps for the items of a page, with an output `O` of each page. A clone shares them.
///
/// The id of a pipeline is the [`NAME`](PageProcessor::NAME) of its processor, in code, commands, Temporal's page and
/// metrics. Call [`process`](Self::process) from [`PageProcessor::process`], and return
/// [`counters`](crate::counters) from [`PageProcessor::reducer`]. See the example of the [crate](crate).
pub struct Pipeline<Item, O> {
    part: Part<Items<Item>, O>,
    store: Option<Arc<dyn StepStore>>,
    /// True if a step of the page keeps its result.
    keeps: bool,
}

impl<Item, O> Clone for Pipeline<Item, O> {
    fn clone(&self) -> Self {
        Self {
            part: Arc::clone(&self.part),
            store: self.store.clone(),
            keeps: self.keeps,
        }
    }
}

impl<Item: Send + 'static, O: Send + 'static> Pipeline<Item, O> {
    /// Builds a pipeline none of whose steps keeps its result.
    ///
    /// # Errors
    /// The first part that is not allowed, with what is allowed.
    pub fn new(
        steps: impl FnOnce(Steps<Items<Item>>) -> Steps<Items<Item>, O>,
    ) -> Result<Self, InvalidPipeline> {
        Self::build(None, steps)
    }

    /// Builds a pipeline whose [kept](crate::Step::kept) steps keep their results in `store`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn with_store(
        store: impl StepStore,
        steps: impl FnOnce(Steps<Items<Item>>) -> Steps<Items<Item>, O>,
    ) -> Result<Self, InvalidPipeline> {
        Self::build(Some(Arc::new(store)), steps)
    }

    fn build(
        store: Option<Arc<dyn StepStore>>,
        steps: impl FnOnce(Steps<Items<Item>>) -> Steps<Items<Item>, O>,
    ) -> Result<Self, InvalidPipeline> {
        let steps = steps(Steps::new());
        let keeps = !steps.inspection.kept.is_empty();
        steps.inspection.verdict(store.is_some())?;
        Ok(Self {
            part: steps.part,
            store,
            keeps,
        })
    }

    /// Runs the steps on the items of a page and reports each item as processed, skipped or failed.
    ///
    /// # Errors
    /// A step outside of a `for_each` failed, or the page has to run again. Return the error from
    /// [`PageProcessor::process`].
    pub async fn process<P: PageProcessor<Item = Item>>(
        &self,
        ctx: &PageContext<P>,
        items: Vec<Item>,
    ) -> Result<PageReport, PageError> {
        Ok(self.run(ctx, items).await?.0)
    }

    /// Runs the steps like [`process`](Self::process) and also returns the output of the last one, for a processor that
    /// writes it in [`ctx.transaction()`](PageContext). `None` if the page was skipped.
    ///
    /// # Errors
    /// Those of [`process`](Self::process).
    pub async fn run<P: PageProcessor<Item = Item>>(
        &self,
        ctx: &PageContext<P>,
        items: Vec<Item>,
    ) -> Result<(PageReport, Option<O>), PageError> {
        self.run_on(&PageHost(ctx), ctx.page_key(), items).await
    }

    pub(crate) async fn run_on(
        &self,
        host: &dyn Host,
        key: String,
        items: Vec<Item>,
    ) -> Result<(PageReport, Option<O>), PageError> {
        let count = items.len();
        let run = Run {
            host,
            store: self.store.as_deref(),
            kept: self.kept(host, &key).await?,
            key,
            items: count,
            slot: None,
            outcomes: Mutex::default(),
        };
        let (output, rest) = match run_or_resume(&*self.part, &run, Items::of_page(items)).await {
            Ok(output) => (Some(output), None),
            Err(Stop::Skip(reason)) => (None, Some(Ended::Skipped(reason))),
            Err(Stop::Fail { error, .. } | Stop::RetryPage(error) | Stop::Page(error)) => {
                return Err(error);
            }
        };
        let mut outcomes = run.into_outcomes();
        outcomes.close(count, rest);
        Ok((outcomes.report(), output))
    }

    async fn kept(&self, host: &dyn Host, key: &str) -> Result<KeptResults, PageError> {
        match &self.store {
            Some(store) if self.keeps => {
                let keys = [key.to_owned()];
                let kept = store.load(host.batch_run(), &keys).await?;
                Ok(by_key(kept).remove(key).unwrap_or_default())
            }
            _ => Ok(KeptResults::new()),
        }
    }
}
