//! A URL of PostgreSQL.

use std::time::Duration;

use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::{Parameters, network_url, with_tls, without};
use crate::sql::connection::{
    error::DatabaseError,
    options::{DatabaseOptions, Target},
};

/// The name that connections have on a PostgreSQL server.
const APPLICATION_NAME: &str = "temporal-batch";

pub(super) fn parse(url: &str) -> Result<DatabaseOptions, DatabaseError> {
    const ROOT: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca"];
    /// Parameters of libpq that change what a connection is, so that it would be wrong to ignore them.
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
        // libpq takes 0 for no limit.
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
    // sqlx reads the file to the end of its first line, which a device may never reach.
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
        // As in libpq, naming a root certificate asks for it to be checked.
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
        // PgBouncer refuses this startup parameter.
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

/// Returns the settings that a session must set again: those that are requested in `options`, or in libpq's variables.
/// `sqlx` begins every session with UTC and the date style ISO, MDY, whatever `options`, the role and the database say.
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

/// Returns the settings in `-c name=value`, `-cname=value` and `--name=value`. A backslash keeps a blank from ending a
/// value.
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
