//! The statements of the table of requests, in each database.

use async_trait::async_trait;
use sqlx::{Connection as _, QueryBuilder, Row as _, Transaction};
use temporal_batch::sql::Backend;

use super::claims::Claims;

/// Requests that one statement forgets, so that no lock is held for long.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// A database whose requests a [`SqlWriter`](crate::SqlWriter) remembers: `sqlx::Postgres`, `sqlx::MySql` (MariaDB too)
/// or `sqlx::Sqlite`, each with the feature of its name.
#[async_trait]
#[allow(private_interfaces, reason = "no other crate implements the trait")]
pub trait RequestDatabase: Backend {
    /// Returns the statement that creates the table of requests.
    #[doc(hidden)]
    fn request_table() -> String;

    #[doc(hidden)]
    async fn create_request_table(connection: &mut Self::Connection) -> Result<(), sqlx::Error>;

    #[doc(hidden)]
    async fn begin(connection: &mut Self::Connection)
    -> Result<Transaction<'_, Self>, sqlx::Error>;

    /// Claims ids. Returns those that were not claimed before.
    #[doc(hidden)]
    async fn claim(
        connection: &mut Self::Connection,
        claims: &Claims<'_>,
    ) -> Result<Vec<String>, sqlx::Error>;

    #[doc(hidden)]
    async fn prune(connection: &mut Self::Connection, before: i64) -> Result<u64, sqlx::Error>;
}

/// Implements the trait. The databases differ in a few words, and `sqlx` has no bounds for code that is generic over
/// them.
macro_rules! implement {
    (
        $database:ty, $connection:ty,
        key: $key:literal, end_of_table: $end:literal,
        insert: $insert:literal, unless_there: $unless_there:literal,
        prune: $prune:literal,
        begin: $begun:ident => $begin:expr
    ) => {
        #[async_trait]
        #[allow(private_interfaces, reason = "no other crate calls these functions")]
        impl RequestDatabase for $database {
            fn request_table() -> String {
                concat!(
                    "CREATE TABLE IF NOT EXISTS temporal_batch_request (\n    batcher ", $key,
                    " NOT NULL,\n    request_id ", $key, " NOT NULL,\n    claim ", $key,
                    " NOT NULL,\n    written_at BIGINT NOT NULL,\n    PRIMARY KEY (batcher, request_id)\n)",
                    $end, ";\n"
                )
                .to_owned()
            }

            async fn create_request_table(connection: &mut $connection) -> Result<(), sqlx::Error> {
                let statement = sqlx::AssertSqlSafe(Self::request_table());
                sqlx::raw_sql(statement).execute(connection).await?;
                Ok(())
            }

            async fn begin(
                $begun: &mut $connection,
            ) -> Result<Transaction<'_, Self>, sqlx::Error> {
                $begin
            }

            async fn claim(
                connection: &mut $connection,
                claims: &Claims<'_>,
            ) -> Result<Vec<String>, sqlx::Error> {
                let mut insert = QueryBuilder::<Self>::new(concat!(
                    $insert,
                    " INTO temporal_batch_request (batcher, request_id, claim, written_at) "
                ));
                insert.push_values(&claims.ids, |mut row, id| {
                    row.push_bind(claims.batcher)
                        .push_bind(*id)
                        .push_bind(&claims.mark)
                        .push_bind(claims.at);
                });
                insert.push($unless_there);
                insert.build().execute(&mut *connection).await?;
                let mut mine = QueryBuilder::<Self>::new(
                    "SELECT request_id FROM temporal_batch_request WHERE batcher = ",
                );
                mine.push_bind(claims.batcher);
                mine.push(" AND claim = ").push_bind(&claims.mark);
                mine.push(" AND request_id IN (");
                let mut list = mine.separated(", ");
                for id in &claims.ids {
                    list.push_bind(*id);
                }
                mine.push(")");
                let rows = mine.build().fetch_all(connection).await?;
                rows.iter().map(|row| row.try_get(0)).collect()
            }

            async fn prune(connection: &mut $connection, before: i64) -> Result<u64, sqlx::Error> {
                let mut forgotten = 0;
                loop {
                    let delete = sqlx::query($prune).bind(before).bind(FORGOTTEN_AT_ONCE);
                    let deleted = delete.execute(&mut *connection).await?.rows_affected();
                    forgotten += deleted;
                    if deleted == 0 {
                        return Ok(forgotten);
                    }
                }
            }
        }
    };
}

#[cfg(feature = "postgres")]
implement!(
    sqlx::Postgres, sqlx::PgConnection,
    key: "TEXT COLLATE \"C\"", end_of_table: "",
    insert: "INSERT", unless_there: " ON CONFLICT DO NOTHING",
    prune: "DELETE FROM temporal_batch_request WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM temporal_batch_request WHERE written_at < $1 LIMIT $2))",
    // PostgreSQL waits for a lock without end unless it is told otherwise. The error about the lock blames no request, as a
    // write that times out would.
    begin: connection => connection.begin_with("BEGIN; SET LOCAL lock_timeout = '5s'").await
);

#[cfg(feature = "mysql")]
implement!(
    sqlx::MySql, sqlx::MySqlConnection,
    key: "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", end_of_table: " ENGINE = InnoDB",
    // A key that is there changes nothing, and other errors stay errors, which INSERT IGNORE would hide.
    insert: "INSERT", unless_there: " ON DUPLICATE KEY UPDATE batcher = batcher",
    prune: "DELETE FROM temporal_batch_request WHERE written_at < ? LIMIT ?",
    begin: connection => {
        use sqlx::Executor as _;
        // Without gaps that are locked, batches of different ids do not wait for each other. The level is that of the
        // next transaction alone: the connection is the user's.
        (&mut *connection).execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
        connection.begin().await
    }
);

#[cfg(feature = "sqlite")]
implement!(
    sqlx::Sqlite, sqlx::SqliteConnection,
    key: "TEXT", end_of_table: "",
    insert: "INSERT", unless_there: " ON CONFLICT DO NOTHING",
    prune: "DELETE FROM temporal_batch_request WHERE rowid IN (
            SELECT rowid FROM temporal_batch_request WHERE written_at < ? LIMIT ?)",
    // A transaction that only becomes a writer later could not wait for another one.
    begin: connection => connection.begin_with("BEGIN IMMEDIATE").await
);
