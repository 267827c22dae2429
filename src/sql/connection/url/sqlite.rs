//! A URL of SQLite.

use std::str::FromStr as _;

use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};

use super::invalid;
use crate::sql::connection::{
    error::DatabaseError,
    options::{DatabaseOptions, Target},
    session::SQLITE_LOCK_TIMEOUT,
};

pub(super) fn parse(url: &str) -> Result<DatabaseOptions, DatabaseError> {
    let path = url.split_once(':').map_or("", |(_, path)| path);
    let path = path.trim_start_matches("//");
    if path.split('?').next().unwrap_or_default().is_empty() {
        return Err(invalid("it names no file"));
    }
    let options = SqliteConnectOptions::from_str(url).map_err(|_| DatabaseError::InvalidParameter {
        system: "SQLite",
        problem: "one of the parameters of its URL; known are: mode (ro, rw, rwc, memory), cache (private, \
                  shared), immutable, vfs"
            .to_owned(),
    })?;
    let options = options
        .busy_timeout(SQLITE_LOCK_TIMEOUT)
        .foreign_keys(true)
        .disable_statement_logging();
    Ok(DatabaseOptions::of(
        Target::Sqlite(Box::new(options)),
        Vec::new(),
    ))
}
