//! The format of a CSV file.

use serde::{Deserialize, Serialize};

/// The source of the column names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Header {
    /// The first record, which is not part of the data.
    #[default]
    FirstRecord,
    /// Absent names; the first record is data.
    None,
    /// The given names; the first record is data.
    Names(Vec<String>),
}

/// The format of a CSV file.
///
/// Records end with LF, CR LF or CR. Empty lines are skipped. A quoted field may hold line ends, delimiters and
/// quotes. A byte order mark of UTF-8 is skipped.
///
/// | field | default |
/// |---|---|
/// | `header` | the first record |
/// | `delimiter` | `,` |
/// | `quote` | `"`; `None`: quotes are characters like others |
/// | `escape` | none: a quote in a quoted field is doubled |
/// | `lenient_quotes` | no: a record with quotes in odd places is a failed record |
/// | `flexible` | no: a record with another number of columns than the first is a failed record |
/// | `max_record_bytes` | 16 MiB |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CsvFormat {
    /// The source of the column names.
    pub header: Header,
    /// The character between two fields, in ASCII.
    pub delimiter: char,
    /// The character around quoted fields, in ASCII.
    pub quote: Option<char>,
    /// The character before a quote in a quoted field, in place of another quote; in ASCII.
    pub escape: Option<char>,
    /// Accepts quotes anywhere: a quote inside of a field that does not begin with one is an ordinary character, text
    /// after a closing quote belongs to the field, and an unclosed quote ends with the file. Without this, such a
    /// record fails, since its fields are a guess.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lenient_quotes: bool,
    /// Accepts records with different numbers of columns.
    pub flexible: bool,
    /// The longest record, in bytes. A longer one is a failed record.
    pub max_record_bytes: u64,
}

/// The default for the longest record, in bytes.
pub(crate) const MAX_RECORD_BYTES: u64 = 16 * 1024 * 1024;

impl Default for CsvFormat {
    fn default() -> Self {
        Self {
            header: Header::default(),
            delimiter: ',',
            quote: Some('"'),
            escape: None,
            lenient_quotes: false,
            flexible: false,
            max_record_bytes: MAX_RECORD_BYTES,
        }
    }
}

/// A CSV format that no file can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCsvFormat {
    /// A character is not allowed in its role.
    #[error(
        "{role} is {given:?}; allowed is one ASCII character that is not a letter, digit or line end"
    )]
    Character {
        /// The role of the character.
        role: &'static str,
        /// The given character.
        given: char,
    },
    /// Two roles have the same character.
    #[error("{first} and {second} are both {given:?}; they must differ")]
    Same {
        /// One of the roles.
        first: &'static str,
        /// The other role.
        second: &'static str,
        /// The character.
        given: char,
    },
    /// The limit allows no record.
    #[error("max_record_bytes is {given}; allowed is 1 to 1,073,741,824")]
    MaxRecordBytes {
        /// The given limit.
        given: u64,
    },
}

impl CsvFormat {
    /// Checks every field.
    ///
    /// # Errors
    /// The first invalid field, and the allowed values.
    pub fn validate(&self) -> Result<(), InvalidCsvFormat> {
        let parts = [
            ("delimiter", Some(self.delimiter)),
            ("quote", self.quote),
            ("escape", self.escape),
        ];
        let given = || parts.iter().filter_map(|(role, c)| Some((*role, (*c)?)));
        for (position, (role, c)) in given().enumerate() {
            let possible = c.is_ascii() && !c.is_ascii_alphanumeric() && c != '\r' && c != '\n';
            if !possible {
                return Err(InvalidCsvFormat::Character { role, given: c });
            }
            if let Some((first, _)) = given().take(position).find(|(_, other)| *other == c) {
                return Err(InvalidCsvFormat::Same {
                    first,
                    second: role,
                    given: c,
                });
            }
        }
        if !(1..=1 << 30).contains(&self.max_record_bytes) {
            let given = self.max_record_bytes;
            return Err(InvalidCsvFormat::MaxRecordBytes { given });
        }
        Ok(())
    }

    pub(crate) fn parser(&self) -> csv_core::Reader {
        let mut builder = csv_core::ReaderBuilder::new();
        let byte = |c: char| u8::try_from(c).unwrap_or(b',');
        builder.delimiter(byte(self.delimiter));
        match self.quote {
            Some(quote) => builder.quote(byte(quote)),
            None => builder.quoting(false),
        };
        builder.escape(self.escape.map(byte));
        builder.double_quote(self.escape.is_none());
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_cannot_work_are_refused() {
        assert_eq!(CsvFormat::default().validate(), Ok(()));
        let with = |delimiter, quote| CsvFormat {
            delimiter,
            quote,
            ..CsvFormat::default()
        };
        assert_eq!(with('\t', None).validate(), Ok(()));
        for bad in ['é', '\n', 'x'] {
            assert!(with(bad, None).validate().is_err(), "{bad:?}");
        }
        let same = with(';', Some(';')).validate().unwrap_err();
        assert_eq!(
            same.to_string(),
            "delimiter and quote are both ';'; they must differ"
        );
    }

    #[test]
    fn a_format_is_stored_by_what_differs_and_read_with_defaults() {
        let format: CsvFormat = serde_json::from_str(r#"{"delimiter": ";"}"#).unwrap();
        assert_eq!(format.delimiter, ';');
        assert_eq!(format.header, Header::FirstRecord);
        let names = r#"{"header": {"names": ["a", "b"]}}"#;
        let format: CsvFormat = serde_json::from_str(names).unwrap();
        let names = Header::Names(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(format.header, names);
    }
}
