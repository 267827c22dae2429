//! Filter of dead letters.

use serde::{Deserialize, Serialize};

use crate::{base::time::Timestamp, page::token::PageToken};

/// Which dead letters of a batch. What is `None` excludes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LetterFilter {
    /// The batch.
    pub batch_id: String,
    /// Only with this error type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// Only whose range, or whose page's range, starts after exactly this cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_start: Option<PageToken>,
    /// Only what failed last at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only what failed last before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl LetterFilter {
    /// All letters of a batch.
    pub fn of(batch_id: impl Into<String>) -> Self {
        Self {
            batch_id: batch_id.into(),
            ..Self::default()
        }
    }
}
