//! A database for one test, of whatever kind.

use sqlx::{
    AssertSqlSafe, Executor, Row, TypeInfo, ValueRef,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use temporal_batch::Database;

/// A database of one test.
pub struct Home {
    pub database: Database,
    /// Where it is, while it is a file.
    _folder: Option<tempfile::TempDir>,
}

pub async fn sqlite() -> Home {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("test.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(4);
    Home {
        database: pool.connect_with(options).await.unwrap().into(),
        _folder: Some(folder),
    }
}

pub async fn postgres(test: &str) -> Option<Home> {
    let server = crate::postgres::Postgres::shared()?;
    Some(Home {
        database: server.pool(test, 4).await.into(),
        _folder: None,
    })
}

pub async fn mariadb(test: &str) -> Option<Home> {
    let server = crate::mariadb::MariaDb::shared()?;
    Some(Home {
        database: server.pool(test, 4).await.into(),
        _folder: None,
    })
}

/// Any value as a text.
fn text<'r, R>(row: &'r R, at: usize) -> String
where
    R: Row,
    usize: sqlx::ColumnIndex<R>,
    Option<String>: sqlx::Decode<'r, R::Database>,
    Option<i64>: sqlx::Decode<'r, R::Database>,
{
    let raw = row.try_get_raw(at).unwrap();
    if raw.is_null() {
        return "NULL".to_owned();
    }
    let type_name = raw.type_info().name().to_owned();
    if type_name.contains("INT") {
        let number: Option<i64> = row.try_get_unchecked(at).unwrap();
        return number.unwrap().to_string();
    }
    let text: Option<String> = row.try_get_unchecked(at).unwrap();
    text.unwrap()
}

impl Home {
    /// Runs statements that are the same in every database.
    pub async fn run(&self, statements: &[&str]) {
        for statement in statements {
            let statement = AssertSqlSafe(*statement);
            match &self.database {
                Database::Postgres(pool) => drop(pool.execute(statement).await.unwrap()),
                Database::MySql(pool) => drop(pool.execute(statement).await.unwrap()),
                Database::Sqlite(pool) => drop(pool.execute(statement).await.unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The rows of a query, each as a text.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        macro_rules! all {
            ($pool:expr) => {{
                let rows = sqlx::query(AssertSqlSafe(query))
                    .fetch_all($pool)
                    .await
                    .unwrap();
                let mut texts = Vec::new();
                for row in &rows {
                    let values: Vec<_> = (0..row.len()).map(|at| text(row, at)).collect();
                    texts.push(values.join("|"));
                }
                texts
            }};
        }
        match &self.database {
            Database::Postgres(pool) => all!(pool),
            Database::MySql(pool) => all!(pool),
            Database::Sqlite(pool) => all!(pool),
            other => panic!("{other:?}"),
        }
    }

    /// Makes `users (id, name, country)` with ids 1, 2, .. and names `User 1`, `User 2`, ..
    pub async fn users(&self, rows: u32) {
        self.run(&[
            "CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR(80), country VARCHAR(2))",
        ])
        .await;
        let all: Vec<_> = (1..=rows).collect();
        for chunk in all.chunks(500) {
            let country = |id: &u32| if id.is_multiple_of(10) { "de" } else { "fr" };
            let values: Vec<_> = chunk
                .iter()
                .map(|id| format!("({id}, 'User {id}', '{}')", country(id)))
                .collect();
            let insert = format!("INSERT INTO users VALUES {}", values.join(", "));
            self.run(&[&insert]).await;
        }
    }
}
