//! Items and pages that are left alone.

use std::marker::PhantomData;

use async_trait::async_trait;

use crate::{
    branch::Condition,
    link::Link,
    run::{Run, Stop},
};

/// Leaves everything alone that satisfies a condition.
pub(crate) struct SkipIf<T> {
    pub reason: String,
    pub condition: Condition<T>,
}

#[async_trait]
impl<T: Send + 'static> Link<T, T> for SkipIf<T> {
    async fn run(&self, _: &Run<'_>, input: T) -> Result<T, Stop> {
        match (self.condition)(&input) {
            true => Err(Stop::Skip(self.reason.clone())),
            false => Ok(input),
        }
    }
}

/// Leaves everything alone. No value gets to the next step, whatever its type.
pub(crate) struct Skip<O> {
    pub reason: String,
    pub output: PhantomData<fn() -> O>,
}

#[async_trait]
impl<T: Send + 'static, O: Send + 'static> Link<T, O> for Skip<O> {
    async fn run(&self, _: &Run<'_>, _: T) -> Result<O, Stop> {
        Err(Stop::Skip(self.reason.clone()))
    }
}
