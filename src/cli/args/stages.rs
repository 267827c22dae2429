//! What is looked at before a batch goes on: flags of `start` and of other commands that start one.

use clap::Args;

use crate::batch::{Batch, stage::Stage};

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StageArgs {
    /// Look at the batch after so many items, such as 100rows,1%,10%,all, and hold if something is wrong
    #[arg(
        long,
        value_name = "STAGES",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    stages: Vec<Stage>,

    /// Hold at the end of each stage until somebody approves it with `approve`
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
