//! Databases of single tests.

use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, Row as _, SqliteConnection,
    mysql::MySqlPoolOptions, postgres::PgPoolOptions, sqlite::SqlitePoolOptions,
};
use temporal_batch::sql::{Database, SqlLedger};

use super::servers::{MariaDb, Postgres};

/// The database of one test. A file is deleted with its value; databases of a server end with the server.
pub struct TestDatabase {
    pub url: String,
    folder: Option<tempfile::TempDir>,
}

impl TestDatabase {
    /// A SQLite database in a file, with a write-ahead log.
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        std::fs::write(&path, "").unwrap();
        let url = format!("sqlite:{}", path.display());
        // The file keeps this setting.
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        connection
            .execute("PRAGMA journal_mode = wal")
            .await
            .unwrap();
        connection.close().await.unwrap();
        Self {
            url,
            folder: Some(folder),
        }
    }

    /// A database of the test on a server.
    pub fn at(url: String) -> Self {
        Self { url, folder: None }
    }

    /// A database of the shared PostgreSQL. `None` where PostgreSQL is not installed.
    pub async fn postgres(test: &str) -> Option<Self> {
        Some(Self::at(Postgres::shared()?.database(test).await))
    }

    /// A database of the shared MariaDB. `None` where MariaDB is not installed.
    pub async fn mariadb(test: &str) -> Option<Self> {
        Some(Self::at(MariaDb::shared()?.database(test).await))
    }

    /// A plain pool of at most 12 connections, without the settings of the library.
    pub async fn pool(&self) -> Database {
        const CONNECTIONS: u32 = 12;
        if self.folder.is_some() {
            let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS);
            let options: sqlx::sqlite::SqliteConnectOptions = self.url.parse().unwrap();
            let patient = options.busy_timeout(std::time::Duration::from_secs(20));
            pool.connect_with(patient).await.unwrap().into()
        } else if self.url.starts_with("mysql:") {
            let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS);
            pool.connect(&self.url).await.unwrap().into()
        } else {
            let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
            pool.connect(&self.url).await.unwrap().into()
        }
    }
}

/// Runs code with the pool of a database.
macro_rules! with_pool {
    ($database:expr, $pool:ident => $code:expr) => {
        match $database {
            temporal_batch::sql::Database::Postgres($pool) => $code,
            temporal_batch::sql::Database::MySql($pool) => $code,
            temporal_batch::sql::Database::Sqlite($pool) => $code,
            _ => unreachable!("no other database is tested"),
        }
    };
}
pub(crate) use with_pool;

/// Runs statements without parameters.
pub async fn script(database: &Database, statements: &str) -> Result<(), sqlx::Error> {
    let script = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
    with_pool!(database, pool => script.execute(pool).await.map(drop))
}

/// The rows of a query whose columns are all texts.
pub async fn texts(database: &Database, query: &str) -> Vec<Vec<Option<String>>> {
    let query = AssertSqlSafe(query.to_owned());
    with_pool!(database, pool => {
        let rows = sqlx::query(query).fetch_all(pool).await.unwrap();
        rows.iter()
            .map(|row| (0..row.len()).map(|at| row.get(at)).collect())
            .collect()
    })
}

/// Creates the tables of the ledger.
pub async fn make_ledger_tables(database: &Database) {
    with_pool!(database, pool => {
        SqlLedger::new(pool.clone()).apply_schema().await.unwrap();
    });
}

/// The empty database of one test, connected. Test binaries add what their tests ask of it.
pub struct Home {
    pub database: Database,
    /// The URL for commands.
    pub url: String,
    _place: TestDatabase,
}

impl Home {
    pub async fn of(place: TestDatabase) -> Self {
        Self {
            database: place.pool().await,
            url: place.url.clone(),
            _place: place,
        }
    }

    /// Runs statements without parameters.
    pub async fn script(&self, statements: &str) {
        script(&self.database, statements).await.unwrap();
    }
}

/// Defines the functions that [`on_each`] calls: `sqlite()`, `postgres(test)` and `mariadb(test)`. The last two return
/// `None` where the server is not installed.
macro_rules! on_test_databases {
    ($home:ty: $make:path) => {
        pub async fn sqlite() -> $home {
            $make($crate::support::databases::TestDatabase::sqlite().await).await
        }

        pub async fn postgres(test: &str) -> Option<$home> {
            let database = $crate::support::databases::TestDatabase::postgres(test).await?;
            Some($make(database).await)
        }

        pub async fn mariadb(test: &str) -> Option<$home> {
            let database = $crate::support::databases::TestDatabase::mariadb(test).await?;
            Some($make(database).await)
        }
    };
}
pub(crate) use on_test_databases;

/// Defines a test on SQLite, one on PostgreSQL and one on MariaDB for each function. The crate needs a module
/// `database`, whose functions `sqlite()`, `postgres(test)` and `mariadb(test)` create the argument of the functions.
macro_rules! on_each {
    ($($claim:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $claim() {
                    super::$claim(crate::database::sqlite().await).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $claim() {
                    if let Some(home) = crate::database::postgres(stringify!($claim)).await {
                        super::$claim(home).await;
                    }
                }
            )*
        }

        mod on_mariadb {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $claim() {
                    if let Some(home) = crate::database::mariadb(stringify!($claim)).await {
                        super::$claim(home).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use on_each;
