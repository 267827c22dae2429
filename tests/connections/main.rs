//! Connections to databases: refused URLs, messages without secrets, pools, and TLS.

mod commands;
mod pools;
mod secrets;
mod sessions;
mod tls;
mod urls;

#[path = "../support/mod.rs"]
mod support;

use std::{error::Error, time::Duration};

use temporal_batch::sql::{Database, DatabaseError, DatabaseOptions};

/// The longest wait for an event that is expected soon.
const SOON: Duration = Duration::from_secs(30);

/// An error with its causes, as it is printed.
fn chain(error: &DatabaseError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

async fn connect(url: &str) -> Result<Database, DatabaseError> {
    Database::connect(&DatabaseOptions::from_url(url)?).await
}

/// The pool of a PostgreSQL database.
fn pg(database: &Database) -> &sqlx::PgPool {
    match database {
        Database::Postgres(pool) => pool,
        other => panic!("{other:?}"),
    }
}

fn sqlite(database: &Database) -> &sqlx::SqlitePool {
    match database {
        Database::Sqlite(pool) => pool,
        other => panic!("{other:?}"),
    }
}
