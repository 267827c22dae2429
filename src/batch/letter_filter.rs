//! The filter that selects dead letters.

use serde::{Deserialize, Serialize};

use crate::{base::time::Timestamp, page::token::PageToken};

/// Selects dead letters of one batch. A field that is `None` excludes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LetterFilter {
    /// The batch.
    pub batch_id: String,
    /// Includes only letters with this error type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// Includes only letters whose range, or whose page's range, starts after exactly this cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_start: Option<PageToken>,
    /// Includes only letters that last failed at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Includes only letters that last failed before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl LetterFilter {
    /// Selects all dead letters of a batch.
    pub fn of(batch_id: impl Into<String>) -> Self {
        Self {
            batch_id: batch_id.into(),
            ..Self::default()
        }
    }
}
