//! A step, its attempts and its fallback.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt as _, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use temporal_batch::{
    PageError,
    settings::{ItemRetry, RetryMode},
};

use crate::{
    context::StepContext,
    defects::{Inspection, InvalidPipeline},
    link::{Link, of_step},
    outcomes::Failure,
    run::{Attempts, Run, Stop, lock, not_kept},
};

pub(crate) type Work<I, O> =
    Arc<dyn Fn(StepContext, I) -> BoxFuture<'static, Result<O, PageError>> + Send + Sync>;
type Fallback<I, O> = Arc<dyn Fn(I, &PageError) -> O + Send + Sync>;

/// A step: it makes an `O` of an `I`. Made with [`step`].
///
/// | setting | default |
/// |---|---|
/// | [`retry`](Self::retry) | one attempt |
/// | [`retry_page`](Self::retry_page) | a failed item is given up; a failed page goes to the engine |
/// | [`fallback`](Self::fallback) | none |
/// | [`kept`](Self::kept) | no: the step runs again with its page |
/// | [`paced`](Self::paced) | no: the step takes no permit of the rate |
///
/// # When it fails
///
/// After the attempts of [`retry`](Self::retry), in this order:
///
/// 1. An [environment](PageError::environment) error ends the attempt at the page, which runs again.
/// 2. With [`retry_page`](Self::retry_page), and while such attempts are left, the page runs again after a wait in the
///    controller. A [non-retryable](PageError::non_retryable) error skips this.
/// 3. With a [`fallback`](Self::fallback), its value goes to the next step.
/// 4. In a `for_each` the item is given up and the other items continue. Elsewhere the page fails with the error, which
///    the engine treats like any error of [`process`](temporal_batch::PageProcessor::process).
#[must_use]
pub struct Step<I, O> {
    pub(crate) name: String,
    pub(crate) work: Work<I, O>,
    pub(crate) policy: Policy,
    fallback: Option<Fallback<I, O>>,
    keeper: Option<Keeper<O>>,
}

/// The attempts at a step.
#[derive(Clone, Default)]
pub(crate) struct Policy {
    retry: ItemRetry,
    page: Option<PageRetry>,
    paced: bool,
}

#[derive(Clone, Copy)]
struct PageRetry {
    attempts: u32,
    first_wait: Duration,
}

/// The conversions of a result that is kept.
struct Keeper<O> {
    write: fn(&O) -> serde_json::Result<Value>,
    read: fn(&Run<'_>, &str) -> Option<Result<O, Stop>>,
}

/// Creates a step. The name appears in errors, counters and kept results, so it must not change while batches run.
///
/// `work` gets the output of the step before. It may run more than once for the same item or page, so its effect must be
/// idempotent: see [`StepContext::idempotency_key`].
pub fn step<I, O, F, R>(name: impl Into<String>, work: F) -> Step<I, O>
where
    F: Fn(StepContext, I) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, PageError>> + Send + 'static,
{
    Step {
        name: name.into(),
        work: Arc::new(move |ctx, input| work(ctx, input).boxed()),
        policy: Policy::default(),
        fallback: None,
        keeper: None,
    }
}

impl<I, O> Step<I, O> {
    /// Repeats the step within its page. The waits should be short, because the page keeps its slot meanwhile; an item
    /// in a `for_each` lets other items of the page run while it waits.
    pub fn retry(mut self, retry: ItemRetry) -> Self {
        self.policy.retry = retry;
        self
    }

    /// Lets the page run again after the step has failed, until the page has had `attempts` attempts, 1 to 10. The wait
    /// is `first_wait` after the first attempt and doubles after each. It is a timer of the controller: the page holds no
    /// slot and no worker meanwhile. Other items of the page finish first.
    ///
    /// Everything in the page that is not [kept](Self::kept) runs again. An attempt that failed for another reason counts,
    /// too.
    pub fn retry_page(mut self, attempts: u32, first_wait: Duration) -> Self {
        self.policy.page = Some(PageRetry {
            attempts,
            first_wait,
        });
        self
    }

    /// Continues with another value after the step has failed. The item, or every item of the page outside of a
    /// `for_each`, still counts as failed with the error of the step, and `NAME: fallback` is counted.
    pub fn fallback(mut self, value: impl Fn(I, &PageError) -> O + Send + Sync + 'static) -> Self {
        self.fallback = Some(Arc::new(value));
        self
    }

    /// Takes a permit of the batch's rate before each attempt, which makes the rate one of calls of this step. It needs
    /// [`Permits::PerItem`](temporal_batch::Permits::PerItem) in the settings of the processor. Waits for permits do not
    /// count towards the page timeout.
    pub fn paced(mut self) -> Self {
        self.policy.paced = true;
        self
    }

    /// Keeps the result in the [store](crate::Pipeline::with_store) of the pipeline. If the page runs again, it continues
    /// after the last kept step of each item, or of the page. Neither this step nor those before it run again.
    ///
    /// A result is not kept if the item, or anything in the page for a step of the page, has failed before, so that a
    /// redrive tries again. A page is the same if it has the same bounds and the same number of items, so a page that is cut differently runs
    /// from its beginning. An item is the same wherever its page is cut.
    pub fn kept(mut self) -> Self
    where
        O: Serialize + DeserializeOwned,
    {
        self.keeper = Some(Keeper {
            write: |result| serde_json::to_value(result),
            read: |run, step| run.restore(step),
        });
        self
    }

    pub(crate) fn inspect(&self) -> Inspection {
        let mut part = self.policy.inspect(&self.name);
        if self.keeper.is_some() {
            part.kept.push(self.name.clone());
        }
        part
    }
}

impl Policy {
    pub fn inspect(&self, name: &str) -> Inspection {
        let mut part = Inspection::of_part(name);
        let step = || name.to_owned();
        if let Err(source) = self.retry.validate(RetryMode::AtLeastOnce) {
            let step = step();
            part.defects.push(InvalidPipeline::Retry { step, source });
        }
        if let Some(PageRetry {
            attempts: given, ..
        }) = self.page
            && !(1..=10).contains(&given)
        {
            let step = step();
            part.defects
                .push(InvalidPipeline::PageAttempts { step, given });
        }
        part
    }

    /// Makes the attempts within the page. The inner error is that of the last one; an environment error is among them.
    pub async fn attempt<I, O>(
        &self,
        name: &str,
        work: &Work<I, O>,
        run: &Run<'_>,
        input: &I,
    ) -> Result<Result<O, PageError>, Stop>
    where
        I: Clone + Send + Sync + 'static,
        O: Send + 'static,
    {
        let done = Mutex::new(None);
        let attempts: Attempts<'_> = Box::new(|| {
            let (ctx, input, done) = (run.step_context(name), input.clone(), &done);
            async move {
                if let Some(slot) = &run.slot {
                    slot.hold().await;
                }
                if self.paced {
                    run.host.permit().await?;
                }
                let result = work(ctx.clone(), input).await;
                if let (Err(_), Some(slot)) = (&result, &run.slot) {
                    slot.release();
                }
                *lock(done) = Some((result?, ctx.take_counts()));
                Ok(())
            }
            .boxed()
        });
        let ended = run.host.attempts(self.retry, attempts).await;
        match ended.map_err(Stop::Page)? {
            Err(error) if error.is_environment() => Ok(Err(error)),
            Err(error) => match self.page_wait(run.host.page_attempt(), &error) {
                Some(wait) => Err(Stop::RetryPage(again(name, wait, &error))),
                None => Ok(Err(error)),
            },
            Ok(()) => {
                let (result, counts) = lock(&done).take().expect("a success has a result");
                run.outcomes().count_all(counts);
                Ok(Ok(result))
            }
        }
    }

    /// Returns the wait before the next attempt at the page. `None` if there is none.
    fn page_wait(&self, attempt: u32, error: &PageError) -> Option<Duration> {
        let page = self.page?;
        if attempt >= page.attempts || !error.is_retryable() {
            return None;
        }
        let doubled = 1_u32 << attempt.saturating_sub(1).min(10);
        Some(error.delay().unwrap_or(page.first_wait * doubled))
    }
}

fn again(step: &str, wait: Duration, error: &PageError) -> PageError {
    let again = PageError::retry_after(wait, of_step(step, error));
    again.with_type(error.error_type())
}

#[async_trait]
impl<I, O> Link<I, O> for Step<I, O>
where
    I: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    async fn run(&self, run: &Run<'_>, input: I) -> Result<O, Stop> {
        let done = self.policy.attempt(&self.name, &self.work, run, &input);
        let result = match (done.await?, &self.fallback) {
            (Ok(result), _) => result,
            (Err(error), _) if error.is_environment() => return Err(Stop::Page(error)),
            (Err(error), Some(fallback)) => {
                let mut outcomes = run.outcomes();
                outcomes.replace(Failure::at(&self.name, &error));
                outcomes.count(&format!("{}: fallback", self.name), 1);
                fallback(input, &error)
            }
            (Err(error), None) => {
                let step = self.name.clone();
                return Err(Stop::Fail { step, error });
            }
        };
        if let Some(keeper) = &self.keeper {
            let kept = (keeper.write)(&result).map_err(|error| not_kept(&self.name, &error))?;
            run.keep(&self.name, kept).await?;
        }
        Ok(result)
    }

    async fn resume(&self, run: &Run<'_>) -> Option<Result<O, Stop>> {
        (self.keeper.as_ref()?.read)(run, &self.name)
    }
}
