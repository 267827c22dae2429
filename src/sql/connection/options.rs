//! Which database, and how it is reached.

use std::{fmt, time::Duration};

#[cfg(any(feature = "postgres", feature = "mysql"))]
use url::Url;

use crate::sql::connection::error::DatabaseError;

/// The name that connections have on a PostgreSQL server.
const APPLICATION_NAME: &str = "temporal-batch";
/// The variable that names a database.
const VARIABLE: &str = "DATABASE_URL";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which database, and how it is reached. [`Database::connect`](crate::Database::connect) takes it.
///
/// | setting | default |
/// |---|---|
/// | [`pages`](Self::pages) | 8 |
/// | [`max_connections`](Self::max_connections) | follows `pages` |
/// | [`connect_timeout`](Self::connect_timeout) | 10 s |
/// | [`application_name`](Self::application_name) (PostgreSQL) | `temporal-batch` |
///
/// Its `Debug` shows scheme, user, host and name of the database, and nothing else.
#[derive(Clone)]
#[must_use]
pub struct DatabaseOptions {
    pub(crate) target: Target,
    pub(crate) pages: u32,
    pub(crate) max_connections: Option<u32>,
    pub(crate) connect_timeout: Duration,
    /// What must not be seen, as it may come back in a message.
    pub(crate) secrets: Vec<String>,
    /// Settings of PostgreSQL sessions to which `sqlx` gives values of its own, with those that were asked for.
    #[cfg(feature = "postgres")]
    pub(crate) session: Vec<(&'static str, String)>,
    password_in_url: bool,
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
    /// The database of a URL:
    ///
    /// | URL | database |
    /// |---|---|
    /// | `postgres://USER:PASSWORD@HOST:PORT/DATABASE?...`, also `postgresql://` | PostgreSQL |
    /// | `mysql://USER:PASSWORD@HOST:PORT/DATABASE?...`, also `mariadb://` | MySQL or MariaDB |
    /// | `sqlite:PATH`, also `sqlite://PATH` | SQLite |
    ///
    /// What a PostgreSQL URL leaves out comes from libpq's `PG*` variables and password file. A MySQL URL
    /// without a password takes `MYSQL_PWD`. The parameters that are known are in `docs/connections.md`.
    ///
    /// # Errors
    /// It is no URL of a database, has a parameter that is not known, or this program is built without the
    /// database system or without the TLS that it asks for. Connects to nothing.
    pub fn from_url(url: &str) -> Result<Self, DatabaseError> {
        let scheme = url.split(':').next().unwrap_or_default();
        match scheme.to_ascii_lowercase().as_str() {
            "postgres" | "postgresql" => postgres(url),
            "mysql" | "mariadb" => mysql(url),
            "sqlite" => sqlite(url),
            _ => Err(invalid("it does not begin with a scheme that is known")),
        }
    }

    /// The database of the environment: the URL in `DATABASE_URL`, or else, where `PGHOST`, `PGHOSTADDR` or
    /// `PGDATABASE` is set, the PostgreSQL database of libpq's variables.
    ///
    /// # Errors
    /// [`NotGiven`](DatabaseError::NotGiven) where nothing is set; otherwise as
    /// [`from_url`](Self::from_url).
    pub fn from_env() -> Result<Self, DatabaseError> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// The database of a choice of variables. Parts that a URL leaves out come from the environment all the same.
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

    /// How many pages work on the database at once: the pool is made for that.
    pub fn pages(mut self, pages: u32) -> Self {
        self.pages = pages;
        self
    }

    /// Connections that the pool has at most, instead of what [`pages`](Self::pages) leads to. 0 is taken
    /// as 1.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = Some(connections.max(1));
        self
    }

    /// How long [`Database::connect`](crate::Database::connect) waits for an answer.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// What the connections are called in `pg_stat_activity`. Other databases have no such name.
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

    fn of(target: Target, secrets: Vec<String>) -> Self {
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
    /// The name of the database system.
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

    /// Whether there was a password in the URL.
    pub fn has_password(&self) -> bool {
        self.password_in_url
    }

    /// The database without secrets: scheme, user, host, port and name, or the path of a file.
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

/// A name may be a whole `user:password` that was encoded too much.
fn plain(name: &str) -> &str {
    let allowed = |c: char| c.is_alphanumeric() || "_-. $".contains(c);
    match name.chars().all(allowed) {
        true => name,
        false => "...",
    }
}

fn invalid(problem: impl Into<String>) -> DatabaseError {
    DatabaseError::InvalidUrl {
        problem: problem.into(),
    }
}

/// A URL whose parts are where they belong: a password with a character that is not encoded would end up
/// in the name of the database or in a parameter, and be shown.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn network_url(url: &str) -> Result<(Url, Vec<String>), DatabaseError> {
    let (_, rest) = url
        .split_once("://")
        .ok_or_else(|| invalid("there is no `://` after the scheme"))?;
    let encode = "a user or a password holds one of `@ : / ? # %` that is not percent-encoded (`%40`, \
                  `%3A`, `%2F`, `%3F`, `%23`, `%25`)";
    let path = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[path..].contains(['@', '#']) {
        return Err(invalid(encode));
    }
    let parsed = Url::parse(url).map_err(|_| {
        let several = rest[..path].contains(',');
        match several {
            true => invalid("it names several hosts, but one is allowed"),
            false => invalid(format!("host or port cannot be read, or {encode}")),
        }
    })?;
    let mut secrets = Vec::new();
    let decoded = |text: &str| {
        let query = format!("p={}", text.replace('+', "%2B"));
        let pair = url::form_urlencoded::parse(query.as_bytes()).next();
        pair.map(|(_, value)| value.into_owned())
    };
    if let Some(password) = parsed.password() {
        secrets.push(password.to_owned());
        secrets.extend(decoded(password));
    }
    let of_query = parsed.query_pairs().filter(|(key, _)| key == "password");
    secrets.extend(of_query.map(|(_, value)| value.into_owned()));
    Ok((parsed, secrets))
}

/// The parameters of a URL that this crate looks at itself, before `sqlx` gets it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
struct Parameters {
    system: &'static str,
    pairs: Vec<(String, String)>,
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
impl Parameters {
    /// Refuses what is not `known`, so that nothing is ignored silently. Only a name that is another
    /// program's is shown: any other one may be a part of a password.
    fn of(
        url: &Url,
        system: &'static str,
        known: &[&str],
        of_others: &[&str],
    ) -> Result<Self, DatabaseError> {
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        for (name, _) in &pairs {
            if known.contains(&name.as_str()) || name.starts_with("options[") {
                continue;
            }
            let what = match of_others.contains(&name.as_str()) {
                true => format!("`{name}`, which is not supported here"),
                false => "one of the parameters of its URL, which is not known".to_owned(),
            };
            return Err(DatabaseError::InvalidParameter {
                system,
                problem: format!("{what}; known are: {}", known.join(", ")),
            });
        }
        Ok(Self { system, pairs })
    }

    fn get(&self, names: &[&str]) -> Option<&str> {
        let mut given = self.pairs.iter().rev();
        let pair = given.find(|(name, _)| names.contains(&name.as_str()))?;
        Some(&pair.1)
    }

    fn refuse(&self, problem: impl Into<String>) -> DatabaseError {
        DatabaseError::InvalidParameter {
            system: self.system,
            problem: problem.into(),
        }
    }

    /// A parameter that is one of a few words.
    fn word(&self, names: &[&str], allowed: &[&str]) -> Result<Option<String>, DatabaseError> {
        let Some(value) = self.get(names) else {
            return Ok(None);
        };
        let value = value.to_ascii_lowercase();
        match allowed.contains(&value.as_str()) {
            true => Ok(Some(value)),
            false => Err(self.refuse(format!(
                "this `{}`; allowed are: {}",
                names[0],
                allowed.join(", ")
            ))),
        }
    }

    /// Files are opened once, so that an error can name them.
    fn files(&self, all: &[&[&str]]) -> Result<(), DatabaseError> {
        for names in all {
            if let Some(path) = self.get(names)
                && let Err(error) = crate::base::small_file::check(path)
            {
                let name = names[0];
                return Err(self.refuse(format!("`{path}` as `{name}`: {error}")));
            }
        }
        Ok(())
    }
}

/// Parameters that `sqlx` does not know.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn without(mut url: Url, names: &[&str]) -> Url {
    let pairs: Vec<_> = url.query_pairs().into_owned().collect();
    url.set_query(None);
    for (name, value) in pairs {
        if !names.contains(&name.as_str()) {
            url.query_pairs_mut().append_pair(&name, &value);
        }
    }
    url
}

#[cfg(feature = "postgres")]
fn postgres(url: &str) -> Result<DatabaseOptions, DatabaseError> {
    use sqlx::{
        ConnectOptions as _,
        postgres::{PgConnectOptions, PgSslMode},
    };

    const ROOT: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca"];
    /// Those of libpq that change what a connection is, so that leaving them out would be wrong.
    const NOT_HERE: &[&str] = &[
        "gssencmode",
        "keepalives",
        "keepalives_idle",
        "krbsrvname",
        "load_balance_hosts",
        "passfile",
        "require_auth",
        "service",
        "sslcrl",
        "sslnegotiation",
        "sslpassword",
    ];
    let (parsed, secrets) = network_url(url)?;
    let parameters = Parameters::of(
        &parsed,
        "PostgreSQL",
        &[
            "sslmode",
            "sslrootcert",
            "sslcert",
            "sslkey",
            "connect_timeout",
            "application_name",
            "options",
            "host",
            "hostaddr",
            "port",
            "dbname",
            "user",
            "password",
            "channel_binding",
            "target_session_attrs",
            "statement-cache-capacity",
            "ssl-mode",
            "ssl-root-cert",
            "ssl-ca",
            "ssl-cert",
            "ssl-key",
        ],
        NOT_HERE,
    )?;
    let modes = [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ];
    let mode = parameters.word(&["sslmode", "ssl-mode"], &modes)?;
    parameters.word(&["channel_binding"], &["disable", "prefer"])?;
    parameters.word(&["target_session_attrs"], &["any"])?;
    let timeout = match parameters.get(&["connect_timeout"]) {
        // libpq's word for no limit.
        None | Some("0") => None,
        Some(text) => Some(text.parse().map_err(|_| {
            parameters
                .refuse("this `connect_timeout`; write a number of seconds, or 0 for the default")
        })?),
    };
    let mut left_out = vec!["channel_binding", "target_session_attrs", "connect_timeout"];
    let root = parameters.get(ROOT).map(str::to_owned);
    let root = root.or_else(|| std::env::var("PGSSLROOTCERT").ok());
    let system_roots = root.as_deref() == Some("system");
    if system_roots {
        left_out.extend(ROOT);
    } else {
        parameters.files(&[ROOT, &["sslcert", "ssl-cert"], &["sslkey", "ssl-key"]])?;
    }
    // sqlx reads it to the end of its first line, which a device need not have.
    if let Some(path) = std::env::var_os("PGPASSFILE").filter(|path| !path.is_empty())
        && let Ok(metadata) = std::fs::metadata(&path)
        && !metadata.is_file()
    {
        return Err(parameters.refuse("a PGPASSFILE that is no regular file"));
    }
    let options = PgConnectOptions::from_url(&without(parsed, &left_out)).map_err(|_| {
        parameters.refuse(
            "one of its parameters as it is; look at `port`, `hostaddr` and `statement-cache-capacity`, and \
             at what is percent-encoded",
        )
    })?;
    let asked = options.get_ssl_mode();
    let options = match asked {
        // As libpq does: who names a root wants it to be checked.
        PgSslMode::Require if root.is_some() && !system_roots => {
            options.ssl_mode(PgSslMode::VerifyCa)
        }
        _ if system_roots && mode.is_none() => options.ssl_mode(PgSslMode::VerifyFull),
        _ => options,
    };
    let options = options
        .application_name(
            parameters
                .get(&["application_name"])
                .unwrap_or(APPLICATION_NAME),
        )
        .disable_statement_logging();
    let options = match parameters.get(&["statement-cache-capacity"]) {
        // PgBouncer takes no such parameter when a connection is made.
        Some("0") => options.extra_float_digits(None),
        _ => options,
    };
    let wants_tls = matches!(
        options.get_ssl_mode(),
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull
    );
    let session = session_settings(options.get_options().unwrap_or_default(), |name| {
        std::env::var(name).ok()
    });
    let options = DatabaseOptions {
        session,
        ..DatabaseOptions::of(Target::Postgres(Box::new(options)), secrets)
    };
    let options = match timeout {
        Some(seconds) => options.connect_timeout(Duration::from_secs(seconds)),
        None => options,
    };
    with_tls(options, wants_tls)
}

/// `sqlx` opens every session with UTC and the date style ISO, MDY, over whatever `options`, the role and the
/// database say. So what is asked for in `options`, or in libpq's variables, is set once more.
#[cfg(feature = "postgres")]
fn session_settings(
    options: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<(&'static str, String)> {
    let wanted = [("TimeZone", "PGTZ"), ("DateStyle", "PGDATESTYLE")];
    let given = pairs_of(options);
    let wanted = wanted.into_iter().filter_map(|(setting, name)| {
        let mut given = given.iter().rev();
        let given = given.find(|(name, _)| name.eq_ignore_ascii_case(setting));
        let value = given.map(|(_, value)| value.clone());
        let value = value.or_else(|| variable(name).filter(|value| !value.is_empty()));
        value.map(|value| (setting, value))
    });
    wanted.collect()
}

/// The settings in `-c name=value`, `-cname=value` and `--name=value`. A backslash keeps a blank from ending a value.
#[cfg(feature = "postgres")]
fn pairs_of(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        let word = words.last_mut().expect("there is always one");
        match character {
            '\\' => word.extend(characters.next()),
            blank if blank.is_whitespace() => words.push(String::new()),
            other => word.push(other),
        }
    }
    let settings = words
        .iter()
        .filter(|word| !word.is_empty() && *word != "-c");
    let pairs = settings.filter_map(|word| {
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix("-c"));
        let (name, value) = word?.split_once('=')?;
        Some((name.replace('-', "_"), value.to_owned()))
    });
    let bare = words.windows(2).filter(|pair| pair[0] == "-c");
    let bare = bare.filter_map(|pair| pair[1].split_once('='));
    pairs
        .chain(bare.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}

#[cfg(not(feature = "postgres"))]
fn postgres(_url: &str) -> Result<DatabaseOptions, DatabaseError> {
    Err(DatabaseError::NotBuilt {
        system: "PostgreSQL",
        feature: "postgres",
    })
}

#[cfg(feature = "mysql")]
fn mysql(url: &str) -> Result<DatabaseOptions, DatabaseError> {
    use sqlx::{
        ConnectOptions as _,
        mysql::{MySqlConnectOptions, MySqlSslMode},
    };

    let (parsed, secrets) = network_url(url)?;
    let parameters = Parameters::of(
        &parsed,
        "MySQL",
        &[
            "ssl-mode",
            "ssl-ca",
            "ssl-cert",
            "ssl-key",
            "charset",
            "collation",
            "socket",
            "statement-cache-capacity",
            "sslmode",
            "sslca",
            "sslcert",
            "sslkey",
        ],
        &["timezone", "time-zone"],
    )?;
    parameters.word(
        &["ssl-mode", "sslmode"],
        &[
            "disabled",
            "preferred",
            "required",
            "verify_ca",
            "verify_identity",
        ],
    )?;
    parameters.files(&[
        &["ssl-ca", "sslca"],
        &["ssl-cert", "sslcert"],
        &["ssl-key", "sslkey"],
    ])?;
    // They become part of a statement.
    let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    for name in ["charset", "collation"] {
        if parameters.get(&[name]).is_some_and(|value| !word(value)) {
            return Err(parameters.refuse(format!("this `{name}`; write a name such as utf8mb4")));
        }
    }
    let has_password = parsed.password().is_some();
    let options = MySqlConnectOptions::from_url(&parsed).map_err(|_| {
        parameters.refuse(
            "one of its parameters as it is; look at `statement-cache-capacity`, and at what is \
             percent-encoded",
        )
    })?;
    let from_variable = std::env::var("MYSQL_PWD").ok().filter(|_| !has_password);
    let options = match &from_variable {
        Some(password) => options.password(password),
        None => options,
    };
    let options = options
        // `||` means what it means to the server's other users.
        .pipes_as_concat(false)
        .disable_statement_logging();
    let wants_tls = matches!(
        options.get_ssl_mode(),
        MySqlSslMode::Required | MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity
    );
    let mut options = DatabaseOptions::of(Target::MySql(Box::new(options)), secrets);
    options.secrets.extend(from_variable);
    with_tls(options, wants_tls)
}

#[cfg(not(feature = "mysql"))]
fn mysql(_url: &str) -> Result<DatabaseOptions, DatabaseError> {
    Err(DatabaseError::NotBuilt {
        system: "MySQL",
        feature: "mysql",
    })
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn with_tls(options: DatabaseOptions, wanted: bool) -> Result<DatabaseOptions, DatabaseError> {
    match wanted && !cfg!(feature = "tls") {
        true => Err(DatabaseError::NoTls {
            database: options.redacted(),
        }),
        false => Ok(options),
    }
}

#[cfg(feature = "sqlite")]
fn sqlite(url: &str) -> Result<DatabaseOptions, DatabaseError> {
    use std::str::FromStr as _;

    use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};

    use crate::sql::connection::pool::SQLITE_LOCK_TIMEOUT;

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

#[cfg(not(feature = "sqlite"))]
fn sqlite(_url: &str) -> Result<DatabaseOptions, DatabaseError> {
    Err(DatabaseError::NotBuilt {
        system: "SQLite",
        feature: "sqlite",
    })
}
