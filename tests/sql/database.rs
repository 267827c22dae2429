//! A database for one test, and the statements that tests run beside the ledger.

use std::time::Duration;

use sqlx::{
    Executor, MySql, MySqlConnection, PgConnection, Pool, Postgres, Sqlite, SqliteConnection,
    pool::PoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use temporal_batch::{
    PageToken,
    sql::{Backend, SqlLedger},
    store::{PageTransaction, StrideId},
};

/// A database with the ledger's tables and a table `data (id, x)`.
pub struct Home<D: TestDatabase> {
    pub pool: Pool<D>,
    pub ledger: SqlLedger<D>,
    /// Deletes the file of the database when it is dropped.
    _folder: Option<tempfile::TempDir>,
}

/// The parts of a database that the tests need.
pub trait TestDatabase: Backend {
    fn run(
        connection: &mut Self::Connection,
        statement: &'static str,
        numbers: [i64; 2],
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    fn run_script(
        connection: &mut Self::Connection,
        statements: &'static str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    fn read_number(
        connection: &mut Self::Connection,
        statement: &'static str,
    ) -> impl Future<Output = i64> + Send;

    /// Creates a pool of the same database whose statements soon stop waiting for locks.
    fn impatient(home: &Home<Self>) -> impl Future<Output = Pool<Self>> + Send;
}

macro_rules! test_database {
    ($database:ty, $connection:ty, $statement:expr, $impatient:expr) => {
        impl TestDatabase for $database {
            async fn run(
                connection: &mut $connection,
                statement: &'static str,
                [first, second]: [i64; 2],
            ) -> Result<u64, sqlx::Error> {
                let query = sqlx::query(sqlx::AssertSqlSafe($statement(statement)))
                    .bind(first)
                    .bind(second);
                Ok(query.execute(connection).await?.rows_affected())
            }

            async fn run_script(
                connection: &mut $connection,
                statements: &'static str,
            ) -> Result<(), sqlx::Error> {
                sqlx::raw_sql(statements)
                    .execute(connection)
                    .await
                    .map(|_| ())
            }

            async fn read_number(connection: &mut $connection, statement: &'static str) -> i64 {
                sqlx::query_scalar(statement)
                    .fetch_one(connection)
                    .await
                    .unwrap()
            }

            async fn impatient(home: &Home<Self>) -> Pool<Self> {
                let options = home.pool.connect_options().as_ref().clone();
                let pool = PoolOptions::new().max_connections(20);
                let pool = pool.after_connect(|connection: &mut $connection, _| {
                    Box::pin(async move { connection.execute($impatient).await.map(|_| ()) })
                });
                pool.connect_with(options).await.unwrap()
            }
        }
    };
}

/// Replaces the numbers of placeholders. MySQL counts placeholders itself; here each is used once, in its order.
fn unnumbered(statement: &str) -> String {
    statement.replace("$1", "?").replace("$2", "?")
}

test_database!(
    Sqlite,
    SqliteConnection,
    str::to_owned,
    "PRAGMA busy_timeout = 1"
);
test_database!(
    Postgres,
    PgConnection,
    str::to_owned,
    "SET lock_timeout = '20ms'"
);
// MariaDB takes whole seconds.
test_database!(
    MySql,
    MySqlConnection,
    unnumbered,
    "SET SESSION innodb_lock_wait_timeout = 0"
);

/// A SQLite database in a file.
pub async fn sqlite() -> Home<Sqlite> {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("test.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(20));
    let pool = SqlitePoolOptions::new().max_connections(20);
    let pool = pool.connect_with(options).await.unwrap();
    home(pool, Some(folder)).await
}

/// A PostgreSQL database of the shared cluster. `None` where PostgreSQL is not installed.
pub async fn postgres(test: &str) -> Option<Home<Postgres>> {
    let server = crate::support::servers::Postgres::shared()?;
    Some(home(server.pool(test, 20).await, None).await)
}

/// A database of the shared MariaDB. `None` where MariaDB is not installed.
pub async fn mariadb(test: &str) -> Option<Home<MySql>> {
    let server = crate::support::servers::MariaDb::shared()?;
    Some(home(server.pool(test, 20).await, None).await)
}

/// Creates the tables in the database of a pool.
pub async fn home<D: TestDatabase>(pool: Pool<D>, folder: Option<tempfile::TempDir>) -> Home<D> {
    let ledger = SqlLedger::new(pool.clone());
    ledger.apply_schema().await.unwrap();
    let home = Home {
        pool,
        ledger,
        _folder: folder,
    };
    let create = "CREATE TABLE data (id BIGINT PRIMARY KEY, x BIGINT NOT NULL)";
    home.script(create).await;
    home
}

impl<D: TestDatabase> Home<D> {
    /// Runs statements outside any page.
    pub async fn script(&self, statements: &'static str) {
        let mut connection = self.pool.acquire().await.unwrap();
        D::run_script(&mut connection, statements).await.unwrap();
    }

    /// Runs a statement with two numbers outside any page.
    pub async fn run(&self, statement: &'static str, numbers: [i64; 2]) -> u64 {
        let mut connection = self.pool.acquire().await.unwrap();
        D::run(&mut connection, statement, numbers).await.unwrap()
    }

    pub async fn number(&self, statement: &'static str) -> i64 {
        let mut connection = self.pool.acquire().await.unwrap();
        D::read_number(&mut connection, statement).await
    }

    /// Fills `data` with the ids from 1 to `rows`, all with `x = 0`.
    pub async fn fill(&self, rows: i64) {
        self.script("DELETE FROM data").await;
        let fill = "INSERT INTO data
            WITH RECURSIVE n (id) AS (SELECT $1 UNION ALL SELECT id + 1 FROM n WHERE id < $2)
            SELECT id, 0 FROM n";
        self.run(fill, [1, rows]).await;
    }
}

/// Adds 1 to the rows of a page, in its transaction.
pub async fn touch<D: TestDatabase>(
    transaction: &mut dyn PageTransaction,
    from: i64,
    to: i64,
) -> Result<u64, sqlx::Error> {
    let touch = "UPDATE data SET x = x + 1 WHERE id > $1 AND id <= $2";
    D::run(connection::<D>(transaction), touch, [from, to]).await
}

/// The `sqlx` connection of a page.
pub fn connection<D: TestDatabase>(transaction: &mut dyn PageTransaction) -> &mut D::Connection {
    let any = transaction.connection().unwrap();
    any.downcast_mut().unwrap()
}

pub fn token(cursor: i64) -> PageToken {
    PageToken::encode(&cursor).unwrap()
}

pub fn stride(number: u64) -> StrideId {
    StrideId {
        batch_run: "run-1".to_owned(),
        batch_id: "batch".to_owned(),
        stride: number,
    }
}

/// The longest wait for another connection.
pub const SOON: Duration = Duration::from_secs(20);

/// The wait after which a blocked statement counts as blocked.
pub const A_WHILE: Duration = Duration::from_millis(200);
