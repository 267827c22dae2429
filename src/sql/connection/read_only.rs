//! Statements that only read, each in a transaction of its own.

use std::{future::Future, time::Duration};

use sqlx::Pool;

use crate::{
    base::{error::PageError, text::exactly},
    sql::{
        backend::{dialect::Dialect, value::Value},
        connection::{
            lease::LeasedTransaction,
            pool::{Database, on_pool},
        },
    },
};

/// Returns the statement that begins a transaction in which nothing can be written.
fn begin(database: &Database, timeout: Duration) -> String {
    let _ = timeout;
    match database {
        #[cfg(feature = "postgres")]
        Database::Postgres(_) => format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {}",
            timeout.as_millis().clamp(1, i32::MAX as u128)
        ),
        #[cfg(feature = "mysql")]
        Database::MySql(_) => "START TRANSACTION READ ONLY".to_owned(),
        // SQLite has no read-only transactions. The statements that run here are queries around the user's, and so
        // cannot write.
        #[cfg(feature = "sqlite")]
        Database::Sqlite(_) => "BEGIN".to_owned(),
    }
}

/// Returns the numbers in the first row of a query. The query is abandoned after `timeout`, and PostgreSQL ends it.
pub(crate) async fn numbers(
    database: &Database,
    timeout: Duration,
    (sql, values): (String, Vec<Value>),
    columns: usize,
) -> Result<Vec<i64>, PageError> {
    let begin = begin(database, timeout);
    on_pool!(database, pool: Db => {
        let reading = numbers_in::<Db>(pool, begin, sql, values, columns);
        limited(timeout, reading).await
    })
}

async fn numbers_in<DB: Dialect>(
    pool: &Pool<DB>,
    begin: String,
    sql: String,
    values: Vec<Value>,
    columns: usize,
) -> Result<Vec<i64>, PageError> {
    let mut transaction = LeasedTransaction::on(pool, begin).await?;
    let rows = DB::rows(&mut transaction, sql, values).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let numbers: Result<_, _> = (0..columns).map(|column| DB::number(row, column)).collect();
    transaction.rollback().await?;
    Ok(numbers?)
}

/// Returns the plan of a query, in the words of the database.
pub(crate) async fn plan(
    database: &Database,
    (sql, values): (String, Vec<Value>),
) -> Result<Vec<String>, sqlx::Error> {
    on_pool!(database, pool: Db => {
        let mut connection = pool.acquire().await?;
        let explain = format!("{} {sql}", Db::EXPLAIN);
        let rows = Db::rows(&mut connection, explain, values).await?;
        Ok(rows.iter().filter_map(Db::plan_line).collect())
    })
}

/// The extra time for databases that cannot be told a limit, and for connections that hang.
const GRACE: Duration = Duration::from_secs(5);

async fn limited<T>(
    timeout: Duration,
    reading: impl Future<Output = Result<T, PageError>>,
) -> Result<T, PageError> {
    let limited = tokio::time::timeout(timeout.saturating_add(GRACE), reading).await;
    limited.unwrap_or_else(|_| {
        let error = PageError::retryable(format_args!(
            "a query took longer than {}",
            exactly(timeout)
        ));
        Err(error.with_type("QueryTimeout"))
    })
}
