//! The databases of a command: the named connections of a worker, or the one database that the command works on.

pub(crate) mod connections;
pub(crate) mod database;
mod environment;
pub(crate) mod sql_connections;

use std::{error::Error as _, fmt};

use crate::{
    base::error::text::with_causes,
    cli::{exit::CliError, output::note},
    sql::{DatabaseError, DatabaseOptions},
};

/// A value that may contain a password. clap does not parse it, because its errors quote the value.
#[derive(Clone)]
pub(crate) struct Hidden(pub(crate) String);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl From<DatabaseError> for CliError {
    fn from(error: DatabaseError) -> Self {
        failed(String::new(), &error)
    }
}

pub(super) fn failed(what: String, error: &DatabaseError) -> CliError {
    let message = with_causes(format!("{what}{error}"), error.source());
    match error.is_misuse() {
        true => CliError::usage(message),
        false => CliError::failure(message),
    }
}

pub(super) fn warn_of_password(options: &DatabaseOptions, flag: &str, variable: &str) {
    if options.has_password() {
        note(format_args!(
            "warning: everybody on this machine can see the password in {flag}; set {variable} instead"
        ));
    }
}
