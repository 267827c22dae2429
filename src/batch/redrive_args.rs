//! The arguments of a redrive.

use serde::{Deserialize, Serialize};

use crate::batch::letter_filter::LetterFilter;

/// Letters that a page of a redrive has, unless it is told otherwise. Each may stand for a whole page.
pub(crate) const LETTERS_PER_PAGE: u32 = 20;

/// The arguments of a redrive.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedriveArgs {
    pub filter: LetterFilter,
    /// The arguments of the batch that gave up.
    #[serde(default)]
    pub args: serde_json::Value,
    /// Items per page of that batch.
    pub page_size: u32,
    /// They are as that batch had them completed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completed: bool,
}
