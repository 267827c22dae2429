//! The columns of a table.

use crate::cell::Encoding;

/// A column of an inspected table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type, as the database writes it.
    pub type_name: String,
    /// True if the column may hold NULL.
    pub nullable: bool,
    /// True if the database computes the column from others, so that it cannot be written.
    pub generated: bool,
    /// The form of the values in a file, and in the result of `records`.
    pub(crate) encoding: Encoding,
    /// The expression that reads the column in that form.
    pub(super) read: String,
}

/// The type of the values of a key column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyForm {
    /// Read and bound as 64-bit integers.
    Int,
    /// Read and bound as texts.
    Text,
    /// SQLite only: bytes, as hexadecimal digits in the key.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(dead_code, reason = "only SQLite needs it")
    )]
    Blob,
    /// SQLite only: each value is an integer or a text.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(dead_code, reason = "only SQLite does that")
    )]
    IntOrText,
}

/// A column of the key, as it stands in statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    pub name: String,
    /// The quoted name, for conditions.
    pub quoted: String,
    /// The expression that reads the column.
    pub read: String,
    /// The text before and after a placeholder.
    pub bind: (String, String),
    pub form: KeyForm,
}
