//! A writer for SQL tables, exact under retry.
//!
//! The effects of a batch and the ids of its requests are committed in one transaction. Another attempt, or a request
//! that is submitted again after years, finds its id there and is not written again.
//!
//! ```text
//!   BEGIN
//!   insert (batcher, request_id, claim) where there is no such row     waits for a transaction that inserts the same
//!   select the ids with this claim                                     the requests that are new
//!   SqlRequests::write(these)                                          the effects
//!   COMMIT
//! ```

mod claims;
mod dialect;

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use sqlx::Pool;
use temporal_batch::{PageContext, PageError, Timestamp, sql::SqlLedger, store::DeadLetters};

use crate::{
    letters::DeadRequests,
    request::Request,
    writer::{BatchWriter, WriteContext, Written},
};
use claims::Claims;
pub use dialect::RequestDatabase;

/// Writes requests in a transaction. See [`SqlWriter`].
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # mod example {
/// use temporal_batch::{PageError, async_trait};
/// use temporal_batch_batcher::{Request, SqlRequests};
///
/// struct OrderRows;
///
/// #[async_trait]
/// impl SqlRequests<sqlx::Sqlite> for OrderRows {
///     const NAME: &'static str = "order-rows";
///
///     async fn write(&self, connection: &mut sqlx::SqliteConnection, requests: &[Request]) -> Result<(), PageError> {
///         let mut insert = sqlx::QueryBuilder::new("INSERT INTO orders (id, total) ");
///         insert.push_values(requests, |mut row, request| {
///             row.push_bind(&request.id).push_bind(request.payload["total"].as_i64());
///         });
///         insert.build().execute(connection).await?;
///         Ok(())
///     }
/// }
/// # }
/// ```
#[async_trait]
pub trait SqlRequests<DB: RequestDatabase>: Send + Sync + 'static {
    /// The name of the writer.
    const NAME: &'static str;

    /// Writes requests, each of which is new to the database, with one statement if possible.
    ///
    /// Pass on the error of a statement, and do not commit: the writer does. After an error that is not retryable, such
    /// as a violated constraint, the transaction is rolled back and the batch is split.
    async fn write(
        &self,
        connection: &mut DB::Connection,
        requests: &[Request],
    ) -> Result<(), PageError>;
}

/// The [`BatchWriter`] for a PostgreSQL, MariaDB, MySQL or SQLite database: each request is written exactly once,
/// whatever is retried.
///
/// Next to your tables it needs `temporal_batch_request`, with a row for each request that was written, and the tables
/// of a [`SqlLedger`], where the dead letters are. [`apply_schema`](Self::apply_schema) creates them.
///
/// The row of a request stays until you [`prune`](Self::prune) it. A request that is submitted again after that is
/// written again.
///
/// In MySQL and MariaDB all tables must use InnoDB, because other engines cannot roll a transaction back.
///
/// A write that waits for a lock is given up and tried again, for as long as the lock is held. The wait lasts 5 s in
/// PostgreSQL and in SQLite, whose `busy_timeout` may say otherwise, and 50 s in MySQL and MariaDB
/// (`innodb_lock_wait_timeout`). Keep [`Batcher::write_timeout`](crate::Batcher::write_timeout) above it: a write that
/// times out counts as an attempt.
pub struct SqlWriter<DB: RequestDatabase, W> {
    pool: Pool<DB>,
    letters: Arc<SqlLedger<DB>>,
    requests: W,
}

/// # Construct
impl<DB: RequestDatabase, W: SqlRequests<DB>> SqlWriter<DB, W> {
    /// Creates a writer for the database of a pool. Nothing is connected yet.
    pub fn new(pool: Pool<DB>, requests: W) -> Self {
        Self {
            letters: Arc::new(SqlLedger::new(pool.clone())),
            pool,
            requests,
        }
    }
}

/// # Tables
impl<DB: RequestDatabase, W: SqlRequests<DB>> SqlWriter<DB, W> {
    /// Returns the statements that create the table of requests and those of the ledger.
    pub fn schema_sql(&self) -> String {
        format!("{}{}", DB::request_table(), self.letters.schema_sql())
    }

    /// Creates the tables that are missing.
    ///
    /// # Errors
    /// The error of the database.
    pub async fn apply_schema(&self) -> Result<(), PageError> {
        self.letters.apply_schema().await?;
        let mut connection = self.pool.acquire().await?;
        DB::create_request_table(&mut connection).await?;
        Ok(())
    }

    /// Forgets requests that were written before a time. Returns their number. Choose a time after which no request is
    /// submitted again and no attempt at a batch is still running.
    ///
    /// # Errors
    /// The error of the database.
    pub async fn prune(&self, written_before: Timestamp) -> Result<u64, PageError> {
        let mut connection = self.pool.acquire().await?;
        let before = i64::try_from(written_before.0).unwrap_or(i64::MAX);
        Ok(DB::prune(&mut connection, before).await?)
    }
}

impl<DB: RequestDatabase, W: SqlRequests<DB>> SqlWriter<DB, W> {
    async fn write_once(
        &self,
        batcher: &str,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = DB::begin(&mut connection).await?;
        let written = self.write_new(&mut transaction, batcher, requests).await;
        let (written, ended) = match written {
            Ok(written) => match transaction.commit().await {
                Ok(()) => return Ok(written),
                Err(error) => (Err(error.into()), false),
            },
            // `RAISE(ROLLBACK)` has ended the transaction in SQLite already.
            Err(error) => (Err(error), transaction.rollback().await.is_ok()),
        };
        if !ended {
            // `sqlx` takes the connection for one with an open transaction.
            connection.close_on_drop();
        }
        written
    }

    /// Returns the error of a broken connection. If the database cannot be reached, through a proxy that still listens for
    /// instance, no request has broken the connection.
    async fn if_reachable(&self, error: PageError) -> PageError {
        match self.pool.acquire().await {
            Ok(_) => error,
            Err(_) => PageError::environment(error.message()).with_type("ConnectionLost"),
        }
    }

    /// Writes the requests that are new, in a transaction that is open.
    async fn write_new(
        &self,
        connection: &mut DB::Connection,
        batcher: &str,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError> {
        let claims = Claims::new(batcher, requests, SystemTime::now().into());
        let new: BTreeSet<_> = DB::claim(connection, &claims).await?.into_iter().collect();
        let to_write: Vec<_> = requests
            .iter()
            .filter(|request| new.contains(&request.id))
            .cloned()
            .collect();
        if !to_write.is_empty() {
            self.requests.write(connection, &to_write).await?;
        }
        let written = requests
            .iter()
            .map(|request| match new.contains(&request.id) {
                true => Written::Now,
                false => Written::Before,
            });
        Ok(written.collect())
    }
}

#[async_trait]
impl<DB: RequestDatabase, W: SqlRequests<DB>> BatchWriter for SqlWriter<DB, W> {
    const NAME: &'static str = W::NAME;

    async fn write(
        &self,
        ctx: &WriteContext,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError> {
        match self.write_once(&ctx.batcher, requests).await {
            Err(error) if error.error_type() == "ConnectionLost" => {
                Err(self.if_reachable(error).await)
            }
            written => written,
        }
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::clone(&self.letters) as Arc<dyn DeadLetters>
    }

    /// Writes the request in the transaction that removes its letter.
    async fn redrive(
        &self,
        ctx: &PageContext<DeadRequests<Self>>,
        request: &Request,
    ) -> Result<Written, PageError> {
        let mut connection = ctx.transaction::<DB>().await?;
        let requests = std::slice::from_ref(request);
        let written = self.write_new(&mut connection, ctx.batch_id(), requests);
        crate::writer::one(written.await?)
    }
}
