//! A pool of connections to one of the databases that are known, whichever that is.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    base::error::PageError,
    batch::letter_filter::LetterFilter,
    processor::store::page_ledger::PageLedger,
    sql::{
        SqlLedger,
        connection::{
            error::{DatabaseError, Reason},
            options::{DatabaseOptions, Target},
            pool_size::{self, pool_size},
        },
        ledger::TABLES_MISSING,
    },
};

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use sqlx::AssertSqlSafe;
#[cfg(feature = "postgres")]
use sqlx::Row as _;

/// A pool of connections to a database, for code that works with any of them. Cloning it shares the pool.
#[derive(Clone)]
#[non_exhaustive]
pub enum Database {
    /// PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
    /// MySQL or MariaDB.
    #[cfg(feature = "mysql")]
    MySql(sqlx::MySqlPool),
    /// SQLite.
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqlitePool),
}

/// How long somebody waits for a connection of the pool. While a server is away `sqlx` tries again and again for
/// so long, with pauses of up to a fifth of it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that nobody needs is closed after that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// # Construct
impl Database {
    /// Connects, asks how many connections there may be, and makes the pool.
    ///
    /// The pool has one connection for each [page](DatabaseOptions::pages) and two beside them, but at most
    /// 64 (SQLite: 4), and at most three quarters of what the server allows the user. They are opened when
    /// they are needed and closed after 5 minutes without use. A page that finds none waits.
    ///
    /// Every connection has, whatever the server's own settings are:
    ///
    /// | PostgreSQL | the `application_name`, UTC, `DateStyle` ISO, a `lock_timeout` of 5 s |
    /// | MySQL | strict mode that takes zero dates, UTC, `utf8mb4`, `autocommit`, waits for locks of up to 5 s |
    /// | SQLite | `foreign_keys = ON`, a `busy_timeout` of 60 s; the journal mode stays as it is |
    ///
    /// # Errors
    /// Why the database cannot be reached or used, after [`connect_timeout`](DatabaseOptions::connect_timeout)
    /// at the latest.
    pub async fn connect(options: &DatabaseOptions) -> Result<Self, DatabaseError> {
        match tokio::time::timeout(options.connect_timeout, open(options)).await {
            Ok(Ok(database)) => Ok(database),
            Ok(Err(error)) => Err(not_connected(&error, options)),
            Err(_) => Err(DatabaseError::NoAnswer {
                database: options.redacted(),
                timeout: options.connect_timeout,
            }),
        }
    }
}

/// # Inspect
impl Database {
    /// The name of the database system.
    pub fn system(&self) -> &'static str {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "PostgreSQL",
            #[cfg(feature = "mysql")]
            Self::MySql(_) => "MySQL",
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => "SQLite",
        }
    }

    /// The page ledger in this database. Makes no tables; see [`SqlLedger`].
    pub fn ledger(&self) -> Arc<dyn PageLedger> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => Arc::new(SqlLedger::new(pool.clone())),
            #[cfg(feature = "mysql")]
            Self::MySql(pool) => Arc::new(SqlLedger::new(pool.clone())),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => Arc::new(SqlLedger::new(pool.clone())),
        }
    }

    /// Connections that the pool may have.
    pub fn max_connections(&self) -> u32 {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => pool.options().get_max_connections(),
            #[cfg(feature = "mysql")]
            Self::MySql(pool) => pool.options().get_max_connections(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => pool.options().get_max_connections(),
        }
    }

    /// Connections that are in use.
    pub fn connections_in_use(&self) -> u32 {
        let (open, idle) = match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => (pool.size(), pool.num_idle()),
            #[cfg(feature = "mysql")]
            Self::MySql(pool) => (pool.size(), pool.num_idle()),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => (pool.size(), pool.num_idle()),
        };
        open.saturating_sub(u32::try_from(idle).unwrap_or(u32::MAX))
    }

    /// Closes all connections.
    pub async fn close(&self) {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => pool.close().await,
            #[cfg(feature = "mysql")]
            Self::MySql(pool) => pool.close().await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => pool.close().await,
        }
    }
}

impl Database {
    /// Whether the tables of the page ledger are there. The letters are asked for, since that changes nothing.
    pub(crate) async fn has_ledger_tables(&self) -> Result<bool, PageError> {
        let letters = self.ledger();
        match letters.list(&LetterFilter::of(""), None, 1).await {
            Err(error) if error.error_type() == TABLES_MISSING => Ok(false),
            looked => looked.map(|_| true),
        }
    }

    /// The pool without a first connection. `allows` is what the server does, where that is known.
    pub(crate) fn unconnected(options: &DatabaseOptions, allows: Option<u32>) -> Self {
        macro_rules! pool {
            ($pool:ty, $most:expr) => {{
                let size = pool_size(options.pages, $most, allows);
                <$pool>::new()
                    .max_connections(options.max_connections.unwrap_or(size))
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    // `Connections::watch` tells of it once, and not for every page.
                    .acquire_slow_threshold(ACQUIRE_TIMEOUT)
                    .idle_timeout(IDLE_TIMEOUT)
            }};
        }
        match &options.target {
            #[cfg(feature = "postgres")]
            Target::Postgres(connect) => {
                let session = set_session(&options.session);
                let pool = pool!(sqlx::postgres::PgPoolOptions, pool_size::MOST);
                let pool = pool.after_connect(move |connection, _| {
                    let session = sqlx::raw_sql(AssertSqlSafe(session.clone()));
                    Box::pin(async move { session.execute(connection).await.map(drop) })
                });
                pool.connect_lazy_with(connect.as_ref().clone()).into()
            }
            #[cfg(feature = "mysql")]
            Target::MySql(connect) => {
                let pool = pool!(sqlx::mysql::MySqlPoolOptions, pool_size::MOST);
                let pool = pool.after_connect(|connection, _| {
                    Box::pin(async move {
                        let session = sqlx::raw_sql(AssertSqlSafe(mysql_session()));
                        session.execute(connection).await.map(drop)
                    })
                });
                pool.connect_lazy_with(connect.as_ref().clone()).into()
            }
            #[cfg(feature = "sqlite")]
            Target::Sqlite(connect) => {
                let pool = pool!(sqlx::sqlite::SqlitePoolOptions, pool_size::MOST_OF_SQLITE);
                // Pages of a backfill have another one.
                let pool = pool.before_acquire(|connection, _| {
                    Box::pin(async move {
                        let limit = sqlite_lock_timeout(SQLITE_LOCK_TIMEOUT);
                        let limit = sqlx::raw_sql(AssertSqlSafe(limit));
                        limit.execute(connection).await.map(|_| true)
                    })
                });
                pool.connect_lazy_with(connect.as_ref().clone()).into()
            }
        }
    }
}

/// A first connection tells at once what is wrong; a pool would try again and then not say why.
async fn open(options: &DatabaseOptions) -> Result<Database, sqlx::Error> {
    use sqlx::{ConnectOptions as _, Connection as _};

    let (allows, options) = match &options.target {
        #[cfg(feature = "postgres")]
        Target::Postgres(connect) => {
            let (mut first, limited) = with_lock_timeout(connect).await?;
            let session = sqlx::raw_sql(AssertSqlSafe(set_session(&options.session)));
            session.execute(&mut first).await?;
            let allows = sqlx::raw_sql(POSTGRES_ALLOWS).fetch_one(&mut first).await;
            let allows = allows.and_then(|row| row.try_get(0));
            warn_of_settings(&mut first, &options.session).await?;
            first.close().await?;
            let mut options = options.clone();
            options.target = Target::Postgres(Box::new(limited));
            (bound(allows), options)
        }
        #[cfg(feature = "mysql")]
        Target::MySql(connect) => {
            let mut first = connect.connect().await?;
            let allows = sqlx::query_scalar(MYSQL_ALLOWS).fetch_one(&mut first);
            let allows = bound(allows.await);
            first.close().await?;
            (allows, options.clone())
        }
        #[cfg(feature = "sqlite")]
        Target::Sqlite(connect) => {
            connect.connect().await?.close().await?;
            (None, options.clone())
        }
    };
    Ok(Database::unconnected(&options, allows))
}

/// Connects with [`LOCK_TIMEOUT`], unless the URL has another one. The limit is a parameter of the start and not a `SET`, which a
/// proxy would leave with a connection that others get after this client.
#[cfg(feature = "postgres")]
async fn with_lock_timeout(
    connect: &sqlx::postgres::PgConnectOptions,
) -> Result<(sqlx::PgConnection, sqlx::postgres::PgConnectOptions), sqlx::Error> {
    use sqlx::ConnectOptions as _;

    let given = connect.get_options().unwrap_or_default();
    if !given.contains("lock_timeout") && !crate::sql::connection::proxied::is_proxied(connect) {
        let millis = LOCK_TIMEOUT.as_millis();
        let limited = connect.clone().options([("lock_timeout", millis)]);
        match limited.connect().await {
            // Of a proxy that takes no `options`.
            Err(sqlx::Error::Database(error)) if error.message().contains("startup parameter") => {}
            connected => return Ok((connected?, limited)),
        }
    }
    Ok((connect.connect().await?, connect.clone()))
}

/// What is left for ordinary users, of the server, of the role and of the database.
#[cfg(feature = "postgres")]
const POSTGRES_ALLOWS: &str = "SELECT least(
        current_setting('max_connections')::bigint
            - current_setting('superuser_reserved_connections')::bigint
            - coalesce(current_setting('reserved_connections', true)::bigint, 0),
        (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database())
    )::bigint";

/// Statements for the session, in a text that needs no values: a proxy may give each message another server.
#[cfg(feature = "postgres")]
fn set_session(settings: &[(&str, String)]) -> String {
    let set =
        |(name, value): &(&str, String)| format!("SET {name} = '{}';", value.replace('\'', "''"));
    settings.iter().map(set).collect()
}

/// Settings of the role and of the database that `psql` would have in its session, and this connection has not.
#[cfg(feature = "postgres")]
const POSTGRES_SETTINGS: &str = "SELECT DISTINCT setting
    FROM pg_catalog.pg_db_role_setting, unnest(setconfig) AS setting
    WHERE setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user))
        AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
        AND lower(split_part(setting, '=', 1)) IN ('timezone', 'datestyle')";

#[cfg(feature = "postgres")]
async fn warn_of_settings(
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

#[cfg(feature = "mysql")]
const MYSQL_ALLOWS: &str = "SELECT CAST(least(
        @@max_connections,
        if(@@max_user_connections > 0, @@max_user_connections, @@max_connections)
    ) AS SIGNED)";

/// Longest wait for another page, or another program, that writes to the file.
#[cfg(feature = "sqlite")]
pub(crate) const SQLITE_LOCK_TIMEOUT: Duration = Duration::from_secs(60);

#[cfg(feature = "sqlite")]
pub(crate) fn sqlite_lock_timeout(longest: Duration) -> String {
    let millis = longest.as_millis().clamp(1, i32::MAX as u128);
    format!("PRAGMA busy_timeout = {millis}")
}

/// Longest wait for the lock of a row or of a table, which a change of its schema holds or waits for. PostgreSQL has no
/// limit of its own, and that of MySQL for tables is a year: a batch would not say why it stands still.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Locks of rows and locks of tables ("metadata") have a limit each.
#[cfg(feature = "mysql")]
pub(crate) fn mysql_lock_timeout(longest: Duration) -> String {
    let seconds = longest.as_millis().div_ceil(1_000).max(1);
    format!("SESSION innodb_lock_wait_timeout = {seconds}, SESSION lock_wait_timeout = {seconds}")
}

/// Values that do not fit are errors and are not cut off; so is a division by zero. Zero dates are values like
/// others: with `NO_ZERO_DATE` a comparison with one is NULL, and a walk over a key with such dates would end
/// at the first. `TRADITIONAL` is a word for several modes, `NO_ZERO_DATE` among them. A 0 stays a 0 in a column that
/// counts up by itself, and a `CHAR` is read without the blanks that it was filled up with. `sqlx` itself sets UTC.
#[cfg(feature = "mysql")]
fn mysql_session() -> String {
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

/// Some proxies do not know; then the server's bound is not known either.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn bound(allows: Result<i64, sqlx::Error>) -> Option<u32> {
    allows.ok().and_then(|allows| u32::try_from(allows).ok())
}

fn not_connected(error: &sqlx::Error, options: &DatabaseOptions) -> DatabaseError {
    let database = options.redacted();
    let source = Reason::of(error, &options.secrets);
    match error {
        // The handshake of TLS fails like this too.
        sqlx::Error::Io(io) if io.kind() != std::io::ErrorKind::InvalidData => {
            DatabaseError::Unreachable { database, source }
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => DatabaseError::Tls { database, source },
        sqlx::Error::Database(said) => match (&options.target, code(&**said).as_str()) {
            #[cfg(feature = "postgres")]
            (Target::Postgres(_), "28000" | "28P01" | "42501") => {
                DatabaseError::AccessDenied { database, source }
            }
            #[cfg(feature = "postgres")]
            (Target::Postgres(_), "3D000") => DatabaseError::NoDatabase { database, source },
            #[cfg(feature = "mysql")]
            (Target::MySql(_), "1044" | "1045" | "1130" | "1698") => {
                DatabaseError::AccessDenied { database, source }
            }
            #[cfg(feature = "mysql")]
            (Target::MySql(_), "1049") => DatabaseError::NoDatabase { database, source },
            #[cfg(feature = "sqlite")]
            (Target::Sqlite(file), "14") if !file.get_filename().exists() => {
                DatabaseError::NoFile {
                    path: file.get_filename().to_owned(),
                }
            }
            _ => DatabaseError::Failed { database, source },
        },
        _ => DatabaseError::Failed { database, source },
    }
}

/// The code of PostgreSQL and SQLite, the number of MySQL.
fn code(error: &dyn sqlx::error::DatabaseError) -> String {
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return error.number().to_string();
    }
    error.code().map(Into::into).unwrap_or_default()
}

impl fmt::Debug for Database {
    /// Nothing of how it is reached.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.system())
    }
}

#[cfg(feature = "postgres")]
impl From<sqlx::PgPool> for Database {
    fn from(pool: sqlx::PgPool) -> Self {
        crate::sql::connection::proxied::note(&pool);
        Self::Postgres(pool)
    }
}

#[cfg(feature = "mysql")]
impl From<sqlx::MySqlPool> for Database {
    fn from(pool: sqlx::MySqlPool) -> Self {
        Self::MySql(pool)
    }
}

#[cfg(feature = "sqlite")]
impl From<sqlx::SqlitePool> for Database {
    fn from(pool: sqlx::SqlitePool) -> Self {
        Self::Sqlite(pool)
    }
}

/// Runs code with the pool of a database, whichever that is.
macro_rules! on_pool {
    ($database:expr, $pool:ident: $db:ident => $code:expr) => {
        match $database {
            #[cfg(feature = "postgres")]
            $crate::sql::Database::Postgres($pool) => {
                type $db = sqlx::Postgres;
                $code
            }
            #[cfg(feature = "mysql")]
            $crate::sql::Database::MySql($pool) => {
                type $db = sqlx::MySql;
                $code
            }
            #[cfg(feature = "sqlite")]
            $crate::sql::Database::Sqlite($pool) => {
                type $db = sqlx::Sqlite;
                $code
            }
        }
    };
}
pub(crate) use on_pool;
