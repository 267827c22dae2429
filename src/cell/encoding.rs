//! The form of a column's values in a file.

use serde::{Deserialize, Serialize};

/// The form of a column's values in the files of an export. [`Manifest`](crate::files::Manifest) holds it for each
/// column, and an import reads the values by it.
///
/// | | in JSON Lines | in CSV |
/// |---|---|---|
/// | `Text` | a string | the text |
/// | `Number` | a number; a string where the value is none in JSON: `"NaN"`, `"-Infinity"` | its text |
/// | `Boolean` | `true`, `false` | the same |
/// | `Json` | embedded, byte for byte | its text |
/// | `Hex` | a string, `"\\x00ff"` | `\x00ff` |
/// | `Stored` | integers without and reals with a fraction or an exponent, texts as strings | numbers and texts |
/// | `StoredText` | the same | the text |
///
/// An object with one field stands for a value that has no plain form: `{"$blob":"00ff"}` for bytes in a column of
/// SQLite, `{"$text_hex":"ff"}` for a text of SQLite that is not UTF-8, `{"$number":"Infinity"}`, `{"$text":"1"}`
/// for a text that looks like something else, and `{"$json":"null"}` for the JSON null, for JSON with line breaks or
/// white space around it, and for JSON that looks like one of these objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Encoding {
    /// The text that the database writes and reads.
    Text,
    /// A number.
    Number,
    /// A boolean.
    Boolean,
    /// JSON.
    Json,
    /// Bytes as hexadecimal digits.
    Hex,
    /// A column whose values have a storage class each, as in SQLite.
    Stored,
    /// Like `Stored`, in a column that turns numbers into texts.
    StoredText,
}

/// The form of one column's values in the files of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EncodedColumn {
    /// The name of the column.
    pub name: String,
    /// The form of the values.
    pub encoding: Encoding,
    /// True if the database computes the column, so that an import skips it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
}

impl EncodedColumn {
    #[allow(dead_code, reason = "for an export, which needs a database")]
    pub(crate) fn new(name: impl Into<String>, encoding: Encoding, generated: bool) -> Self {
        Self {
            name: name.into(),
            encoding,
            generated,
        }
    }
}
