//! The errors of imports that cannot work, found before anything is changed.

use crate::{base::error::PageError, sql::LEDGER_TABLES_MISSING};

/// An import that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidImport {
    /// The name of the table is not of the form `table` or `schema.table`.
    #[error("`{given}` is not the name of a table: {reason}; write `table` or `schema.table`")]
    TableName {
        /// The given name.
        given: String,
        /// The reason.
        reason: &'static str,
    },
    /// The database has no such table.
    #[error("there is no table \"{table}\"")]
    NoTable {
        /// The given name.
        table: String,
    },
    /// A column that the table does not have.
    #[error("table \"{table}\" has no column \"{column}\", only: {columns}")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The columns of the table.
        columns: String,
    },
    /// Fields of the file have no column in the table.
    #[error(
        "table \"{table}\" has no columns for these fields of the file: {fields}; name the column of \
         each (--map FIELD=COLUMN, `ImportArgs::map`), or the columns to fill (--columns, `ImportArgs::columns`)"
    )]
    NoPlace {
        /// The table.
        table: String,
        /// The fields.
        fields: String,
    },
    /// A column has no field.
    #[error("the file has no field for column \"{column}\", only: {fields}")]
    NoField {
        /// The column.
        column: String,
        /// The fields of the file.
        fields: String,
    },
    /// The file has no such field.
    #[error("the file has no field \"{field}\", only: {fields}")]
    UnknownField {
        /// The field.
        field: String,
        /// The fields of the file.
        fields: String,
    },
    /// Two fields go to one column, or have the same name.
    #[error("column \"{column}\" would be filled twice")]
    Twice {
        /// The column.
        column: String,
    },
    /// The database computes the column.
    #[error("column \"{column}\" is computed by the database and cannot be filled")]
    Generated {
        /// The column.
        column: String,
    },
    /// The encoding of bytes in the file is unknown.
    #[error(
        "column \"{column}\" holds bytes ({type_name}), and nothing says how the file encodes them; use \
         --bytes hex, base64 or text (the text itself, in UTF-8), or keep the manifest of the export beside the file"
    )]
    Bytes {
        /// The column.
        column: String,
        /// The type of the column.
        type_name: String,
    },
    /// The columns of the file have no names.
    #[error("the file has no header, so its columns have no names; name them")]
    NoNames,
    /// The file is empty, so it names no fields.
    #[error("the file has no header and no records")]
    Empty,
    /// A JSON Lines file without a readable line, so that its fields are unknown.
    #[error("no line of the file can be read; the first: {message}")]
    NothingReadable {
        /// The problem with the first line.
        message: String,
    },
    /// A JSON Lines file without any field.
    #[error("no line of the file has a field")]
    NoFields,
    /// An update needs a key.
    #[error(
        "the key of an update has column \"{column}\", which is not filled; filled are: {columns}"
    )]
    KeyNotFilled {
        /// The column.
        column: String,
        /// The columns that are filled.
        columns: String,
    },
    /// The table cannot roll back: records that a failed page has written remain, and its next attempt writes them
    /// again.
    #[error(
        "table \"{table}\" has the engine {engine}, which has no transactions: rows of a failed page would remain there, \
         and its next attempt would write them again; convert it (ALTER TABLE .. ENGINE = InnoDB), or \
         update by a unique key (on conflict) and leave out once per page"
    )]
    NoTransactions {
        /// The table.
        table: String,
        /// The engine of the table.
        engine: String,
    },
    /// The tables of the page ledger are missing.
    #[error(
        "once per page needs the tables of the page ledger in the database, and they are missing"
    )]
    LedgerTablesMissing,
    /// The table does not support the treatment of conflicts.
    #[error("the database does not accept this treatment of conflicts: {message}; {remedy}")]
    OnConflict {
        /// The message of the database.
        message: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// An update names no key.
    #[error("an update on conflict needs the columns of a unique key")]
    NoKey,
}

impl InvalidImport {
    /// Returns the error that refuses a batch.
    pub(in crate::sql) fn into_page_error(self) -> PageError {
        let error_type = match self {
            Self::LedgerTablesMissing => LEDGER_TABLES_MISSING,
            _ => "InvalidImport",
        };
        PageError::non_retryable(error_type, self)
    }
}
