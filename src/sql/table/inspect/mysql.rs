//! A table of MySQL or MariaDB.

use sqlx::{MySqlPool, Row as _, mysql::MySqlRow};

use super::{Found, Identity, UniqueIndex, check_unique, key_columns};
use crate::{
    cell::Encoding,
    sql::{
        syntax::Syntax,
        table::{
            column::{Column, KeyColumn, KeyForm},
            error::TableError,
            name::TableName,
            spec::TableSpec,
        },
    },
};

// Cast, since each version has other types for the texts of the catalog.
const TABLE: &str = "
SELECT CAST(table_schema AS CHAR), CAST(table_name AS CHAR), CAST(table_type AS CHAR)
FROM information_schema.tables WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ?";

const SIMILAR: &str = "
SELECT CAST(table_name AS CHAR) FROM information_schema.tables
WHERE table_schema = COALESCE(?, DATABASE()) AND LOWER(table_name) = LOWER(?) LIMIT 5";

const COLUMNS: &str = "
SELECT CAST(column_name AS CHAR), CAST(column_type AS CHAR), is_nullable = 'YES',
    CAST(COALESCE(generation_expression, '') AS CHAR) <> '', CAST(data_type AS CHAR)
FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position";

const INDEXES: &str = "
SELECT CAST(index_name AS CHAR), CAST(column_name AS CHAR), sub_part IS NOT NULL, non_unique = 0,
    CAST(COALESCE(collation, '') AS CHAR)
FROM information_schema.statistics WHERE table_schema = ? AND table_name = ?
ORDER BY index_name <> 'PRIMARY', index_name, seq_in_index";

pub(super) async fn look(
    pool: &MySqlPool,
    name: &TableName,
    spec: &TableSpec,
) -> Result<Found, TableError> {
    let row = sqlx::query(TABLE)
        .bind(name.schema.as_deref())
        .bind(&name.table)
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else {
        let similar = sqlx::query(SIMILAR)
            .bind(name.schema.as_deref())
            .bind(&name.table)
            .fetch_all(pool)
            .await?;
        let similar: Result<Vec<_>, _> = similar.iter().map(|row| text(row, 0)).collect();
        return Err(TableError::MissingTable {
            table: spec.table.clone(),
            similar: similar?,
        });
    };
    let (schema, table_name, kind) = (text(&row, 0)?, text(&row, 1)?, text(&row, 2)?);
    let table = format!(
        "{}.{}",
        Syntax::MySql.quote(&schema),
        Syntax::MySql.quote(&table_name)
    );
    if kind != "BASE TABLE" {
        let (what, reason) = match kind.as_str() {
            "VIEW" => (
                "a view",
                "it has no unique index; name the table below it, with a filter",
            ),
            "TEMPORARY" => ("a temporary table", "no other connection can see it"),
            _ => (
                "no ordinary table",
                "only ordinary tables have lasting rows and unique indexes",
            ),
        };
        return Err(TableError::NotATable {
            table,
            what,
            reason,
        });
    }

    let rows = sqlx::query(COLUMNS)
        .bind(&schema)
        .bind(&table_name)
        .fetch_all(pool)
        .await?;
    let mut columns = Vec::new();
    for row in &rows {
        let type_name = text(row, 1)?;
        let base = text(row, 4)?.to_lowercase();
        let name = text(row, 0)?;
        let (encoding, read) = encoding(&base, &type_name, &Syntax::MySql.quote(&name));
        columns.push(Column {
            name,
            encoding,
            read,
            type_name,
            nullable: flag(row, 2)?,
            generated: flag(row, 3)?,
        });
    }
    let key = key_columns(&table, spec, &columns, |a, b| {
        a.to_lowercase() == b.to_lowercase()
    })?;
    for column in &key {
        if column.nullable {
            return Err(TableError::NullableKey {
                table: table.clone(),
                column: column.name.clone(),
                found: "may be NULL, and a row with NULL there would silently be left out",
                remedy: format!(
                    "if no row has NULL, declare that: ALTER TABLE {table} MODIFY {} {} NOT NULL",
                    Syntax::MySql.quote(&column.name),
                    column.type_name
                ),
            });
        }
    }
    let indexes: Vec<_> = indexes(pool, &schema, &table_name)
        .await?
        .into_iter()
        .filter(|index| index.unique)
        // A unique prefix makes the whole column unique.
        .map(|index| UniqueIndex {
            columns: index.columns.iter().map(|c| c.name.clone()).collect(),
            name: index.name,
            flaw: None,
        })
        .collect();
    check_unique(&table, &key, &indexes)?;
    let mut key_parts = Vec::new();
    for column in key {
        key_parts.push(key_column(pool, &table, column).await?);
    }
    Ok(Found {
        key: key_parts,
        table,
        columns,
        identity: Identity::MySql {
            schema,
            table: table_name,
        },
        // A trigger can only fail, and rules and policies do not exist.
        passes_over: false,
    })
}

struct Index {
    name: String,
    unique: bool,
    columns: Vec<IndexColumn>,
}

struct IndexColumn {
    /// The column; `None` for an expression.
    name: Option<String>,
    prefix: bool,
    descending: bool,
}

async fn indexes(pool: &MySqlPool, schema: &str, table: &str) -> Result<Vec<Index>, sqlx::Error> {
    let rows = sqlx::query(INDEXES)
        .bind(schema)
        .bind(table)
        .fetch_all(pool)
        .await?;
    let mut indexes: Vec<Index> = Vec::new();
    for row in &rows {
        let name = text(row, 0)?;
        let column = IndexColumn {
            name: row.try_get_unchecked(1)?,
            prefix: flag(row, 2)?,
            descending: text(row, 4)? == "D",
        };
        match indexes.last_mut().filter(|index| index.name == name) {
            Some(index) => index.columns.push(column),
            None => indexes.push(Index {
                name,
                unique: flag(row, 3)?,
                columns: vec![column],
            }),
        }
    }
    Ok(indexes)
}

/// Returns an index that begins with these columns, each of them whole, and all in one direction.
pub(in crate::sql::table) async fn ordered_index(
    pool: &MySqlPool,
    schema: &str,
    table: &str,
    key: &[&str],
) -> Result<Option<String>, sqlx::Error> {
    let serves = |index: &Index| {
        let first = &index.columns[..key.len().min(index.columns.len())];
        first.len() == key.len()
            && first.iter().zip(key).all(|(column, key)| {
                column.name.as_deref() == Some(key)
                    && !column.prefix
                    && column.descending == first[0].descending
            })
    };
    let all = indexes(pool, schema, table).await?;
    Ok(all.into_iter().find(serves).map(|index| index.name))
}

fn text(row: &MySqlRow, at: usize) -> Result<String, sqlx::Error> {
    row.try_get_unchecked::<Option<String>, _>(at)
        .map(Option::unwrap_or_default)
}

fn flag(row: &MySqlRow, at: usize) -> Result<bool, sqlx::Error> {
    row.try_get_unchecked::<i64, _>(at).map(|flag| flag != 0)
}

/// Returns the form of a type's values in a file, and the expression that reads them in that form.
fn encoding(base: &str, type_name: &str, quoted: &str) -> (Encoding, String) {
    let text = || format!("CAST({quoted} AS CHAR)");
    match base {
        // Without the leading zeros of ZEROFILL, which JSON does not allow.
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint"
            if type_name.to_lowercase().contains("zerofill") =>
        {
            (Encoding::Number, format!("CAST({quoted} + 0 AS CHAR)"))
        }
        "bit" => (Encoding::Number, format!("CAST({quoted} + 0 AS CHAR)")),
        // The year 0 has to stay a text: read as a number, it means 2000.
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => {
            (Encoding::Number, text())
        }
        // The text of the value has only six digits.
        "float" | "double" => (Encoding::Number, quoted.to_owned()),
        "json" => (Encoding::Json, text()),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector"
        | "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => {
            (Encoding::Hex, quoted.to_owned())
        }
        _ => (Encoding::Text, text()),
    }
}

async fn key_column(
    pool: &MySqlPool,
    table: &str,
    column: &Column,
) -> Result<KeyColumn, TableError> {
    let quoted = Syntax::MySql.quote(&column.name);
    let full = column.type_name.to_lowercase();
    let unsigned = full.contains("unsigned");
    let (base, arguments) = match full.split_once('(') {
        Some((base, rest)) => (base, rest.split(')').next().unwrap_or_default()),
        None => (full.split(' ').next().unwrap_or_default(), ""),
    };
    let refused = |reason| {
        Err(TableError::KeyType {
            table: table.to_owned(),
            column: column.name.clone(),
            type_name: column.type_name.clone(),
            reason,
        })
    };
    let cast = |to: &str| ("CAST(".to_owned(), format!(" AS {to})"));
    let as_text = format!("CAST({quoted} AS CHAR)");
    let (read, bind, form) = match base {
        "bigint" if unsigned => (as_text, cast("UNSIGNED"), KeyForm::Text),
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => (
            format!("CAST({quoted} AS SIGNED)"),
            (String::new(), String::new()),
            KeyForm::Int,
        ),
        "decimal" => (
            as_text,
            cast(&format!("DECIMAL({arguments})")),
            KeyForm::Text,
        ),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
            (as_text, (String::new(), String::new()), KeyForm::Text)
        }
        "date" => (as_text, cast("DATE"), KeyForm::Text),
        "time" => (as_text, cast("TIME(6)"), KeyForm::Text),
        "datetime" => (as_text, cast("DATETIME(6)"), KeyForm::Text),
        "timestamp" => {
            let zone = sqlx::query("SELECT CAST(@@session.time_zone AS CHAR)");
            let zone = text(&zone.fetch_one(pool).await?, 0)?;
            if !["+00:00", "UTC"].contains(&zone.as_str()) {
                return refused(
                    "it is written in the time zone of the session, where an hour comes twice a year; connect \
                     with time_zone = '+00:00'",
                );
            }
            (as_text, cast("DATETIME(6)"), KeyForm::Text)
        }
        "uuid" | "inet4" | "inet6" => (as_text, cast(base), KeyForm::Text),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => (
            format!("LOWER(HEX({quoted}))"),
            ("UNHEX(".to_owned(), ")".to_owned()),
            KeyForm::Text,
        ),
        "float" | "double" => {
            return refused("a floating point number is not exact enough to be a cursor");
        }
        "enum" | "set" => {
            return refused(
                "an index sorts it by its number and a comparison by its text, so pages would be cut wrongly",
            );
        }
        _ => {
            return refused(
                "only integers, decimal, texts, dates and times, bytes, uuid and network addresses can be cursors",
            );
        }
    };
    Ok(KeyColumn {
        name: column.name.clone(),
        quoted,
        read,
        bind,
        form,
    })
}
