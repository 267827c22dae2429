//! SQLite.

use std::{path::PathBuf, time::Duration};

use futures::future::BoxFuture;
use sqlx::{Pool, Row as _, ValueRef as _, error::DatabaseError};

use super::{
    dialect::{Cut, Dialect, Timeouts, null_in_key, statements, through_sqlx},
    value::{Statement, Value, bound},
};
use crate::{
    base::error::PageError,
    cell::{Cell, Encoding},
    sql::{
        KeyPart,
        connection::session::sqlite_lock_timeout,
        syntax::Syntax,
        table::{KeyColumn, KeyForm},
    },
};

impl Dialect for sqlx::Sqlite {
    const EXPLAIN: &'static str = "EXPLAIN QUERY PLAN";
    // SQLite has one writer at a time, and the next one waits when its transaction begins.
    const WAITS: Option<(&'static str, &'static str)> = None;
    const SYNTAX: Syntax = Syntax::Sqlite;
    const KEY_TEXT: &'static str = "TEXT";
    // SQLite has one writer at a time.
    const LOCK_SCHEMA: Option<&'static str> = None;
    // A commit fails in such a transaction.
    const IN_TRANSACTION: &'static str = "SELECT 1";

    fn file(pool: &Pool<Self>) -> Option<PathBuf> {
        Some(pool.connect_options().get_filename().to_owned())
    }

    fn cut(strides: &str, cut: &Cut<'_>) -> Vec<Statement> {
        let statements = [
            format!(
                "UPDATE {strides} SET stride_end = json_extract($4, '$[0]'), updated_at = $5
                WHERE batch_run = $1 AND stride = $2 AND fence = $3 AND stride_end IS NULL"
            ),
            format!(
                "INSERT INTO {strides} (batch_run, stride, batch_id, fence, applied_to, stride_end,
                    ends_data, pages, pages_failed, processed, changed, skipped, failed, updated_at)
                SELECT first.batch_run, first.stride + ends.key, first.batch_id, 0,
                    json_extract($4, '$[' || (ends.key - 1) || ']'), ends.value,
                    FALSE, 0, 0, 0, 0, 0, 0, $5
                FROM {strides} AS first, json_each($4) AS ends
                WHERE first.batch_run = $1 AND first.stride = $2 AND first.fence = $3 AND ends.key > 0
                ON CONFLICT (batch_run, stride) DO NOTHING"
            ),
        ];
        statements
            .into_iter()
            .take(cut.ends.len().min(2))
            .map(|statement| (statement, cut.values()))
            .collect()
    }

    fn begin(_idle_timeout: Duration) -> String {
        // A transaction that begins by reading could not become the writer while there is another one.
        "BEGIN IMMEDIATE".to_owned()
    }

    fn is_missing_table(error: &dyn DatabaseError) -> bool {
        error.message().contains("no such table: temporal_batch_")
    }

    fn plan_line(row: &Self::Row) -> Option<String> {
        Self::text(row, 3).ok()?
    }

    fn limit_beginning(timeouts: Timeouts) -> Option<String> {
        Some(sqlite_lock_timeout(timeouts.lock))
    }

    /// SQLite has no limit for statements, and locks the whole file when the transaction begins.
    fn limit(_timeouts: Timeouts) -> Option<String> {
        None
    }

    /// Reads the value by its own type, which in SQLite may differ from that of its column.
    fn key_part(row: &Self::Row, at: usize, column: &KeyColumn) -> Result<KeyPart, PageError> {
        let raw = row.try_get_raw(at)?;
        if raw.is_null() {
            return Err(null_in_key(column));
        }
        let class = sqlx::TypeInfo::name(&*raw.type_info()).to_owned();
        match (column.form, class.as_str()) {
            (KeyForm::Int | KeyForm::IntOrText, "INTEGER") => {
                Ok(KeyPart::Int(row.try_get_unchecked(at)?))
            }
            (KeyForm::Text | KeyForm::IntOrText, "TEXT") => {
                Ok(KeyPart::Text(row.try_get_unchecked(at)?))
            }
            (KeyForm::Blob, "BLOB") => {
                let bytes: Vec<u8> = row.try_get_unchecked(at)?;
                Ok(KeyPart::Text(hex::encode(bytes)))
            }
            (form, class) => Err(PageError::non_retryable(
                "KeyTypeMixed",
                format_args!(
                    "key column `{}` holds a value of type {class} where it should hold {}",
                    column.name,
                    match form {
                        KeyForm::Int => "integers only",
                        KeyForm::Text => "texts only",
                        KeyForm::Blob => "blobs only",
                        KeyForm::IntOrText => "integers and texts only",
                    }
                ),
            )),
        }
    }

    fn cell(row: &Self::Row, at: usize, _: Encoding) -> Result<Cell, sqlx::Error> {
        let raw = row.try_get_raw(at)?;
        if raw.is_null() {
            return Ok(Cell::Null);
        }
        let class = sqlx::TypeInfo::name(&*raw.type_info()).to_owned();
        let bytes = || row.try_get_unchecked::<Vec<u8>, _>(at);
        Ok(match class.as_str() {
            "INTEGER" => Cell::Number(row.try_get_unchecked::<i64, _>(at)?.to_string()),
            "REAL" => Cell::Number(match row.try_get_unchecked::<f64, _>(at)? {
                f64::INFINITY => "Infinity".to_owned(),
                f64::NEG_INFINITY => "-Infinity".to_owned(),
                // A real always has a fraction or an exponent, an integer never.
                number => format!("{number:?}"),
            }),
            "BLOB" => Cell::Bytes(bytes()?),
            _ => match String::from_utf8(bytes()?) {
                Ok(text) => Cell::Text(text),
                Err(error) => Cell::BrokenText(error.into_bytes()),
            },
        })
    }

    through_sqlx!(Sqlite);
    statements!();
}
