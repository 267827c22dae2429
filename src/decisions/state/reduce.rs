//! Outputs that only the processor can combine.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{decisions::state::BatchState, processor::reducer::Plan, protocol::CombineOrder};

impl BatchState {
    pub(crate) fn parts_to_combine(&self, at_end: bool) -> Option<CombineOrder> {
        let fold = self
            .chain
            .fold()
            .filter(|fold| *fold.plan() == Plan::Custom)?;
        let handing_over = self.makes_way() && self.chain.running_here() == 0;
        let parts = fold.to_combine(at_end || handing_over)?;
        Some(CombineOrder {
            processor: self.input.spec.processor.clone(),
            args: self.args().clone(),
            parts: parts.to_vec(),
        })
    }
}
