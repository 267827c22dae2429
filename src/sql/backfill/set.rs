//! The statement that sets columns.

use std::collections::HashMap;

use super::{args::Assignment, assignment::is_default, statement::Statement, tokens::Syntax};

/// What a column is, as far as comparing its values needs it.
#[derive(Clone, Debug)]
pub struct TypedColumn {
    /// Quoted.
    pub name: String,
    /// As the database writes it; for PostgreSQL without the length, so that a cast to it cuts nothing off.
    pub type_name: String,
}

/// `UPDATE table SET ... WHERE {range}`, where rows that have the new values already are left alone if
/// `columns` says what their columns are.
pub fn update(
    table: &str,
    set: &[Assignment],
    quote: impl Fn(&str) -> String,
    columns: Option<&HashMap<String, TypedColumn>>,
    syntax: Syntax,
) -> Statement {
    let assignments: Vec<_> = set
        .iter()
        .map(
            |Assignment { column, expression }| match is_default(expression) {
                true => format!("{} = DEFAULT", quote(column)),
                // The parentheses keep what follows an expression, such as a second WHERE, from being taken.
                false => format!("{} = ({expression})", quote(column)),
            },
        )
        .collect();
    let head = format!(
        "{} {table} SET {} WHERE ",
        verb(syntax),
        assignments.join(", ")
    );
    let changes = columns.and_then(|columns| differs(set, columns, syntax));
    let tail = changes.map_or_else(String::new, |changes| format!(" AND ({changes})"));
    Statement::of([head, tail])
}

/// A table of SQLite may say that a conflict removes the other row, or passes over this one (`UNIQUE ON CONFLICT
/// REPLACE`, `IGNORE`). The statement's own word goes before that.
fn verb(syntax: Syntax) -> &'static str {
    match syntax {
        #[cfg(feature = "sqlite")]
        Syntax::Sqlite => "UPDATE OR ABORT",
        #[allow(unreachable_patterns, reason = "with one feature alone")]
        _ => "UPDATE",
    }
}

/// Counts the rows that do not have their new values; with `untouched`, a condition, only some of them.
pub fn counted(
    table: &str,
    set: &[Assignment],
    columns: Option<&HashMap<String, TypedColumn>>,
    syntax: Syntax,
    untouched: Option<&str>,
) -> Statement {
    let changes = columns.and_then(|columns| differs(set, columns, syntax));
    let conditions = [changes.as_deref(), untouched];
    let conditions = conditions.into_iter().flatten();
    let tail: String = conditions
        .map(|condition| format!(" AND ({condition})"))
        .collect();
    Statement::of([format!("SELECT count(*) FROM {table} WHERE "), tail])
}

/// That a row does not have its new values yet. `None` where that cannot be said.
///
/// Equal must mean that nothing would be written: not what a collation takes for equal, nor a number with
/// fewer zeros at its end.
fn differs(
    set: &[Assignment],
    columns: &HashMap<String, TypedColumn>,
    syntax: Syntax,
) -> Option<String> {
    if set.iter().any(|a| is_default(&a.expression)) {
        return None;
    }
    let each = set.iter().map(|assignment| {
        let column = columns.get(&assignment.column)?;
        Some((column, assignment.expression.as_str()))
    });
    let each: Vec<_> = each.collect::<Option<_>>()?;
    let terms: Vec<_> = match syntax {
        #[cfg(feature = "postgres")]
        Syntax::Postgres => {
            let plain: Option<Vec<_>> = each.iter().map(plain_difference).collect();
            if let Some(plain) = plain {
                return Some(plain.join(" OR "));
            }
            let (mut old, mut new) = (Vec::new(), Vec::new());
            for (column, expression) in each {
                old.push(column.name.clone());
                new.push(format!("({expression})::{}", column.type_name));
            }
            // Compares the stored bytes, whatever the types are. Without the casts each pair would be compared.
            vec![format!(
                "ROW({})::record *<> ROW({})::record",
                old.join(", "),
                new.join(", ")
            )]
        }
        #[cfg(feature = "mysql")]
        Syntax::MySql => {
            let each = each.into_iter();
            each.map(|(column, expression)| difference_of_mysql(column, expression))
                .collect::<Option<_>>()?
        }
        #[cfg(feature = "sqlite")]
        Syntax::Sqlite => each
            .into_iter()
            .map(|(TypedColumn { name, type_name }, expression)| {
                // The plus takes its type from a column: a text would be compared with it as a number.
                let differs = format!("{name} IS NOT (+({expression}) COLLATE BINARY)");
                match has_affinity(type_name) {
                    true => differs,
                    // 1 and 1.0 are equal, and stay what they are.
                    false => format!("{differs} OR typeof({name}) <> typeof({expression})"),
                }
            })
            .collect(),
    };
    Some(terms.join(" OR "))
}

/// For the types of PostgreSQL of which equal values are stored alike, whose own comparison is faster than that of
/// records. Texts are under `C`.
#[cfg(feature = "postgres")]
fn plain_difference((column, expression): &(&TypedColumn, &str)) -> Option<String> {
    let TypedColumn { name, type_name } = column;
    let value = format!("({expression})::{type_name}");
    match type_name.as_str() {
        "smallint"
        | "integer"
        | "bigint"
        | "boolean"
        | "uuid"
        | "date"
        | "timestamp without time zone"
        | "timestamp with time zone"
        | "bytea" => Some(format!("{name} IS DISTINCT FROM ({value})")),
        "text" | "character varying" => {
            let collation = "COLLATE pg_catalog.\"C\"";
            Some(format!(
                "({name} {collation}) IS DISTINCT FROM (({value}) {collation})"
            ))
        }
        _ => None,
    }
}

/// MySQL compares a number with a text, and a decimal with a floating point number, as floating point numbers: 17
/// digits are equal to their neighbours then. So the new value becomes what the column would store of it first.
/// `None`: for this type that cannot be said.
#[cfg(feature = "mysql")]
fn difference_of_mysql(
    TypedColumn { name, type_name }: &TypedColumn,
    expression: &str,
) -> Option<String> {
    let type_name = type_name.to_ascii_lowercase();
    let end = type_name.find(['(', ' ']).unwrap_or(type_name.len());
    let (word, rest) = type_name.split_at(end);
    // `(10,2)` of `decimal(10,2) unsigned`.
    let size = match (rest.starts_with('('), rest.find(')')) {
        (true, Some(end)) => &rest[..=end],
        _ => "",
    };
    let cast = |to: &str| format!("NOT ({name} <=> CAST(({expression}) AS {to}))");
    let text = || {
        format!(
            "NOT (CAST(CONVERT({name} USING utf8mb4) AS BINARY) <=> \
             CAST(CONVERT(({expression}) USING utf8mb4) AS BINARY))"
        )
    };
    Some(match word {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => cast("DECIMAL(20,0)"),
        "decimal" => cast(&format!("DECIMAL{size}")),
        "float" | "double" => format!("NOT ({name} <=> ({expression}))"),
        "date" => cast("DATE"),
        "datetime" | "timestamp" => cast(&format!("DATETIME{size}")),
        "time" => cast(&format!("TIME{size}")),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => text(),
        // A number is the number of a member there, so members that are numbers tell nothing.
        "enum" | "set" if !has_member_of_digits(&type_name) => text(),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
            format!("NOT (CAST({name} AS BINARY) <=> CAST(({expression}) AS BINARY))")
        }
        // 1 and 1.0 are equal, and stored each in its own way. Texts become values like that of the column.
        "json" => {
            format!("NOT (CAST({name} AS CHAR) <=> CAST(CAST(({expression}) AS JSON) AS CHAR))")
        }
        _ => return None,
    })
}

/// Whether a type such as `enum('1','b')` has a member that is a number.
#[cfg(feature = "mysql")]
fn has_member_of_digits(type_name: &str) -> bool {
    let members = type_name.split('\'').skip(1).step_by(2);
    members
        .into_iter()
        .any(|member| !member.is_empty() && member.chars().all(|c| c.is_ascii_digit()))
}

/// Whether SQLite turns what is written to a column of this type into one kind of value.
#[cfg(feature = "sqlite")]
fn has_affinity(type_name: &str) -> bool {
    let name = type_name.to_ascii_uppercase();
    !name.is_empty() && !name.contains("BLOB") && name != "ANY"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(syntax: Syntax, expression: &str, type_name: Option<&str>) -> String {
        let set = [Assignment {
            column: "a".to_owned(),
            expression: expression.to_owned(),
        }];
        let columns = type_name.map(|type_name| {
            let column = TypedColumn {
                name: syntax.quote("a"),
                type_name: type_name.to_owned(),
            };
            HashMap::from([("a".to_owned(), column)])
        });
        let statement = update(
            "t",
            &set,
            |name| syntax.quote(name),
            columns.as_ref(),
            syntax,
        );
        statement.render(|_| ("id = 1".to_owned(), Vec::new())).0
    }

    #[test]
    #[cfg(feature = "postgres")]
    fn postgresql_compares_what_is_stored() {
        let text = rendered(Syntax::Postgres, "lower(a)", Some("character varying"));
        assert_eq!(
            text,
            "UPDATE t SET \"a\" = (lower(a)) WHERE (id = 1) AND \
             ((\"a\" COLLATE pg_catalog.\"C\") IS DISTINCT FROM \
             (((lower(a))::character varying) COLLATE pg_catalog.\"C\"))"
        );
        let whole = rendered(Syntax::Postgres, "a + 1", Some("bigint"));
        assert!(
            whole.ends_with("AND (\"a\" IS DISTINCT FROM ((a + 1)::bigint))"),
            "{whole}"
        );
        // 1.0 and 1.00 are equal, and stored each in its own way.
        let exact = rendered(Syntax::Postgres, "round(a)", Some("numeric"));
        assert!(
            exact.ends_with("(ROW(\"a\")::record *<> ROW((round(a))::numeric)::record)"),
            "{exact}"
        );
    }

    #[test]
    #[cfg(feature = "sqlite")]
    fn sqlite_compares_without_a_collation() {
        let text = rendered(Syntax::Sqlite, "lower(a)", Some("TEXT"));
        assert!(
            text.ends_with("AND (\"a\" IS NOT (+(lower(a)) COLLATE BINARY))"),
            "{text}"
        );
        let untyped = rendered(Syntax::Sqlite, "1.0", Some(""));
        assert!(
            untyped.ends_with("OR typeof(\"a\") <> typeof(1.0))"),
            "{untyped}"
        );
    }

    #[tokio::test]
    #[cfg(feature = "sqlite")]
    async fn sqlite_compares_what_would_be_written() {
        let pool = sqlx::SqlitePool::connect("sqlite::memory:").await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        for (type_name, before, after) in [
            // As numbers these are equal.
            ("TEXT", "'01'", 1),
            ("TEXT", "'1.0'", 1),
            ("TEXT", "'1'", 0),
            ("INTEGER", "1", 0),
            ("INTEGER", "'x'", 1),
            ("REAL", "1.0", 0),
            ("TEXT COLLATE NOCASE", "'1'", 0),
            ("", "'1'", 1),
            ("BLOB", "1.0", 1),
            ("BLOB", "1", 0),
        ] {
            let (affinity, _) = type_name.split_once(' ').unwrap_or((type_name, ""));
            let create = format!(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (id INTEGER PRIMARY KEY, a {type_name}, b INTEGER);
                 INSERT INTO t VALUES (1, {before}, 1)"
            );
            let update = rendered(Syntax::Sqlite, "b", Some(affinity));
            let create = sqlx::raw_sql(sqlx::AssertSqlSafe(create));
            create.execute(&mut *connection).await.unwrap();
            let update = sqlx::query(sqlx::AssertSqlSafe(update));
            let updated = update.execute(&mut *connection).await.unwrap();
            assert_eq!(updated.rows_affected(), after, "{type_name} {before}");
        }
    }

    #[test]
    #[cfg(feature = "mysql")]
    fn mysql_compares_bytes_where_there_is_a_collation() {
        let text = rendered(Syntax::MySql, "upper(a)", Some("varchar(20)"));
        assert!(text.contains("AS BINARY) <=>"), "{text}");
        let number = rendered(Syntax::MySql, "a + 1", Some("int(11) unsigned"));
        assert!(
            number.ends_with("AND (NOT (`a` <=> CAST((a + 1) AS DECIMAL(20,0))))"),
            "{number}"
        );
        let exact = rendered(Syntax::MySql, "b", Some("decimal(10,2) unsigned"));
        assert!(exact.contains("AS DECIMAL(10,2))"), "{exact}");
        let named = rendered(Syntax::MySql, "2", Some("enum('a','b')"));
        assert!(named.contains("AS BINARY) <=>"), "{named}");
        for unknown in ["enum('2','1')", "bit(64)", "year(4)", "point"] {
            let all = rendered(Syntax::MySql, "2", Some(unknown));
            assert_eq!(all, "UPDATE t SET `a` = (2) WHERE (id = 1)", "{unknown}");
        }
    }

    #[test]
    #[cfg(feature = "sqlite")]
    fn a_default_is_written_to_every_row() {
        let text = rendered(Syntax::Sqlite, "DEFAULT", Some("TEXT"));
        assert_eq!(text, "UPDATE OR ABORT t SET \"a\" = DEFAULT WHERE (id = 1)");
        let text = rendered(Syntax::Sqlite, "1", None);
        assert_eq!(text, "UPDATE OR ABORT t SET \"a\" = (1) WHERE (id = 1)");
    }
}
