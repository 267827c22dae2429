//! A pool of connections to a database of any kind.

use std::{fmt, sync::Arc, time::Duration};

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use sqlx::AssertSqlSafe;
#[cfg(feature = "postgres")]
use sqlx::Row as _;

use crate::{
    base::error::PageError,
    batch::letter_filter::LetterFilter,
    processor::store::page_ledger::PageLedger,
    sql::{
        LEDGER_TABLES_MISSING, SqlLedger,
        connection::{
            error::DatabaseError,
            options::{DatabaseOptions, Target},
            pool_size::{self, pool_size},
            session,
        },
    },
};

/// A pool of connections to a database, for code that works with each of them. A clone shares the pool.
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

/// The longest wait for a connection of the pool. While a server is away, `sqlx` keeps trying for this long, with
/// pauses of up to a fifth of it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(60);
/// The time after which an unused connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// # Construct
impl Database {
    /// Connects, asks for the allowed number of connections, and makes the pool.
    ///
    /// The pool has one connection for each [page](DatabaseOptions::pages) and two more, but at most 64 (SQLite: 4),
    /// and at most three quarters of what the server allows the user. Connections are opened when they are needed and
    /// closed after 5 minutes without use. A page that finds no free connection waits.
    ///
    /// Every connection has these settings, whatever those of the server are:
    ///
    /// | PostgreSQL | the `application_name`, UTC, `DateStyle` ISO, a `lock_timeout` of 5 s |
    /// | MySQL | strict mode that takes zero dates, UTC, `utf8mb4`, `autocommit`, waits for locks of up to 5 s |
    /// | SQLite | `foreign_keys = ON`, a `busy_timeout` of 60 s; the journal mode stays as it is |
    ///
    /// # Errors
    /// The database cannot be reached or used. The error comes after
    /// [`connect_timeout`](DatabaseOptions::connect_timeout) at the latest.
    pub async fn connect(options: &DatabaseOptions) -> Result<Self, DatabaseError> {
        match tokio::time::timeout(options.connect_timeout, open(options)).await {
            Ok(Ok(database)) => Ok(database),
            Ok(Err(error)) => Err(DatabaseError::of(&error, options)),
            Err(_) => Err(DatabaseError::NoAnswer {
                database: options.redacted(),
                timeout: options.connect_timeout,
            }),
        }
    }
}

/// # Inspect
impl Database {
    /// Returns the name of the database system.
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

    /// Returns the page ledger in this database. No tables are created; see [`SqlLedger`].
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

    /// Returns the largest number of connections of the pool.
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

    /// Returns the number of connections in use.
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
    /// Returns whether the tables of the page ledger exist, by a query for dead letters, which changes nothing.
    pub(crate) async fn has_ledger_tables(&self) -> Result<bool, PageError> {
        let letters = self.ledger();
        match letters.list(&LetterFilter::of(""), None, 1).await {
            Err(error) if error.error_type() == LEDGER_TABLES_MISSING => Ok(false),
            looked => looked.map(|_| true),
        }
    }

    /// Creates a pool without a first connection. `allows` is the number of connections that the server allows, where
    /// it is known.
    pub(crate) fn unconnected(options: &DatabaseOptions, allows: Option<u32>) -> Self {
        macro_rules! pool {
            ($pool:ty, $most:expr) => {{
                let size = pool_size(options.pages, $most, allows);
                <$pool>::new()
                    .max_connections(options.max_connections.unwrap_or(size))
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    // `Connections::watch` warns once for the pool, and not for every page.
                    .acquire_slow_threshold(ACQUIRE_TIMEOUT)
                    .idle_timeout(IDLE_TIMEOUT)
            }};
        }
        match &options.target {
            #[cfg(feature = "postgres")]
            Target::Postgres(connect) => {
                let session = session::set_session(&options.session);
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
                        let session = sqlx::raw_sql(AssertSqlSafe(session::mysql_session()));
                        session.execute(connection).await.map(drop)
                    })
                });
                pool.connect_lazy_with(connect.as_ref().clone()).into()
            }
            #[cfg(feature = "sqlite")]
            Target::Sqlite(connect) => {
                let pool = pool!(sqlx::sqlite::SqlitePoolOptions, pool_size::MOST_OF_SQLITE);
                // Pages of a backfill set another timeout.
                let pool = pool.before_acquire(|connection, _| {
                    Box::pin(async move {
                        let limit = session::sqlite_lock_timeout(session::SQLITE_LOCK_TIMEOUT);
                        let limit = sqlx::raw_sql(AssertSqlSafe(limit));
                        limit.execute(connection).await.map(|_| true)
                    })
                });
                pool.connect_lazy_with(connect.as_ref().clone()).into()
            }
        }
    }
}

/// Makes a first connection, whose error says what is wrong. A pool would try again and then not tell the reason.
async fn open(options: &DatabaseOptions) -> Result<Database, sqlx::Error> {
    use sqlx::{ConnectOptions as _, Connection as _};

    let (allows, options) = match &options.target {
        #[cfg(feature = "postgres")]
        Target::Postgres(connect) => {
            let (mut first, limited) = session::with_lock_timeout(connect).await?;
            let session = sqlx::raw_sql(AssertSqlSafe(session::set_session(&options.session)));
            session.execute(&mut first).await?;
            let allows = sqlx::raw_sql(POSTGRES_ALLOWS).fetch_one(&mut first).await;
            let allows = allows.and_then(|row| row.try_get(0));
            session::warn_of_settings(&mut first, &options.session).await?;
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

/// The number of connections that the server, the role and the database leave for ordinary users.
#[cfg(feature = "postgres")]
const POSTGRES_ALLOWS: &str = "SELECT least(
        current_setting('max_connections')::bigint
            - current_setting('superuser_reserved_connections')::bigint
            - coalesce(current_setting('reserved_connections', true)::bigint, 0),
        (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database())
    )::bigint";

#[cfg(feature = "mysql")]
const MYSQL_ALLOWS: &str = "SELECT CAST(least(
        @@max_connections,
        if(@@max_user_connections > 0, @@max_user_connections, @@max_connections)
    ) AS SIGNED)";

/// Returns the limit of the server. Some proxies cannot tell it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn bound(allows: Result<i64, sqlx::Error>) -> Option<u32> {
    allows.ok().and_then(|allows| u32::try_from(allows).ok())
}

impl fmt::Debug for Database {
    /// Shows the system only, and not the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.system())
    }
}

#[cfg(feature = "postgres")]
impl From<sqlx::PgPool> for Database {
    fn from(pool: sqlx::PgPool) -> Self {
        crate::sql::connection::pgbouncer::note(&pool);
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

/// Runs code with the pool of a database of any kind.
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
