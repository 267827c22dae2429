//! Dead letters: records and pages that a batch gave up on, kept where they can be listed and redriven.

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

/// Longest error message of a dead letter, in characters.
pub(crate) const MAX_LETTER_CHARS: usize = 1_000;

/// A record, or a page that could not be split, that a batch gave up on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The same for the same record of the same batch run, however often it fails.
    pub id: String,
    /// The batch.
    pub batch_id: String,
    /// The execution of the batch that gave up; a redrive keeps it.
    pub batch_run: String,
    /// The processor.
    pub processor: String,
    /// The stride in which it was.
    pub stride: u64,
    /// The failure lies after this cursor; `None` is the beginning of the data.
    pub start: Option<PageToken>,
    /// The failure lies at or before this cursor; `None` is the end of the data.
    pub end: Option<PageToken>,
    /// The record, as its page calls it; `None` stands for everything in the range.
    pub key: Option<String>,
    /// The kind of the last error.
    pub error_type: String,
    /// The last error's message, its first 1,000 characters.
    pub message: String,
    /// Attempts at it, those of its page included.
    pub attempts: u32,
    /// When it, or its page, failed first.
    pub first_at: Timestamp,
    /// When it failed last.
    pub last_at: Timestamp,
    /// The record itself, where the processor asked for it to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

impl DeadLetter {
    /// The id of a failure: the same place in the same batch run always has the same one.
    pub(crate) fn id_of(
        batch_run: &str,
        start: Option<&PageToken>,
        end: Option<&PageToken>,
        key: Option<&str>,
    ) -> String {
        // JSON keeps the parts apart whatever they hold.
        stable_id(&serde_json::json!([batch_run, start, end, key]))
    }

    /// What its id begins with: places of different partitions are different.
    pub(crate) fn scope(&self) -> String {
        scope_of(&self.batch_run, self.stride)
    }

    /// The letter of one item of the page that this one stands for.
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

    /// The page that it stands for, as listings show it.
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

/// What an item without a name is called.
pub(crate) fn position_name(position: usize) -> String {
    format!("#{position}")
}

/// A name-based UUID (RFC 9562, version 5) of a JSON text.
pub(crate) fn stable_id(name: &serde_json::Value) -> String {
    let namespace = uuid::Uuid::from_u128(0x2d7f_3c61_9a0b_4b1e_8c55_71f0_6e2a_94d3);
    uuid::Uuid::new_v5(&namespace, name.to_string().as_bytes()).to_string()
}

/// Where dead letters are kept.
///
/// Two stores come with this crate: the SQL table of a `SqlLedger`, and [`JsonlDeadLetters`], a file.
///
/// [`JsonlDeadLetters`]: crate::JsonlDeadLetters
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Keeps letters. One whose id is there already keeps its `first_at` and gets everything else anew.
    async fn put(&self, letters: &[DeadLetter]) -> Result<(), PageError>;

    /// The letters that match with an id after `after`, in the order of their ids, at most `limit`.
    async fn list(
        &self,
        filter: &LetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PageError>;

    /// Takes a letter out for a redrive. It is gone when the transaction is committed and back when it is
    /// dropped, and nobody else can take it meanwhile. `None`: it is gone already.
    async fn take(
        &self,
        letter: &DeadLetter,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError>;

    /// How many dead letters of a batch run redrives have settled: those whose [`take`](Self::take) was committed, less
    /// the letters that came in their place. It tells letters that were settled from letters that are not in this store.
    /// `None`: the store does not count them, as the default does not.
    async fn settled(&self, batch_run: &str) -> Result<Option<u64>, PageError> {
        let _ = batch_run;
        Ok(None)
    }

    /// Keeps the final report of a batch run, since Temporal forgets it after its retention. Stores that
    /// cannot do this ignore it, as the default does.
    async fn keep_report(&self, report: &BatchReport) -> Result<(), PageError> {
        let _ = report;
        Ok(())
    }

    /// The reports of a batch that are kept, the latest first.
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
    /// Whether a letter is meant.
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
