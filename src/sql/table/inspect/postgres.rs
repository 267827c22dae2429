//! A table of PostgreSQL.

use sqlx::{PgPool, Row as _, postgres::PgRow};

use super::{Found, Identity, UniqueIndex, check_unique, key_columns};
use crate::{
    cell::Encoding,
    sql::{
        backend::value::Value,
        connection::pgbouncer::rows_of,
        syntax::Syntax,
        table::{
            column::{Column, KeyColumn, KeyForm},
            error::TableError,
            name::TableName,
            spec::TableSpec,
        },
    },
};

const TABLE: &str = "
SELECT c.oid::bigint, n.nspname::text, c.relkind::text, c.relpersistence::text,
    c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid),
    pg_catalog.row_security_active(c.oid), current_user::text,
    EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '4'))
        OR EXISTS (
            SELECT FROM pg_catalog.pg_trigger t
            -- Before each row (1 + 2), of a delete (8) or an update (16).
            WHERE t.tgtype & 3 = 3 AND t.tgtype & 24 <> 0 AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                AND t.tgrelid IN (
                    SELECT c.oid UNION ALL SELECT relid FROM pg_catalog.pg_partition_tree(c.oid::regclass))
        )
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND (n.nspname = $1 OR ($1 IS NULL AND pg_catalog.pg_table_is_visible(c.oid)))";

const SIMILAR: &str = "
SELECT pg_catalog.format('%s.%s', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE lower(c.relname) = lower($1) AND c.relkind IN ('r', 'p')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1 LIMIT 5";

/// The columns; a domain counts as its base type.
const COLUMNS: &str = "
SELECT a.attname::text,
    pg_catalog.format_type(a.atttypid, a.atttypmod),
    NOT (a.attnotnull OR (t.typtype = 'd' AND t.typnotnull))
        -- Since version 18 a constraint that was never checked against the rows (NOT VALID) counts there, too.
        OR EXISTS (
            SELECT FROM pg_catalog.pg_constraint n
            WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated
                AND n.conkey[1] = a.attnum
        ),
    a.attgenerated <> '',
    base.typname::text,
    base.typtype::text,
    pg_catalog.format('%I.%I', n.nspname, base.typname),
    coalesce(co.collisdeterministic, true),
    n.nspname::text,
    pg_catalog.pg_type_is_visible(base.oid)
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
CROSS JOIN LATERAL (
    WITH RECURSIVE chain (oid, typtype, typbasetype) AS (
        SELECT t.oid, t.typtype, t.typbasetype
        UNION ALL
        SELECT b.oid, b.typtype, b.typbasetype
        FROM chain JOIN pg_catalog.pg_type b ON b.oid = chain.typbasetype WHERE chain.typtype = 'd'
    )
    SELECT chain.oid FROM chain WHERE chain.typtype <> 'd'
) AS bottom
JOIN pg_catalog.pg_type base ON base.oid = bottom.oid
JOIN pg_catalog.pg_namespace n ON n.oid = base.typnamespace
LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum";

/// One row for each column of each unique index; an expression has no name.
const UNIQUE: &str = "
SELECT ic.relname::text, i.indisvalid AND i.indisready, i.indpred IS NOT NULL, a.attname::text
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = $1::oid AND i.indisunique AND k.position <= i.indnkeyatts
ORDER BY NOT i.indisprimary, ic.relname, k.position";

pub(super) async fn look(
    pool: &PgPool,
    name: &TableName,
    spec: &TableSpec,
) -> Result<Found, TableError> {
    let named = || Value::from(name.table.as_str());
    let found = rows_of(pool, TABLE, vec![name.schema.as_deref().into(), named()]).await?;
    let Some(row) = found.first() else {
        let similar = rows_of(pool, SIMILAR, vec![named()]).await?;
        let similar: Result<_, _> = similar.iter().map(|row| row.try_get(0)).collect();
        return Err(TableError::MissingTable {
            table: spec.table.clone(),
            similar: similar?,
        });
    };
    let oid: i64 = row.try_get(0)?;
    let schema: String = row.try_get(1)?;
    let table = format!(
        "{}.{}",
        Syntax::Postgres.quote(&schema),
        Syntax::Postgres.quote(&name.table)
    );
    check_kind(&table, row)?;
    let row_security: bool = row.try_get(5)?;
    if row_security && !spec.allow_row_security {
        let role = row.try_get(6)?;
        return Err(TableError::RowSecurity { table, role });
    }

    let rows = rows_of(pool, COLUMNS, vec![oid.into()]).await?;
    let mut columns = Vec::new();
    let mut types = Vec::new();
    for row in &rows {
        let base = BaseType {
            name: row.try_get(4)?,
            kind: row.try_get(5)?,
            qualified: row.try_get(6)?,
            deterministic: row.try_get(7)?,
            of_the_system: row.try_get::<String, _>(8)? == "pg_catalog",
            visible: row.try_get(9)?,
        };
        let name: String = row.try_get(0)?;
        let (encoding, read) = encoding(&base, &Syntax::Postgres.quote(&name));
        columns.push(Column {
            name,
            type_name: row.try_get(1)?,
            nullable: row.try_get(2)?,
            generated: row.try_get(3)?,
            encoding,
            read,
        });
        types.push(base);
    }

    let key = key_columns(&table, spec, &columns, |a, b| a == b)?;
    for column in &key {
        if column.nullable {
            return Err(TableError::NullableKey {
                table: table.clone(),
                column: column.name.clone(),
                found: "may be NULL, and a row with NULL there would silently be left out",
                remedy: format!(
                    "if no row has NULL, declare that: ALTER TABLE {table} ALTER COLUMN {} SET NOT NULL",
                    Syntax::Postgres.quote(&column.name)
                ),
            });
        }
    }
    let rows = rows_of(pool, UNIQUE, vec![oid.into()]).await?;
    check_unique(&table, &key, &unique_indexes(&rows)?)?;

    let key: Result<Vec<_>, _> = key
        .into_iter()
        .map(|column| {
            let at = columns.iter().position(|c| c.name == column.name);
            let base = at.and_then(|at| types.get(at));
            key_column(&table, column, base.expect("a type for each column"))
        })
        .collect();
    Ok(Found {
        key: key?,
        table,
        columns,
        identity: Identity::Postgres { oid },
        passes_over: row_security || row.try_get(7)?,
    })
}

fn check_kind(table: &str, row: &PgRow) -> Result<(), TableError> {
    let kind: String = row.try_get(2)?;
    let persistence: String = row.try_get(3)?;
    let has_children: bool = row.try_get(4)?;
    let (what, reason) = match kind.as_str() {
        "v" => (
            "a view",
            "it has no unique index; name the table below it, with a filter",
        ),
        "m" => (
            "a materialized view",
            "its columns may all be NULL, and it cannot be written; name the table below it",
        ),
        "f" => (
            "a foreign table",
            "its rows are on another server, which says nothing about keys; connect to that server",
        ),
        _ if persistence == "t" => ("a temporary table", "no other connection can see it"),
        _ if has_children => (
            "a parent that other tables inherit from",
            "its unique indexes do not cover their rows; go through each of the tables",
        ),
        _ => return Ok(()),
    };
    Err(TableError::NotATable {
        table: table.to_owned(),
        what,
        reason,
    })
}

fn unique_indexes(rows: &[PgRow]) -> Result<Vec<UniqueIndex>, sqlx::Error> {
    let mut indexes: Vec<UniqueIndex> = Vec::new();
    for row in rows {
        let name: String = row.try_get(0)?;
        let column: Option<String> = row.try_get(3)?;
        match indexes.last_mut().filter(|index| index.name == name) {
            Some(index) => index.columns.push(column),
            None => {
                let (valid, partial): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
                let flaw = match (valid, partial) {
                    (false, _) => Some("which is invalid (was it built CONCURRENTLY?)"),
                    (true, true) => Some("which is partial"),
                    (true, false) => None,
                };
                indexes.push(UniqueIndex {
                    name,
                    columns: vec![column],
                    flaw,
                });
            }
        }
    }
    Ok(indexes)
}

/// The base type of a column, below its domains.
struct BaseType {
    name: String,
    kind: String,
    qualified: String,
    deterministic: bool,
    of_the_system: bool,
    /// True for a type that the search path finds without its schema.
    visible: bool,
}

/// Returns the form of a type's values in a file, and the expression that reads them in that form.
fn encoding(base: &BaseType, quoted: &str) -> (Encoding, String) {
    if !base.of_the_system {
        // Uses the output function of the type; a cast to text can be another function.
        let text = format!(
            "CASE WHEN {quoted} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {quoted}) END"
        );
        return (Encoding::Text, text);
    }
    let text = || format!("{quoted}::text");
    match base.name.as_str() {
        "int2" | "int4" | "int8" | "float4" | "float8" => (Encoding::Number, text()),
        "bool" => (Encoding::Boolean, text()),
        "json" | "jsonb" => (Encoding::Json, text()),
        "bytea" => (Encoding::Hex, format!("{quoted}::bytea")),
        // JSON writes these types in ISO 8601.
        "date" | "timestamp" | "timestamptz" => {
            (Encoding::Text, format!("to_jsonb({quoted}) #>> '{{}}'"))
        }
        _ => (Encoding::Text, text()),
    }
}

/// Returns the expressions that read a value of the column as a text, independent of the session's settings, and
/// convert it back.
fn key_column(table: &str, column: &Column, base: &BaseType) -> Result<KeyColumn, TableError> {
    let quoted = Syntax::Postgres.quote(&column.name);
    let cast = || (String::new(), format!("::{}", base.qualified));
    let refused = |reason| {
        Err(TableError::KeyType {
            table: table.to_owned(),
            column: column.name.clone(),
            type_name: column.type_name.clone(),
            reason,
        })
    };
    if !base.deterministic {
        return refused(
            "with its nondeterministic collation different texts are equal, so a text does not say where a \
             page ends",
        );
    }
    if base.kind != "e" && !base.of_the_system && !base.visible {
        return refused(
            "its type is in a schema outside of the search path, so it would be compared as another type; add \
             the schema to the search_path of the role",
        );
    }
    let (read, bind, form) = match (base.kind.as_str(), base.name.as_str()) {
        (_, "int2" | "int4" | "int8") => (
            format!("{quoted}::bigint"),
            (String::new(), "::bigint".to_owned()),
            KeyForm::Int,
        ),
        ("e", _)
        | (
            _,
            "numeric" | "uuid" | "text" | "varchar" | "bpchar" | "name" | "citext" | "bool"
            | "time" | "inet" | "cidr" | "macaddr" | "macaddr8",
        ) => (format!("{quoted}::text"), cast(), KeyForm::Text),
        // JSON writes these types in ISO 8601, whatever the `DateStyle`.
        (_, "date" | "timestamp") => (
            format!("to_jsonb({quoted}) #>> '{{}}'"),
            cast(),
            KeyForm::Text,
        ),
        (_, "timestamptz") => (
            format!("to_jsonb({quoted} AT TIME ZONE 'UTC') #>> '{{}}'"),
            (
                "(".to_owned(),
                "::pg_catalog.timestamp AT TIME ZONE 'UTC')".to_owned(),
            ),
            KeyForm::Text,
        ),
        (_, "bytea") => (
            format!("encode({quoted}, 'hex')"),
            ("decode(".to_owned(), "::text, 'hex')".to_owned()),
            KeyForm::Text,
        ),
        (_, "float4" | "float8") => {
            return refused("a floating point number is not exact enough to be a cursor");
        }
        (_, "timetz" | "interval") => {
            return refused("different values of it are equal or sort as if they were");
        }
        _ => {
            return refused(
                "only integers, numeric, uuid, texts, dates and times, bytea, boolean, enums and network \
                 addresses can be cursors",
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
