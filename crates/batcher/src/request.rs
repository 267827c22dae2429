//! A request, and the outcome that its requester is told.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Maximum length of a request id, in bytes. The table of written requests has it as its key.
pub const MAX_ID_BYTES: usize = 255;

/// Maximum length of an error message in a confirmation, in characters. The dead letter has more of it.
pub(crate) const MAX_MESSAGE_CHARS: usize = 200;

/// One thing to write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The identity of the request: two requests with one id are the same request, whatever their payloads. Choose an
    /// id that a repetition has too, such as the id of the requesting workflow. Never use a run id or a random number
    /// that a retry would draw again. 1 to 255 bytes
    /// without control characters and without a space at the end, which MySQL and MariaDB ignore.
    pub id: String,
    /// The key by which the request is routed to a shard. Requests with the same key are written by the same shard.
    pub routing_key: String,
    /// The content, which only the writer reads.
    pub payload: Value,
}

impl Request {
    /// Creates a request that is routed by its id.
    pub fn new(id: impl Into<String>, payload: impl Into<Value>) -> Self {
        let id = id.into();
        Self {
            routing_key: id.clone(),
            id,
            payload: payload.into(),
        }
    }

    /// Sets the key by which the request is routed to a shard. The default is the id.
    #[must_use]
    pub fn routing_key(mut self, key: impl Into<String>) -> Self {
        self.routing_key = key.into();
        self
    }

    /// Returns the length of the request as stored in a history, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        // A request came from JSON or can become JSON: its parts are strings and a JSON value.
        serde_json::to_string(self).map_or(0, |json| json.len())
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Outcome {
    /// The request was written by this batcher, just now.
    Written,
    /// The request had been written before, so it was not written again.
    AlreadyDone,
    /// The request could not be written, alone or with others. It is a dead letter now.
    Failed {
        /// The type of the last error.
        error_type: String,
        /// The first 200 characters of the last error's message.
        message: String,
    },
    /// The batcher holds the request already, and has no room for one more workflow to tell. The request will be written
    /// or become a dead letter: submit it again later to find out.
    Pending,
    /// The batcher did not take this submission, so it leads to no write. Another submission with the same id may.
    Refused {
        /// The reason.
        reason: Refusal,
    },
}

impl Outcome {
    /// Returns true if the effect of the request is in the sink.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Written | Self::AlreadyDone)
    }

    pub(crate) fn failed(error_type: &str, message: &str) -> Self {
        Self::Failed {
            error_type: shortened(error_type),
            message: shortened(message),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}

/// The reason why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "because")]
#[non_exhaustive]
pub enum Refusal {
    /// The shard holds as many requests as it may. Submit again later.
    #[error(
        "the batcher holds {held} requests with {bytes} bytes; at most {max_pending} with {max_pending_bytes} bytes are allowed; submit again later"
    )]
    Full {
        /// Requests that are not confirmed yet.
        held: u32,
        /// Their bytes.
        bytes: u64,
        /// The limit on requests.
        max_pending: u32,
        /// The limit on bytes.
        max_pending_bytes: u64,
    },
    /// The request alone is larger than a batch may be.
    #[error("the request has {bytes} bytes; at most {max_batch_bytes} are allowed")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The limit on the bytes of a batch.
        max_batch_bytes: u64,
    },
    /// The request id is empty, too long, has control characters, or ends in a space.
    #[error(
        "the request id is not valid; allowed are 1 to {MAX_ID_BYTES} bytes without control characters and without a space at the end"
    )]
    InvalidId,
    /// The requester counts on another number of shards than the batcher has.
    #[error("the request was routed for {routed_for} shards, but the batcher runs with {running}")]
    OtherShards {
        /// The number that the requester counts on.
        routed_for: u32,
        /// The number of the running batcher.
        running: u32,
    },
    /// The history of the shard is long, and no worker has read it: more submissions could make Temporal end the shard with
    /// what it holds. Look at the workers of the batcher, and submit again later.
    #[error(
        "the shard has a backlog of {events} events with {bytes} bytes; at most {max_events} with {max_bytes} bytes are allowed; look at the workers of the batcher, and submit again later"
    )]
    Backlog {
        /// The events in the history of the shard's run.
        events: u64,
        /// Their bytes.
        bytes: u64,
        /// The limit on events.
        max_events: u64,
        /// The limit on bytes.
        max_bytes: u64,
    },
    /// The batcher is being shut down. A request that is submitted after its end starts it again.
    #[error("the batcher is shutting down; submit again after its end")]
    ShuttingDown,
}

impl Refusal {
    /// Returns whether the request itself is the reason, so that no later submission of it can succeed.
    pub(crate) fn is_of_the_request(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::InvalidId)
    }
}

/// A request and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The id of the request.
    pub request_id: String,
    /// The number of the submission that is answered: a workflow ignores the answer to an earlier one. 0 for a submission
    /// without a workflow that waits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub submission: u64,
    /// Its outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written => f.write_str("written"),
            Self::AlreadyDone => f.write_str("already done"),
            Self::Failed {
                error_type,
                message,
            } => write!(f, "failed: {error_type}: {message}"),
            Self::Pending => f.write_str("pending; submit again later to find out"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
        }
    }
}

/// Returns whether a text is the same key in every database. MySQL and MariaDB take "a" and "a " for equal.
pub(crate) fn is_exact_key(text: &str) -> bool {
    !text.ends_with(' ') && !text.chars().any(char::is_control)
}

/// Returns whether a request id can be the key of a row in every database.
pub(crate) fn is_valid_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID_BYTES && is_exact_key(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_stored_with_a_flat_status() {
        let confirmation = Confirmation {
            request_id: "a".to_owned(),
            submission: 0,
            outcome: Outcome::failed("Constraint", "no"),
        };
        let json = serde_json::to_value(&confirmation).unwrap();
        let expected = serde_json::json!({
            "request_id": "a", "status": "failed", "error_type": "Constraint", "message": "no"
        });
        assert_eq!(json, expected);
        assert_eq!(
            serde_json::from_value::<Confirmation>(json).unwrap(),
            confirmation
        );
    }

    #[test]
    fn ids_that_a_database_could_not_keep_are_invalid() {
        let long = "x".repeat(MAX_ID_BYTES);
        assert!(is_valid_id("order-1") && is_valid_id(&long));
        for id in ["", "a\0b", "a\nb", "a ", " ", &format!("{long}x")] {
            assert!(!is_valid_id(id), "{id:?}");
        }
    }
}
