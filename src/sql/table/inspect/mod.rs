//! The catalog's description of a table, and the reasons to refuse it.

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "mysql")]
pub(super) use mysql::ordered_index;
#[cfg(all(feature = "sqlite", feature = "files"))]
pub(in crate::sql) use sqlite::makes_texts;

use std::sync::Arc;

use super::{
    Inner, Table,
    column::{Column, KeyColumn},
    error::TableError,
    filter,
    name::TableName,
    spec::TableSpec,
    statements::Statements,
};
use crate::sql::{
    Database, backend::dialect::Dialect as _, connection::pool::on_pool, syntax::Syntax,
};

/// The largest number of key columns. Every database allows more in an index, but cursors have to be small.
const MAX_KEY_COLUMNS: usize = 8;

/// The identity of a table in the catalog.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    #[cfg(feature = "postgres")]
    Postgres { oid: i64 },
    #[cfg(feature = "mysql")]
    MySql { schema: String, table: String },
    #[cfg(feature = "sqlite")]
    Sqlite { table: String, integer_key: bool },
}

/// The catalog's description of a table.
struct Found {
    /// The quoted name, with its schema.
    table: String,
    columns: Vec<Column>,
    key: Vec<KeyColumn>,
    identity: Identity,
    /// See [`Table::passes_over`].
    passes_over: bool,
}

/// A unique index.
struct UniqueIndex {
    name: String,
    /// The columns; `None` for an expression.
    columns: Vec<Option<String>>,
    /// The reason why the index does not prove that keys are unique.
    flaw: Option<&'static str>,
}

/// # Make
impl Table {
    /// Reads the catalog's description of a table, and refuses a table that cannot be paged through: see the variants
    /// of [`TableError`].
    ///
    /// The call also asks the database to explain a statement with the filter. In SQLite it looks for NULL in key
    /// columns that are not declared `NOT NULL`.
    ///
    /// # Errors
    /// The first problem.
    pub async fn inspect(database: &Database, spec: &TableSpec) -> Result<Self, TableError> {
        let name = TableName::parse(&spec.table)?;
        if spec.key.is_empty() || spec.key.len() > MAX_KEY_COLUMNS {
            return Err(TableError::KeyLength {
                given: spec.key.len(),
                max: MAX_KEY_COLUMNS,
            });
        }
        let (found, syntax) = match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => {
                (postgres::look(pool, &name, spec).await?, Syntax::Postgres)
            }
            #[cfg(feature = "mysql")]
            Database::MySql(pool) => (mysql::look(pool, &name, spec).await?, Syntax::MySql),
            #[cfg(feature = "sqlite")]
            Database::Sqlite(pool) => (sqlite::look(pool, &name, spec).await?, Syntax::Sqlite),
        };
        let Found {
            table,
            columns,
            key,
            identity,
            passes_over,
        } = found;
        let mut spec = spec.clone();
        spec.key = key.iter().map(|column| column.name.clone()).collect();
        let statements = Statements {
            syntax,
            table,
            key,
            filter: spec.filter.clone(),
        };
        if let Some(filter) = &spec.filter {
            check_filter(database, &statements, filter).await?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                database: database.clone(),
                spec,
                columns,
                statements,
                identity,
                passes_over,
                row_bytes: Default::default(),
            }),
        })
    }
}

/// Returns the columns of the key, in its order.
fn key_columns<'c>(
    table: &str,
    spec: &TableSpec,
    columns: &'c [Column],
    same: impl Fn(&str, &str) -> bool,
) -> Result<Vec<&'c Column>, TableError> {
    let mut key: Vec<&Column> = Vec::new();
    for given in &spec.key {
        let Some(column) = columns.iter().find(|c| same(&c.name, given)) else {
            if has_direction(given) {
                return Err(TableError::Direction {
                    given: given.clone(),
                });
            }
            return Err(TableError::MissingColumn {
                table: table.to_owned(),
                column: given.clone(),
                columns: columns.iter().map(|c| c.name.clone()).collect(),
            });
        };
        if key.iter().any(|other| other.name == column.name) {
            return Err(TableError::RepeatedColumn {
                column: given.clone(),
            });
        }
        key.push(column);
    }
    Ok(key)
}

fn has_direction(given: &str) -> bool {
    let last = given.trim_end().rsplit(char::is_whitespace).next();
    given.trim_end().contains(char::is_whitespace)
        && last.is_some_and(|last| ["asc", "desc"].contains(&last.to_lowercase().as_str()))
}

/// Refuses a key that no index proves to be unique.
fn check_unique(table: &str, key: &[&Column], indexes: &[UniqueIndex]) -> Result<(), TableError> {
    let in_key = |name: &String| key.iter().any(|column| &column.name == name);
    let proves = |index: &UniqueIndex| {
        index.flaw.is_none()
            && !index.columns.is_empty()
            && index.columns.iter().all(|c| c.as_ref().is_some_and(in_key))
    };
    if indexes.iter().any(proves) {
        return Ok(());
    }
    let shown = |index: &UniqueIndex| {
        let columns: Vec<_> = index
            .columns
            .iter()
            .map(|column| column.as_deref().unwrap_or("an expression"))
            .collect();
        let flaw = index
            .flaw
            .map_or_else(String::new, |flaw| format!(" {flaw}"));
        format!("{} ({}){flaw}", index.name, columns.join(", "))
    };
    Err(TableError::NotUnique {
        table: table.to_owned(),
        key: key.iter().map(|column| column.name.clone()).collect(),
        unique: indexes.iter().map(shown).collect(),
    })
}

/// Asks the database whether a filter is a condition.
async fn check_filter(
    database: &Database,
    statements: &Statements,
    filter: &str,
) -> Result<(), TableError> {
    filter::check(filter, statements.syntax).map_err(|reason| TableError::Filter { reason })?;
    // The bare filter has to be complete, and the filter in parentheses has to be an expression.
    for filter in [filter.to_owned(), format!("(\n{filter}\n)")] {
        let sql = format!("SELECT 1 FROM {} WHERE\n{filter}\n", statements.table);
        let explained = on_pool!(database, pool: Db => {
            let explain = format!("{} {sql}", Db::EXPLAIN);
            Db::fetch(pool, (explain, Vec::new())).await.map(|_| ())
        });
        if let Err(error) = explained {
            return match error.as_database_error() {
                Some(said) if !is_passing(said) => Err(TableError::Filter {
                    reason: format!(
                        "the database says: {}{}",
                        said.message(),
                        statements.syntax.on_quotes(&filter)
                    ),
                }),
                _ => Err(error.into()),
            };
        }
    }
    Ok(())
}

/// Returns whether an error is about the server rather than about the statement.
fn is_passing(error: &dyn sqlx::error::DatabaseError) -> bool {
    match error.code().as_deref() {
        // The SQLSTATE classes of connections, resources, interventions and the system, and the codes of SQLite for
        // busy and locked.
        Some(code) => {
            ["08", "53", "57", "58", "40"]
                .iter()
                .any(|class| code.starts_with(class) && code.len() == 5)
                || matches!(code, "5" | "6" | "261" | "262" | "517")
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_is_told_from_a_name() {
        for given in ["id desc", "id ASC", "\"a b\" Desc "] {
            assert!(has_direction(given), "{given}");
        }
        for given in ["desc", "iddesc", "two words", ""] {
            assert!(!has_direction(given), "{given}");
        }
    }
}
