//! Side effects that change nothing for the next step.

use std::time::Duration;

use async_trait::async_trait;
use temporal_batch::{PageError, settings::ItemRetry};

use crate::{
    context::StepContext,
    defects::Inspection,
    link::Link,
    run::{Run, Stop},
    step::{Step, step},
};

/// A side effect, such as a notification or an update of a cache. The next step gets the same value. Made with
/// [`action`].
///
/// An action is required unless [`best_effort`](Self::best_effort) is called: its failure is that of its item or page, as
/// for a [`Step`].
#[must_use]
pub struct Action<T> {
    step: Step<T, ()>,
    best_effort: bool,
    kept: bool,
}

/// Creates an action. The name and `work` are as in [`step`].
pub fn action<T, F, R>(name: impl Into<String>, work: F) -> Action<T>
where
    F: Fn(StepContext, T) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), PageError>> + Send + 'static,
{
    Action {
        step: step(name, work),
        best_effort: false,
        kept: false,
    }
}

impl<T> Action<T> {
    /// Continues when the action has failed. The failure is logged and counted as `NAME: failed`. An
    /// [environment](PageError::environment) error is such a failure, too.
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }

    /// Repeats the action within its page, like [`Step::retry`].
    pub fn retry(mut self, retry: ItemRetry) -> Self {
        self.step = self.step.retry(retry);
        self
    }

    /// Lets the page run again after the action has failed, like [`Step::retry_page`].
    pub fn retry_page(mut self, attempts: u32, first_wait: Duration) -> Self {
        self.step = self.step.retry_page(attempts, first_wait);
        self
    }

    /// Takes a permit of the batch's rate before each attempt, like [`Step::paced`].
    pub fn paced(mut self) -> Self {
        self.step = self.step.paced();
        self
    }

    /// Remembers in the [store](crate::Pipeline::with_store) of the pipeline that the action was done, so that it is not
    /// done again if the page runs again. A failure of a best-effort action is remembered, too.
    pub fn kept(mut self) -> Self {
        self.kept = true;
        self
    }

    pub(crate) fn inspect(&self) -> Inspection {
        let mut part = self.step.inspect();
        if self.kept {
            part.kept.push(self.step.name.clone());
        }
        part
    }
}

#[async_trait]
impl<T: Clone + Send + Sync + 'static> Link<T, T> for Action<T> {
    async fn run(&self, run: &Run<'_>, input: T) -> Result<T, Stop> {
        let Step {
            name, work, policy, ..
        } = &self.step;
        if let Some(counted) = run.recount(name) {
            return counted.map(|()| input);
        }
        let before = run.outcomes().counts.clone();
        if let Err(error) = policy.attempt(name, work, run, &input).await? {
            if !self.best_effort {
                if error.is_environment() {
                    return Err(Stop::Page(error));
                }
                let step = name.clone();
                return Err(Stop::Fail { step, error });
            }
            let error_type = error.error_type();
            let batch_id = run.host.batch_id();
            tracing::warn!(
                batch_id,
                action = name,
                error_type,
                "best-effort action failed"
            );
            run.outcomes().count(&format!("{name}: failed"), 1);
        }
        if self.kept {
            run.keep_action(name, &before).await?;
        }
        Ok(input)
    }
}
