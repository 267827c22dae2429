//! A refused record: its place in the file, and the columns at fault.

use std::ops::Range;

use super::{
    args::{Assigned, ImportFile},
    row::{ImportRow, shown},
    write::Refused,
};
use crate::{
    base::error::{PageError, truncate},
    cell::Cell,
    files::{FileRecord, KeptRecord, SourceFile, shown_lines},
    processor::{report::PageReport, store::dead_letter::MAX_LETTER_CHARS},
};

/// Describes refused records. The message names the file, the line and the column; it is stored in histories and
/// logged. The value and the record are only in the dead letter.
pub(super) struct Rejecting<'a> {
    pub file: &'a SourceFile,
    /// True if values stay out of dead letters, too.
    pub masked: bool,
}

/// The only record of a page, for the description of its refusal.
pub(super) struct Alone {
    bytes: Range<u64>,
    number: u64,
    row: ImportRow,
}

impl Alone {
    /// Returns the record of a page with only one record.
    pub fn of(records: &[FileRecord<ImportRow>]) -> Option<Self> {
        let [record] = records else { return None };
        Some(Self {
            bytes: record.bytes(),
            number: record.number(),
            row: record.content().ok()?.clone(),
        })
    }
}

impl ImportFile {
    pub(crate) fn source(&self) -> &SourceFile {
        match self {
            Self::Csv(source) => &source.file,
            Self::JsonLines(source) => &source.file,
        }
    }
}

impl Rejecting<'_> {
    /// Gives up a record that cannot be read, or returns its content.
    pub fn row(
        &self,
        position: usize,
        record: FileRecord<ImportRow>,
        report: &mut PageReport,
    ) -> Option<ImportRow> {
        let (number, bytes) = (record.number(), record.bytes());
        let bad = match record.into_content() {
            Ok(row) => return Some(row),
            Err(bad) => bad,
        };
        let error_type = bad.error_type().to_owned();
        let what = bad.message().to_owned();
        let kept = bad.kept(number, bytes);
        let message = format!("{}: {what}", self.place(&kept));
        report.fail_with_record(position, error_type, message, self.kept(kept));
        None
    }

    /// Returns the refusal of a page, with the place of its record if it has only one.
    pub async fn refused(
        &self,
        refused: Refused,
        plan: &[Assigned],
        alone: Option<Alone>,
    ) -> PageError {
        let Refused { error, columns } = refused;
        let Some(Alone { bytes, number, row }) = alone else {
            return error;
        };
        let (file, of) = (self.file.clone(), bytes.clone());
        let read = tokio::task::spawn_blocking(move || file.record_at(&of)).await;
        // The error itself matters more than the place of the record.
        let (lines, text) = match read {
            Ok(Ok((lines, text))) => (Some(lines), Some(text)),
            Ok(Err(_)) | Err(_) => (None, None),
        };
        let value = |column: &String| {
            let place = plan
                .iter()
                .position(|assigned| assigned.column == *column)?;
            row.0.get(place)
        };
        let values: Vec<_> = columns.iter().filter_map(value).collect();
        let value = match values[..] {
            // The text `NULL` would be a value.
            [] | [Cell::Null] => None,
            _ => Some(
                values
                    .iter()
                    .copied()
                    .map(shown)
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        };
        let kept = KeptRecord {
            record: number,
            lines,
            bytes,
            column: (!columns.is_empty()).then(|| columns.join(", ")),
            value,
            text,
            ..KeptRecord::default()
        };
        let column = match columns.len() {
            0 => String::new(),
            1 => format!(", column `{}`", columns[0]),
            _ => format!(", columns `{}`", columns.join("`, `")),
        };
        let place = format!("{}{column}", self.place(&kept));
        let error = error.redacted(|what| format!("{place}: {what}"));
        error.with_record(self.kept(kept))
    }

    fn place(&self, kept: &KeptRecord) -> String {
        let lines = kept.lines.as_ref().map(shown_lines);
        let lines = lines.map_or_else(String::new, |lines| format!("{lines}, "));
        format!("{}, {lines}record {}", self.file.name(), kept.record)
    }

    fn kept(&self, kept: KeptRecord) -> String {
        let mut kept = KeptRecord {
            file: Some(self.file.name()),
            ..kept
        };
        kept.value = kept.value.map(|value| truncate(&value, MAX_LETTER_CHARS));
        if self.masked {
            kept.value = None;
            kept.error = None;
            kept.text = None;
        }
        kept.into_json()
    }
}
