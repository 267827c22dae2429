//! A table of SQLite.

use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, SqlitePool};

use super::{Found, Identity, UniqueIndex, check_unique, key_columns};
use crate::{
    cell::Encoding,
    sql::{
        syntax::Syntax,
        table::{
            column::{Column, KeyColumn, KeyForm},
            error::TableError,
            name::TableName,
            plan,
            spec::TableSpec,
        },
    },
};

const TABLE: &str = "
SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND lower(name) = lower($1)";

const COLUMNS: &str = "
SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo($1, 'main') WHERE hidden <> 1
ORDER BY cid";

/// A trigger with `RAISE(IGNORE)` keeps a row as it is.
const PASSES_OVER: &str = "
SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = lower($1)
    AND sql LIKE '%raise%ignore%')";

const UNIQUE: &str = "
SELECT l.name, l.partial, i.name, l.seq
FROM pragma_index_list($1, 'main') AS l, pragma_index_xinfo(l.name, 'main') AS i
WHERE l.\"unique\" AND i.key ORDER BY l.seq DESC, i.seqno";

/// The facts about the whole table.
struct Traits {
    without_rowid: bool,
    /// The column that is an alias of the row id.
    row_id: Option<String>,
}

pub(super) async fn look(
    pool: &SqlitePool,
    name: &TableName,
    spec: &TableSpec,
) -> Result<Found, TableError> {
    let missing = || TableError::MissingTable {
        table: spec.table.clone(),
        similar: Vec::new(),
    };
    if name
        .schema
        .as_ref()
        .is_some_and(|s| !s.eq_ignore_ascii_case("main"))
    {
        return Err(TableError::NotATable {
            table: spec.table.clone(),
            what: "in another schema than `main`",
            reason: "other connections need not have attached it; connect to its file",
        });
    }
    let mut connection = plan::sqlite_with_its_schema(pool).await?;
    let connection = &mut *connection;
    let row = sqlx::query(TABLE).bind(&name.table);
    let row = row
        .fetch_optional(&mut *connection)
        .await?
        .ok_or_else(missing)?;
    let table_name: String = row.try_get(0)?;
    let table = format!("\"main\".{}", Syntax::Sqlite.quote(&table_name));
    let kind: String = row.try_get(1)?;
    let kind = match kind.as_str() {
        "view" => Some((
            "a view",
            "it has no unique index; name the table below it, with a filter",
        )),
        "virtual" => Some(("a virtual table", "it has no unique index")),
        _ => None,
    };
    if let Some((what, reason)) = kind {
        return Err(TableError::NotATable {
            table,
            what,
            reason,
        });
    }
    let without_rowid: bool = row.try_get(2)?;

    let rows = sqlx::query(COLUMNS)
        .bind(&table_name)
        .fetch_all(&mut *connection)
        .await?;
    let mut columns = Vec::new();
    let mut primary = Vec::new();
    for row in &rows {
        let part_of_key: i64 = row.try_get(3)?;
        let not_null: bool = row.try_get(2)?;
        let hidden: i64 = row.try_get(4)?;
        let (name, type_name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let column = Column {
            read: Syntax::Sqlite.quote(&name),
            encoding: match makes_texts(&type_name) {
                true => Encoding::StoredText,
                false => Encoding::Stored,
            },
            name,
            type_name,
            nullable: !not_null,
            generated: hidden != 0,
        };
        if part_of_key > 0 {
            primary.push(column.name.clone());
        }
        columns.push(column);
    }
    let passes_over: bool = sqlx::query_scalar(PASSES_OVER)
        .bind(&table_name)
        .fetch_one(&mut *connection)
        .await?;
    let mut traits = Traits {
        without_rowid,
        row_id: None,
    };

    let mut indexes = Vec::new();
    for row in sqlx::query(UNIQUE)
        .bind(&table_name)
        .fetch_all(&mut *connection)
        .await?
    {
        let (name, column): (String, Option<String>) = (row.try_get(0)?, row.try_get(2)?);
        let partial: bool = row.try_get(1)?;
        indexes.push((name, partial, column));
    }
    let mut indexes = grouped(indexes);
    if let [only] = primary.as_slice() {
        let is_integer = columns
            .iter()
            .any(|c| &c.name == only && c.type_name.eq_ignore_ascii_case("integer"));
        // `INTEGER PRIMARY KEY DESC` is not an alias; an index stands for that primary key.
        let has_index = indexes.iter().any(|index| {
            index.name.starts_with("sqlite_autoindex_") && index.columns == [Some(only.clone())]
        });
        if is_integer && !without_rowid && !has_index {
            traits.row_id = Some(only.clone());
            indexes.push(UniqueIndex {
                name: "the primary key".to_owned(),
                columns: vec![Some(only.clone())],
                flaw: None,
            });
        }
    }
    for column in &mut columns {
        let never_null = traits.row_id.as_ref() == Some(&column.name)
            || (traits.without_rowid && primary.contains(&column.name));
        column.nullable &= !never_null;
    }

    let key = key_columns(&table, spec, &columns, str::eq_ignore_ascii_case)?;
    for index in &mut indexes {
        if index.flaw.is_none() && !collates_like_its_columns(connection, &table, index).await? {
            index.flaw = Some("which compares texts in another way than the columns do");
        }
    }
    check_unique(&table, &key, &indexes)?;
    for column in &key {
        check_null(connection, &table, column).await?;
    }
    let integer_key =
        matches!(key.as_slice(), [only] if traits.row_id.as_ref() == Some(&only.name));
    let key: Result<Vec<_>, _> = key.into_iter().map(|c| key_column(&table, c)).collect();
    Ok(Found {
        key: key?,
        table,
        columns,
        identity: Identity::Sqlite {
            table: table_name,
            integer_key,
        },
        passes_over,
    })
}

fn grouped(rows: Vec<(String, bool, Option<String>)>) -> Vec<UniqueIndex> {
    let mut indexes: Vec<UniqueIndex> = Vec::new();
    for (name, partial, column) in rows {
        match indexes.last_mut().filter(|index| index.name == name) {
            Some(index) => index.columns.push(column),
            None => indexes.push(UniqueIndex {
                name,
                columns: vec![column],
                flaw: partial.then_some("which is partial"),
            }),
        }
    }
    indexes
}

/// Returns whether the index sorts as its columns do. If the columns take `a` and `A` for equal and the index does not,
/// two rows can have equal keys. The catalog does not show the collation of a column, but the plan shows whether the
/// index can sort it.
async fn collates_like_its_columns(
    connection: &mut SqliteConnection,
    table: &str,
    index: &UniqueIndex,
) -> Result<bool, sqlx::Error> {
    let Some(columns) = index.columns.iter().cloned().collect::<Option<Vec<_>>>() else {
        // Expressions prove nothing anyway.
        return Ok(true);
    };
    let columns: Vec<_> = columns.iter().map(|c| Syntax::Sqlite.quote(c)).collect();
    // An index with a name of its own has to be used.
    let indexed = if index.name == "the primary key" {
        return Ok(true);
    } else {
        format!("INDEXED BY {}", Syntax::Sqlite.quote(&index.name))
    };
    // In the directions of the index, so that only its collations can prevent its use.
    let directions = "SELECT \"desc\" FROM pragma_index_xinfo($1, 'main') WHERE key ORDER BY seqno";
    let directions: Vec<bool> = sqlx::query_scalar(directions)
        .bind(&index.name)
        .fetch_all(&mut *connection)
        .await?;
    let order: Vec<_> = columns
        .iter()
        .zip(directions)
        .map(|(column, down)| format!("{column}{}", if down { " DESC" } else { "" }))
        .collect();
    let order = order.join(", ");
    let explain = |indexed: &str| {
        format!("EXPLAIN QUERY PLAN SELECT 1 FROM {table} {indexed} ORDER BY {order}")
    };
    let rows = sqlx::query(AssertSqlSafe(explain(&indexed)))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await;
    let rows = match rows {
        Ok(rows) => rows,
        // The primary key of a table WITHOUT ROWID is the table itself.
        Err(_) => {
            sqlx::query(AssertSqlSafe(explain("")))
                .persistent(false)
                .fetch_all(&mut *connection)
                .await?
        }
    };
    Ok(!plan::sqlite_sorts(&rows)?)
}

async fn check_null(
    connection: &mut SqliteConnection,
    table: &str,
    column: &Column,
) -> Result<(), TableError> {
    if !column.nullable {
        return Ok(());
    }
    let quoted = Syntax::Sqlite.quote(&column.name);
    let exists = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {quoted} IS NULL)");
    let exists: bool = sqlx::query_scalar(AssertSqlSafe(exists))
        .fetch_one(connection)
        .await?;
    if !exists {
        return Ok(());
    }
    Err(TableError::NullableKey {
        table: table.to_owned(),
        column: column.name.clone(),
        found: "is NULL in some rows, and they would silently be left out",
        remedy: format!("look for them: SELECT * FROM {table} WHERE {quoted} IS NULL"),
    })
}

/// Returns whether a column of this declared type turns numbers into texts.
pub(in crate::sql) fn makes_texts(type_name: &str) -> bool {
    let declared = type_name.to_uppercase();
    let has = |part: &&str| declared.contains(part);
    !has(&"INT") && ["CHAR", "CLOB", "TEXT"].iter().any(has)
}

/// Returns the type of the values according to the declared type. SQLite enforces that only in part, so each value is
/// checked when it is read.
fn key_column(table: &str, column: &Column) -> Result<KeyColumn, TableError> {
    let quoted = Syntax::Sqlite.quote(&column.name);
    let declared = column.type_name.to_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    let as_is = (String::new(), String::new());
    // The rules of SQLite, in the order in which it applies them.
    let (form, bind) = if has(&["INT"]) {
        (KeyForm::Int, as_is)
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        (KeyForm::Text, as_is)
    } else if has(&["BLOB"]) {
        (KeyForm::Blob, ("unhex(".to_owned(), ")".to_owned()))
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        return Err(TableError::KeyType {
            table: table.to_owned(),
            column: column.name.clone(),
            type_name: column.type_name.clone(),
            reason: "a floating point number is not exact enough to be a cursor",
        });
    } else {
        (KeyForm::IntOrText, as_is)
    };
    Ok(KeyColumn {
        name: column.name.clone(),
        read: quoted.clone(),
        quoted,
        bind,
        form,
    })
}
