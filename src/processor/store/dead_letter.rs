//! Dead letters: records and pages that a batch gave up, stored so that they can be listed and redriven.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    base::{error::PageError, time::Timestamp},
    batch::{letter_filter::LetterFilter, partition_spec::scope_of},
    page::{keys::Keys, token::PageToken},
    processor::{report::ItemFailure, store::page_ledger::PageTransaction},
    progress::{
        failures::{FailureState, PageFailure},
        report::BatchReport,
    },
};

/// Maximum length of an error message in a dead letter, in characters.
pub(crate) const MAX_LETTER_CHARS: usize = 1_000;
const LETTER_GONE: &str = "LetterGone";

/// Returns the error of a transaction that begins after its letter was removed.
#[cfg(all(feature = "files", feature = "http"))]
pub(crate) fn gone() -> PageError {
    PageError::retryable("another redrive has taken the dead letter meanwhile")
        .with_type(LETTER_GONE)
}

/// Returns whether an error says that a letter was removed before its transaction began.
pub(crate) fn is_gone(error: &PageError) -> bool {
    error.error_type() == LETTER_GONE
}

/// A record that a batch gave up, or a page that could not be split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The id, which is always the same for the same record of the same batch run.
    pub id: String,
    /// The id of the batch.
    pub batch_id: String,
    /// The id of the execution that gave up. A redrive does not change it.
    pub batch_run: String,
    /// The name of the processor.
    pub processor: String,
    /// The stride of the failure.
    pub stride: u64,
    /// The cursor after which the failure lies. `None` is the beginning of the data.
    pub start: Option<PageToken>,
    /// The cursor at or before which the failure lies. `None` is the end of the data.
    pub end: Option<PageToken>,
    /// The name of the record in its page. `None` stands for everything in the range.
    pub key: Option<String>,
    /// The type of the last error.
    pub error_type: String,
    /// The first 1,000 characters of the last error's message.
    pub message: String,
    /// The number of attempts, including those of its page.
    pub attempts: u32,
    /// The time when it, or its page, first failed.
    pub first_at: Timestamp,
    /// The time when it last failed.
    pub last_at: Timestamp,
    /// The record itself, if the processor asked to store it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

impl DeadLetter {
    /// Returns the id of a failure. The same place in the same batch run always has the same id.
    pub(crate) fn id_of(
        batch_run: &str,
        start: Option<&PageToken>,
        end: Option<&PageToken>,
        key: Option<&str>,
    ) -> String {
        // JSON keeps the parts apart, whatever they contain.
        stable_id(&serde_json::json!([batch_run, start, end, key]))
    }

    /// Returns the prefix of its id, which differs between partitions.
    pub(crate) fn scope(&self) -> String {
        scope_of(&self.batch_run, self.stride)
    }

    /// Returns the letter of one item of the page that this letter stands for.
    pub(crate) fn of_item<C: Serialize>(&self, keys: &Keys<C>, failure: &ItemFailure) -> Self {
        let position = failure.position;
        let token = |position: usize| {
            let cursor = keys.cursors().get(position)?;
            PageToken::encode(cursor).ok()
        };
        let before = position.checked_sub(1).and_then(token);
        let (id, key) = match keys.name(position) {
            Some(name) => (Self::id_of(&self.scope(), None, None, Some(&name)), name),
            None => {
                let name = position_name(position);
                let (start, end) = (self.start.as_ref(), self.end.as_ref());
                (Self::id_of(&self.scope(), start, end, Some(&name)), name)
            }
        };
        Self {
            id,
            start: before.or_else(|| self.start.clone()),
            end: token(position).or_else(|| self.end.clone()),
            key: Some(key),
            error_type: failure.error_type.clone(),
            message: failure.message.clone(),
            record: failure.record.clone(),
            ..self.clone()
        }
    }

    /// Returns the page that this letter stands for, in the form of listings.
    pub(crate) fn as_page_failure(&self) -> PageFailure {
        PageFailure {
            stride: self.stride,
            start: self.start.clone(),
            end: self.end.clone(),
            error_type: self.error_type.clone(),
            message: crate::base::error::truncate(
                &self.message,
                crate::base::error::MAX_MESSAGE_CHARS,
            ),
            attempts: self.attempts,
            first_at: self.first_at,
            last_at: self.last_at,
            gives_up_at: None,
            state: FailureState::DeadLetter,
        }
    }
}

/// Returns the name for an item to which the source gives no name.
pub(crate) fn position_name(position: usize) -> String {
    format!("#{position}")
}

/// Returns a name-based UUID (RFC 9562, version 5) of a JSON text.
pub(crate) fn stable_id(name: &serde_json::Value) -> String {
    let namespace = uuid::Uuid::from_u128(0x2d7f_3c61_9a0b_4b1e_8c55_71f0_6e2a_94d3);
    uuid::Uuid::new_v5(&namespace, name.to_string().as_bytes()).to_string()
}

/// A store for dead letters.
///
/// Two stores come with this crate: the SQL table of a `SqlLedger`, and [`JsonlDeadLetters`], a file.
///
/// [`JsonlDeadLetters`]: crate::store::JsonlDeadLetters
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Stores letters. A letter whose id exists already keeps its `first_at`, and all other fields are
    /// replaced.
    async fn put(&self, letters: &[DeadLetter]) -> Result<(), PageError>;

    /// Returns at most `limit` matching letters with an id after `after`, in the order of their ids.
    async fn list(
        &self,
        filter: &LetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PageError>;

    /// Takes a letter out for a redrive. The letter is removed when the transaction is committed and kept when
    /// it is dropped. In the meantime it cannot be taken again. `None` means that it has already been removed.
    /// Letters that are recorded in the transaction replace the removed one, and may have its id.
    async fn take(
        &self,
        letter: &DeadLetter,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError>;

    /// Returns how many dead letters of a batch run have been settled by redrives: those whose
    /// [`take`](Self::take) was committed, minus the letters that replaced them. The number distinguishes
    /// letters that were settled from letters that were never in this store. `None` means that the store does
    /// not count them, which is the default.
    async fn settled(&self, batch_run: &str) -> Result<Option<u64>, PageError> {
        let _ = batch_run;
        Ok(None)
    }

    /// Stores the final report of a batch run, because Temporal forgets it after its retention. The default
    /// ignores it.
    async fn keep_report(&self, report: &BatchReport) -> Result<(), PageError> {
        let _ = report;
        Ok(())
    }

    /// Returns the stored reports of a batch, latest first. The default returns none.
    async fn reports(&self, batch_id: &str) -> Result<Vec<BatchReport>, PageError> {
        let _ = batch_id;
        Ok(Vec::new())
    }
}

impl fmt::Debug for dyn DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeadLetters")
    }
}

impl LetterFilter {
    /// Returns whether the filter selects a letter.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        self.batch_id == letter.batch_id
            && self
                .error_type
                .as_ref()
                .is_none_or(|t| *t == letter.error_type)
            && self
                .page_start
                .as_ref()
                .is_none_or(|start| letter.start.as_ref() == Some(start))
            && self.since.is_none_or(|since| letter.last_at >= since)
            && self.until.is_none_or(|until| letter.last_at < until)
    }
}
