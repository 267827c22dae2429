//! 20,000 generated orders.

use std::{path::Path, time::Duration};

use temporal_batch::sqlx;
use temporal_batch::sqlx::{
    QueryBuilder, Sqlite, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

/// The table. `invoices` counts how often an order was invoiced, which should be once.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS orders (
    id       INTEGER PRIMARY KEY,
    country  TEXT    NOT NULL,
    cents    INTEGER NOT NULL,
    invoices INTEGER NOT NULL DEFAULT 0
)";

pub const ORDERS: u32 = 20_000;

/// The country and amount of an order, which are the same in every database.
fn made_up(id: u32) -> (&'static str, u32) {
    // The multiplier of a well-known random number generator spreads the values well enough.
    let spread = id.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) >> 8;
    let country = ["AT", "CH", "DE", "FR", "IT"][spread as usize % 5];
    (country, 500 + spread / 5 % 90_000)
}

/// Opens the database, and fills it if it is new. Several processes may do so at once.
pub async fn open(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(60));
    // A page holds a connection while it is processed, so there must be more connections than pages in flight.
    let pool = SqlitePoolOptions::new().max_connections(16);
    let pool = pool.connect_with(options).await?;
    let mut fill = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(SCHEMA).execute(&mut *fill).await?;
    let orders = sqlx::query_scalar("SELECT count(*) FROM orders");
    let orders: u32 = orders.fetch_one(&mut *fill).await?;
    if orders == 0 {
        let ids: Vec<u32> = (1..=ORDERS).collect();
        for ids in ids.chunks(5_000) {
            let mut insert =
                QueryBuilder::<Sqlite>::new("INSERT INTO orders (id, country, cents) ");
            insert.push_values(ids, |mut row, id| {
                let (country, cents) = made_up(*id);
                row.push_bind(id).push_bind(country).push_bind(cents);
            });
            insert.build().execute(&mut *fill).await?;
        }
    }
    fill.commit().await?;
    Ok(pool)
}
