//! The columns of a table.

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
    /// How `records` reads it.
    pub(super) json: JsonForm,
}

/// How the value of a column becomes JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JsonForm {
    /// The database writes JSON.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "mysql")),
        allow(dead_code, reason = "SQLite has no columns of JSON")
    )]
    Json,
    /// A number that is exact in JSON, written by the database as a text.
    #[cfg_attr(
        not(feature = "mysql"),
        allow(dead_code, reason = "only MySQL needs it")
    )]
    Number,
    /// A text.
    Text,
    /// Each value has a type of its own.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(dead_code, reason = "only SQLite does that")
    )]
    Dynamic,
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
