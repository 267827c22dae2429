//! A database for one test, and the statements that tests run beside reading a table.

use std::time::Duration;

use sqlx::{AssertSqlSafe, postgres::PgPoolOptions};
use temporal_batch::{
    PageError,
    sql::{Database, Key, Table, TableError, TableSpec, Value as SqlValue},
};

use tokio::sync::{Mutex, MutexGuard};

use crate::support::{
    databases::{self, TestDatabase, with_pool},
    servers::MariaDb,
};

/// The longest wait for an expected event.
pub const SOON: Duration = Duration::from_secs(60);

/// An empty database.
pub struct Home {
    pub database: Database,
    /// Another pool of the same database, with other session settings.
    pub elsewhere: Database,
    place: TestDatabase,
    _turn: Option<MutexGuard<'static, ()>>,
    _server: Option<MariaDb>,
}

async fn home(place: TestDatabase) -> Home {
    let database = place.pool().await;
    Home {
        elsewhere: database.clone(),
        database,
        place,
        _turn: None,
        _server: None,
    }
}

pub async fn sqlite() -> Home {
    home(TestDatabase::sqlite().await).await
}

pub async fn postgres(test: &str) -> Option<Home> {
    let mut home = home(TestDatabase::postgres(test).await?).await;
    // Set once the connection is made, since the settings of `sqlx` override all `options`.
    let odd = "SET DateStyle = German; SET TimeZone = 'America/St_Johns'; SET IntervalStyle = sql_standard;
        SET extra_float_digits = 0; SET bytea_output = escape";
    let elsewhere = PgPoolOptions::new()
        .max_connections(2)
        .after_connect(move |connection, _| {
            Box::pin(async move { sqlx::raw_sql(odd).execute(connection).await.map(drop) })
        })
        .connect(&home.place.url)
        .await
        .unwrap();
    home.elsewhere = elsewhere.into();
    Some(home)
}

/// A database of the shared MariaDB, which only one test uses at a time: MariaDB may show its open transactions as they
/// were up to 100 ms ago, so marks that are taken at the same time hold each other up.
pub async fn mariadb(test: &str) -> Option<Home> {
    static TURNS: Mutex<()> = Mutex::const_new(());
    let turn = TURNS.lock().await;
    let mut home = home(TestDatabase::mariadb(test).await?).await;
    home._turn = Some(turn);
    Some(home)
}

/// A database of a MariaDB that no other test uses.
pub async fn mariadb_alone(test: &str) -> Option<Home> {
    let Some(server) = MariaDb::launch(false) else {
        MariaDb::skip();
        return None;
    };
    let mut home = home(TestDatabase::at(server.database(test).await)).await;
    home._server = Some(server);
    Some(home)
}

impl Home {
    pub fn is_sqlite(&self) -> bool {
        matches!(self.database, Database::Sqlite(_))
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.database, Database::Postgres(_))
    }

    pub fn is_mariadb(&self) -> bool {
        matches!(self.database, Database::MySql(_))
    }

    /// Runs statements.
    pub async fn script(&self, statements: impl Into<String>) {
        self.try_script(statements).await.unwrap();
    }

    pub async fn try_script(&self, statements: impl Into<String>) -> Result<(), sqlx::Error> {
        databases::script(&self.database, &statements.into()).await
    }

    /// The numbers in the first column of a result.
    pub async fn numbers(&self, statement: impl Into<String>) -> Vec<i64> {
        self.numbers_with(statement, Vec::new()).await
    }

    pub async fn numbers_with(
        &self,
        statement: impl Into<String>,
        values: Vec<SqlValue>,
    ) -> Vec<i64> {
        let sql = AssertSqlSafe(statement.into());
        macro_rules! bind_all {
            ($query:expr) => {{
                let mut query = $query;
                for value in values {
                    query = match value {
                        SqlValue::Text(text) => query.bind(text),
                        SqlValue::Int(number) => query.bind(number),
                        SqlValue::Flag(flag) => query.bind(flag),
                    };
                }
                query
            }};
        }
        with_pool!(&self.database, pool => {
            bind_all!(sqlx::query_scalar(sql)).fetch_all(pool).await.unwrap()
        })
    }

    pub async fn number(&self, statement: impl Into<String>) -> i64 {
        self.numbers(statement).await[0]
    }

    pub async fn inspect(&self, table: &str, key: &[&str]) -> Result<Table, TableError> {
        Table::inspect(&self.database, &TableSpec::new(table, key.iter().copied())).await
    }

    /// Creates a table `t` with `rows` rows, whose ids begin with 1.
    pub async fn fill(&self, table: &str, rows: u32) {
        let n = if self.is_mariadb() {
            format!("SELECT seq AS n FROM seq_1_to_{rows}")
        } else {
            format!(
                "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) \
                 SELECT n FROM c"
            )
        };
        self.script(format!(
            "CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY, x BIGINT NOT NULL);
            INSERT INTO {table} SELECT n, 0 FROM ({n}) AS numbers"
        ))
        .await;
    }
}

/// Creates rows with the numbers in one column.
pub async fn numbered(
    table: &Table,
    column: &str,
    start: Option<&Key>,
    end: Option<&Key>,
    limit: usize,
) -> Result<Vec<(Key, i64)>, PageError> {
    fn plain<T>(rows: Vec<(Key, (T,))>) -> Vec<(Key, T)> {
        rows.into_iter().map(|(key, (n,))| (key, n)).collect()
    }
    let columns = [column];
    match table.database() {
        Database::Postgres(_) => {
            let rows = table.rows::<sqlx::Postgres, (i64,)>(&columns, start, end, limit);
            rows.await.map(plain)
        }
        Database::MySql(_) => {
            let rows = table.rows::<sqlx::MySql, (i64,)>(&columns, start, end, limit);
            rows.await.map(plain)
        }
        Database::Sqlite(_) => {
            let rows = table.rows::<sqlx::Sqlite, (i64,)>(&columns, start, end, limit);
            rows.await.map(plain)
        }
        _ => unreachable!("no other database is tested"),
    }
}
