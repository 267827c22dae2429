//! What the pages put out, where only the processor can combine it: partial results are gathered, and an activity
//! makes one of several.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use temporalio_sdk::WorkflowContext;

use super::{
    Controller, Orders,
    dispatch::describe,
    hooks::{Call, Calls, standing},
};
use crate::{
    protocol::CombineOrder,
    reduce::{Fold, Plan},
};

/// What one attempt at combining may take. It has no signs of life.
const COMBINE_TIMEOUT: Duration = Duration::from_secs(14);

impl Controller {
    /// What waits to be combined is as much as may be kept.
    pub(super) fn outputs_are_full(&self) -> bool {
        self.ledger.fold().is_some_and(Fold::is_full)
    }

    fn parts_to_combine(&self, at_end: bool) -> Option<CombineOrder> {
        let fold = self
            .ledger
            .fold()
            .filter(|fold| *fold.plan() == Plan::Custom)?;
        let handing_over = self.makes_way() && self.ledger.running_here() == 0;
        let parts = fold.to_combine(at_end || handing_over)?;
        Some(CombineOrder {
            processor: self.input.spec.processor.clone(),
            args: self.args().clone(),
            parts: parts.to_vec(),
        })
    }
}

/// Has the oldest partial results combined, if there are enough.
pub(super) fn combine(ctx: &WorkflowContext<Controller>, at_end: bool) -> Option<Call<'_>> {
    let order = ctx.state(|s| s.parts_to_combine(at_end))?;
    let parts = order.parts.len();
    let options = standing(ctx, COMBINE_TIMEOUT, format!("combine {parts} outputs"));
    Some(Box::pin(async move {
        let combined = ctx.execute_activity(Orders::combine, order, options).await;
        ctx.state_mut(|s| {
            let Some(fold) = s.ledger.fold_mut() else {
                return;
            };
            match combined {
                Ok(combined) => fold.combined(parts, combined.part),
                Err(error) => {
                    let (error_type, message) = describe(&error);
                    fold.fail(format!("{error_type}: {message}"));
                }
            }
        });
        Ok(())
    }))
}

/// Has everything combined that is left, before the batch ends. What cannot be combined is noted, and changes nothing
/// else.
pub(super) async fn combine_rest<'a>(ctx: &'a WorkflowContext<Controller>, calls: &mut Calls<'a>) {
    let mut next = calls.combine.take().or_else(|| combine(ctx, true));
    while let Some(call) = next {
        let _ = call.await;
        next = combine(ctx, true);
    }
}
