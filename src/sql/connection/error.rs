//! The errors of connections to databases.

use std::{fmt, path::PathBuf, time::Duration};

use super::options::{DatabaseOptions, Target};
use crate::base::{error::text::words, text::exactly};

/// A database that cannot be reached, or that is named wrongly. No variant shows a password or a whole URL: a
/// database is shown as scheme, user, host and name.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// A database is not named. Set the variable, or the variables of libpq.
    #[error("no database is named; set {variable} to a URL such as {EXAMPLE}")]
    NotGiven {
        /// The variable that should hold the URL.
        variable: String,
    },
    /// The text is not a URL of a database.
    #[error("this is not the URL of a database: {problem}; write one such as {EXAMPLE}")]
    InvalidUrl {
        /// The problem with the URL.
        problem: String,
    },
    /// A parameter of the URL, or a variable, has a value that is not allowed.
    #[error("the {system} connection cannot have {problem}")]
    InvalidParameter {
        /// The name of the database system.
        system: &'static str,
        /// The problem, and the allowed values.
        problem: String,
    },
    /// The program was built without the database system.
    #[error("this program is built without {system}; build it with the feature `{feature}`")]
    NotBuilt {
        /// The name of the database system.
        system: &'static str,
        /// The cargo feature of the database system.
        feature: &'static str,
    },
    /// The URL asks for TLS, but this program was built without it.
    #[error(
        "{database} needs TLS, but this program is built without it; build it with the feature `tls`"
    )]
    NoTls {
        /// The database.
        database: String,
    },
    /// The file does not exist. It is not created silently.
    #[error(
        "there is no SQLite database at {}; check the path, or add ?mode=rwc to create one",
        path.display()
    )]
    NoFile {
        /// The path of the file.
        path: PathBuf,
    },
    /// The server cannot be reached: no process listens at the address, or there is no route to it.
    #[error("cannot reach {database}; check host and port, and that the server runs")]
    Unreachable {
        /// The database.
        database: String,
        /// The error of the operating system.
        source: Reason,
    },
    /// The server did not answer in time.
    #[error(
        "no answer from {database} within {}; check host and port, and that nothing blocks the way",
        exactly(*timeout)
    )]
    NoAnswer {
        /// The database.
        database: String,
        /// The time after which the attempt ended.
        timeout: Duration,
    },
    /// The server refuses the user.
    #[error("{database} refuses access; check user, password and the rules of the server")]
    AccessDenied {
        /// The database.
        database: String,
        /// The error of the server.
        source: Reason,
    },
    /// The server has no database of that name.
    #[error("{database} does not exist; check the name of the database")]
    NoDatabase {
        /// The database.
        database: String,
        /// The error of the server.
        source: Reason,
    },
    /// TLS failed: the server does not offer it, or its certificate is not trusted.
    #[error("no TLS connection to {database}; check sslmode, the host name and the certificates")]
    Tls {
        /// The database.
        database: String,
        /// The error of the handshake.
        source: Reason,
    },
    /// The server answered with another error.
    #[error("{database} cannot be used")]
    Failed {
        /// The database.
        database: String,
        /// The error of the server.
        source: Reason,
    },
}

const EXAMPLE: &str =
    "postgres://USER@HOST:PORT/DATABASE, mysql://USER@HOST:PORT/DATABASE or sqlite:PATH";

impl DatabaseError {
    /// Returns the error of a failed attempt to connect.
    pub(super) fn of(error: &sqlx::Error, options: &DatabaseOptions) -> Self {
        let database = options.redacted();
        let source = Reason::of(error, &options.secrets);
        match error {
            // A failed TLS handshake is an I/O error, too.
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

    /// Returns whether a later attempt may succeed: the server did not answer, as opposed to an answer that refuses.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoAnswer { .. })
    }

    /// Returns whether the connection was refused before anything was sent, so that no later attempt can succeed.
    #[must_use]
    pub fn is_misuse(&self) -> bool {
        matches!(
            self,
            Self::NotGiven { .. }
                | Self::InvalidUrl { .. }
                | Self::InvalidParameter { .. }
                | Self::NotBuilt { .. }
                | Self::NoTls { .. }
        )
    }
}

/// Returns the code of an error: for MySQL the error number.
fn code(error: &dyn sqlx::error::DatabaseError) -> String {
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return error.number().to_string();
    }
    error.code().map(Into::into).unwrap_or_default()
}

/// The words of a system or a server, without secrets.
#[derive(Clone, Debug)]
pub struct Reason(String);

impl Reason {
    /// Returns the text of an error, with all secrets replaced.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static), secrets: &[String]) -> Self {
        let mut text = words(error);
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), "[hidden]");
        }
        Self(text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}
