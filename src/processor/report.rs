//! The report of a page: its items, failures, skips and outputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    base::error::PageError, processor::store::dead_letter::MAX_LETTER_CHARS, progress::ItemCounts,
};

/// What `process` did with the items of a page. Items that are not named were processed.
///
/// ```
/// use temporal_batch::PageReport;
///
/// let emails = ["a@example.org", "", "nobody"];
/// let mut report = PageReport::all_processed();
/// for (position, email) in emails.iter().enumerate() {
///     if email.is_empty() {
///         report.skip("no address");
///     } else if !email.contains('@') {
///         report.fail(position, "BadEmail", "no @ in it");
///     }
/// }
/// assert_eq!((report.skipped(), report.failed()), (1, 1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct PageReport {
    changed: u64,
    skipped: BTreeMap<String, u64>,
    failures: Vec<ItemFailure>,
    outputs: Vec<Value>,
    not_put_out: Option<String>,
}

/// An item that `process` gave up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ItemFailure {
    pub position: usize,
    pub error_type: String,
    pub message: String,
    pub record: Option<String>,
}

/// Different reasons for skipping that are counted apart.
pub(crate) const MAX_SKIP_REASONS: usize = 10;

const MAX_REASON_CHARS: usize = 60;

const MAX_ERROR_TYPE_CHARS: usize = 60;

/// Under this name, once there are too many.
const OTHER_REASONS: &str = "other reasons";

/// Counts a reason; beyond a number of different ones they are counted together.
pub(crate) fn count_reason(reasons: &mut BTreeMap<String, u64>, reason: &str, items: u64) {
    let known = reasons.contains_key(reason) || reasons.len() + 1 < MAX_SKIP_REASONS;
    let reason = if known { reason } else { OTHER_REASONS };
    *reasons.entry(reason.to_owned()).or_default() += items;
}

impl PageReport {
    /// Every item was processed.
    pub fn all_processed() -> Self {
        Self::default()
    }

    /// Of the processed items, so many were different afterwards; what a database calls rows affected.
    pub fn changed(mut self, items: u64) -> Self {
        self.changed = items;
        self
    }

    /// Counts one item as left alone on purpose. Reasons are counted apart, so they should be few: at most
    /// ten, of 60 characters.
    pub fn skip(&mut self, reason: impl fmt::Display) {
        let reason = crate::base::error::truncate(&reason.to_string(), MAX_REASON_CHARS);
        count_reason(&mut self.skipped, &reason, 1);
    }

    /// Gives one item up, while the page goes on. `position` is its place among the items that `process`
    /// was given, from 0. It becomes a dead letter, where the processor [keeps
    /// them](PageProcessor::dead_letters); otherwise it is counted, and the batch lists the first ones.
    ///
    /// Nothing of the item but its key is kept.
    pub fn fail(
        &mut self,
        position: usize,
        error_type: impl fmt::Display,
        message: impl fmt::Display,
    ) {
        self.failures.push(ItemFailure {
            position,
            error_type: crate::base::error::truncate(&error_type.to_string(), MAX_ERROR_TYPE_CHARS),
            message: crate::base::error::truncate(&message.to_string(), MAX_LETTER_CHARS),
            record: None,
        });
    }

    /// Like [`fail`](Self::fail), and keeps the record, or what should be seen of it, in its dead letter.
    pub fn fail_with_record(
        &mut self,
        position: usize,
        error_type: impl fmt::Display,
        message: impl fmt::Display,
        record: impl Into<String>,
    ) {
        self.fail(position, error_type, message);
        if let Some(failure) = self.failures.last_mut() {
            failure.record = Some(record.into());
        }
    }

    /// Puts a value out, which the [reducer](PageProcessor::reducer) of the processor folds into the result of the batch:
    /// once for each item, or less often with values that stand for many. It counts when the page is finished, exactly
    /// once. Without a reducer nothing becomes of it.
    ///
    /// The page fails when the value cannot be JSON, when the reducer cannot take it (`OutputMismatch`), or when
    /// all values of the page come to more than 6 KiB (`OutputTooLarge`); neither is cured by a retry.
    pub fn output(&mut self, value: impl Serialize) {
        match serde_json::to_value(value) {
            Ok(value) => self.outputs.push(value),
            Err(error) => self.not_put_out = Some(error.to_string()),
        }
    }

    /// Items left alone.
    pub fn skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Items given up.
    pub fn failed(&self) -> u64 {
        self.failures.len() as u64
    }

    /// What became of `items` items, unless the report cannot be about them.
    pub(crate) fn counts(&self, items: usize) -> Result<ItemCounts, PageError> {
        let positions: BTreeSet<_> = self.failures.iter().map(|f| f.position).collect();
        let possible = positions.len() == self.failures.len()
            && positions.last().is_none_or(|last| *last < items);
        let (skipped, failed) = (self.skipped(), self.failed());
        let processed = (items as u64).checked_sub(skipped + failed);
        match processed {
            Some(processed) if possible && self.changed <= processed => Ok(ItemCounts {
                processed,
                changed: self.changed,
                skipped,
                failed,
            }),
            _ => Err(PageError::non_retryable(
                "PageReportMismatch",
                format_args!(
                    "process was given {items} items and reported {skipped} skipped, {} changed and \
                     the failure of those at {positions:?}",
                    self.changed
                ),
            )),
        }
    }

    /// What was put out, in order.
    pub(crate) fn outputs(&self) -> Result<&[Value], PageError> {
        match &self.not_put_out {
            None => Ok(&self.outputs),
            Some(error) => Err(PageError::non_retryable(
                "OutputMismatch",
                format_args!("what was put out does not serialize to JSON: {error}"),
            )),
        }
    }

    pub(crate) fn skip_reasons(&self) -> &BTreeMap<String, u64> {
        &self.skipped
    }

    /// Takes out of the messages what the processor does not want to be seen.
    pub(crate) fn redact(&mut self, redact: impl Fn(String) -> String) {
        for failure in &mut self.failures {
            failure.message = redact(std::mem::take(&mut failure.message));
        }
    }

    pub(crate) fn failures(&self) -> &[ItemFailure] {
        &self.failures
    }
}
