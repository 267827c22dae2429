//! A record of a file, as an item of a page.

use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::{
    files::{BadRecord, FilePosition},
    processor::report::PageReport,
};

/// A record of a file: its content, or the reason why it cannot be read.
///
/// A record that cannot be read is an item like the others, so that it is counted, can fail by itself, and has a
/// position.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRecord<T> {
    pub(crate) start: u64,
    pub(crate) end: FilePosition,
    pub(crate) content: Result<T, Box<BadRecord>>,
}

/// The part of a record that its dead letter keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeptRecord {
    /// The name of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub record: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<RangeInclusive<u64>>,
    pub bytes: Range<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl KeptRecord {
    pub fn into_json(self) -> String {
        serde_json::to_string(&self).unwrap_or_default()
    }
}

/// Shows `line 8`, or `lines 8 to 9`.
pub(crate) fn shown_lines(lines: &RangeInclusive<u64>) -> String {
    match (lines.start(), lines.end()) {
        (first, last) if first == last => format!("line {first}"),
        (first, last) => format!("lines {first} to {last}"),
    }
}

impl<T> FileRecord<T> {
    /// Returns the end of the record, which is the cursor of the item.
    pub fn position(&self) -> FilePosition {
        self.end
    }

    /// Returns the number of the record in the file, from 1; a header is not counted.
    pub fn number(&self) -> u64 {
        self.end.record
    }

    /// Returns the bytes of the record in the file, including the line end.
    pub fn bytes(&self) -> Range<u64> {
        self.start..self.end.offset
    }

    /// Returns the content, by reference.
    pub fn content(&self) -> Result<&T, &BadRecord> {
        self.content.as_ref().map_err(|bad| &**bad)
    }

    /// Returns the content.
    pub fn into_content(self) -> Result<T, BadRecord> {
        self.content.map_err(|bad| *bad)
    }

    /// Returns the content. `None` for a record that cannot be read: it fails in `report`, as the item at `position` of
    /// the page, and its dead letter keeps the place in the file and the record's text.
    pub fn or_fail(self, position: usize, report: &mut PageReport) -> Option<T> {
        let bytes = self.bytes();
        match self.content {
            Ok(content) => Some(content),
            Err(bad) => {
                let lines = bad.lines.as_ref().map(shown_lines);
                let lines = lines.map_or_else(String::new, |lines| format!("{lines}, "));
                let message = format!(
                    "record {} ({lines}bytes {} to {}): {}",
                    self.end.record, bytes.start, bytes.end, bad.message
                );
                let error_type = bad.error_type;
                let kept = bad.kept(self.end.record, bytes).into_json();
                report.fail_with_record(position, error_type, message, kept);
                None
            }
        }
    }
}
