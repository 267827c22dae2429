//! The arguments of the processor behind `call`, as they are stored with its batch.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{plan::InvalidCall, source::CallSource};
use crate::base::stored::is_default;

/// The arguments of a batch of [`HttpCall`](super::processor::HttpCall): the records, the request for each of them, and
/// the place of the answers. They are stored in histories, so they hold no secrets: a secret is written as `${NAME}`,
/// and is read from the environment of the process that calls.
///
/// | field | default |
/// |---|---|
/// | `method` | `GET` |
/// | `headers`, `body` | none |
/// | `set` | the whole answer is written |
/// | `fallback` | a call that is given up is a failed record |
/// | `concurrency` | 10 calls of a page in flight |
/// | `timeout_ms` | 30 s |
/// | `attempts` | 5 |
/// | `null` | an empty field of a CSV file is NULL |
/// | `to` | the answers go into the rows of the table |
/// | `concatenate` | parts only |
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CallArgs {
    /// The records.
    pub source: CallSource,
    /// The URL, with placeholders in its path and query.
    pub url: String,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The headers with their values, which may have placeholders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body: JSON whose texts may have placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The fields to add to the record, with their values: a path into the answer (`{body.region}`, `{status}`), or JSON.
    /// A call without `to` writes each field into the table's column of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(String, String)>,
    /// The values of the same fields for a record whose call was given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<(String, String)>,
    /// The number of calls of a page in flight.
    #[serde(default = "concurrency")]
    pub concurrency: u32,
    /// The time limit of a call, in milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// The number of attempts at a record.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// The text for NULL in a CSV file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub null: String,
    /// The directory of the results. Without one, the values of `set` are written into the rows of the table, which
    /// needs a [`CallSource::Table`](super::source::CallSource) and the tables of the page ledger in its database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<PathBuf>,
    /// One file for all results, beside the parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concatenate: Option<PathBuf>,
    /// The directory of the answers of unfinished pages.
    pub journal: PathBuf,
    /// The file of the dead letters. Without `to` they are in the page ledger, and there is no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letters: Option<PathBuf>,
}

fn get() -> String {
    "GET".to_owned()
}

fn concurrency() -> u32 {
    10
}

fn timeout_ms() -> u64 {
    30_000
}

fn attempts() -> u32 {
    5
}

impl CallArgs {
    /// Creates a `GET` for each record. `work` is a directory for the answers of unfinished pages and for dead letters,
    /// which must be on the same machine as the worker, or shared by all of them.
    pub fn new(
        source: impl Into<CallSource>,
        url: impl Into<String>,
        to: impl Into<PathBuf>,
        work: impl Into<PathBuf>,
    ) -> Self {
        let work = work.into();
        Self {
            to: Some(to.into()),
            letters: Some(work.join("failed.jsonl")),
            ..Self::of(source.into(), url.into(), work.join("answers"))
        }
    }

    /// Creates a `GET` for each row of a table, whose answers go into the row: complete it with
    /// [`set`](Self::set). `work` is a directory for the answers of unfinished pages, which must be on the same machine
    /// as the worker, or shared by all of them.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub fn into_table(
        source: CallSource,
        url: impl Into<String>,
        work: impl Into<PathBuf>,
    ) -> Self {
        Self::of(source, url.into(), work.into().join("answers"))
    }

    fn of(source: CallSource, url: String, journal: PathBuf) -> Self {
        Self {
            source,
            url,
            method: get(),
            headers: Vec::new(),
            body: None,
            set: Vec::new(),
            fallback: Vec::new(),
            concurrency: concurrency(),
            timeout_ms: timeout_ms(),
            attempts: attempts(),
            null: String::new(),
            to: None,
            concatenate: None,
            journal,
            letters: None,
        }
    }

    /// Checks that the answers have a place: a directory, or the rows of a table.
    pub(crate) fn check_place(&self, of_table: bool) -> Result<(), InvalidCall> {
        match (&self.to, &self.concatenate) {
            (Some(_), _) => Ok(()),
            (None, Some(_)) => Err(InvalidCall::ConcatenateNothing),
            (None, None) if self.set.is_empty() => Err(InvalidCall::NoPlace),
            (None, None) if !of_table => Err(InvalidCall::SetInFile),
            (None, None) => Ok(()),
        }
    }
}
