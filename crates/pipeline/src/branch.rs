//! Two ways, of which exactly one is taken.

use async_trait::async_trait;

use crate::{
    link::{Link, Part},
    run::{Run, Stop},
};

pub(crate) type Condition<T> = Box<dyn Fn(&T) -> bool + Send + Sync>;

pub(crate) struct Branch<T, O> {
    pub name: String,
    pub condition: Condition<T>,
    pub yes: Part<T, O>,
    pub no: Part<T, O>,
}

#[async_trait]
impl<T: Send + 'static, O: Send + 'static> Link<T, O> for Branch<T, O> {
    async fn run(&self, run: &Run<'_>, input: T) -> Result<O, Stop> {
        let (side, part) = match (self.condition)(&input) {
            true => ("yes", &self.yes),
            false => ("no", &self.no),
        };
        run.outcomes().count(&format!("{}: {side}", self.name), 1);
        part.run(run, input).await
    }

    async fn resume(&self, run: &Run<'_>) -> Option<Result<O, Stop>> {
        match self.yes.resume(run).await {
            Some(done) => Some(done),
            None => self.no.resume(run).await,
        }
    }
}
