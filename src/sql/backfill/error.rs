//! The errors of backfills that cannot work, found before anything is changed.

use crate::{
    base::{
        error::{PageError, truncate},
        text::exactly,
    },
    sql::{LEDGER_TABLES_MISSING, syntax::SyntaxError},
};

/// The longest part of a statement that an error shows, in characters.
const MAX_SHOWN: usize = 400;

/// A backfill that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBackfill {
    /// The backfill has no work.
    #[error("there is nothing to do; give columns to set, or statements")]
    Nothing,
    /// The backfill has two kinds of work.
    #[error("there are both columns to set and statements; give only one of them")]
    SetAndStatements,
    /// An assignment is not of the form `column = expression`.
    #[error(
        "\"{}\" is not an assignment: {why}; write it as: column = expression",
        truncate(given, MAX_SHOWN)
    )]
    Assignment {
        /// The given assignment.
        given: String,
        /// The problem.
        why: String,
    },
    /// A column is set twice.
    #[error("column \"{column}\" is set twice")]
    SetTwice {
        /// The column.
        column: String,
    },
    /// A column that the table does not have.
    #[error("table {table} has no column \"{column}\", only: {columns}")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The columns of the table.
        columns: String,
    },
    /// The column is part of the key. A page must find its rows again after it was processed.
    #[error(
        "column \"{column}\" is part of the key {key}; if a key changes, rows can be missed or changed twice"
    )]
    KeyColumn {
        /// The column.
        column: String,
        /// The key.
        key: String,
    },
    /// The database computes the column.
    #[error("column \"{column}\" is computed by the database and cannot be set")]
    Generated {
        /// The column.
        column: String,
    },
    /// The database computes the key, perhaps from a column that is set. A page must find its rows again after it was
    /// processed.
    #[error(
        "key column \"{key}\" is computed by the database, perhaps from a column that is set; if a key \
         changes, rows can be missed or changed twice, so choose another key"
    )]
    GeneratedKey {
        /// The key column.
        key: String,
    },
    /// A text cannot be read as SQL.
    #[error("{what} cannot be read: {source}")]
    Syntax {
        /// The text.
        what: String,
        /// The problem.
        source: SyntaxError,
    },
    /// A statement that would change the whole table for every page.
    #[error(
        "statement {number} does not say which rows are the page's: it needs {{range}}, as in DELETE FROM t WHERE {{range}}"
    )]
    NoRange {
        /// The number of the statement, from 1.
        number: usize,
    },
    /// Braces hold something other than `range`.
    #[error(
        "{what} has {given}, which means nothing here; {{range}} is the condition for the rows of a page"
    )]
    Braces {
        /// The text.
        what: String,
        /// The given braces.
        given: String,
    },
    /// A placeholder for which there is no value.
    #[error(
        "{what} has the placeholder {given}, but there are no values to bind; write the value itself"
    )]
    Placeholder {
        /// The text.
        what: String,
        /// The placeholder.
        given: String,
    },
    /// The statement is not one that changes rows.
    #[error("statement {number} begins with {given}; allowed are {allowed}")]
    NotAllowed {
        /// The number of the statement, from 1.
        number: usize,
        /// The first word of the statement.
        given: String,
        /// The allowed first words.
        allowed: String,
    },
    /// One text of the arguments holds several statements.
    #[error("statement {number} has a semicolon in it; give each statement by itself")]
    Semicolon {
        /// The number of the statement, from 1.
        number: usize,
    },
    /// A timeout is 0, or longer than any database accepts.
    #[error("{what} is {}; allowed are 1ms to 10m", exactly(*given))]
    Timeout {
        /// The timeout.
        what: &'static str,
        /// The given value.
        given: std::time::Duration,
    },
    /// The database refuses a statement.
    #[error(
        "{system} refuses the statement for a page: {message}; the statement is: {}",
        truncate(statement, MAX_SHOWN)
    )]
    Refused {
        /// The database system.
        system: &'static str,
        /// The message of the database.
        message: String,
        /// The statement.
        statement: String,
    },
    /// The table cannot roll back: rows that a failed page has written remain, and its next attempt changes them
    /// again.
    #[error(
        "table \"{table}\" has the engine {engine}, which has no transactions: changes of a failed page would remain \
         there, and its next attempt would change the rows again; convert it (ALTER TABLE .. ENGINE = InnoDB){}",
        if *repeatable { ", or leave out once per page, which this work does not need" } else { "" }
    )]
    NoTransactions {
        /// The table.
        table: String,
        /// The engine of the table.
        engine: String,
        /// True if the work may be repeated for a row.
        repeatable: bool,
    },
    /// The tables of the page ledger are missing.
    #[error(
        "once per page needs the tables of the page ledger in the database, and they are missing"
    )]
    LedgerTablesMissing,
}

impl InvalidBackfill {
    /// Returns the error that refuses a batch.
    pub(in crate::sql) fn into_page_error(self) -> PageError {
        let error_type = match self {
            Self::LedgerTablesMissing => LEDGER_TABLES_MISSING,
            _ => "InvalidBackfill",
        };
        PageError::non_retryable(error_type, self)
    }
}
