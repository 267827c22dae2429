//! What is wrong with an import, found before anything is changed.

use crate::base::error::PageError;
use crate::sql::ledger::NEEDS_TABLES;

/// An import that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidImport {
    /// Not of the form `table` or `schema.table`.
    #[error("{given:?} is no name of a table; write table or schema.table")]
    TableName {
        /// What was given.
        given: String,
    },
    /// The database has no such table.
    #[error("there is no table {table:?}")]
    NoTable {
        /// What was given.
        table: String,
    },
    /// A column that the table does not have.
    #[error("table {table:?} has no column {column:?}, only: {columns}")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Those that it has.
        columns: String,
    },
    /// Fields of the file have no place in the table.
    #[error(
        "table {table:?} has no columns for these fields of the file: {fields}; name the column of \
         each (--map FIELD=COLUMN, `ImportArgs::map`), or the columns to fill (--columns, `ImportArgs::columns`)"
    )]
    NoPlace {
        /// The table.
        table: String,
        /// The fields.
        fields: String,
    },
    /// Columns that no field goes to.
    #[error("the file has no field for column {column:?}, only: {fields}")]
    NoField {
        /// The column.
        column: String,
        /// The fields that there are.
        fields: String,
    },
    /// A field that the file does not have.
    #[error("the file has no field {field:?}, only: {fields}")]
    UnknownField {
        /// The field.
        field: String,
        /// The fields that there are.
        fields: String,
    },
    /// Two fields go to one column, or two have one name.
    #[error("column {column:?} would be filled twice")]
    Twice {
        /// The column.
        column: String,
    },
    /// The database computes it.
    #[error("column {column:?} is computed by the database and cannot be filled")]
    Generated {
        /// The column.
        column: String,
    },
    /// Nothing says how the file writes bytes.
    #[error(
        "column {column:?} holds bytes ({type_name}), and nothing says how the file writes them; say \
         --bytes hex, base64 or text (the text itself, in UTF-8), or keep the manifest of the export beside the file"
    )]
    Bytes {
        /// The column.
        column: String,
        /// Its type.
        type_name: String,
    },
    /// There is nothing that names the columns of the file.
    #[error("the file has no header, and nothing says what its columns are; name them")]
    NoNames,
    /// The file is empty, so nothing says which fields it has.
    #[error("the file has no header and no records")]
    Empty,
    /// No line of a JSON Lines file can be read, so nothing says which fields it has.
    #[error("no line of the file can be read; the first: {message}")]
    NothingReadable {
        /// The fault of the first one.
        message: String,
    },
    /// No line of a JSON Lines file has a field.
    #[error("no line of the file has a field")]
    NoFields,
    /// An update needs to know which row.
    #[error(
        "the key of an update has column {column:?}, which is not filled; filled are: {columns}"
    )]
    KeyNotFilled {
        /// The column.
        column: String,
        /// Those that are filled.
        columns: String,
    },
    /// A page that fails leaves records there that its next attempt writes again.
    #[error(
        "table {table:?} has the engine {engine}, which has no transactions: what a page wrote there would stay when \
         the page fails, and be written again by its next attempt; convert it (ALTER TABLE .. ENGINE = InnoDB), or \
         update by a unique key (on conflict) and leave out once per page"
    )]
    NoTransactions {
        /// The table.
        table: String,
        /// Its engine.
        engine: String,
    },
    /// The tables of the page ledger are not there.
    #[error("{}", NEEDS_TABLES)]
    LedgerTablesMissing,
    /// What to do on a conflict cannot be done with this table.
    #[error("the database refuses what is to be done on conflict: {message}; {remedy}")]
    OnConflict {
        /// What the database says.
        message: String,
        /// The way out.
        remedy: &'static str,
    },
    /// An update without a key.
    #[error("an update on conflict needs the columns of a unique key")]
    NoKey,
}

impl InvalidImport {
    /// As the error that refuses a batch.
    pub(super) fn into_page_error(self) -> PageError {
        PageError::non_retryable("InvalidImport", self)
    }
}
