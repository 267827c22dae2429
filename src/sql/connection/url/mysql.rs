//! A URL of MySQL or MariaDB.

use sqlx::{
    ConnectOptions as _,
    mysql::{MySqlConnectOptions, MySqlSslMode},
};

use super::{Parameters, network_url, with_tls};
use crate::sql::connection::{
    error::DatabaseError,
    options::{DatabaseOptions, Target},
};

pub(super) fn parse(url: &str) -> Result<DatabaseOptions, DatabaseError> {
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
    // Both become part of a statement.
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
        // `||` keeps the meaning that it has for other users of the server.
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
