//! The builder of the steps of a page or of an item.

use std::{marker::PhantomData, sync::Arc};

use serde::Serialize;

use crate::{
    action::Action,
    branch::Branch,
    defects::{Inspection, InvalidPipeline},
    for_each::ForEach,
    items::Items,
    link::{Link, Part, Then, Unchanged},
    skip::{Skip, SkipIf},
    step::Step,
};

/// Steps that make an `O` of an `I`, in their order. A [`Pipeline`](crate::Pipeline) begins with those of a page, whose
/// input is its [`Items`]; [`for_each`](Steps::for_each) and [`branch`](Self::branch) begin new ones.
#[must_use]
pub struct Steps<I, O = I> {
    pub(crate) part: Part<I, O>,
    pub(crate) inspection: Inspection,
}

impl<T: Send + 'static> Steps<T> {
    pub(crate) fn new() -> Self {
        Self {
            part: Arc::new(Unchanged),
            inspection: Inspection::default(),
        }
    }
}

const MOST_AT_ONCE: usize = 10_000;

impl<I: Send + 'static, O: Send + 'static> Steps<I, O> {
    fn then<P: Send + 'static>(
        self,
        second: impl Link<O, P> + 'static,
        inspection: Inspection,
    ) -> Steps<I, P> {
        let second = Arc::new(second);
        let first = self.part;
        Steps {
            part: Arc::new(Then { first, second }),
            inspection: self.inspection.and(inspection),
        }
    }

    /// Adds a step, which gets the output so far.
    pub fn step<P: Send + 'static>(self, step: Step<O, P>) -> Steps<I, P>
    where
        O: Clone + Sync,
    {
        let inspection = step.inspect();
        self.then(step, inspection)
    }

    /// Adds an action, which gets a copy of the output so far.
    pub fn action(self, action: Action<O>) -> Self
    where
        O: Clone + Sync,
    {
        let inspection = action.inspect();
        self.then(action, inspection)
    }

    /// Takes one of two ways. Exactly one of `yes` and `no` runs, and the next step gets its output. The ways taken are
    /// counted as `NAME: yes` and `NAME: no`.
    pub fn branch<P: Send + 'static>(
        self,
        name: impl Into<String>,
        condition: impl Fn(&O) -> bool + Send + Sync + 'static,
        yes: impl FnOnce(Steps<O>) -> Steps<O, P>,
        no: impl FnOnce(Steps<O>) -> Steps<O, P>,
    ) -> Steps<I, P> {
        let (yes, no, name) = (yes(Steps::new()), no(Steps::new()), name.into());
        let inspection = Inspection::of_part(&name).and(yes.inspection);
        let inspection = inspection.and(no.inspection);
        let branch = Branch {
            name,
            condition: Box::new(condition),
            yes: yes.part,
            no: no.part,
        };
        self.then(branch, inspection)
    }

    /// Leaves items or pages alone for which the condition holds. They count as skipped with the reason, not as processed
    /// and not as failed. A page counts with every item that has not ended before.
    pub fn skip_if(
        self,
        reason: impl Into<String>,
        condition: impl Fn(&O) -> bool + Send + Sync + 'static,
    ) -> Self {
        let skip = SkipIf {
            reason: reason.into(),
            condition: Box::new(condition),
        };
        self.then(skip, Inspection::default())
    }

    /// Leaves everything alone that gets here, such as one side of a branch.
    pub fn skip<P: Send + 'static>(self, reason: impl Into<String>) -> Steps<I, P> {
        let skip = Skip {
            reason: reason.into(),
            output: PhantomData,
        };
        self.then(skip, Inspection::default())
    }
}

impl<I: Send + 'static, T: Send + Sync + 'static> Steps<I, Items<T>> {
    /// Runs steps for each item, for at most `at_once` items at a time, 1 to 10,000. An item that fails or is skipped is
    /// reported as such, and the others continue. The next step of the page gets the items that are left, in their order.
    ///
    /// `key` identifies an item in the whole data, such as its primary key.
    pub fn for_each<O, K>(
        self,
        at_once: usize,
        key: impl Fn(&T) -> K + Send + Sync + 'static,
        each: impl FnOnce(Steps<T>) -> Steps<T, O>,
    ) -> Steps<I, Items<O>>
    where
        O: Send + 'static,
        K: Serialize,
    {
        let each = each(Steps::new());
        let mut inspection = each.inspection;
        let keeps = !inspection.kept.is_empty();
        if !(1..=MOST_AT_ONCE).contains(&at_once) {
            let given = at_once;
            inspection
                .defects
                .push(InvalidPipeline::Concurrency { given });
        }
        let for_each = ForEach {
            at_once: at_once.clamp(1, MOST_AT_ONCE),
            key: Box::new(move |item| serde_json::to_value(key(item))),
            part: each.part,
            keeps,
        };
        self.then(for_each, inspection.of_items())
    }
}
