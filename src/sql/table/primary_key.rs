//! The primary key of a table, for those who name no other key.

use super::{Table, TableError, name::TableName};
use crate::sql::{
    Database,
    backend::dialect::{Dialect, Value},
};

/// # Look for it
impl Table {
    /// The columns of the primary key of a table, in the order of the key: none where it has no primary key, or
    /// is not there.
    ///
    /// # Errors
    /// [`TableError::Name`], and what the database says.
    pub(crate) async fn primary_key(
        database: &Database,
        table: &str,
    ) -> Result<Vec<String>, TableError> {
        let name = TableName::parse(table)?;
        let (schema, table) = (name.schema.as_deref(), name.table.as_str());
        Ok(match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => {
                let quotes = super::quotes(database);
                let schema = schema.map_or_else(String::new, |s| format!("{}.", quotes.quote(s)));
                let quoted = format!("{schema}{}", quotes.quote(table));
                let key = "SELECT a.attname::text FROM pg_index i \
                     CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (number, position) \
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
                     WHERE i.indrelid = to_regclass($1::text) AND i.indisprimary ORDER BY k.position";
                names::<sqlx::Postgres>(pool, key, vec![Value::from(quoted.as_str())]).await?
            }
            #[cfg(feature = "mysql")]
            Database::MySql(pool) => {
                let key = "SELECT CAST(column_name AS CHAR) FROM information_schema.statistics \
                     WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ? \
                     AND index_name = 'PRIMARY' ORDER BY seq_in_index";
                names::<sqlx::MySql>(pool, key, vec![schema.into(), table.into()]).await?
            }
            #[cfg(feature = "sqlite")]
            Database::Sqlite(pool) => {
                let key = "SELECT name FROM pragma_table_info($1, $2) WHERE pk > 0 ORDER BY pk";
                let schema = schema.unwrap_or("main");
                names::<sqlx::Sqlite>(pool, key, vec![table.into(), schema.into()]).await?
            }
        })
    }
}

async fn names<DB: super::read::Reading + Dialect>(
    pool: &sqlx::Pool<DB>,
    statement: &str,
    values: Vec<Value>,
) -> Result<Vec<String>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let rows = <DB as Dialect>::rows(&mut connection, statement.to_owned(), values).await?;
    let names = rows.iter().map(|row| <DB as Dialect>::text(row, 0));
    names.filter_map(Result::transpose).collect()
}
