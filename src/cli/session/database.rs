//! The database that the batch of a session works on.

use crate::{
    batch::Batch,
    cli::{
        args::databases::database::DatabaseArgs,
        exit::{CliError, CliResult},
        session::batch_id::target,
    },
    sql::{Connections, Database, DatabaseOptions, connection::place::Place},
};

pub(crate) struct SessionDatabase {
    pub database: Database,
    pub options: DatabaseOptions,
    /// The URL without its password.
    pub shown: String,
    /// A short name of the place of the database, for ids.
    pub target: String,
    default_database: Option<String>,
}

impl SessionDatabase {
    /// Connects, with a pool for the pages that the batch may have in flight.
    pub(crate) async fn connect(given: &DatabaseArgs, batch: &Batch) -> CliResult<Self> {
        let options = given.options()?;
        let pages = batch.spec.max_parallelism;
        let database = Database::connect(&options.clone().pages(pages)).await?;
        let place = Place::of(&options, &database).await;
        let place = place.map_err(|e| CliError::caused("the database does not name itself", &e))?;
        Ok(Self {
            database,
            target: target(&place),
            default_database: Place::default_database(&options),
            shown: options.redacted(),
            options,
        })
    }

    /// Returns the database in which expressions find tables, if any of them may name one.
    pub(crate) fn meant_by<'a>(&self, mut texts: impl Iterator<Item = &'a str>) -> Option<&str> {
        let selects = texts.any(|text| text.to_lowercase().contains("select"));
        self.default_database().filter(|_| selects)
    }

    /// Returns the database in which statements find the tables that they name without one, where the place does not
    /// say it.
    pub(crate) fn default_database(&self) -> Option<&str> {
        self.default_database.as_deref()
    }

    pub(crate) fn connections(&self, name: &str) -> Connections {
        Connections::new().with(name, self.database.clone())
    }

    /// Returns the pages that this process works on at once. Each page needs a connection, and one more is left for all
    /// other work, so that a page that has begun never waits for a connection.
    pub(crate) fn slots(&self) -> u32 {
        self.database.max_connections().saturating_sub(1).max(1)
    }

    pub(crate) async fn close(self) {
        self.database.close().await;
    }
}
