//! A part of a pipeline, and two parts in a row.

use std::sync::Arc;

use async_trait::async_trait;
use temporal_batch::PageError;

use crate::run::{Run, Stop};

/// A part of a pipeline that makes an `O` of an `I`.
#[async_trait]
pub(crate) trait Link<I: Send + 'static, O>: Send + Sync {
    /// Runs the part.
    async fn run(&self, run: &Run<'_>, input: I) -> Result<O, Stop>;

    /// Continues after the last step of this part whose result was kept. `None` if no result was kept.
    async fn resume(&self, run: &Run<'_>) -> Option<Result<O, Stop>> {
        let _ = run;
        None
    }
}

pub(crate) type Part<I, O> = Arc<dyn Link<I, O>>;

/// Two parts, of which the second gets the output of the first.
pub(crate) struct Then<I, M, O> {
    pub first: Part<I, M>,
    pub second: Part<M, O>,
}

#[async_trait]
impl<I, M, O> Link<I, O> for Then<I, M, O>
where
    I: Send + 'static,
    M: Send + 'static,
    O: Send + 'static,
{
    async fn run(&self, run: &Run<'_>, input: I) -> Result<O, Stop> {
        let middle = self.first.run(run, input).await?;
        self.second.run(run, middle).await
    }

    async fn resume(&self, run: &Run<'_>) -> Option<Result<O, Stop>> {
        if let Some(done) = self.second.resume(run).await {
            return Some(done);
        }
        match self.first.resume(run).await? {
            Ok(middle) => Some(self.second.run(run, middle).await),
            Err(stop) => Some(Err(stop)),
        }
    }
}

/// A part that returns its input.
pub(crate) struct Unchanged;

#[async_trait]
impl<T: Send + 'static> Link<T, T> for Unchanged {
    async fn run(&self, _: &Run<'_>, input: T) -> Result<T, Stop> {
        Ok(input)
    }
}

/// Runs a part from its last kept result, or else from its input.
pub(crate) async fn run_or_resume<I: Send + 'static, O>(
    part: &dyn Link<I, O>,
    run: &Run<'_>,
    input: I,
) -> Result<O, Stop> {
    match part.resume(run).await {
        Some(done) => done,
        None => part.run(run, input).await,
    }
}

/// Adds the name of the step to an error that goes on to the engine.
pub(crate) fn of_step(step: &str, error: &PageError) -> String {
    format!("step \"{step}\": {}", error.message())
}
