//! A queue in a table.

use std::marker::PhantomData;

use async_trait::async_trait;
use sqlx::{Pool, QueryBuilder, Row as _, Transaction};
use temporal_batch::{PageError, sql::Backend};

use super::{RequestSource, Settlement, Taken, Unreadable};
use crate::request::Request;

/// A queue in the table `temporal_batch_queue` of a PostgreSQL, MariaDB (10.6 or later) or MySQL (8 or later) database.
///
/// Programs add rows in the transaction of their own changes; `routing_key` may be NULL. Several feeders share the table:
/// a feeder locks the rows that it takes (`FOR UPDATE SKIP LOCKED`) in a transaction that is open until the batcher has
/// written them, and then deletes them. The rows of a feeder that is lost are free again.
///
/// A row that no batcher can write stays, with the reason in its column `error`, and is not taken again. Correct the row and
/// set `error` to NULL, or delete the row.
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
        let mut taken = TakenRows::<DB> {
            transaction,
            requests: Vec::with_capacity(rows.len()),
            positions: Vec::with_capacity(rows.len()),
            unreadable: Vec::new(),
            unreadable_positions: Vec::new(),
            database: PhantomData,
        };
        for (position, id, routing_key, payload) in rows {
            match serde_json::from_str::<serde_json::Value>(&payload) {
                Ok(payload) => {
                    let request = Request::new(id, payload);
                    taken.requests.push(match routing_key {
                        Some(key) => request.routing_key(key),
                        None => request,
                    });
                    taken.positions.push(position);
                }
                Err(error) => {
                    let reason = format!("the payload is not JSON: {error}");
                    taken.unreadable.push(Unreadable::new(id, reason));
                    taken.unreadable_positions.push(position);
                }
            }
        }
        Ok(Box::new(taken))
    }
}

/// Rows that are locked in an open transaction.
struct TakenRows<DB: QueueDatabase> {
    transaction: Transaction<'static, DB>,
    requests: Vec<Request>,
    /// The keys of the rows of the requests.
    positions: Vec<i64>,
    unreadable: Vec<Unreadable>,
    unreadable_positions: Vec<i64>,
    database: PhantomData<DB>,
}

#[async_trait]
impl<DB: QueueDatabase> Taken for TakenRows<DB> {
    fn requests(&self) -> &[Request] {
        &self.requests
    }

    fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    async fn settle(mut self: Box<Self>, settlements: &[Settlement]) -> Result<(), PageError> {
        let unreadable = self.unreadable_positions.iter().zip(&self.unreadable);
        let unreadable = unreadable.map(|(position, row)| (*position, row.reason.as_str()));
        let mut rejected: Vec<_> = unreadable.collect();
        let mut removed = Vec::new();
        for (position, settlement) in self.positions.iter().zip(settlements) {
            match settlement {
                Settlement::Remove => removed.push(*position),
                Settlement::Reject(reason) => rejected.push((*position, reason)),
                Settlement::GiveBack => {}
            }
        }
        for (position, reason) in rejected {
            DB::reject_row(&mut self.transaction, position, reason).await?;
        }
        if !removed.is_empty() {
            DB::delete_rows(&mut self.transaction, &removed).await?;
        }
        Ok(self.transaction.commit().await?)
    }
}

/// A row: its key, and the id, the routing key and the payload of its request.
type QueueRow = (i64, String, Option<String>, String);

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
        positions: &[i64],
    ) -> Result<(), sqlx::Error>;

    #[doc(hidden)]
    async fn reject_row(
        connection: &mut Self::Connection,
        position: i64,
        reason: &str,
    ) -> Result<(), sqlx::Error>;
}

/// Implements the trait. `sqlx` has no bounds for code that is generic over the databases.
macro_rules! implement {
    (
        $database:ty, $connection:ty,
        table: $table:literal, lock: $lock:literal, reject: $reject:literal,
        begin: $pool:ident => $begin:expr
    ) => {
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
                    Ok((
                        row.try_get(0)?,
                        row.try_get(1)?,
                        row.try_get(2)?,
                        row.try_get(3)?,
                    ))
                };
                rows.iter().map(row).collect()
            }

            async fn delete_rows(
                connection: &mut $connection,
                positions: &[i64],
            ) -> Result<(), sqlx::Error> {
                let mut delete = QueryBuilder::<Self>::new(
                    "DELETE FROM temporal_batch_queue WHERE position IN (",
                );
                let mut list = delete.separated(", ");
                for position in positions {
                    list.push_bind(*position);
                }
                delete.push(")");
                delete.build().execute(connection).await?;
                Ok(())
            }

            async fn reject_row(
                connection: &mut $connection,
                position: i64,
                reason: &str,
            ) -> Result<(), sqlx::Error> {
                let update = sqlx::query($reject).bind(reason).bind(position);
                update.execute(connection).await?;
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
    payload TEXT NOT NULL,
    error TEXT
);
",
    lock: "SELECT position, request_id, routing_key, payload FROM temporal_batch_queue
        WHERE error IS NULL ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED",
    reject: "UPDATE temporal_batch_queue SET error = $1 WHERE position = $2",
    begin: pool => pool.begin().await
);

#[cfg(feature = "mysql")]
implement!(
    sqlx::MySql, sqlx::MySqlConnection,
    table: "CREATE TABLE IF NOT EXISTS temporal_batch_queue (
    position BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    request_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE,
    routing_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    payload LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    error TEXT CHARACTER SET utf8mb4
) ENGINE = InnoDB;
",
    lock: "SELECT position, request_id, routing_key, payload FROM temporal_batch_queue
        WHERE error IS NULL ORDER BY position LIMIT ? FOR UPDATE SKIP LOCKED",
    reject: "UPDATE temporal_batch_queue SET error = ? WHERE position = ?",
    begin: pool => {
        use sqlx::Executor as _;
        // The gap behind the last row must not be locked: programs add rows meanwhile.
        let mut connection = pool.acquire().await?;
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
        Transaction::begin(connection, None).await
    }
);
