//! Outputs that only the processor can combine.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde_json::Value;

use crate::{
    decisions::state::{BatchState, work::Work},
    processor::reducer::Plan,
    protocol::CombineOrder,
};

impl<W: Work> BatchState<W> {
    pub(crate) fn parts_to_combine(&self, at_end: bool) -> Option<CombineOrder> {
        let fold = self
            .work
            .fold()
            .filter(|fold| *fold.plan() == Plan::Custom)?;
        let handing_over = W::makes_way(self) && self.work.running_here() == 0;
        let parts = fold.to_combine(at_end || handing_over)?;
        Some(CombineOrder {
            processor: self.input.spec.processor.clone(),
            args: self.args().clone(),
            parts: parts.to_vec(),
        })
    }

    /// Takes the combined value of the oldest parts, or the reason why there is none.
    pub(crate) fn combined(&mut self, parts: usize, combined: Result<Value, String>) {
        let Some(fold) = self.work.fold_mut() else {
            return;
        };
        match combined {
            Ok(part) => fold.combined(parts, part),
            Err(reason) => fold.fail(reason),
        }
    }
}
