//! A sink in each database: rows that a constraint may refuse, and that nothing but the ledger keeps from being written
//! twice.

use sqlx::QueryBuilder;
use temporal_batch::{PageError, async_trait, sql::Database};
use temporal_batch_batcher::{Request, SqlRequests};

use crate::support::databases::{TestDatabase, on_test_databases, script, texts};

pub struct Home {
    pub pool: Database,
    database: TestDatabase,
}

impl Home {
    async fn new(database: TestDatabase) -> Self {
        let pool = database.pool().await;
        // No unique key: a request that is written twice is two rows.
        let table =
            "CREATE TABLE written (id VARCHAR(255) NOT NULL, n BIGINT NOT NULL CHECK (n >= 0))";
        script(&pool, table).await.unwrap();
        Self { pool, database }
    }

    pub fn url(&self) -> &str {
        &self.database.url
    }

    /// The pool of a PostgreSQL.
    pub fn postgres(&self) -> sqlx::PgPool {
        match &self.pool {
            Database::Postgres(pool) => pool.clone(),
            _ => unreachable!("the database is a PostgreSQL"),
        }
    }

    /// The pool of a MariaDB.
    pub fn mariadb(&self) -> sqlx::MySqlPool {
        match &self.pool {
            Database::MySql(pool) => pool.clone(),
            _ => unreachable!("the database is a MariaDB"),
        }
    }

    /// The ids of the rows, sorted, with repetitions.
    pub async fn rows(&self) -> Vec<String> {
        let rows = texts(&self.pool, "SELECT id FROM written ORDER BY id").await;
        rows.into_iter()
            .map(|mut row| row.remove(0).unwrap())
            .collect()
    }
}

on_test_databases!(Home: Home::new);

pub struct Rows;

macro_rules! rows_in {
    ($database:ty, $connection:ty) => {
        #[async_trait]
        impl SqlRequests<$database> for Rows {
            const NAME: &'static str = "rows";

            async fn write(
                &self,
                connection: &mut $connection,
                requests: &[Request],
            ) -> Result<(), PageError> {
                let mut insert = QueryBuilder::<$database>::new("INSERT INTO written (id, n) ");
                insert.push_values(requests, |mut row, request| {
                    row.push_bind(&request.id)
                        .push_bind(request.payload["n"].as_i64());
                });
                insert.build().execute(connection).await?;
                Ok(())
            }
        }
    };
}

rows_in!(sqlx::Sqlite, sqlx::SqliteConnection);
rows_in!(sqlx::Postgres, sqlx::PgConnection);
rows_in!(sqlx::MySql, sqlx::MySqlConnection);
