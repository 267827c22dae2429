//! The client: starts, observes and controls batches.

mod batch_client;
mod because;
mod continuation;
mod error;
mod handle;
mod listing;
mod observation;
pub(crate) mod outage;
mod pause;
mod recovery;
mod redrive;
mod running;
mod standstill;
mod steering;
mod workers;

pub use batch_client::BatchClient;
pub use continuation::Continuation;
pub use error::{AcceptError, ControlError, ListError, ProgressError, ResultError, StartError};
pub use handle::BatchHandle;
pub use listing::{BatchStatus, ListedBatch};
pub use observation::{Observation, ProgressSource};
pub use pause::{PauseOptions, PauseWaitError};
pub(crate) use recovery::ByItself;
pub use recovery::RecoverError;
pub use redrive::RedriveError;
pub use running::{RunningPage, RunningStride};
pub use standstill::Remedy;
pub use steering::Steered;
pub(crate) use steering::is_unanswered;
pub use workers::{WorkerSeen, Workers};
