//! Page tokens: serialized cursors.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::base::{error::PageError, known_fields::explain};

/// A serialized cursor, as it is stored in signals, activity inputs and histories.
///
/// The text is the JSON of the cursor. Two tokens are the same position exactly if their texts are equal.
/// `Display` and `Debug` shorten the text, because a cursor may contain a key that does not belong in a log.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageToken(pub(crate) String);

impl PageToken {
    /// Maximum length of a token. Tokens are part of every history of the batch, so they must stay small.
    pub const MAX_BYTES: usize = 1_024;

    /// Serializes a cursor.
    ///
    /// # Errors
    /// A non-retryable [`PageError`] if the cursor does not serialize to JSON or is longer than
    /// [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn encode<C: Serialize>(cursor: &C) -> Result<Self, PageError> {
        let text = serde_json::to_string(cursor).map_err(|e| {
            PageError::non_retryable(
                "CursorNotSerializable",
                format_args!("cursor does not serialize to JSON: {e}"),
            )
        })?;
        if text.len() > Self::MAX_BYTES {
            return Err(PageError::non_retryable(
                "CursorTooLarge",
                format_args!(
                    "a cursor of {} bytes exceeds the limit of {} for a page token; it is {}, and a filter that leaves \
                     such records out is a way around them",
                    text.len(),
                    Self::MAX_BYTES,
                    crate::base::error::truncate(&text, SHOWN_CHARS)
                ),
            ));
        }
        Ok(Self(text))
    }

    /// Deserializes the cursor.
    ///
    /// # Errors
    /// A [`PageError::environment`] of type `CursorNotReadable` if the token is not a `C`. Different code wrote
    /// the token, and a worker with the right code can still continue from it.
    pub fn decode<C: DeserializeOwned>(&self) -> Result<C, PageError> {
        serde_json::from_str(&self.0).map_err(|e| {
            PageError::environment(format_args!(
                "page token {self} is not a cursor of this processor: {}",
                explain(&e)
            ))
            .with_type("CursorNotReadable")
        })
    }

    /// Returns the JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the size of the token when stored as a JSON string. Most tokens are JSON themselves, so their quotes are
    /// escaped.
    pub(crate) fn stored_bytes(&self) -> usize {
        let escaped = self.0.bytes().filter(|b| matches!(b, b'"' | b'\\'));
        2 + self.0.len() + escaped.count()
    }
}

/// The number of characters of a token that are shown, because a cursor may contain a key that does not belong in a log.
const SHOWN_CHARS: usize = 24;

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::base::error::truncate(&self.0, SHOWN_CHARS))
    }
}

impl fmt::Debug for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(crate) fn shown<C: Serialize>(cursor: &C) -> String {
    PageToken::encode(cursor).map_or_else(|_| "?".to_owned(), |token| token.to_string())
}
