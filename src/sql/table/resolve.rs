//! The name by which a database knows a table, whatever its spelling in a command.

use sqlx::Row as _;

use super::{Table, error::TableError, name::TableName};
use crate::sql::Database;

#[cfg(feature = "postgres")]
const POSTGRES: &str = "
SELECT n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND (n.nspname = $1 OR ($1 IS NULL AND pg_catalog.pg_table_is_visible(c.oid)))";

// Whether case counts depends on the server. Where it does, two tables may differ in case alone.
#[cfg(feature = "mysql")]
const MYSQL: &str = "
SELECT CAST(table_schema AS CHAR), CAST(table_name AS CHAR)
FROM information_schema.tables WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ?
ORDER BY BINARY table_name <> BINARY ? LIMIT 1";

#[cfg(feature = "sqlite")]
const SQLITE: &str = "
SELECT schema, name FROM pragma_table_list
WHERE schema = lower(coalesce($1, 'main')) AND lower(name) = lower($2)";

impl Table {
    /// Returns the one text for a table that every spelling of its name comes to: its schema and its name as the
    /// database has them. A name without a table is returned as given, so that the check of the table refuses it.
    ///
    /// # Errors
    /// The text is not the name of a table, or those of the database.
    pub(crate) async fn full_name(database: &Database, given: &str) -> Result<String, TableError> {
        let resolved = TableName::parse(given)?.resolved(database).await?;
        Ok(resolved.map_or_else(|| given.to_owned(), |name| name.to_string()))
    }
}

impl TableName {
    /// Asks the database for the schema and the name of the table that this name stands for: without a schema, that of
    /// the search path in PostgreSQL, of the connection in MySQL, and `main` in SQLite. `None` if there is no such
    /// table.
    async fn resolved(&self, database: &Database) -> Result<Option<Self>, TableError> {
        let (schema, table) = (self.schema.as_deref(), self.table.as_str());
        let found: Option<(String, String)> = match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => {
                use crate::sql::connection::pgbouncer::rows_of;
                let rows = rows_of(pool, POSTGRES, vec![schema.into(), table.into()]).await?;
                match rows.first() {
                    Some(row) => Some((row.try_get(0)?, row.try_get(1)?)),
                    None => None,
                }
            }
            #[cfg(feature = "mysql")]
            Database::MySql(pool) => {
                let rows = sqlx::query(MYSQL).bind(schema).bind(table).bind(table);
                match rows.fetch_optional(pool).await? {
                    Some(row) => Some((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?)),
                    None => None,
                }
            }
            #[cfg(feature = "sqlite")]
            Database::Sqlite(pool) => {
                let mut connection = super::plan::sqlite_with_its_schema(pool).await?;
                let rows = sqlx::query(SQLITE).bind(schema).bind(table);
                match rows.fetch_optional(&mut *connection).await? {
                    Some(row) => Some((row.try_get(0)?, row.try_get(1)?)),
                    None => None,
                }
            }
        };
        Ok(found.map(|(schema, table)| Self {
            schema: Some(schema),
            table,
        }))
    }
}
