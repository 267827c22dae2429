//! Why there is no connection to a database.

use std::{fmt, path::PathBuf, time::Duration};

use crate::base::error::text::words;

/// Why a database cannot be reached, or what is wrong with how it was named. No variant shows a password or
/// a whole URL: a database is told as scheme, user, host and name.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// Nothing says which database. Set the variable, or the variables of libpq.
    #[error("no database is named; set {variable} to a URL such as {EXAMPLE}")]
    NotGiven {
        /// The variable that was looked at.
        variable: String,
    },
    /// What was given is no URL of a database.
    #[error("this is no URL of a database: {problem}; write one such as {EXAMPLE}")]
    InvalidUrl {
        /// What is wrong with it.
        problem: String,
    },
    /// A parameter of the URL, or a variable, cannot be what it is.
    #[error("the {system} connection cannot have {problem}")]
    InvalidParameter {
        /// The name of the database system.
        system: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// This program was built without that database system.
    #[error("this program is built without {system}; build it with the feature `{feature}`")]
    NotBuilt {
        /// The name of the database system.
        system: &'static str,
        /// The feature that has it.
        feature: &'static str,
    },
    /// The URL asks for TLS, but this program was built without.
    #[error(
        "{database} is to be reached over TLS, but this program is built without; build it with the feature `tls`"
    )]
    NoTls {
        /// The database.
        database: String,
    },
    /// There is no such file. Nothing is created silently.
    #[error(
        "there is no SQLite database at {}; check the path, or add ?mode=rwc to have one made",
        path.display()
    )]
    NoFile {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Nothing listens there, or there is no way to it.
    #[error("cannot reach {database}; check host and port, and that the server runs")]
    Unreachable {
        /// The database.
        database: String,
        /// What the system said.
        source: Reason,
    },
    /// Something swallows what is sent.
    #[error(
        "no answer from {database} within {}; check host and port, and that nothing blocks the way",
        humantime::format_duration(*timeout)
    )]
    NoAnswer {
        /// The database.
        database: String,
        /// How long it was tried.
        timeout: Duration,
    },
    /// The server does not let the user in.
    #[error("{database} refuses access; check user, password and the rules of the server")]
    AccessDenied {
        /// The database.
        database: String,
        /// What the server said.
        source: Reason,
    },
    /// The server has no such database.
    #[error("{database} is not there; check the name of the database")]
    NoDatabase {
        /// The database.
        database: String,
        /// What the server said.
        source: Reason,
    },
    /// TLS failed: the server has none, or its certificate is not trusted.
    #[error("no TLS connection to {database}; check sslmode, the host name and the certificates")]
    Tls {
        /// The database.
        database: String,
        /// What went wrong.
        source: Reason,
    },
    /// The server answered with another error.
    #[error("{database} cannot be used")]
    Failed {
        /// The database.
        database: String,
        /// What the server said.
        source: Reason,
    },
}

const EXAMPLE: &str =
    "postgres://USER@HOST:PORT/DATABASE, mysql://USER@HOST:PORT/DATABASE or sqlite:PATH";

impl DatabaseError {
    /// Whether the same may work later: nobody answered, as opposed to an answer that nobody likes.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoAnswer { .. })
    }

    /// Whether it was refused before anything was sent: no other time will cure it.
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

/// What a system or a server said, without secrets.
#[derive(Clone, Debug)]
pub struct Reason(String);

impl Reason {
    /// Takes out whatever is secret, should it be there.
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
