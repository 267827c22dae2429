//! A queue in a table.

use std::marker::PhantomData;

use async_trait::async_trait;
use sqlx::{Pool, QueryBuilder, Row as _, Transaction};
use temporal_batch::{PageError, sql::Backend};

use super::{RequestSource, Taken};
use crate::request::Request;

/// A queue in the table `temporal_batch_queue` of a PostgreSQL, MariaDB (10.6 or later) or MySQL (8 or later) database.
///
/// Programs add rows in the transaction of their own changes; `routing_key` may be NULL. Several feeders share the table:
/// a feeder locks the rows that it takes (`FOR UPDATE SKIP LOCKED`) in a transaction that is open until the batcher has
/// written them, and then deletes them. The rows of a feeder that is lost are free again.
///
/// ```sql
/// INSERT INTO temporal_batch_queue (request_id, routing_key, payload) VALUES ('order-17', 'customer-4', '{"total": 4200}')
/// ```
pub struct TableSource<DB: QueueDatabase> {
    pool: Pool<DB>,
}

impl<DB: QueueDatabase> TableSource<DB> {
    /// Creates a source on the table in the database of a pool. The feeder holds one of its connections.
    pub fn new(pool: Pool<DB>) -> Self {
        Self { pool }
    }

    /// Returns the statement that creates the table.
    pub fn schema_sql() -> String {
        DB::queue_table()
    }

    /// Creates the table if it is missing.
    ///
    /// # Errors
    /// The error of the database.
    pub async fn apply_schema(&self) -> Result<(), PageError> {
        Ok(DB::create_queue_table(&self.pool).await?)
    }
}

#[async_trait]
impl<DB: QueueDatabase> RequestSource for TableSource<DB> {
    async fn take(&mut self, limit: usize) -> Result<Box<dyn Taken>, PageError> {
        let mut transaction = DB::begin_taking(&self.pool).await?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = DB::lock_rows(&mut transaction, limit).await?;
        let mut requests = Vec::with_capacity(rows.len());
        for (id, routing_key, payload) in rows {
            let payload: serde_json::Value = serde_json::from_str(&payload).map_err(|error| {
                PageError::non_retryable(
                    "InvalidPayload",
                    format_args!("the payload of request {id:?} is not JSON: {error}"),
                )
            })?;
            let request = Request::new(id, payload);
            requests.push(match routing_key {
                Some(key) => request.routing_key(key),
                None => request,
            });
        }
        Ok(Box::new(TakenRows::<DB> {
            transaction,
            requests,
            database: PhantomData,
        }))
    }
}

/// Rows that are locked in an open transaction.
struct TakenRows<DB: QueueDatabase> {
    transaction: Transaction<'static, DB>,
    requests: Vec<Request>,
    database: PhantomData<DB>,
}

#[async_trait]
impl<DB: QueueDatabase> Taken for TakenRows<DB> {
    fn requests(&self) -> &[Request] {
        &self.requests
    }

    async fn settle(mut self: Box<Self>, settled: &[bool]) -> Result<(), PageError> {
        let settled = self.requests.iter().zip(settled).filter(|(_, s)| **s);
        let ids: Vec<_> = settled.map(|(request, _)| request.id.as_str()).collect();
        if !ids.is_empty() {
            DB::delete_rows(&mut self.transaction, &ids).await?;
        }
        Ok(self.transaction.commit().await?)
    }
}

/// A row: the id, the routing key and the payload of its request.
type QueueRow = (String, Option<String>, String);

/// A database that can be a queue: `sqlx::Postgres` or `sqlx::MySql` (MariaDB too), each with the feature of its name.
/// SQLite cannot lock single rows.
#[async_trait]
#[allow(private_interfaces, reason = "no other crate implements the trait")]
pub trait QueueDatabase: Backend {
    #[doc(hidden)]
    fn queue_table() -> String;

    #[doc(hidden)]
    async fn create_queue_table(pool: &Pool<Self>) -> Result<(), sqlx::Error>;

    #[doc(hidden)]
    async fn begin_taking(pool: &Pool<Self>) -> Result<Transaction<'static, Self>, sqlx::Error>;

    #[doc(hidden)]
    async fn lock_rows(
        connection: &mut Self::Connection,
        limit: i64,
    ) -> Result<Vec<QueueRow>, sqlx::Error>;

    #[doc(hidden)]
    async fn delete_rows(
        connection: &mut Self::Connection,
        ids: &[&str],
    ) -> Result<(), sqlx::Error>;
}

/// Implements the trait. `sqlx` has no bounds for code that is generic over the databases.
macro_rules! implement {
    ($database:ty, $connection:ty, table: $table:literal, lock: $lock:literal, begin: $pool:ident => $begin:expr) => {
        #[async_trait]
        #[allow(private_interfaces, reason = "no other crate calls these functions")]
        impl QueueDatabase for $database {
            fn queue_table() -> String {
                $table.to_owned()
            }

            async fn create_queue_table(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                sqlx::raw_sql($table).execute(pool).await?;
                Ok(())
            }

            async fn begin_taking(
                $pool: &Pool<Self>,
            ) -> Result<Transaction<'static, Self>, sqlx::Error> {
                $begin
            }

            async fn lock_rows(
                connection: &mut $connection,
                limit: i64,
            ) -> Result<Vec<QueueRow>, sqlx::Error> {
                let rows = sqlx::query($lock).bind(limit).fetch_all(connection).await?;
                let row = |row: &<$database as sqlx::Database>::Row| {
                    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
                };
                rows.iter().map(row).collect()
            }

            async fn delete_rows(
                connection: &mut $connection,
                ids: &[&str],
            ) -> Result<(), sqlx::Error> {
                let mut delete = QueryBuilder::<Self>::new(
                    "DELETE FROM temporal_batch_queue WHERE request_id IN (",
                );
                let mut list = delete.separated(", ");
                for id in ids {
                    list.push_bind(*id);
                }
                delete.push(")");
                delete.build().execute(connection).await?;
                Ok(())
            }
        }
    };
}

#[cfg(feature = "postgres")]
implement!(
    sqlx::Postgres, sqlx::PgConnection,
    table: "CREATE TABLE IF NOT EXISTS temporal_batch_queue (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id TEXT COLLATE \"C\" NOT NULL UNIQUE,
    routing_key TEXT,
    payload TEXT NOT NULL
);
",
    lock: "SELECT request_id, routing_key, payload FROM temporal_batch_queue
        ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED",
    begin: pool => pool.begin().await
);

#[cfg(feature = "mysql")]
implement!(
    sqlx::MySql, sqlx::MySqlConnection,
    table: "CREATE TABLE IF NOT EXISTS temporal_batch_queue (
    position BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    request_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE,
    routing_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    payload LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL
) ENGINE = InnoDB;
",
    lock: "SELECT request_id, routing_key, payload FROM temporal_batch_queue
        ORDER BY position LIMIT ? FOR UPDATE SKIP LOCKED",
    begin: pool => {
        use sqlx::Executor as _;
        // The gap behind the last row must not be locked: programs add rows meanwhile.
        let mut connection = pool.acquire().await?;
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
        Transaction::begin(connection, None).await
    }
);
