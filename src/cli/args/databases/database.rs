//! The database of a command that works on one: `--database-url` and the variables that stand in for it.

use clap::Args;

use super::{
    Hidden,
    environment::{environment, of_default},
    warn_of_password,
};
use crate::{cli::exit::CliResult, sql::DatabaseOptions};

/// The database of batches that do not name a connection.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DatabaseArgs {
    /// The database of batches that name no connection [default: TEMPORAL_BATCH_CONNECTION_DEFAULT, DATABASE_URL,
    /// libpq's variables]; better given as a variable, because arguments can be seen by others
    #[arg(long, value_name = "URL")]
    database_url: Option<Hidden>,
}

impl DatabaseArgs {
    /// Returns the database of the flag, or else of the environment, without connecting.
    pub(crate) fn options(&self) -> CliResult<DatabaseOptions> {
        match self.given()? {
            Some(options) => Ok(options),
            None => Ok(of_default(&environment)?),
        }
    }

    /// Returns the URL of the flag, unless it contains a password.
    pub(crate) fn printable(&self) -> Option<String> {
        let url = &self.database_url.as_ref()?.0;
        let options = DatabaseOptions::from_url(url).ok()?;
        (!options.has_password()).then(|| url.clone())
    }

    pub(super) fn given(&self) -> CliResult<Option<DatabaseOptions>> {
        let Some(url) = &self.database_url else {
            return Ok(None);
        };
        let options = DatabaseOptions::from_url(&url.0)?;
        warn_of_password(&options, "--database-url", "DATABASE_URL");
        Ok(Some(options))
    }
}

#[cfg(all(test, feature = "sqlite", feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_password_is_not_printed() {
        let printable = |url: &str| {
            let database_url = Some(Hidden(url.to_owned()));
            DatabaseArgs { database_url }.printable()
        };
        let url = "postgres://u@h/d";
        assert_eq!(printable(url).as_deref(), Some(url));
        assert_eq!(printable("postgres://u:p@h/d"), None);
        assert_eq!(printable("postgres://h/d?password=p"), None);
        assert_eq!(DatabaseArgs::default().printable(), None);
    }
}
