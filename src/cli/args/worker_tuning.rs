//! The tuning of a worker: its polling and its cache.

use clap::Args;

use crate::engine::worker::{
    Worker,
    tuning::{CACHED_BATCHES, EAGER_STRIDES, STRIDE_POLLERS, WORKFLOW_POLLERS},
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Tuning")]
pub(crate) struct TuningArgs {
    /// Requests for workflow tasks that wait at the server at once [default: 5, or what the SDK finds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(WORKFLOW_POLLERS.range()))]
    workflow_pollers: Option<u32>,

    /// Requests for strides that wait at the server at once [default: 5, or what the SDK finds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(STRIDE_POLLERS.range()))]
    stride_pollers: Option<u32>,

    /// Strides that a controller gives to its own worker at a time, past the task queue
    /// [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(EAGER_STRIDES.range()))]
    eager_strides: Option<u32>,

    /// Controllers of batches that are kept in memory [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(CACHED_BATCHES.range()))]
    cached_batches: Option<u32>,
}

impl TuningArgs {
    pub(crate) fn apply(&self, mut worker: Worker) -> Worker {
        if let Some(pollers) = self.workflow_pollers {
            worker = worker.workflow_pollers(pollers);
        }
        if let Some(pollers) = self.stride_pollers {
            worker = worker.stride_pollers(pollers);
        }
        if let Some(strides) = self.eager_strides {
            worker = worker.eager_strides(strides);
        }
        if let Some(batches) = self.cached_batches {
            worker = worker.cached_batches(batches);
        }
        worker
    }
}
