//! A pool of connections to one of the databases that are known, whichever that is.

use std::{fmt, sync::Arc};

use crate::{page_ledger::PageLedger, sql::SqlLedger};

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

    /// The page ledger in this database, where there can be one.
    pub fn ledger(&self) -> Arc<dyn PageLedger> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => Arc::new(SqlLedger::new(pool.clone())),
            #[cfg(feature = "mysql")]
            Self::MySql(_) => unimplemented!("until there is a ledger in MySQL"),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => Arc::new(SqlLedger::new(pool.clone())),
        }
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

impl fmt::Debug for Database {
    /// Nothing of how it is reached.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.system())
    }
}

#[cfg(feature = "postgres")]
impl From<sqlx::PgPool> for Database {
    fn from(pool: sqlx::PgPool) -> Self {
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
