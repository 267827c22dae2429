//! What is wrong with a backfill, found before anything is changed.

use super::tokens::SyntaxError;
use crate::base::{
    error::{PageError, truncate},
    text::exactly,
};
use crate::sql::ledger::NEEDS_TABLES;

/// Characters of a statement that are shown.
const MAX_SHOWN: usize = 400;

/// A backfill that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBackfill {
    /// Nothing is to be done.
    #[error("there is nothing to do; give columns to set, or statements")]
    Nothing,
    /// Two ways to say what is to be done.
    #[error("there are columns to set and statements; give one of them")]
    SetAndStatements,
    /// Not of the form `column = expression`.
    #[error(
        "{:?} is no assignment: {why}; write it as: column = expression",
        truncate(given, MAX_SHOWN)
    )]
    Assignment {
        /// What was given.
        given: String,
        /// What is wrong.
        why: String,
    },
    /// A column is set twice.
    #[error("column {column:?} is set twice")]
    SetTwice {
        /// The column.
        column: String,
    },
    /// A column that the table does not have.
    #[error("table {table} has no column {column:?}, only: {columns}")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Those that it has.
        columns: String,
    },
    /// A page must find its rows again after it was processed.
    #[error(
        "column {column:?} is part of the key {key}; a key that changes would make rows be missed or changed twice"
    )]
    KeyColumn {
        /// The column.
        column: String,
        /// The key.
        key: String,
    },
    /// The database computes it.
    #[error("column {column:?} is computed by the database and cannot be set")]
    Generated {
        /// The column.
        column: String,
    },
    /// A page must find its rows again after it was processed.
    #[error(
        "key column {key:?} is computed by the database, perhaps from a column that is set; a key that changes would \
         make rows be missed or changed twice, so choose another key"
    )]
    GeneratedKey {
        /// The key column.
        key: String,
    },
    /// A text that cannot be taken apart.
    #[error("{what} cannot be read: {source}")]
    Syntax {
        /// Which text.
        what: String,
        /// What is wrong.
        source: SyntaxError,
    },
    /// A statement that would change the whole table for every page.
    #[error(
        "statement {number} does not say which rows are the page's: it needs {{range}}, as in DELETE FROM t WHERE {{range}}"
    )]
    NoRange {
        /// Which statement, from 1.
        number: usize,
    },
    /// Braces with something else.
    #[error(
        "{what} has {given}, which means nothing here; {{range}} is the condition for the rows of a page"
    )]
    Braces {
        /// Which text.
        what: String,
        /// What was given.
        given: String,
    },
    /// A value that nobody gives.
    #[error(
        "{what} has the placeholder {given}, but there are no values to bind; write the value itself"
    )]
    Placeholder {
        /// Which text.
        what: String,
        /// The placeholder.
        given: String,
    },
    /// It is no statement that changes rows.
    #[error("statement {number} begins with {given}; allowed are {allowed}")]
    NotAllowed {
        /// Which statement, from 1.
        number: usize,
        /// Its first word.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// Several statements in one text of the arguments.
    #[error("statement {number} has a semicolon in it; give each statement by itself")]
    Semicolon {
        /// Which statement, from 1.
        number: usize,
    },
    /// A timeout of nothing, or one that no database takes.
    #[error("{what} is {}; allowed are 1ms to 10m", exactly(*given))]
    Timeout {
        /// Which timeout.
        what: &'static str,
        /// What was given.
        given: std::time::Duration,
    },
    /// The database does not take a statement.
    #[error(
        "{system} refuses the statement for a page: {message}; the statement is: {}",
        truncate(statement, MAX_SHOWN)
    )]
    Refused {
        /// The database system.
        system: &'static str,
        /// What it says.
        message: String,
        /// The statement.
        statement: String,
    },
    /// A page that fails leaves rows there that its next attempt changes again.
    #[error(
        "table {table:?} has the engine {engine}, which has no transactions: what a page changed there would stay \
         when the page fails, and be changed again by its next attempt; convert it (ALTER TABLE .. ENGINE = InnoDB){}",
        if *repeatable { ", or leave out once per page, which this work does not need" } else { "" }
    )]
    NoTransactions {
        /// The table.
        table: String,
        /// Its engine.
        engine: String,
        /// The work may be done several times to a row.
        repeatable: bool,
    },
    /// The tables of the page ledger are not there.
    #[error("{}", NEEDS_TABLES)]
    LedgerTablesMissing,
}

impl InvalidBackfill {
    /// As the error that refuses a batch.
    pub(super) fn into_page_error(self) -> PageError {
        PageError::non_retryable("InvalidBackfill", self)
    }
}
