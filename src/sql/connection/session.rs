//! The settings of the sessions of a pool.

use std::time::Duration;

#[cfg(feature = "postgres")]
use sqlx::Row as _;

/// The longest wait for another page, or another program, that writes to the file.
#[cfg(feature = "sqlite")]
pub(crate) const SQLITE_LOCK_TIMEOUT: Duration = Duration::from_secs(60);

#[cfg(feature = "sqlite")]
pub(crate) fn sqlite_lock_timeout(longest: Duration) -> String {
    let millis = longest.as_millis().clamp(1, i32::MAX as u128);
    format!("PRAGMA busy_timeout = {millis}")
}

/// The longest wait for a lock of a row or a table. A change of the table's schema holds or waits for such a lock.
/// PostgreSQL has no limit by default, and that of MySQL for tables is a year: a batch would stand still without a
/// reason.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits the waits for row locks and for table locks ("metadata"), which have a setting each.
#[cfg(feature = "mysql")]
pub(crate) fn mysql_lock_timeout(longest: Duration) -> String {
    let seconds = longest.as_millis().div_ceil(1_000).max(1);
    format!("SESSION innodb_lock_wait_timeout = {seconds}, SESSION lock_wait_timeout = {seconds}")
}

/// Returns the statement for a session of MySQL. Values that do not fit, and divisions by zero, are errors. Zero dates
/// are ordinary values: with `NO_ZERO_DATE` a comparison with one is NULL, and a walk over a key with such dates would
/// end at the first. `TRADITIONAL` stands for several modes, `NO_ZERO_DATE` among them. A 0 stays a 0 in an
/// `AUTO_INCREMENT` column, and a `CHAR` is read without its padding. `sqlx` itself sets UTC.
#[cfg(feature = "mysql")]
pub(super) fn mysql_session() -> String {
    let modes = [
        "TRADITIONAL",
        "NO_ZERO_IN_DATE",
        "NO_ZERO_DATE",
        "PAD_CHAR_TO_FULL_LENGTH",
    ];
    let kept = modes.iter().fold("@@sql_mode".to_owned(), |kept, mode| {
        format!("replace({kept}, '{mode}', '')")
    });
    format!(
        "SET SESSION sql_mode = concat({kept}, ',STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_VALUE_ON_ZERO'), \
         SESSION autocommit = 1, {}",
        mysql_lock_timeout(LOCK_TIMEOUT)
    )
}

/// Connects with [`LOCK_TIMEOUT`], unless the URL has another one. The limit is a startup parameter and not a `SET`:
/// a proxy would leave the setting in a connection that other clients get later.
#[cfg(feature = "postgres")]
pub(super) async fn with_lock_timeout(
    connect: &sqlx::postgres::PgConnectOptions,
) -> Result<(sqlx::PgConnection, sqlx::postgres::PgConnectOptions), sqlx::Error> {
    use sqlx::ConnectOptions as _;

    let given = connect.get_options().unwrap_or_default();
    if !given.contains("lock_timeout") && !super::pgbouncer::is_proxied(connect) {
        let millis = LOCK_TIMEOUT.as_millis();
        let limited = connect.clone().options([("lock_timeout", millis)]);
        match limited.connect().await {
            // A proxy that accepts no `options`.
            Err(sqlx::Error::Database(error)) if error.message().contains("startup parameter") => {}
            connected => return Ok((connected?, limited)),
        }
    }
    Ok((connect.connect().await?, connect.clone()))
}

/// Returns the statements for the session, in a text without placeholders: a proxy may send each message to another
/// server connection.
#[cfg(feature = "postgres")]
pub(super) fn set_session(settings: &[(&str, String)]) -> String {
    let set =
        |(name, value): &(&str, String)| format!("SET {name} = '{}';", value.replace('\'', "''"));
    settings.iter().map(set).collect()
}

/// Settings of the role and of the database that a session of `psql` would have and a session of `sqlx` does not have.
#[cfg(feature = "postgres")]
const POSTGRES_SETTINGS: &str = "SELECT DISTINCT setting
    FROM pg_catalog.pg_db_role_setting, unnest(setconfig) AS setting
    WHERE setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user))
        AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
        AND lower(split_part(setting, '=', 1)) IN ('timezone', 'datestyle')";

#[cfg(feature = "postgres")]
pub(super) async fn warn_of_settings(
    connection: &mut sqlx::PgConnection,
    given: &[(&str, String)],
) -> Result<(), sqlx::Error> {
    let rows = sqlx::raw_sql(POSTGRES_SETTINGS)
        .fetch_all(connection)
        .await?;
    for row in rows {
        let setting: String = row.try_get(0)?;
        let name = setting.split('=').next().unwrap_or_default();
        if !given
            .iter()
            .any(|(given, _)| given.eq_ignore_ascii_case(name))
        {
            tracing::warn!(
                "the role or the database sets {setting}, and this connection has UTC and the date style ISO, MDY; \
                 `options=-c%20{setting}` in the URL sets it"
            );
        }
    }
    Ok(())
}
