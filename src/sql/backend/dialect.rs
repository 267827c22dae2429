//! The one trait with everything in which the databases differ.

use std::{path::PathBuf, time::Duration};

use futures::future::BoxFuture;
use sqlx::{Database as SqlxDatabase, Pool, error::DatabaseError};

use super::value::{Statement, Value};
use crate::{
    base::{error::PageError, time::Timestamp},
    cell::{Cell, Encoding},
    page::token::PageToken,
    processor::store::page_ledger::StrideId,
    sql::{
        Database, Key, KeyPart,
        syntax::Syntax,
        table::{KeyColumn, KeyForm},
    },
};

/// The differences between the databases. Statements are written once, with `$1`, which every
/// [`execute`](Self::execute) here understands.
pub(crate) trait Dialect: SqlxDatabase<Connection: 'static> {
    // ---- Statements and rows -----------------------------------------------------------------------------

    /// The rules by which its statements are taken apart.
    const SYNTAX: Syntax;

    /// Returns the pool of a database of this kind.
    fn pool(database: &Database) -> Option<&Pool<Self>>;

    /// Returns the file of the database, for a database that is a single file. A session that writes locks the whole
    /// file.
    fn file(_pool: &Pool<Self>) -> Option<PathBuf> {
        None
    }

    /// Runs a statement and returns the number of rows that it affected.
    fn execute(
        connection: &mut Self::Connection,
        statement: String,
        values: Vec<Value>,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>>;

    /// Runs a statement to its end and returns all its rows.
    fn rows(
        connection: &mut Self::Connection,
        statement: String,
        values: Vec<Value>,
    ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>>;

    /// Runs a statement on a connection of the pool and returns all its rows.
    fn fetch(
        pool: &Pool<Self>,
        statement: impl Into<Statement>,
    ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>> {
        let (statement, values) = statement.into();
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            Self::rows(&mut connection, statement, values).await
        })
    }

    /// Runs a statement and hands its rows to `each` one by one, until `each` returns `false`.
    fn each<'c>(
        connection: &'c mut Self::Connection,
        statement: Statement,
        each: impl FnMut(&Self::Row) -> Result<bool, PageError> + Send + 'c,
    ) -> BoxFuture<'c, Result<(), PageError>>;

    /// Like [`each`](Self::each), for a statement that reads values as texts. Their form does not depend on the
    /// settings of the session.
    fn each_text<'p>(
        pool: &'p Pool<Self>,
        statement: Statement,
        each: impl FnMut(&Self::Row) -> Result<bool, PageError> + Send + 'p,
    ) -> BoxFuture<'p, Result<(), PageError>> {
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            Self::each(&mut connection, statement, each).await
        })
    }

    /// Runs statements that take no values.
    fn script(
        connection: &mut Self::Connection,
        statements: String,
    ) -> BoxFuture<'_, Result<(), sqlx::Error>>;

    fn text(row: &Self::Row, column: usize) -> Result<Option<String>, sqlx::Error>;
    fn flag(row: &Self::Row, column: usize) -> Result<bool, sqlx::Error>;
    fn optional_number(row: &Self::Row, column: usize) -> Result<Option<i64>, sqlx::Error>;

    fn number(row: &Self::Row, column: usize) -> Result<i64, sqlx::Error> {
        Self::optional_number(row, column)?.ok_or_else(|| sqlx::Error::ColumnDecode {
            index: column.to_string(),
            source: Box::new(sqlx::error::UnexpectedNullError),
        })
    }

    /// Returns the value of a column that was read by [`Column::read`](crate::sql::Column).
    fn cell(row: &Self::Row, at: usize, encoding: Encoding) -> Result<Cell, sqlx::Error>;

    /// Returns the value of a key column.
    fn key_part(row: &Self::Row, at: usize, column: &KeyColumn) -> Result<KeyPart, PageError> {
        let part = match column.form {
            KeyForm::Int => Self::optional_number(row, at)?.map(KeyPart::Int),
            KeyForm::Text | KeyForm::Blob | KeyForm::IntOrText => {
                Self::text(row, at)?.map(KeyPart::Text)
            }
        };
        part.ok_or_else(|| null_in_key(column))
    }

    /// Returns the key of a row, whose first column is number `first` of the result.
    fn key(row: &Self::Row, first: usize, columns: &[KeyColumn]) -> Result<Key, PageError> {
        let parts = columns.iter().enumerate();
        let parts: Result<Vec<_>, _> = parts
            .map(|(number, column)| Self::key_part(row, first + number, column))
            .collect();
        Ok(Key::new(parts?))
    }

    // ---- Plans, transactions and limits ------------------------------------------------------------------

    /// The words in front of a statement that ask for its plan.
    const EXPLAIN: &'static str;

    /// Returns a step of the plan, for people.
    fn plan_line(row: &Self::Row) -> Option<String>;

    /// Begins a transaction that will write, in one round trip. If the database supports that, it ends the transaction
    /// once its owner has been silent for `idle_timeout`.
    fn begin(idle_timeout: Duration) -> String;

    /// Fails if the transaction has been ended, or can only be rolled back, in cases where a commit would not fail.
    const IN_TRANSACTION: &'static str;

    /// Checks the constraints that the database would otherwise check in the commit.
    const CHECK_DEFERRED: Option<&'static str> = None;

    /// Fixes the form in which values are read as texts, until the transaction ends.
    const TEXT_FORMS: Option<&'static str> = None;

    /// Limits the wait of the statement that begins the transaction, where that statement takes the lock. The
    /// connection keeps the limit; the pool of [`Database::connect`] undoes it when the connection is taken again.
    fn limit_beginning(_timeouts: Timeouts) -> Option<String> {
        None
    }

    /// Limits the statements that follow in the transaction.
    fn limit(timeouts: Timeouts) -> Option<String>;

    /// True if [`limit`](Self::limit) can be part of the statement that begins the transaction, which saves a
    /// round trip, and ends with the transaction.
    const LIMIT_AT_BEGIN: bool = false;

    /// Undoes [`limit`](Self::limit) before the connection serves other statements.
    fn unlimit() -> Option<String> {
        None
    }

    /// Asks how many bytes a statement may have with its values, and names the setting, where there is such a limit.
    const MESSAGE_LIMIT: Option<(&'static str, &'static str)> = None;

    // ---- Locks and rows that others touch ----------------------------------------------------------------

    /// Asks for the sessions whose locks on the table `$1` block sessions like the one that asks, as far as its
    /// account may see them: the session, its state and age, and the statement that it runs or ran last.
    const BLOCKERS: Option<&'static str> = None;

    /// Asks for the number of the own session, and, in another session, whether the session `$1` waits for a lock:
    /// a text that names the session that has the lock, or no row.
    const WAITS: Option<(&'static str, &'static str)>;

    /// A condition that holds for a row that the transaction has not written, where the database can tell.
    const UNTOUCHED: Option<&'static str> = None;

    // ---- The tables of the page ledger -------------------------------------------------------------------

    /// The type of a text of at most 255 characters that is compared and sorted by its bytes.
    const KEY_TEXT: &'static str;

    /// The type of a text of any length.
    const TEXT: &'static str = "TEXT";

    /// The operator that compares two values of which both may be NULL.
    const SAME_AS: &'static str = "IS NOT DISTINCT FROM";

    /// True if an INSERT can return its row.
    const RETURNING: bool = true;

    /// Keeps two `apply_schema` from running at the same time; runs in its transaction.
    const LOCK_SCHEMA: Option<&'static str>;

    /// Creates a table with an index, where they are missing.
    fn create_table(table: &str, columns: &str, index: Option<Index<'_>>) -> String {
        let index = index.map_or_else(String::new, |Index { name, columns }| {
            format!("CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns});\n")
        });
        format!("CREATE TABLE IF NOT EXISTS {table} (\n{columns}\n);\n{index}")
    }

    /// Returns the words between the values of an INSERT and the assignments that update a row with the same primary
    /// key.
    fn or_update(key: &str) -> String {
        format!("ON CONFLICT ({key}) DO UPDATE SET")
    }

    /// Returns the value that the INSERT has for a column, in the assignments after [`or_update`](Self::or_update).
    fn given(column: &str) -> String {
        format!("excluded.{column}")
    }

    /// Sets the end of a stride that has none and inserts the strides that follow. The first statement affects
    /// one row, or none if the stride has an end or another fence; the others run only if it affected one, in
    /// its transaction.
    fn cut(strides: &str, cut: &Cut<'_>) -> Vec<Statement>;

    /// Returns whether the error says that a table of the ledger is missing.
    fn is_missing_table(error: &dyn DatabaseError) -> bool;
}

/// The longest time of the statements of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// The limit for one statement.
    pub statement: Duration,
    /// The limit for one wait for a lock.
    pub lock: Duration,
}

/// The ends of a stride and of those after it.
pub(crate) struct Cut<'a> {
    pub stride: &'a StrideId,
    pub fence: i64,
    pub ends: &'a [PageToken],
    pub now: Timestamp,
}

impl Cut<'_> {
    /// Returns the batch run, the stride, the fence, the ends as a JSON array, and the time.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub fn values(&self) -> Vec<Value> {
        let ends = self.ends.iter().map(PageToken::as_str);
        let ends = serde_json::Value::from_iter(ends).to_string();
        vec![
            self.stride.batch_run.as_str().into(),
            self.stride.stride.into(),
            self.fence.into(),
            ends.as_str().into(),
            self.now.into(),
        ]
    }
}

/// An index of a table of the ledger.
pub(crate) struct Index<'a> {
    pub name: &'a str,
    pub columns: &'a str,
}

pub(super) fn null_in_key(column: &KeyColumn) -> PageError {
    PageError::non_retryable(
        "KeyIsNull",
        format_args!(
            "a row has NULL in key column `{}`, so no page can begin or end at it",
            column.name
        ),
    )
}

/// Returns the value of a column that the database wrote as a text.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) fn cell_of(text: Option<String>, encoding: Encoding) -> Cell {
    match (text, encoding) {
        (None, _) => Cell::Null,
        (Some(text), Encoding::Number) => Cell::Number(text),
        (Some(text), Encoding::Boolean) => Cell::Flag(text == "true"),
        (Some(text), Encoding::Json) => Cell::Json(text),
        (Some(text), _) => Cell::Text(text),
    }
}

/// Members of [`Dialect`] that have the same text for every database. As default methods they would need all the
/// bounds of `sqlx` on the trait.
macro_rules! through_sqlx {
    ($variant:ident) => {
        fn pool(database: &crate::sql::Database) -> Option<&sqlx::Pool<Self>> {
            match database {
                crate::sql::Database::$variant(pool) => Some(pool),
                #[allow(unreachable_patterns, reason = "where it is the only database")]
                _ => None,
            }
        }

        fn each<'c>(
            connection: &'c mut Self::Connection,
            (statement, values): Statement,
            mut each: impl FnMut(&Self::Row) -> Result<bool, PageError> + Send + 'c,
        ) -> BoxFuture<'c, Result<(), PageError>> {
            Box::pin(async move {
                let mut rows = bound::<Self>(statement, values).fetch(connection);
                while let Some(row) = futures::TryStreamExt::try_next(&mut rows).await? {
                    if !each(&row)? {
                        break;
                    }
                }
                Ok(())
            })
        }

        fn script(
            connection: &mut Self::Connection,
            statements: String,
        ) -> BoxFuture<'_, Result<(), sqlx::Error>> {
            let script = sqlx::raw_sql(sqlx::AssertSqlSafe(statements));
            Box::pin(async move { script.execute(connection).await.map(|_| ()) })
        }

        fn text(row: &Self::Row, column: usize) -> Result<Option<String>, sqlx::Error> {
            row.try_get(column)
        }

        fn flag(row: &Self::Row, column: usize) -> Result<bool, sqlx::Error> {
            row.try_get(column)
        }

        fn optional_number(row: &Self::Row, column: usize) -> Result<Option<i64>, sqlx::Error> {
            row.try_get(column)
        }
    };
}
pub(super) use through_sqlx;

/// [`Dialect::execute`] and [`Dialect::rows`] for a database whose statements go to `sqlx` as they are, or as
/// `$placed` changes them.
#[cfg(any(feature = "sqlite", feature = "mysql"))]
macro_rules! statements {
    () => {
        statements!(|statement, values| (statement, values));
    };
    ($placed:expr) => {
        fn execute(
            connection: &mut Self::Connection,
            statement: String,
            values: Vec<Value>,
        ) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
            let (statement, values) = $placed(statement, values);
            let query = bound::<Self>(statement, values);
            Box::pin(async move { Ok(query.execute(connection).await?.rows_affected()) })
        }

        fn rows(
            connection: &mut Self::Connection,
            statement: String,
            values: Vec<Value>,
        ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>> {
            let (statement, values) = $placed(statement, values);
            let query = bound::<Self>(statement, values);
            Box::pin(query.fetch_all(connection))
        }
    };
}
#[cfg(any(feature = "sqlite", feature = "mysql"))]
pub(super) use statements;
