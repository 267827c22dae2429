//! Batches of a processor that is known as a type.

use crate::{
    batch::{Batch, validate::InvalidBatch},
    processor::PageProcessor,
};

/// # Construct
impl Batch {
    /// Creates a batch of processor `P`. The id is also the workflow id, so it must be unique among running batches.
    pub fn of<P: PageProcessor>(batch_id: impl Into<String>, args: P::Args) -> Self {
        let mut batch = Self::named(batch_id, P::NAME, serde_json::Value::Null);
        batch.spec.partitioned = P::PARTITIONED;
        match serde_json::to_value(args) {
            Ok(value) => batch.spec.args = value,
            Err(e) => {
                batch.defect = Some(InvalidBatch::Args {
                    message: e.to_string(),
                });
            }
        }
        batch
    }
}
