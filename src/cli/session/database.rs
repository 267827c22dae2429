//! The database that the batch of a session works on.

use crate::{
    batch::Batch,
    cli::{args::databases::database::DatabaseArgs, exit::CliResult, session::batch_id::target},
    sql::{Connections, Database, DatabaseOptions},
};

pub(crate) struct SessionDatabase {
    pub database: Database,
    pub options: DatabaseOptions,
    /// The URL without its password.
    pub shown: String,
    /// A short name of the database, for ids.
    pub target: String,
}

impl SessionDatabase {
    /// Connects, with a pool for the pages that the batch may have in flight.
    pub(crate) async fn connect(given: &DatabaseArgs, batch: &Batch) -> CliResult<Self> {
        let options = given.options()?;
        let pages = batch.spec.max_parallelism;
        let database = Database::connect(&options.clone().pages(pages)).await?;
        let shown = options.redacted();
        Ok(Self {
            database,
            target: target(&shown),
            shown,
            options,
        })
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
