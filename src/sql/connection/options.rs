//! The options of a connection.

use std::{fmt, time::Duration};

use super::{error::DatabaseError, url};

/// The environment variable with the URL of the database.
const VARIABLE: &str = "DATABASE_URL";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The database to connect to, and the settings of its pool, for [`Database::connect`](crate::sql::Database::connect).
///
/// | setting | default |
/// |---|---|
/// | [`pages`](Self::pages) | 8 |
/// | [`max_connections`](Self::max_connections) | follows `pages` |
/// | [`connect_timeout`](Self::connect_timeout) | 10 s |
/// | [`application_name`](Self::application_name) (PostgreSQL) | `temporal-batch` |
///
/// `Debug` shows scheme, user, host and name of the database, and nothing else.
#[derive(Clone)]
#[must_use]
pub struct DatabaseOptions {
    pub(crate) target: Target,
    pub(crate) pages: u32,
    pub(crate) max_connections: Option<u32>,
    pub(crate) connect_timeout: Duration,
    /// Texts that must not be shown, although they may appear in the message of an error.
    pub(crate) secrets: Vec<String>,
    /// The requested values of the PostgreSQL settings that `sqlx` sets by itself.
    #[cfg(feature = "postgres")]
    pub(crate) session: Vec<(&'static str, String)>,
    pub(super) password_in_url: bool,
}

#[derive(Clone)]
pub(crate) enum Target {
    #[cfg(feature = "postgres")]
    Postgres(Box<sqlx::postgres::PgConnectOptions>),
    #[cfg(feature = "mysql")]
    MySql(Box<sqlx::mysql::MySqlConnectOptions>),
    #[cfg(feature = "sqlite")]
    Sqlite(Box<sqlx::sqlite::SqliteConnectOptions>),
}

/// # Construct
impl DatabaseOptions {
    /// Reads a URL:
    ///
    /// | URL | database |
    /// |---|---|
    /// | `postgres://USER:PASSWORD@HOST:PORT/DATABASE?...`, also `postgresql://` | PostgreSQL |
    /// | `mysql://USER:PASSWORD@HOST:PORT/DATABASE?...`, also `mariadb://` | MySQL or MariaDB |
    /// | `sqlite:PATH`, also `sqlite://PATH` | SQLite |
    ///
    /// Parts that a PostgreSQL URL leaves out come from libpq's `PG*` variables and password file. The password of a
    /// MySQL URL may come from `MYSQL_PWD`. `docs/connections.md` lists the known parameters.
    ///
    /// # Errors
    /// The URL is not one of a database, it has an unknown parameter, or this program is built without the database
    /// system, or without TLS although the URL asks for it. Nothing is connected to.
    pub fn from_url(url: &str) -> Result<Self, DatabaseError> {
        url::parse(url)
    }

    /// Reads the environment: the URL in `DATABASE_URL`, or else, where `PGHOST`, `PGHOSTADDR` or `PGDATABASE` is
    /// set, the PostgreSQL database of libpq's variables.
    ///
    /// # Errors
    /// [`NotGiven`](DatabaseError::NotGiven) if none of these is set; otherwise those of [`from_url`](Self::from_url).
    pub fn from_env() -> Result<Self, DatabaseError> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// Reads the given variables. Parts that the URL leaves out still come from the environment.
    pub(crate) fn from_variables(
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, DatabaseError> {
        if let Some(url) = variables(VARIABLE).filter(|url| !url.trim().is_empty()) {
            return Self::from_url(url.trim());
        }
        let libpq = ["PGHOST", "PGHOSTADDR", "PGDATABASE"];
        if libpq.iter().any(|name| variables(name).is_some()) {
            return Self::from_url("postgres://");
        }
        Err(DatabaseError::NotGiven {
            variable: VARIABLE.to_owned(),
        })
    }

    /// Sets the number of pages that work on the database at once, for which the pool is made.
    pub fn pages(mut self, pages: u32) -> Self {
        self.pages = pages;
        self
    }

    /// Sets the largest number of connections of the pool, which otherwise follows from [`pages`](Self::pages). 0
    /// counts as 1.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = Some(connections.max(1));
        self
    }

    /// Sets the longest wait of [`Database::connect`](crate::sql::Database::connect) for an answer.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the name of the connections in `pg_stat_activity`. Other databases have no such name.
    pub fn application_name(self, name: &str) -> Self {
        let _ = name;
        let target = match self.target {
            #[cfg(feature = "postgres")]
            Target::Postgres(options) => Target::Postgres(Box::new(options.application_name(name))),
            #[cfg(any(feature = "mysql", feature = "sqlite"))]
            other => other,
        };
        Self { target, ..self }
    }

    pub(super) fn of(target: Target, secrets: Vec<String>) -> Self {
        Self {
            target,
            pages: 8,
            max_connections: None,
            connect_timeout: CONNECT_TIMEOUT,
            password_in_url: !secrets.is_empty(),
            secrets,
            #[cfg(feature = "postgres")]
            session: Vec::new(),
        }
    }
}

/// # Inspect
impl DatabaseOptions {
    /// Returns the name of the database system.
    pub fn system(&self) -> &'static str {
        match &self.target {
            #[cfg(feature = "postgres")]
            Target::Postgres(_) => "PostgreSQL",
            #[cfg(feature = "mysql")]
            Target::MySql(_) => "MySQL",
            #[cfg(feature = "sqlite")]
            Target::Sqlite(_) => "SQLite",
        }
    }

    /// Returns whether the URL had a password.
    pub fn has_password(&self) -> bool {
        self.password_in_url
    }

    /// Returns the database without secrets: scheme, user, host, port and name, or the path of a file.
    pub fn redacted(&self) -> String {
        match &self.target {
            #[cfg(feature = "postgres")]
            Target::Postgres(options) => {
                let host = match options.get_socket() {
                    Some(socket) => socket.display().to_string(),
                    None => format!("{}:{}", options.get_host(), options.get_port()),
                };
                let user = options.get_username();
                let database = options.get_database().unwrap_or(user);
                format!("postgres://{}@{host}/{}", plain(user), plain(database))
            }
            #[cfg(feature = "mysql")]
            Target::MySql(options) => {
                let host = match options.get_socket() {
                    Some(socket) => socket.display().to_string(),
                    None => format!("{}:{}", options.get_host(), options.get_port()),
                };
                let database = options.get_database().unwrap_or_default();
                let user = plain(options.get_username());
                format!("mysql://{user}@{host}/{}", plain(database))
            }
            #[cfg(feature = "sqlite")]
            Target::Sqlite(options) => format!("sqlite:{}", options.get_filename().display()),
        }
    }
}

impl fmt::Debug for DatabaseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseOptions({})", self.redacted())
    }
}

/// Hides a name with unusual characters: it may be a whole `user:password` that was percent-encoded by mistake.
fn plain(name: &str) -> &str {
    let allowed = |c: char| c.is_alphanumeric() || "_-. $".contains(c);
    match name.chars().all(allowed) {
        true => name,
        false => "...",
    }
}
