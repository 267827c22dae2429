//! A database for one test, of any kind.

use sqlx::{AssertSqlSafe, Row, TypeInfo, ValueRef};
use temporal_batch::sql::Database;

use crate::support::databases::{self, TestDatabase, on_test_databases, with_pool};

/// A database of one test.
pub struct Home {
    pub database: Database,
    _place: TestDatabase,
}

async fn home(place: TestDatabase) -> Home {
    Home {
        database: place.pool().await,
        _place: place,
    }
}

on_test_databases! { Home: home }

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
            databases::script(&self.database, statement).await.unwrap();
        }
    }

    /// The rows of a query, each as a text.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        with_pool!(&self.database, pool => {
            let query = sqlx::query(AssertSqlSafe(query.to_owned()));
            let rows = query.fetch_all(pool).await.unwrap();
            let texts = rows.iter().map(|row| {
                let values: Vec<_> = (0..row.len()).map(|at| text(row, at)).collect();
                values.join("|")
            });
            texts.collect()
        })
    }

    /// Creates `users (id, name, country)` with ids 1, 2, .. and names `User 1`, `User 2`, ..
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
