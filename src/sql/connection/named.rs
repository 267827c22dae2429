//! Databases by name.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{base::error::PageError, sql::Database};

/// The name of the connection that a batch works on when it names none.
pub const DEFAULT_CONNECTION: &str = "default";

/// The interval of [`Connections::watch`], and the number of looks after which it warns.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOKS: u32 = 5;

/// The longest name of a connection, in characters.
const MAX_NAME: usize = 64;

/// The databases of a worker by name. A batch names one of them; it never carries a URL, so that credentials stay
/// with the worker. A clone is cheap and shares the pools.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use temporal_batch::sql::{Connections, Database, DatabaseOptions, DEFAULT_CONNECTION};
///
/// let shop = DatabaseOptions::from_url("sqlite:shop.db")?;
/// let connections = Connections::new().with(DEFAULT_CONNECTION, Database::connect(&shop).await?);
/// let database = connections.get("default")?;
/// # let _ = database;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Connections(BTreeMap<String, Database>);

/// # Construct
impl Connections {
    /// Creates an empty set of databases.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a database, or replaces the one with that name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, database: impl Into<Database>) -> Self {
        self.0.insert(name.into(), database.into());
        self
    }
}

/// # Inspect
impl Connections {
    /// Returns the database with a name.
    ///
    /// # Errors
    /// A [`PageError::environment`] of type `UnknownConnection`, which lists the names that exist: another worker, or
    /// this one after a restart, may have the database.
    pub fn get(&self, name: &str) -> Result<&Database, PageError> {
        self.0.get(name).ok_or_else(|| {
            let there = match self.0.is_empty() {
                true => "it has none".to_owned(),
                false => format!("it has: {}", self.names().collect::<Vec<_>>().join(", ")),
            };
            let name: String = name.chars().take(MAX_NAME).collect();
            PageError::environment(format_args!(
                "this worker has no connection \"{name}\"; {there}"
            ))
            .with_type("UnknownConnection")
        })
    }

    /// Returns the names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns the databases with their names, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Database)> {
        self.0
            .iter()
            .map(|(name, database)| (name.as_str(), database))
    }

    /// Returns whether there are no databases.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Connections {
    /// Watches the pools, without ever returning. When all connections of a pool have been in use for a while, so that
    /// pages may be waiting, it logs a warning, and a line when that is over.
    pub async fn watch(&self) {
        self.watch_every(LOOK_EVERY).await;
    }

    async fn watch_every(&self, interval: Duration) {
        let mut full = BTreeMap::new();
        loop {
            tokio::time::sleep(interval).await;
            for (name, database) in &self.0 {
                let most = database.max_connections();
                let looks = full.entry(name).or_insert(0_u32);
                if database.connections_in_use() >= most {
                    *looks = looks.saturating_add(1);
                } else if std::mem::take(looks) >= LOOKS {
                    tracing::warn!(connection = %name, "connections are free again");
                }
                if *looks == LOOKS {
                    tracing::warn!(
                        connection = %name,
                        connections = most,
                        "all connections are in use; further pages wait for one"
                    );
                }
            }
        }
    }

    /// Closes all connections. The call waits for connections that are in use.
    pub async fn close(&self) {
        futures::future::join_all(self.0.values().map(Database::close)).await;
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A connection name is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a connection name has 1 to {MAX_NAME} of the characters a-z, A-Z, 0-9, `_` and `-`, and begins with a letter"
)]
#[non_exhaustive]
pub struct InvalidConnectionName;

/// Checks a connection name: 1 to 64 letters, digits, `_` and `-`, of which the first is a letter.
///
/// # Errors
/// [`InvalidConnectionName`]. The error does not show the name, since it may be a URL in the wrong place.
pub(crate) fn check_connection_name(name: &str) -> Result<(), InvalidConnectionName> {
    let letter = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let others = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match letter && others && name.len() <= MAX_NAME {
        true => Ok(()),
        false => Err(InvalidConnectionName),
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unknown_name_is_a_fault_of_the_environment_and_told_with_those_that_there_are() {
        let none = Connections::new().get("shop").unwrap_err();
        assert_eq!(none.error_type(), "UnknownConnection");
        assert!(none.message().ends_with("it has none"), "{none}");
        let pool = sqlx::SqlitePool::connect_lazy("sqlite::memory:").unwrap();
        let both = Connections::new()
            .with("shop", pool.clone())
            .with(DEFAULT_CONNECTION, pool);
        assert_eq!(both.get("shop").unwrap().system(), "SQLite");
        let missing = both.get("shops").unwrap_err();
        assert!(missing.is_retryable());
        assert_eq!(
            missing.message(),
            "this worker has no connection \"shops\"; it has: default, shop"
        );
        assert_eq!(
            format!("{both:?}"),
            "{\"default\": Database(SQLite), \"shop\": Database(SQLite)}"
        );
    }

    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        async fn says(&self, part: &str) {
            let since = std::time::Instant::now();
            loop {
                let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
                if text.contains(part) {
                    return;
                }
                assert!(
                    since.elapsed() < Duration::from_secs(20),
                    "{part:?} is missing in {text}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    #[tokio::test]
    async fn a_pool_without_free_connections_is_told_once_and_so_is_its_end() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        let _logging = tracing::subscriber::set_default(subscriber.finish());
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect("sqlite::memory:").await.unwrap();
        let connections = Connections::new().with("shop", pool.clone());
        let held = pool.acquire().await.unwrap();
        let look = async {
            log.says("all connections are in use").await;
            drop(held);
            log.says("connections are free again").await;
        };
        tokio::select! {
            () = connections.watch_every(Duration::from_millis(2)) => {}
            () = look => {}
        }
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("in use").count(), 1, "{text}");
        assert!(text.contains("shop"), "{text}");
    }

    #[test]
    fn names_are_short_words() {
        for good in ["default", "a", "Shop_2", "read-only"] {
            check_connection_name(good).unwrap();
        }
        for bad in ["", "2a", "-a", "a b", "a=b", "ä", "a/b", &"x".repeat(65)] {
            check_connection_name(bad).unwrap_err();
        }
    }
}
