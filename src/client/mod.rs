//! Starts batches, and looks at and steers those that run.

mod batch_client;
mod continuation;
mod error;
mod handle;
mod listing;
mod recovery;
mod redrive;

pub use batch_client::BatchClient;
pub use continuation::Continuation;
pub use error::{AcceptError, ControlError, ListError, ProgressError, ResultError, StartError};
pub use handle::BatchHandle;
pub use listing::{BatchState, ListedBatch};
pub use recovery::RecoverError;
pub use redrive::RedriveError;
