//! A record that cannot be read.

use std::ops::{Range, RangeInclusive};

use crate::files::source::record::KeptRecord;

/// The number of bytes of a bad record that are kept.
pub(crate) const MAX_KEPT: usize = 4 * 1024;

/// A record that cannot be read, in a file whose other records can.
///
/// | `error_type` | the record |
/// |---|---|
/// | `WrongColumnCount` | has more or fewer columns than the header, or than the first record if there is no header |
/// | `InvalidUtf8` | is not UTF-8 |
/// | `UnclosedQuote` | has a quote that is never closed: everything to the end of the file is this record |
/// | `StrayQuote` | has a quote inside of a field that does not begin with one, or text after a closing quote |
/// | `RecordTooLarge` | is longer than allowed |
/// | `InvalidJson` | is not JSON |
/// | `RecordNotReadable` | is not what the processor expects |
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRecord {
    pub(crate) error_type: &'static str,
    /// The message without any part of the record, since it goes to histories and logs.
    pub(crate) message: String,
    /// The full error, for those who may see the record.
    pub(crate) detail: Option<String>,
    /// The beginning of the record, as it is in the file.
    pub(crate) text: String,
    /// The lines of the record in the file.
    pub(crate) lines: Option<RangeInclusive<u64>>,
    /// The column at fault, if one is known.
    pub(crate) fault: Option<Box<Fault>>,
}

/// A column of a record, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    column: String,
    /// The value of the column.
    value: Option<String>,
}

impl BadRecord {
    pub(crate) fn new(error_type: &'static str, message: impl Into<String>) -> Self {
        Self {
            error_type,
            message: message.into(),
            detail: None,
            text: String::new(),
            lines: None,
            fault: None,
        }
    }

    /// Creates a record that is not readable. `detail` may show a part of the record.
    pub(crate) fn not_readable(detail: String, place: Option<String>) -> Self {
        let what = safe_part(&detail).unwrap_or("a value is not what is expected");
        let message = match place {
            Some(place) => format!("{place}: {what}"),
            None => what.to_owned(),
        };
        Self {
            detail: Some(detail),
            ..Self::new("RecordNotReadable", message)
        }
    }

    /// Sets the column at fault, and its value.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn in_column(mut self, column: &str, value: Option<String>) -> Self {
        let column = column.to_owned();
        self.fault = Some(Box::new(Fault { column, value }));
        self
    }

    /// Renames the column at fault, with a message that uses the new name.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn renamed(mut self, column: &str, message: String) -> Self {
        self.message = message;
        if let Some(fault) = &mut self.fault {
            column.clone_into(&mut fault.column);
        }
        self
    }

    /// Returns the part of the record that its dead letter keeps.
    pub(crate) fn kept(self, record: u64, bytes: Range<u64>) -> KeptRecord {
        let (column, value) = match self.fault.map(|fault| *fault) {
            Some(Fault { column, value }) => (Some(column), value),
            None => (None, None),
        };
        KeptRecord {
            file: None,
            record,
            lines: self.lines,
            bytes,
            column,
            value,
            error: self.detail,
            text: Some(self.text),
        }
    }

    /// Returns the type of the error.
    pub fn error_type(&self) -> &str {
        self.error_type
    }

    /// Returns the message, without any part of the record.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the lines of the record, counted from 1.
    pub fn lines(&self) -> Option<RangeInclusive<u64>> {
        self.lines.clone()
    }

    /// Returns the column at fault, if one is known.
    pub fn column(&self) -> Option<&str> {
        self.fault.as_ref().map(|fault| fault.column.as_str())
    }

    /// Returns the first 4 KiB of the record, as it is in the file; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Returns the part of a serde error that names only a field, for a missing or repeated field.
fn safe_part(detail: &str) -> Option<&str> {
    let from = ["missing field `", "duplicate field `"]
        .iter()
        .find_map(|known| detail.find(known))?;
    let part = &detail[from..];
    let name = part.find('`')? + 1;
    let end = name + part[name..].find('`')? + 1;
    Some(&part[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_a_missing_field_and_never_a_value() {
        let missing = "CSV deserialize error: record 0: missing field `email`";
        let bad = BadRecord::not_readable(missing.to_owned(), None);
        assert_eq!(bad.message(), "missing field `email`");
        let value = "invalid type: string \"secret\", expected u64";
        let bad = BadRecord::not_readable(value.to_owned(), Some("column `age`".to_owned()));
        assert_eq!(
            bad.message(),
            "column `age`: a value is not what is expected"
        );
    }
}
