//! Starts batches, and looks at and steers those that run.

mod batch_client;
mod error;
mod handle;
mod listing;

pub use batch_client::BatchClient;
pub use error::{AcceptError, ControlError, ListError, ProgressError, ResultError, StartError};
pub use handle::BatchHandle;
pub use listing::{BatchState, ListedBatch};
