//! The columns of a table.

use crate::cell::Encoding;

/// A column of a table that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as the database writes it.
    pub type_name: String,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// Whether the database computes it from other columns, so that it cannot be written.
    pub generated: bool,
    /// How its values stand in a file, and in what `records` gives.
    pub(crate) encoding: Encoding,
    /// The expression that reads it for that.
    pub(super) read: String,
}

/// What the values of a key column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyForm {
    /// Read and bound as 64-bit integers.
    Int,
    /// Read and bound as texts.
    Text,
    /// Of SQLite: bytes, as hexadecimal digits in the key.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(dead_code, reason = "only SQLite needs it")
    )]
    Blob,
    /// Of SQLite: each value is an integer or a text.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(dead_code, reason = "only SQLite does that")
    )]
    IntOrText,
}

/// A column of the key, and how it stands in statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyColumn {
    pub name: String,
    /// For conditions.
    pub quoted: String,
    /// The expression that reads it.
    pub read: String,
    /// What goes before and after a placeholder.
    pub bind: (String, String),
    pub form: KeyForm,
}
