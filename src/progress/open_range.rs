//! Ranges of the data that a batch has not finished.

use serde::{Deserialize, Serialize};

use crate::page::token::PageToken;

/// The state of a range that is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OpenState {
    /// The range waits for its turn, or is worked on.
    AtWork,
    /// The range is worked on, and many later ranges were given to workers since.
    Overtaken,
    /// The first page of the range has failed three times or more, and will be tried again.
    Failing,
}

/// A range of the data that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRange {
    /// The exclusive start. `None` at the beginning of the data.
    pub start: Option<PageToken>,
    /// The inclusive end. `None` if everything after the start is open.
    pub end: Option<PageToken>,
    /// The state of the range.
    pub state: OpenState,
}

impl OpenRange {
    /// Returns the bytes that the range takes in a stored progress, approximately.
    pub(crate) fn stored_bytes(&self) -> usize {
        let tokens = [self.start.as_ref(), self.end.as_ref()];
        let tokens = tokens.into_iter().flatten().map(PageToken::stored_bytes);
        // The names of the fields and the longest state.
        48 + tokens.sum::<usize>()
    }
}
