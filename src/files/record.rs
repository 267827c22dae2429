//! One record of a file, as a page has it.

use std::ops::Range;

use serde::Serialize;

use super::{BadRecord, FilePosition};
use crate::processor::PageReport;

/// A record of a file: what was read, or why it could not be.
///
/// A record that cannot be read is an item like the others, so that it is counted, can be given up by itself
/// and has a place where it is found again.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRecord<T> {
    pub(crate) start: u64,
    pub(crate) end: FilePosition,
    pub(crate) content: Result<T, Box<BadRecord>>,
}

/// What is kept of a record in its dead letter.
#[derive(Serialize)]
struct Kept<'a> {
    record: u64,
    bytes: Range<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    text: &'a str,
}

impl<T> FileRecord<T> {
    /// Where the record ends; the cursor of the item.
    pub fn position(&self) -> FilePosition {
        self.end
    }

    /// Its number in the file, from 1; a header is not counted.
    pub fn number(&self) -> u64 {
        self.end.record
    }

    /// Its bytes in the file, the line end included.
    pub fn bytes(&self) -> Range<u64> {
        self.start..self.end.offset
    }

    /// What was read.
    pub fn content(&self) -> Result<&T, &BadRecord> {
        self.content.as_ref().map_err(|bad| &**bad)
    }

    /// What was read.
    pub fn into_content(self) -> Result<T, BadRecord> {
        self.content.map_err(|bad| *bad)
    }

    /// What was read, or `None` for a record that cannot be: that one is given up in `report`, as the item at
    /// `position` of the page. Its dead letter keeps the place in the file and the record's text.
    pub fn or_fail(self, position: usize, report: &mut PageReport) -> Option<T> {
        let bytes = self.bytes();
        match self.content {
            Ok(content) => Some(content),
            Err(bad) => {
                let lines = match bad.lines.as_ref().map(|lines| (lines.start(), lines.end())) {
                    Some((first, last)) if first == last => format!("line {first}, "),
                    Some((first, last)) => format!("lines {first} to {last}, "),
                    None => String::new(),
                };
                let message = format!(
                    "record {} ({lines}bytes {} to {}): {}",
                    self.end.record, bytes.start, bytes.end, bad.message
                );
                let kept = Kept {
                    record: self.end.record,
                    bytes,
                    error: bad.detail.as_deref(),
                    text: &bad.text,
                };
                let kept = serde_json::to_string(&kept).unwrap_or_default();
                report.fail_with_record(position, bad.error_type, message, kept);
                None
            }
        }
    }
}
