//! A database for one test, whichever it is.

use sqlx::{
    AssertSqlSafe,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use temporal_batch::{
    BackfillArgs, Batch, Connections, DEFAULT_CONNECTION, Database, SqlBackfill, SqlLedger,
    testing::{SimulatedRun, Simulator},
};

/// A database with nothing in it.
pub struct Home {
    pub database: Database,
    /// For commands.
    pub url: String,
    _folder: Option<tempfile::TempDir>,
}

pub async fn sqlite() -> Home {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(4);
    Home {
        database: pool.connect_with(options).await.unwrap().into(),
        url: format!("sqlite:{}", path.display()),
        _folder: Some(folder),
    }
}

pub async fn postgres(test: &str) -> Option<Home> {
    let server = crate::postgres::Postgres::shared()?;
    let url = server.database(test).await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    Some(Home {
        database: pool.into(),
        url,
        _folder: None,
    })
}

pub async fn mariadb(test: &str) -> Option<Home> {
    let server = crate::mariadb::MariaDb::shared()?;
    let url = server.database(test).await;
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    Some(Home {
        database: pool.into(),
        url,
        _folder: None,
    })
}

/// Runs code with the pool, whichever it is.
macro_rules! with_pool {
    ($database:expr, $pool:ident => $code:expr) => {
        match $database {
            Database::Postgres($pool) => $code,
            Database::MySql($pool) => $code,
            Database::Sqlite($pool) => $code,
            _ => unreachable!("there is no other"),
        }
    };
}

impl Home {
    /// Runs statements that take no values.
    pub async fn script(&self, statements: &str) {
        let statements = AssertSqlSafe(statements.to_owned());
        with_pool!(&self.database, pool => {
            sqlx::raw_sql(statements).execute(pool).await.map(|_| ()).unwrap();
        });
    }

    /// The one number that a query gives.
    pub async fn number(&self, query: &str) -> i64 {
        let query = AssertSqlSafe(query.to_owned());
        with_pool!(&self.database, pool => {
            sqlx::query_scalar::<_, i64>(query).fetch_one(pool).await.unwrap()
        })
    }

    pub async fn ledger_tables(&self) {
        with_pool!(&self.database, pool => {
            SqlLedger::new(pool.clone()).apply_schema().await.unwrap();
        });
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(self.database, Database::Sqlite(_))
    }

    pub fn is_mysql(&self) -> bool {
        matches!(self.database, Database::MySql(_))
    }

    pub fn processor(&self) -> SqlBackfill {
        let connections = Connections::new().with(DEFAULT_CONNECTION, self.database.clone());
        SqlBackfill::new(connections)
    }

    /// Rows `(id, x, name)` with ids from 1 on, x = 0 and names in capitals where the id is even.
    pub async fn numbers(&self, rows: u32) {
        self.script(
            "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, x INTEGER NOT NULL, name VARCHAR(20) NOT NULL)",
        )
        .await;
        let rows: Vec<u32> = (1..=rows).collect();
        for rows in rows.chunks(500) {
            let values: Vec<_> = rows
                .iter()
                .map(|id| {
                    let name = if id % 2 == 0 { "NAME" } else { "name" };
                    format!("({id}, 0, '{name}{id}')")
                })
                .collect();
            self.script(&format!("INSERT INTO t VALUES {}", values.join(", ")))
                .await;
        }
    }

    /// Runs a whole batch of pages of 10 rows, of which every second stride is lost after its work and runs
    /// again.
    pub async fn run(&self, args: BackfillArgs) -> SimulatedRun {
        self.run_with(&self.processor(), args).await
    }

    /// The same with another processor.
    pub async fn run_with(&self, processor: &SqlBackfill, args: BackfillArgs) -> SimulatedRun {
        let batch = Batch::of::<SqlBackfill>("test", args)
            .page_size(10)
            .stride(3)
            .max_parallelism(2);
        let simulator = Simulator::new().lose_worker_every(2);
        simulator.run(processor, &batch).await.unwrap()
    }
}
