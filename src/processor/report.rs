//! The report of a page: its items, failures, skips and outputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    base::{error::PageError, text::count},
    processor::store::dead_letter::MAX_LETTER_CHARS,
    progress::ItemCounts,
};

/// The result of `process` for the items of a page. Items that are not mentioned were processed.
///
/// ```
/// use temporal_batch::PageReport;
///
/// let emails = ["a@example.org", "", "bob"];
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

/// An item that `process` gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ItemFailure {
    pub position: usize,
    pub error_type: String,
    pub message: String,
    pub record: Option<String>,
}

/// Maximum number of different reasons for skipping that are counted separately.
pub(crate) const MAX_SKIP_REASONS: usize = 10;

const MAX_REASON_CHARS: usize = 60;

const MAX_ERROR_TYPE_CHARS: usize = 60;

/// The reason under which further reasons are counted.
const OTHER_REASONS: &str = "other reasons";

/// Counts a reason. Once there are too many different ones, further reasons are counted together.
pub(crate) fn count_reason(reasons: &mut BTreeMap<String, u64>, reason: &str, items: u64) {
    let known = reasons.contains_key(reason) || reasons.len() + 1 < MAX_SKIP_REASONS;
    let reason = if known { reason } else { OTHER_REASONS };
    *reasons.entry(reason.to_owned()).or_default() += items;
}

impl PageReport {
    /// Creates a report in which every item was processed.
    pub fn all_processed() -> Self {
        Self::default()
    }

    /// Sets how many of the processed items were different afterwards, which a database calls rows affected.
    pub fn changed(mut self, items: u64) -> Self {
        self.changed = items;
        self
    }

    /// Counts one item as deliberately left alone. Reasons are counted separately, so there should be few: at
    /// most ten, of up to 60 characters.
    pub fn skip(&mut self, reason: impl fmt::Display) {
        let reason = crate::base::error::truncate(&reason.to_string(), MAX_REASON_CHARS);
        count_reason(&mut self.skipped, &reason, 1);
    }

    /// Gives up one item while the page continues. `position` is its index, from 0, in the items passed to
    /// `process`. The item becomes a dead letter if the processor [stores them](crate::PageProcessor::dead_letters).
    /// Otherwise it is counted, and the batch lists the first such items.
    ///
    /// Only the key of the item is kept.
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

    /// Gives up one item like [`fail`](Self::fail), and stores the record or a part of it in the dead letter.
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

    /// Outputs a value, which the [reducer](crate::PageProcessor::reducer) of the processor folds into the result of
    /// the batch. Call it once for each item, or less often with values that stand for many. The value counts
    /// exactly once, when the page is finished. Without a reducer it is ignored.
    ///
    /// The page fails if the value does not serialize to JSON or does not suit the reducer (`OutputMismatch`),
    /// or if all values of the page exceed 6 KiB (`OutputTooLarge`). Retries do not cure either.
    pub fn output(&mut self, value: impl Serialize) {
        match serde_json::to_value(value) {
            Ok(value) => self.outputs.push(value),
            Err(error) => self.not_put_out = Some(error.to_string()),
        }
    }

    /// Returns the number of skipped items.
    pub fn skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Returns the number of items that were given up.
    pub fn failed(&self) -> u64 {
        self.failures.len() as u64
    }

    /// Counts the outcomes of `items` items, or fails if the report does not fit that number.
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
            _ => Err(PageError::environment(format_args!(
                "process was given {} and reported {skipped} skipped, {} changed and \
                 the failure of those at {positions:?}",
                count(items as u64, "item"),
                self.changed
            ))
            .with_type("PageReportMismatch")),
        }
    }

    /// Returns the values that were output, in order.
    pub(crate) fn outputs(&self) -> Result<&[Value], PageError> {
        match &self.not_put_out {
            None => Ok(&self.outputs),
            Some(error) => Err(PageError::non_retryable(
                "OutputMismatch",
                format_args!("the output does not serialize to JSON: {error}"),
            )),
        }
    }

    pub(crate) fn skip_reasons(&self) -> &BTreeMap<String, u64> {
        &self.skipped
    }

    /// Redacts the messages of failed items with the processor's function.
    pub(crate) fn redact(&mut self, redact: impl Fn(String) -> String) {
        for failure in &mut self.failures {
            failure.message = redact(std::mem::take(&mut failure.message));
        }
    }

    pub(crate) fn failures(&self) -> &[ItemFailure] {
        &self.failures
    }
}
