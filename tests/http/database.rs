//! A database for one test, of any kind.

use crate::support::databases::{self, on_test_databases};

pub use crate::support::databases::Home;

on_test_databases! { Home: Home::of }

impl Home {
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
