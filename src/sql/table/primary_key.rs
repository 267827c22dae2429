//! The primary key of a table, the default of `--key`.

use super::{Table, TableError, name::TableName};
use crate::sql::{
    Database,
    backend::{dialect::Dialect, value::Value},
    syntax::Syntax,
};

/// # Look it up
impl Table {
    /// Returns the columns of the primary key of a table, in the order of the key. Empty if the table has no primary
    /// key, or does not exist.
    ///
    /// # Errors
    /// [`TableError::Name`], and the errors of the database.
    pub(crate) async fn primary_key(
        database: &Database,
        table: &str,
    ) -> Result<Vec<String>, TableError> {
        let name = TableName::parse(table)?;
        let (schema, table) = (name.schema.as_deref(), name.table.as_str());
        Ok(match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => {
                let quote = |name: &str| Syntax::Postgres.quote(name);
                let schema = schema.map_or_else(String::new, |s| format!("{}.", quote(s)));
                let quoted = format!("{schema}{}", quote(table));
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

async fn names<DB: Dialect>(
    pool: &sqlx::Pool<DB>,
    statement: &str,
    values: Vec<Value>,
) -> Result<Vec<String>, sqlx::Error> {
    let rows = DB::fetch(pool, (statement.to_owned(), values)).await?;
    let names = rows.iter().map(|row| DB::text(row, 0));
    names.filter_map(Result::transpose).collect()
}
