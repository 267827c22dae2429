//! The answer of an API, or the reason why there is none.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::base::error::{PageError, truncate};

/// The largest number of characters of a body that a dead letter keeps.
const SHOWN_CHARS: usize = 500;

/// The error type of a call without a connection.
pub(super) const NOT_CONNECTED: &str = "HttpNotConnected";

/// The answer to a call, with a status of 200 to 299.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAnswer {
    pub(super) status: u16,
    pub(super) link: Option<String>,
    pub(super) body: Bytes,
}

impl ApiAnswer {
    /// Returns the status: 200 to 299.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    /// A non-retryable [`PageError`] of type `AnswerNotReadable`, which does not show the body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PageError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            PageError::non_retryable(
                "AnswerNotReadable",
                format_args!(
                    "the answer {} is not the JSON that was expected (line {line}, column {column})",
                    self.status
                ),
            )
        })
    }
}

/// A call that was given up: refused by the API, or without an answer in all its attempts.
///
/// The [error](Self::error) names the status and holds nothing of the body, because messages are logged and stored in
/// histories. For a dead letter, pass [`body_start`](Self::body_start) to
/// [`PageReport::fail_with_record`](crate::PageReport::fail_with_record).
///
/// | error type | meaning |
/// |---|---|
/// | `Http404` and the like | the last answer had this status |
/// | `HttpNotConnected`, `HttpTimeout`, `HttpBroken` | there was no complete answer. For the first of them [`is_outage`](Self::is_outage) is true |
/// | `AnswerTooLarge` | the body was longer than [`max_answer_bytes`](super::ApiOptions::max_answer_bytes) |
/// | `StillRefused` | the API asked to wait too many times in a row |
#[derive(Debug)]
pub struct ApiFailure {
    pub(super) error: PageError,
    pub(super) status: Option<u16>,
    pub(super) body: String,
}

impl ApiFailure {
    /// Returns the error.
    pub fn error(&self) -> &PageError {
        &self.error
    }

    /// Returns the error by value, to fail the whole page.
    pub fn into_error(self) -> PageError {
        self.error
    }

    /// Returns the status of the last answer; `None` if there was no complete answer.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Returns at most the first 500 characters of the last answer's body. They may be personal data.
    pub fn body_start(&self) -> &str {
        &self.body
    }

    /// Returns whether the API could not be reached at all, so that other records would fail in the same way.
    pub fn is_outage(&self) -> bool {
        self.error.error_type() == NOT_CONNECTED
    }
}

/// Returns the beginning of a body, as text for people.
pub(super) fn beginning(body: &[u8]) -> String {
    let start = &body[..body.len().min(SHOWN_CHARS * 4)];
    truncate(&String::from_utf8_lossy(start), SHOWN_CHARS)
}
