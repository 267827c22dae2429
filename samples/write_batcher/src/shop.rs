//! The database of the shop: a table of orders, and the writer of the batcher.

use std::{collections::BTreeMap, path::Path};

use sqlx::{
    QueryBuilder, Row as _, Sqlite, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use temporal_batch::{PageError, async_trait};
use temporal_batch_batcher::{Request, SqlRequests, SqlWriter};

pub(crate) const BATCHER: &str = "orders";
pub(crate) const WRITER: &str = "order-rows";

/// Writes orders. The table has no unique key: only the batcher keeps an order from being written twice.
pub(crate) struct OrderRows;

#[async_trait]
impl SqlRequests<Sqlite> for OrderRows {
    const NAME: &'static str = WRITER;

    async fn write(
        &self,
        connection: &mut SqliteConnection,
        requests: &[Request],
    ) -> Result<(), PageError> {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO orders (id, total) ");
        insert.push_values(requests, |mut row, request| {
            row.push_bind(&request.id)
                .push_bind(request.payload["total"].as_i64());
        });
        insert.build().execute(connection).await?;
        Ok(())
    }
}

/// Opens the database, and creates it if necessary.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(std::time::Duration::from_secs(20));
    let pool = SqlitePool::connect_with(options).await?;
    // The database refuses an order with a negative total, until `accept_refunds` drops the rule.
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS orders (id TEXT NOT NULL, total INTEGER NOT NULL CHECK (total >= 0));
        CREATE TABLE IF NOT EXISTS direct_orders (id TEXT NOT NULL, total INTEGER NOT NULL);",
    )
    .execute(&pool)
    .await?;
    Ok(pool)
}

/// Returns the writer of the batcher, with its tables.
pub(crate) async fn writer(path: &Path) -> Result<SqlWriter<Sqlite, OrderRows>, PageError> {
    let writer = SqlWriter::new(open(path).await?, OrderRows);
    writer.apply_schema().await?;
    Ok(writer)
}

/// Drops the rule that refuses orders with a negative total.
pub(crate) async fn accept_refunds(path: &Path) -> Result<(), sqlx::Error> {
    let pool = open(path).await?;
    // SQLite cannot drop a constraint of a table.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(
        "CREATE TABLE any_orders (id TEXT NOT NULL, total INTEGER NOT NULL);
        INSERT INTO any_orders SELECT id, total FROM orders;
        DROP TABLE orders;
        ALTER TABLE any_orders RENAME TO orders;",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Returns how often each order whose id begins with a prefix is in the table.
pub(crate) async fn rows(path: &Path, prefix: &str) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let pool = open(path).await?;
    let query = "SELECT id, count(*) FROM orders WHERE substr(id, 1, length(?1)) = ?1 GROUP BY id";
    let rows = sqlx::query(query).bind(prefix).fetch_all(&pool).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}
