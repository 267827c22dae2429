//! The end of an item.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most bytes of the type of a failure, as JSON.
const TYPE_BYTES: usize = 100;
/// The most bytes of the message of a failure, as JSON.
const MESSAGE_BYTES: usize = 500;
/// The most bytes of a failure, as JSON.
pub(crate) const FAILURE_BYTES: usize = TYPE_BYTES + MESSAGE_BYTES + 40;

/// The types of failures that the fan-out itself finds.
pub mod failure_types {
    /// The child was cancelled, by the fan-out or from outside.
    pub const CANCELLED: &str = "Cancelled";
    /// The child was terminated from outside.
    pub const TERMINATED: &str = "Terminated";
    /// The child reached its execution timeout, or an attempt its time limit.
    pub const TIMED_OUT: &str = "TimedOut";
    /// The child could not be started, because a workflow has or had its id that is no child of this start of the fan-out.
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
    /// [`PageError`](temporal_batch::PageError), or one of [`failure_types`]. It is cut after 100 bytes of JSON.
    pub error_type: String,
    /// The message, cut after 500 bytes of JSON.
    pub message: String,
}

impl ItemFailure {
    pub(crate) fn new(error_type: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self {
            error_type: cut(&error_type.into(), TYPE_BYTES),
            message: cut(message.as_ref(), MESSAGE_BYTES),
        }
    }

    /// Returns the failure with the lengths that are kept. One that comes by signal may have any.
    pub(crate) fn cut(self) -> Self {
        Self::new(self.error_type, self.message)
    }
}

/// Returns the beginning of a text whose JSON has at most so many bytes.
fn cut(text: &str, bytes: usize) -> String {
    let mut left = bytes;
    let fits = |c: &char| {
        let size = match c {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            c if c.is_ascii_control() => 6,
            c => c.len_utf8(),
        };
        let fits = size <= left;
        left -= size.min(left);
        fits
    };
    text.chars().take_while(fits).collect()
}

/// Returns an output that is small enough to be kept.
pub(crate) fn within(output: Value, limit: usize) -> Result<Value, ItemFailure> {
    match output.to_string().len() {
        bytes if bytes > limit => Err(ItemFailure::new(
            failure_types::OUTPUT_TOO_LARGE,
            format!("the output is {bytes} bytes of JSON; at most {limit} are allowed"),
        )),
        _ => Ok(output),
    }
}

/// The end of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemOutcome<T> {
    /// The position of the item in the input, from 0. Duplicates have positions in a source, and none in a list.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_failure_has_a_bounded_size_whatever_its_text(
            error_type in "(\\PC|\\x00|\"|\\\\){0,300}",
            message in "(\\PC|[\\x00-\\x1f]|\"|\\\\|Ж){0,1200}",
        ) {
            let failure = ItemFailure::new(error_type, &message);
            let json = serde_json::to_string(&Err::<(), _>(&failure)).unwrap();
            prop_assert!(json.len() <= FAILURE_BYTES, "{} bytes", json.len());
            prop_assert!(message.starts_with(&failure.message));
        }
    }
}
