//! A database for one test, of any kind.

use temporal_batch::sql::Database;

use crate::support::databases::{self, TestDatabase, on_test_databases};

/// An empty database.
pub struct Home {
    pub database: Database,
    /// The URL for commands.
    pub url: String,
    _place: TestDatabase,
}

async fn home(place: TestDatabase) -> Home {
    Home {
        database: place.pool().await,
        url: place.url.clone(),
        _place: place,
    }
}

on_test_databases! { Home: home }

impl Home {
    /// Runs statements without parameters.
    pub async fn script(&self, statements: &str) {
        databases::script(&self.database, statements).await.unwrap();
    }

    /// Returns the rows of a query whose columns are texts, with a dash for NULL and a space between columns.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        let rows = databases::texts(&self.database, query).await;
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let row = |row: Vec<Option<String>>| {
            let row: Vec<_> = row.into_iter().map(text).collect();
            row.join(" ")
        };
        rows.into_iter().map(row).collect()
    }
}
