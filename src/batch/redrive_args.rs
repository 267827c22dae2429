//! The arguments of a redrive.

use serde::{Deserialize, Serialize};

use crate::batch::letter_filter::LetterFilter;

/// Default number of letters in a page of a redrive. Each letter may stand for a whole page.
pub(crate) const LETTERS_PER_PAGE: u32 = 20;

/// The arguments of a redrive.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedriveArgs {
    pub filter: LetterFilter,
    /// The arguments of the batch whose letters are retried.
    #[serde(default)]
    pub args: serde_json::Value,
    /// The number of items per page in that batch.
    pub page_size: u32,
    /// True if that batch had already completed the arguments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completed: bool,
}
