//! Kept results in a table.

use async_trait::async_trait;
use temporal_batch::{
    PageError,
    sql::Database,
    sqlx::{self, AssertSqlSafe, QueryBuilder},
};

use crate::store::{KeptStep, StepStore};

/// The results of steps in the table `temporal_batch_step` of a PostgreSQL, MySQL, MariaDB or SQLite database.
///
/// A result is committed by itself, outside of the page's transaction, so that it outlives an attempt whose transaction is
/// rolled back. In SQLite a transaction locks the whole file: a processor with a ledger needs a file of its own for
/// these results.
///
/// Rows stay until [`forget`](Self::forget) removes those of a batch run. A page that is repeated after its last step
/// still needs them, so only the end of the batch is safe.
#[derive(Clone)]
pub struct SqlSteps {
    database: Database,
}

/// The number of keys in one query. SQLite allows 32,766 values, PostgreSQL and MySQL 65,535.
const KEYS_AT_ONCE: usize = 5_000;

/// The texts of batch runs and keys are hashes or UUIDs. `result` has no upper bound of its own.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS temporal_batch_step (
    batch_run VARCHAR(100) NOT NULL,
    item_key VARCHAR(100) NOT NULL,
    step VARCHAR(60) NOT NULL,
    result {text} NOT NULL,
    PRIMARY KEY (batch_run, item_key, step)
){options}";

const COLUMNS: &str = "temporal_batch_step (batch_run, item_key, step, result)";

/// Does the same on each database.
macro_rules! on_each {
    ($database:expr, $pool:ident : $db:ident => $body:expr) => {
        match $database {
            #[cfg(feature = "postgres")]
            Database::Postgres($pool) => {
                type $db = sqlx::Postgres;
                $body
            }
            #[cfg(feature = "mysql")]
            Database::MySql($pool) => {
                type $db = sqlx::MySql;
                $body
            }
            #[cfg(feature = "sqlite")]
            Database::Sqlite($pool) => {
                type $db = sqlx::Sqlite;
                $body
            }
            _ => Err(PageError::environment(
                "the database of kept steps is of a kind that this program is built without",
            )),
        }
    };
}

impl SqlSteps {
    /// Keeps results in this database. The table is created by [`apply_schema`](Self::apply_schema), never silently.
    pub fn new(database: impl Into<Database>) -> Self {
        Self {
            database: database.into(),
        }
    }

    /// Returns the statement that creates the table.
    pub fn schema_sql(&self) -> String {
        // Whatever the defaults of the database are, names that differ in case are different.
        let (text, options) = match self.database.system() {
            "MySQL" => ("LONGTEXT", " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
            _ => ("TEXT", ""),
        };
        let schema = SCHEMA.replace("{text}", text);
        schema.replace("{options}", options)
    }

    /// Creates the table where it is missing.
    ///
    /// # Errors
    /// That of the database.
    pub async fn apply_schema(&self) -> Result<(), PageError> {
        let schema = self.schema_sql();
        on_each!(&self.database, pool: Db => {
            sqlx::query::<Db>(AssertSqlSafe(schema)).execute(pool).await?;
            Ok(())
        })
    }

    /// Removes the results of a batch run that has ended, and returns their number.
    ///
    /// # Errors
    /// That of the database.
    pub async fn forget(&self, batch_run: &str) -> Result<u64, PageError> {
        on_each!(&self.database, pool: Db => {
            let mut delete =
                QueryBuilder::<Db>::new("DELETE FROM temporal_batch_step WHERE batch_run = ");
            delete.push_bind(batch_run.to_owned());
            Ok(delete.build().execute(pool).await?.rows_affected())
        })
    }

    async fn load_some(
        &self,
        batch_run: &str,
        keys: &[String],
    ) -> Result<Vec<KeptStep>, PageError> {
        on_each!(&self.database, pool: Db => {
            let mut select = QueryBuilder::<Db>::new(
                "SELECT item_key, step, result FROM temporal_batch_step WHERE batch_run = ",
            );
            select.push_bind(batch_run.to_owned()).push(" AND item_key IN (");
            let mut list = select.separated(", ");
            for key in keys {
                list.push_bind(key.clone());
            }
            select.push(")");
            let rows = select.build_query_as::<(String, String, String)>();
            rows.fetch_all(pool).await?.into_iter().map(kept).collect()
        })
    }
}

fn kept((key, step, result): (String, String, String)) -> Result<KeptStep, PageError> {
    let result = serde_json::from_str(&result)?;
    Ok(KeptStep { key, step, result })
}

#[async_trait]
impl StepStore for SqlSteps {
    async fn load(&self, batch_run: &str, keys: &[String]) -> Result<Vec<KeptStep>, PageError> {
        let mut found = Vec::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            found.extend(self.load_some(batch_run, keys).await?);
        }
        Ok(found)
    }

    async fn keep(&self, batch_run: &str, step: &KeptStep) -> Result<(), PageError> {
        on_each!(&self.database, pool: Db => {
            // The first result counts. MySQL knows no other way to ignore a duplicate and nothing else.
            let same = match self.database.system() {
                "MySQL" => " ON DUPLICATE KEY UPDATE step = step",
                _ => " ON CONFLICT DO NOTHING",
            };
            let mut insert = QueryBuilder::<Db>::new(format!("INSERT INTO {COLUMNS} VALUES ("));
            let mut values = insert.separated(", ");
            values.push_bind(batch_run.to_owned());
            values.push_bind(step.key.clone());
            values.push_bind(step.step.clone());
            values.push_bind(step.result.to_string());
            insert.push(")").push(same);
            insert.build().execute(pool).await?;
            Ok(())
        })
    }
}
