//! The end of an item.

use serde::{Deserialize, Serialize};

/// The longest message that a failure keeps, in characters.
const LONGEST_MESSAGE: usize = 500;

/// The types of failures that the fan-out itself finds.
pub mod failure_types {
    /// The child was cancelled, by the fan-out or from outside.
    pub const CANCELLED: &str = "Cancelled";
    /// The child was terminated from outside.
    pub const TERMINATED: &str = "Terminated";
    /// The child reached its execution timeout, or an attempt its time limit.
    pub const TIMED_OUT: &str = "TimedOut";
    /// The child could not be started, because another workflow has or had its id.
    pub const CHILD_ID_TAKEN: &str = "ChildIdTaken";
    /// The id of the item is that of an earlier item.
    pub const DUPLICATE: &str = "DuplicateItem";
    /// The output of the item is larger than [`Fanout::output_limit`](crate::Fanout::output_limit).
    pub const OUTPUT_TOO_LARGE: &str = "OutputTooLarge";
    /// The child has ended and its output cannot be found.
    pub const OUTPUT_LOST: &str = "OutputLost";
    /// The workers of the child's task queue do not have the processor.
    pub const UNKNOWN_PROCESSOR: &str = "UnknownProcessor";
    /// User code panicked.
    pub const PANICKED: &str = "Panicked";
    /// The worker of an attempt was lost.
    pub const WORKER_LOST: &str = "WorkerLost";
}

/// The reason why an item failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFailure {
    /// The type of the failure, such as `CardDeclined`: that of the processor's
    /// [`PageError`](temporal_batch::PageError), or one of [`failure_types`].
    pub error_type: String,
    /// The message, cut after 500 characters.
    pub message: String,
}

impl ItemFailure {
    pub(crate) fn new(error_type: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self {
            error_type: error_type.into(),
            message: message.as_ref().chars().take(LONGEST_MESSAGE).collect(),
        }
    }
}

/// The end of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemOutcome<T> {
    /// The position of the item in the input, from 0.
    pub position: u64,
    /// The id of the item.
    pub item_id: String,
    /// The output of the processor, or the failure.
    pub result: Result<T, ItemFailure>,
}

/// A failed item in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedItem {
    /// The id of the item.
    pub item_id: String,
    /// The reason.
    pub failure: ItemFailure,
}
