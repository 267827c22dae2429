//! Connections that pages hand to each other without a detour through the pool. The detour costs two round trips: the
//! pool tests a connection when it comes back, and again when it goes out.
//!
//! ```text
//!   take <--- kept (the last one given back) or the pool
//!     |
//!   Lease ---> give_back ---> kept ---> the pool, after KEEP_IDLE without use
//!     |
//!   dropped: to the pool, which tests it
//! ```
//!
//! A connection is kept only while the pool has another one to spare, so nothing ever waits for a kept connection.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Database, Pool, SqlSafeStr as _, pool::PoolConnection};
use sqlx_core::transaction::TransactionManager;

/// The time after which an unused connection goes back to the pool.
const KEEP_IDLE: Duration = Duration::from_millis(250);
/// The time after which a connection goes back in any case, so that the pool can apply its limits for old
/// connections.
const KEEP: Duration = Duration::from_secs(10);

/// The connections of a pool, together with the kept ones.
pub(crate) struct Leases<DB: Database> {
    pool: Pool<DB>,
    kept: Arc<Kept<DB>>,
}

struct Kept<DB: Database>(Mutex<State<DB>>);

struct State<DB: Database> {
    /// The kept connections; the one that was given back last is at the end.
    connections: Vec<Idle<DB>>,
    /// True if a task is returning unused connections to the pool.
    swept: bool,
}

struct Idle<DB: Database> {
    connection: PoolConnection<DB>,
    taken: Instant,
    given_back: Instant,
}

/// Statements that limit the time and the waits of the statements of a transaction.
#[derive(Clone, Default)]
pub(crate) struct Limits {
    /// Statements in front of the one that begins the transaction, which itself may wait.
    pub before: Option<String>,
    /// Statements within the transaction, whose limits end with it.
    pub within: Option<String>,
}

impl Limits {
    /// Begins a transaction with these limits, in one round trip.
    pub fn begin(&self, begin: String) -> String {
        let parts = [self.before.clone(), Some(begin), self.within.clone()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// The connections of a database of any kind.
pub(crate) enum LeasesOf {
    #[cfg(feature = "postgres")]
    Postgres(Leases<sqlx::Postgres>),
    #[cfg(feature = "mysql")]
    MySql(Leases<sqlx::MySql>),
    #[cfg(feature = "sqlite")]
    Sqlite(Leases<sqlx::Sqlite>),
}

impl LeasesOf {
    pub fn of(database: &crate::sql::Database) -> Self {
        match database {
            #[cfg(feature = "postgres")]
            crate::sql::Database::Postgres(pool) => Self::Postgres(Leases::of(pool.clone())),
            #[cfg(feature = "mysql")]
            crate::sql::Database::MySql(pool) => Self::MySql(Leases::of(pool.clone())),
            #[cfg(feature = "sqlite")]
            crate::sql::Database::Sqlite(pool) => Self::Sqlite(Leases::of(pool.clone())),
        }
    }
}

/// A connection of a pool. When dropped, it goes back to the pool.
pub(crate) struct Lease<DB: Database> {
    connection: PoolConnection<DB>,
    from: Leases<DB>,
    /// The time at which it left the pool.
    taken: Instant,
}

impl<DB: Database> Clone for Leases<DB> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            kept: Arc::clone(&self.kept),
        }
    }
}

impl<DB: Database> Leases<DB> {
    /// Returns the connections of this pool. Each `Leases` of a pool keeps its own.
    pub fn of(pool: Pool<DB>) -> Self {
        #[cfg(feature = "postgres")]
        if let Some(pool) = (&pool as &dyn std::any::Any).downcast_ref() {
            crate::sql::connection::pgbouncer::note(pool);
        }
        let state = State {
            connections: Vec::new(),
            swept: false,
        };
        Self {
            pool,
            kept: Arc::new(Kept(Mutex::new(state))),
        }
    }

    pub fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    pub async fn take(&self) -> Result<Lease<DB>, sqlx::Error> {
        let kept = self.kept.state().connections.pop();
        let (mut connection, taken) = match kept {
            Some(idle) => (idle.connection, idle.taken),
            None => (self.pool.acquire().await?, Instant::now()),
        };
        if DB::TransactionManager::get_transaction_depth(&connection) > 0 {
            end_counted_transaction::<DB>(&mut connection).await?;
        }
        Ok(Lease {
            connection,
            from: self.clone(),
            taken,
        })
    }

    /// Returns whether another task could take a connection from the pool without waiting.
    fn can_be_kept(&self) -> bool {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        let in_use = self.pool.size().saturating_sub(idle);
        !self.pool.is_closed() && in_use < self.pool.options().get_max_connections()
    }
}

impl<DB: Database> Lease<DB> {
    /// Keeps the connection for the next page. The state of the connection must be as it was when it was taken.
    pub fn give_back(self) {
        let Self {
            connection,
            from,
            taken,
        } = self;
        if taken.elapsed() > KEEP || !from.can_be_kept() {
            return;
        }
        let mut state = from.kept.state();
        state.connections.push(Idle {
            connection,
            taken,
            given_back: Instant::now(),
        });
        if !state.swept {
            state.swept = true;
            tokio::spawn(sweep(Arc::downgrade(&from.kept)));
        }
    }
}

impl<DB: Database> Deref for Lease<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: Database> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}

impl<DB: Database> Kept<DB> {
    fn state(&self) -> MutexGuard<'_, State<DB>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Database> Drop for Kept<DB> {
    fn drop(&mut self) {
        // Returning a connection to its pool needs a runtime. Where the runtime has ended, the connections end with
        // the process.
        if tokio::runtime::Handle::try_current().is_err() {
            std::mem::take(&mut self.state().connections)
                .into_iter()
                .for_each(std::mem::forget);
        }
    }
}

/// Returns unused connections to the pool, and ends once no connection is kept.
async fn sweep<DB: Database>(kept: Weak<Kept<DB>>) {
    loop {
        tokio::time::sleep(KEEP_IDLE).await;
        let Some(kept) = kept.upgrade() else {
            return;
        };
        let mut state = kept.state();
        let stale = |idle: &mut Idle<DB>| idle.given_back.elapsed() >= KEEP_IDLE;
        let stale: Vec<_> = state.connections.extract_if(.., stale).collect();
        state.swept = !state.connections.is_empty();
        let goes_on = state.swept;
        drop(state);
        drop(stale);
        if !goes_on {
            return;
        }
    }
}

/// Ends a transaction that `sqlx` still counts because its `ROLLBACK` failed. SQLite refuses that statement after a
/// rollback of its own (`RAISE(ROLLBACK)`, a full disk), and `sqlx` would then refuse every later `BEGIN` on the
/// connection. A savepoint outside of a transaction begins one, which can be rolled back.
async fn end_counted_transaction<DB: Database>(
    connection: &mut DB::Connection,
) -> Result<(), sqlx::Error> {
    DB::TransactionManager::begin(connection, None).await?;
    while DB::TransactionManager::get_transaction_depth(connection) > 0 {
        DB::TransactionManager::rollback(connection).await?;
    }
    Ok(())
}

/// A connection on which a transaction is being begun. If it is dropped before the server has answered, it is closed:
/// `sqlx` does not know whether the transaction has begun, and would not roll it back.
struct Beginning<DB: Database>(Option<Lease<DB>>);

impl<DB: Database> Drop for Beginning<DB> {
    fn drop(&mut self) {
        // The thread of an SQLite connection rolls back a transaction whose caller has gone. A database in memory
        // would vanish with its connection.
        if DB::NAME != "SQLite"
            && let Some(lease) = &mut self.0
        {
            lease.connection.close_on_drop();
        }
    }
}

/// A transaction on a lease. When dropped, it is rolled back and its connection goes back to the pool; a connection
/// of MySQL is closed.
pub(crate) struct LeasedTransaction<DB: Database> {
    /// The lease; `None` once it is given back.
    lease: Option<Lease<DB>>,
}

impl<DB: Database> LeasedTransaction<DB> {
    /// Begins the transaction on a connection of the pool, where pages do not hand over connections.
    pub async fn on(pool: &Pool<DB>, statement: String) -> Result<Self, sqlx::Error> {
        Self::begin(&Leases::of(pool.clone()), statement).await
    }

    /// Begins the transaction with a statement, or a script, of the database.
    pub async fn begin(leases: &Leases<DB>, statement: String) -> Result<Self, sqlx::Error> {
        let mut beginning = Beginning(Some(leases.take().await?));
        let lease = beginning.0.as_mut().expect(THERE);
        let statement = AssertSqlSafe(statement).into_sql_str();
        DB::TransactionManager::begin(lease, Some(statement)).await?;
        Ok(Self {
            lease: beginning.0.take(),
        })
    }

    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        DB::TransactionManager::commit(&mut self).await?;
        self.give_back();
        Ok(())
    }

    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        DB::TransactionManager::rollback(&mut self).await?;
        self.give_back();
        Ok(())
    }

    fn give_back(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl<DB: Database> Drop for LeasedTransaction<DB> {
    fn drop(&mut self) {
        if let Some(lease) = &mut self.lease {
            DB::TransactionManager::start_rollback(lease);
            // An interrupted page leaves its limits in the session, and possibly a running statement. In other
            // databases the limits belong to the transaction.
            if DB::NAME == "MySQL" {
                lease.connection.close_on_drop();
            }
        }
    }
}

const THERE: &str = "a transaction has its lease until it ends";

impl<DB: Database> Deref for LeasedTransaction<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.lease.as_ref().expect(THERE)
    }
}

impl<DB: Database> DerefMut for LeasedTransaction<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.lease.as_mut().expect(THERE)
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::{Sqlite, sqlite::SqlitePoolOptions};

    use super::*;

    async fn leases(connections: u32, folder: &tempfile::TempDir) -> Leases<Sqlite> {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(folder.path().join("t.db"))
            .create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(connections);
        Leases::of(pool.connect_with(options).await.unwrap())
    }

    async fn rows(leases: &Leases<Sqlite>) -> i64 {
        let mut lease = leases.take().await.unwrap();
        let rows = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut *lease);
        let rows = rows.await.unwrap();
        lease.give_back();
        rows
    }

    async fn insert(leases: &Leases<Sqlite>) -> LeasedTransaction<Sqlite> {
        let begin = "BEGIN IMMEDIATE".to_owned();
        let mut transaction = LeasedTransaction::begin(leases, begin).await.unwrap();
        let insert = sqlx::query("INSERT INTO t VALUES (1)");
        insert.execute(&mut *transaction).await.unwrap();
        transaction
    }

    #[tokio::test]
    async fn only_what_is_committed_is_kept_whoever_has_the_connection_next() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(2, &folder).await;
        let create = sqlx::raw_sql("CREATE TABLE t (x)");
        create.execute(leases.pool()).await.unwrap();
        insert(&leases).await.commit().await.unwrap();
        assert_eq!(rows(&leases).await, 1);
        insert(&leases).await.rollback().await.unwrap();
        assert_eq!(rows(&leases).await, 1);
        drop(insert(&leases).await);
        assert_eq!(rows(&leases).await, 1);
        insert(&leases).await.commit().await.unwrap();
        assert_eq!(rows(&leases).await, 2);
    }

    #[tokio::test]
    async fn a_connection_on_which_sqlite_rolled_back_by_itself_begins_again() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(1, &folder).await;
        let create = sqlx::raw_sql(
            "CREATE TABLE t (x);
             CREATE TRIGGER no BEFORE UPDATE ON t BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
        );
        create.execute(leases.pool()).await.unwrap();
        insert(&leases).await.commit().await.unwrap();
        for _ in 0..3 {
            let mut transaction = insert(&leases).await;
            let update = sqlx::query("UPDATE t SET x = 2");
            update.execute(&mut *transaction).await.unwrap_err();
            drop(transaction);
            assert_eq!(rows(&leases).await, 1);
        }
        insert(&leases).await.commit().await.unwrap();
        assert_eq!(rows(&leases).await, 2);
    }

    #[tokio::test]
    async fn a_connection_is_kept_only_while_the_pool_has_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(2, &folder).await;
        leases.take().await.unwrap().give_back();
        assert_eq!(leases.kept.state().connections.len(), 1);
        let (kept, another) = (leases.take().await.unwrap(), leases.take().await.unwrap());
        assert_eq!(leases.kept.state().connections.len(), 0);
        another.give_back();
        assert_eq!(leases.kept.state().connections.len(), 0);
        kept.give_back();
        // All connections of the pool can be taken.
        let all = [leases.pool().acquire().await, leases.pool().acquire().await];
        assert!(all.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn what_nobody_takes_goes_back_to_the_pool() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(2, &folder).await;
        leases.take().await.unwrap().give_back();
        while leases.kept.state().swept {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(leases.kept.state().connections.len(), 0);
        leases.take().await.unwrap().give_back();
        assert!(leases.kept.state().swept, "somebody looks after it again");
    }

    #[tokio::test]
    async fn a_pool_that_is_closed_gets_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let leases = leases(2, &folder).await;
        let lease = leases.take().await.unwrap();
        leases.take().await.unwrap().give_back();
        let pool = leases.pool().clone();
        let closing = tokio::spawn(async move { pool.close().await });
        while !leases.pool().is_closed() {
            tokio::task::yield_now().await;
        }
        lease.give_back();
        closing.await.unwrap();
        assert_eq!(leases.pool().size(), 0);
    }
}
