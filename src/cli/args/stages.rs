//! The stages after which a batch is checked: flags of the commands that start a batch.

use clap::Args;

use crate::batch::{Batch, stage::Stage};

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StageArgs {
    /// Check the batch after these numbers of items, such as 100rows,1%,10%,all, and hold if something is wrong
    #[arg(
        long,
        value_name = "STAGES",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    stages: Vec<Stage>,

    /// Hold at the end of each stage until `approve` lets the batch continue
    #[arg(long, requires = "stages")]
    approve: bool,
}

impl StageArgs {
    pub(crate) fn apply(&self, batch: Batch) -> Batch {
        if self.stages.is_empty() {
            return batch;
        }
        batch
            .stages(self.stages.clone())
            .approve_stages(self.approve)
    }
}
