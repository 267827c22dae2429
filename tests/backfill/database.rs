//! A database for one test, of any kind.

use sqlx::AssertSqlSafe;
use temporal_batch::{
    Batch,
    sql::{BackfillArgs, Connections, DEFAULT_CONNECTION, Database, SqlBackfill},
    testing::{SimulatedRun, Simulator},
};

use crate::support::databases::{self, on_test_databases, with_pool};

pub use crate::support::databases::Home;

on_test_databases! { Home: Home::of }

impl Home {
    /// The one number that a query returns.
    pub async fn number(&self, query: &str) -> i64 {
        let query = AssertSqlSafe(query.to_owned());
        with_pool!(&self.database, pool => {
            sqlx::query_scalar::<_, i64>(query).fetch_one(pool).await.unwrap()
        })
    }

    pub async fn ledger_tables(&self) {
        databases::make_ledger_tables(&self.database).await;
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(self.database, Database::Sqlite(_))
    }

    pub fn is_mysql(&self) -> bool {
        matches!(self.database, Database::MySql(_))
    }

    pub fn processor(&self) -> SqlBackfill {
        let connections = Connections::new().with(DEFAULT_CONNECTION, self.database.clone());
        SqlBackfill::new(connections)
    }

    /// Creates rows `(id, x, name)` with ids from 1 on, x = 0, and names in capitals where the id is even.
    pub async fn numbers(&self, rows: u32) {
        self.script(
            "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, x INTEGER NOT NULL, name VARCHAR(20) NOT NULL)",
        )
        .await;
        let rows: Vec<u32> = (1..=rows).collect();
        for rows in rows.chunks(500) {
            let values: Vec<_> = rows
                .iter()
                .map(|id| {
                    let name = if id % 2 == 0 { "NAME" } else { "name" };
                    format!("({id}, 0, '{name}{id}')")
                })
                .collect();
            self.script(&format!("INSERT INTO t VALUES {}", values.join(", ")))
                .await;
        }
    }

    /// Runs a whole batch with pages of 10 rows. Every second stride is lost after its work, and runs again.
    pub async fn run(&self, args: BackfillArgs) -> SimulatedRun {
        self.run_with(&self.processor(), args).await
    }

    /// Runs a whole batch with another processor.
    pub async fn run_with(&self, processor: &SqlBackfill, args: BackfillArgs) -> SimulatedRun {
        let batch = Batch::of::<SqlBackfill>("test", args)
            .page_size(10)
            .stride(3)
            .max_parallelism(2);
        let simulator = Simulator::new().lose_worker_every(2);
        simulator.run(processor, &batch).await.unwrap()
    }
}
