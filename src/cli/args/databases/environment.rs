//! The databases that environment variables name.

use std::collections::{BTreeMap, btree_map::Entry};

use super::failed;
use crate::{
    cli::exit::{CliError, CliResult},
    sql::{
        DEFAULT_CONNECTION, DatabaseError, DatabaseOptions,
        connection::named::check_connection_name,
    },
};

/// The prefix of the variables that define connections; the rest of the variable is the name in capitals.
pub(super) const VARIABLES: &str = "TEMPORAL_BATCH_CONNECTION_";

/// Looks up an environment variable.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Adds the name of the connection to an error.
pub(super) fn named(
    name: &str,
    found: Result<DatabaseOptions, DatabaseError>,
) -> CliResult<DatabaseOptions> {
    found.map_err(|error| failed(format!("connection \"{name}\": "), &error))
}

pub(super) fn variable_of(name: &str) -> String {
    format!("{VARIABLES}{}", name.to_ascii_uppercase())
}

/// Returns the database whose URL is in a variable.
pub(super) fn of_variable(
    variable: &str,
    variables: Environment<'_>,
) -> Result<DatabaseOptions, DatabaseError> {
    let url = variables(variable).filter(|url| !url.trim().is_empty());
    let url = url.ok_or_else(|| DatabaseError::NotGiven {
        variable: variable.to_owned(),
    })?;
    DatabaseOptions::from_url(url.trim())
}

/// Returns the connection `default` without a flag. All commands ask here, so that they agree: its own variable comes
/// before `DATABASE_URL`, and `DATABASE_URL` before libpq's variables.
pub(super) fn of_default(variables: Environment<'_>) -> Result<DatabaseOptions, DatabaseError> {
    match of_variable(&variable_of(DEFAULT_CONNECTION), variables) {
        Err(DatabaseError::NotGiven { .. }) => DatabaseOptions::from_variables(variables),
        found => found,
    }
}

/// Returns the connections that variables define, with their names in lower case.
pub(super) fn of_variables(
    variables: &BTreeMap<String, String>,
) -> CliResult<BTreeMap<String, DatabaseOptions>> {
    let mut all = BTreeMap::new();
    for (variable, url) in variables {
        let Some(name) = variable.strip_prefix(VARIABLES) else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        check_connection_name(&name)
            .map_err(|e| CliError::usage(format_args!("the variable {variable}: {e}")))?;
        let options = named(&name, DatabaseOptions::from_url(url.trim()))?;
        all.insert(name, options);
    }
    Ok(all)
}

/// Adds the connection `default` unless it is defined already.
pub(super) fn add_default(
    all: &mut BTreeMap<String, DatabaseOptions>,
    variables: &BTreeMap<String, String>,
) -> CliResult<()> {
    let Entry::Vacant(free) = all.entry(DEFAULT_CONNECTION.to_owned()) else {
        return Ok(());
    };
    match of_default(&|name| variables.get(name).cloned()) {
        Err(DatabaseError::NotGiven { .. }) => Ok(()),
        found => {
            let found = named(free.key(), found)?;
            free.insert(found);
            Ok(())
        }
    }
}

/// Returns all variables whose values are text, as a URL is.
pub(super) fn variables() -> BTreeMap<String, String> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
