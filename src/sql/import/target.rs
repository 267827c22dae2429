//! The table that an import fills.

#[cfg(feature = "mysql")]
use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

use super::{InvalidImport, args::ColumnKind, mapping::Column};
#[cfg(feature = "postgres")]
use crate::sql::connection::pgbouncer::rows_of;
use crate::{
    base::error::PageError,
    sql::{Database, table::name::TableName},
};

/// Returns whether a column of this declared type is meant for bytes.
#[cfg(feature = "sqlite")]
fn holds_bytes(type_name: &str) -> bool {
    let declared = type_name.to_uppercase();
    let other = ["INT", "CHAR", "CLOB", "TEXT"].iter();
    declared.contains("BLOB") && !other.into_iter().any(|part| declared.contains(part))
}

/// The name of a table, as it was given.
pub(in crate::sql) struct Target {
    schema: Option<String>,
    table: String,
    mark: char,
}

impl Target {
    /// Reads `table` or `schema.table`, with the same quotes as for every other table.
    pub fn parse(given: &str, database: &Database) -> Result<Self, InvalidImport> {
        let TableName { schema, table } =
            TableName::read(given).map_err(|reason| InvalidImport::TableName {
                given: given.to_owned(),
                reason,
            })?;
        let mark = match database {
            #[cfg(feature = "mysql")]
            Database::MySql(_) => '`',
            #[allow(unreachable_patterns, reason = "where there is only MySQL")]
            _ => '"',
        };
        Ok(Self {
            schema,
            table,
            mark,
        })
    }

    /// Returns the schema, if one was given, and the name.
    pub fn names(&self) -> (Option<&str>, &str) {
        (self.schema.as_deref(), &self.table)
    }

    /// Returns a name, quoted for statements.
    pub fn quote(&self, name: &str) -> String {
        let mark = self.mark;
        let doubled = name.replace(mark, &format!("{mark}{mark}"));
        format!("{mark}{doubled}{mark}")
    }

    /// Returns the quoted name of the table.
    pub fn quoted(&self) -> String {
        let table = self.quote(&self.table);
        match &self.schema {
            Some(schema) => format!("{}.{table}", self.quote(schema)),
            None => table,
        }
    }

    /// Returns whether these are exactly the columns of a unique key.
    #[cfg(feature = "mysql")]
    pub async fn is_unique_key(
        &self,
        pool: &sqlx::MySqlPool,
        key: &[String],
    ) -> Result<bool, sqlx::Error> {
        let columns = "SELECT CAST(index_name AS CHAR), CAST(column_name AS CHAR)
            FROM information_schema.statistics
            WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE()) AND non_unique = 0";
        let rows = sqlx::query(columns).bind(&self.table).bind(&self.schema);
        let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in rows.fetch_all(pool).await? {
            // An expression has no name.
            let column: Option<String> = row.try_get(1)?;
            let column = column.unwrap_or_default().to_lowercase();
            keys.entry(row.try_get(0)?).or_default().insert(column);
        }
        let wanted = key.iter().map(|column| column.to_lowercase()).collect();
        Ok(keys.values().any(|columns| *columns == wanted))
    }

    /// Returns the columns; empty if the table does not exist.
    pub async fn columns(&self, database: &Database) -> Result<Vec<Column>, PageError> {
        match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => {
                // Without a length, a cast does not truncate long values.
                // A domain counts as its base type.
                let columns =
                    "SELECT attname::text, pg_catalog.format_type(atttypid, -1), attgenerated <> '', (
                        WITH RECURSIVE chain (name, kind, base) AS (
                            SELECT typname, typtype, typbasetype FROM pg_catalog.pg_type WHERE oid = atttypid
                            UNION ALL
                            SELECT typname, typtype, typbasetype
                            FROM chain JOIN pg_catalog.pg_type ON oid = base WHERE kind = 'd'
                        )
                        SELECT name::text FROM chain WHERE kind <> 'd'
                    )
                    FROM pg_catalog.pg_attribute
                    WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped
                    ORDER BY attnum";
                let rows = rows_of(pool, columns, vec![self.quoted().as_str().into()]).await?;
                let column = |row: &sqlx::postgres::PgRow| {
                    Ok(Column {
                        name: row.try_get(0)?,
                        type_name: row.try_get(1)?,
                        generated: row.try_get(2)?,
                        kind: match row.try_get(3)? {
                            "json" | "jsonb" => ColumnKind::Json,
                            "bytea" => ColumnKind::Bytes,
                            _ => ColumnKind::Plain,
                        },
                    })
                };
                let columns = rows.iter().map(column);
                Ok(columns.collect::<Result<_, sqlx::Error>>()?)
            }
            #[cfg(feature = "mysql")]
            Database::MySql(pool) => {
                // In MariaDB, JSON is a text with this constraint. MySQL has no such table, and reads this as a
                // comment.
                let columns = "SELECT CAST(column_name AS CHAR), CAST(data_type AS CHAR),
                        CAST(COALESCE(generation_expression, '') AS CHAR) <> '',
                        FALSE /*M! OR EXISTS (
                            SELECT 1 FROM information_schema.check_constraints AS k
                            WHERE k.constraint_schema = c.table_schema AND k.table_name = c.table_name
                                AND k.check_clause
                                    = CONCAT('json_valid(`', REPLACE(column_name, '`', '``'), '`)')
                        ) */
                    FROM information_schema.columns AS c
                    WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE())
                    ORDER BY ordinal_position";
                let rows = sqlx::query(columns).bind(&self.table).bind(&self.schema);
                let column = |row: sqlx::mysql::MySqlRow| {
                    let type_name: String = row.try_get(1)?;
                    let valid_json = row.try_get::<i64, _>(3)? != 0;
                    Ok(Column {
                        name: row.try_get(0)?,
                        generated: row.try_get::<i64, _>(2)? != 0,
                        kind: match type_name.to_lowercase().as_str() {
                            _ if valid_json => ColumnKind::Json,
                            "json" => ColumnKind::Json,
                            "bit" => ColumnKind::Bits,
                            "year" => ColumnKind::Year,
                            bytes if bytes.ends_with("binary") || bytes.ends_with("blob") => {
                                ColumnKind::Bytes
                            }
                            _ => ColumnKind::Plain,
                        },
                        type_name,
                    })
                };
                let rows = rows.fetch_all(pool).await?;
                Ok(rows
                    .into_iter()
                    .map(column)
                    .collect::<Result<_, sqlx::Error>>()?)
            }
            #[cfg(feature = "sqlite")]
            Database::Sqlite(pool) => {
                let columns = "SELECT name, type, hidden IN (2, 3)
                    FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1";
                let schema = self.schema.as_deref().unwrap_or("main");
                let rows = sqlx::query(columns).bind(&self.table).bind(schema);
                let column = |row: sqlx::sqlite::SqliteRow| {
                    let type_name: String = row.try_get(1)?;
                    Ok(Column {
                        name: row.try_get(0)?,
                        generated: row.try_get(2)?,
                        kind: match holds_bytes(&type_name) {
                            true => ColumnKind::Bytes,
                            false => ColumnKind::Plain,
                        },
                        type_name,
                    })
                };
                let rows = rows.fetch_all(pool).await?;
                Ok(rows
                    .into_iter()
                    .map(column)
                    .collect::<Result<_, sqlx::Error>>()?)
            }
        }
    }
}
