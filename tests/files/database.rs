//! A database for one test of imports.

use std::collections::BTreeMap;

use temporal_batch::{
    Batch, PageError, PageProcessor as _,
    sql::{Connections, DEFAULT_CONNECTION, Database, DatabaseOptions, ImportArgs, SqlImport},
    testing::{SimulatedRun, Simulator},
};

use crate::support::databases::{self, TestDatabase, on_test_databases};

/// A database of a test, with the tables of the ledger.
pub struct Home {
    pub database: Database,
    pub url: String,
    _place: TestDatabase,
}

async fn home(place: TestDatabase) -> Home {
    let options = DatabaseOptions::from_url(&place.url).unwrap();
    let database = Database::connect(&options).await.unwrap();
    databases::make_ledger_tables(&database).await;
    Home {
        database,
        url: place.url.clone(),
        _place: place,
    }
}

on_test_databases! { Home: home }

impl Home {
    /// Runs statements.
    pub async fn run(&self, statements: &str) {
        databases::script(&self.database, statements).await.unwrap();
    }

    /// The rows of a query, with all columns as texts.
    pub async fn texts(&self, query: &str) -> Vec<Vec<Option<String>>> {
        databases::texts(&self.database, query).await
    }

    pub fn import(&self) -> SqlImport {
        SqlImport::new(Connections::new().with(DEFAULT_CONNECTION, self.database.clone()))
    }

    pub async fn prepare(&self, args: ImportArgs) -> Result<ImportArgs, PageError> {
        self.import().prepare(args).await
    }

    /// Runs an import to its end, while workers are lost.
    pub async fn imported(&self, args: ImportArgs) -> SimulatedRun {
        let batch = Batch::of::<SqlImport>("import", args)
            .page_size(16)
            .stride(3);
        let simulator = Simulator::new()
            .lose_worker_every(2)
            .duplicate_announcements();
        simulator.run(&self.import(), &batch).await.unwrap()
    }

    /// The number of dead letters of all batches, by type.
    pub async fn letter_types(&self) -> BTreeMap<String, u32> {
        let types = self
            .texts("SELECT error_type FROM temporal_batch_dead_letter")
            .await;
        let mut counted = BTreeMap::new();
        for error_type in types.into_iter().flatten().flatten() {
            *counted.entry(error_type).or_default() += 1;
        }
        counted
    }

    pub fn is_sqlite(&self) -> bool {
        self.database.system() == "SQLite"
    }

    pub fn is_mysql(&self) -> bool {
        matches!(self.database, Database::MySql(_))
    }

    /// The type of a text column of any length.
    pub fn text(&self) -> &'static str {
        if self.is_mysql() { "LONGTEXT" } else { "TEXT" }
    }
}
