//! 2,000 generated users, some of whom have an unusable address.

use std::{path::Path, time::Duration};

use temporal_batch::sqlx;
use temporal_batch::sqlx::{
    QueryBuilder, Sqlite, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

/// The table. `fixes` counts how often an address was written, which should be once.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS users (
    id    INTEGER PRIMARY KEY,
    email TEXT    NOT NULL,
    fixes INTEGER NOT NULL DEFAULT 0
)";

pub const USERS: u32 = 2_000;

/// The address as it was typed. One in 250 is spelled out, which the strict code does not understand.
pub fn typed_in(id: u32) -> String {
    match id {
        _ if id.is_multiple_of(250) => format!("user{id} at example dot org"),
        _ if id.is_multiple_of(7) => format!("  User{id}@Example.ORG "),
        _ => format!("user{id}@example.org"),
    }
}

/// Opens the database, and fills it if it is new. Several processes may do so at once.
pub async fn open(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(60));
    // A page holds a connection while it is processed, so there must be more connections than pages in flight.
    let pool = SqlitePoolOptions::new().max_connections(16);
    let pool = pool.connect_with(options).await?;
    let mut fill = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(SCHEMA).execute(&mut *fill).await?;
    let users = sqlx::query_scalar("SELECT count(*) FROM users");
    let users: u32 = users.fetch_one(&mut *fill).await?;
    if users == 0 {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO users (id, email) ");
        insert.push_values(1..=USERS, |mut row, id| {
            row.push_bind(id).push_bind(typed_in(id));
        });
        insert.build().execute(&mut *fill).await?;
    }
    fill.commit().await?;
    Ok(pool)
}
