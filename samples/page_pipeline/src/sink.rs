//! The place that calls of the recipes reach. It writes down each call with the time of its own clock, so that what a
//! recipe claims about attempts and about the rate is read where it matters.

use std::{path::Path, time::Duration};

use temporal_batch::sqlx::{self, SqlitePool, sqlite::SqliteConnectOptions};

/// A SQLite database with a row for each call.
#[derive(Clone)]
pub struct Sink(SqlitePool);

/// Opens a database in a file, which is created if it is not there.
pub async fn open(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    SqlitePool::connect_with(options.busy_timeout(Duration::from_secs(60))).await
}

impl Sink {
    /// Opens the sink in a file.
    pub async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let pool = open(path).await?;
        let schema = "CREATE TABLE IF NOT EXISTS calls (batch_run TEXT NOT NULL, order_id INTEGER NOT NULL,
            at_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)))";
        sqlx::query(schema).execute(&pool).await?;
        Ok(Self(pool))
    }

    /// Writes down a call for an order.
    pub async fn call(&self, batch_run: &str, order: u64) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO calls (batch_run, order_id) VALUES (?, ?)");
        let insert = insert.bind(batch_run).bind(order as i64);
        insert.execute(&self.0).await?;
        Ok(())
    }

    /// Returns the number of calls of a batch run, and that of the orders in them.
    pub async fn counts(&self, batch_run: &str) -> Result<(i64, i64), sqlx::Error> {
        let counts = "SELECT count(*), count(DISTINCT order_id) FROM calls WHERE batch_run = ?";
        sqlx::query_as(counts)
            .bind(batch_run)
            .fetch_one(&self.0)
            .await
    }

    /// Returns the times between the calls for one order.
    pub async fn waits(&self, batch_run: &str, order: u64) -> Result<Vec<Duration>, sqlx::Error> {
        let times = "SELECT at_ms FROM calls WHERE batch_run = ? AND order_id = ? ORDER BY at_ms";
        let times = sqlx::query_scalar::<_, i64>(times)
            .bind(batch_run)
            .bind(order as i64);
        let times = times.fetch_all(&self.0).await?;
        let waits = times.windows(2);
        Ok(waits
            .map(|pair| Duration::from_millis((pair[1] - pair[0]) as u64))
            .collect())
    }

    /// Returns the most calls in any second.
    pub async fn most_in_a_second(&self, batch_run: &str) -> Result<i64, sqlx::Error> {
        let most = "SELECT coalesce(max(n), 0) FROM (SELECT count(*) OVER
            (ORDER BY at_ms RANGE BETWEEN CURRENT ROW AND 999 FOLLOWING) AS n FROM calls WHERE batch_run = ?)";
        sqlx::query_scalar(most)
            .bind(batch_run)
            .fetch_one(&self.0)
            .await
    }
}
