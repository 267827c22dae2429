//! The statement that sets columns.

use std::collections::HashMap;

use super::{args::Assignment, assignment::is_default, statement::Statement};
use crate::sql::syntax::Syntax;

/// The type of a column, for comparisons of its values.
#[derive(Clone, Debug)]
pub struct TypedColumn {
    /// The quoted name.
    pub name: String,
    /// The type as the database writes it; for PostgreSQL without its length, so that a cast truncates nothing.
    pub type_name: String,
}

/// Makes `UPDATE table SET ... WHERE {range}`. If `columns` has the types of the columns, rows that already have
/// their new values are left alone.
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
                // The parentheses keep text after an expression, such as a second WHERE, from being executed.
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

/// Returns the verb of the statement. A table of SQLite may say that a conflict removes the other row, or skips this
/// one (`UNIQUE ON CONFLICT REPLACE`, `IGNORE`). The conflict clause of the statement overrides that.
fn verb(syntax: Syntax) -> &'static str {
    match syntax {
        Syntax::Sqlite => "UPDATE OR ABORT",
        Syntax::Postgres | Syntax::MySql => "UPDATE",
    }
}

/// Counts the rows that do not have their new values yet; with the condition `untouched`, only some of them.
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

/// Returns the condition that a row does not have its new values yet. `None` if there is no such condition.
///
/// Equal must mean that nothing would be written. Values that a collation takes for equal are different, and so are
/// numbers with other trailing zeros.
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
            // Compares the stored bytes of any type. The casts make it one comparison of whole records.
            vec![format!(
                "ROW({})::record *<> ROW({})::record",
                old.join(", "),
                new.join(", ")
            )]
        }
        Syntax::MySql => {
            let each = each.into_iter();
            each.map(|(column, expression)| difference_of_mysql(column, expression))
                .collect::<Option<_>>()?
        }
        Syntax::Sqlite => each
            .into_iter()
            .map(|(TypedColumn { name, type_name }, expression)| {
                // The plus removes the affinity of a column: without it, a text could be compared as a number.
                let differs = format!("{name} IS NOT (+({expression}) COLLATE BINARY)");
                match has_affinity(type_name) {
                    true => differs,
                    // 1 and 1.0 are equal, and stored differently.
                    false => format!("{differs} OR typeof({name}) <> typeof({expression})"),
                }
            })
            .collect(),
    };
    Some(terms.join(" OR "))
}

/// Returns the condition for a type of PostgreSQL whose equal values are stored alike. It is faster than a comparison
/// of records. Texts are compared under the collation `C`.
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

/// Returns the condition for a type of MySQL. MySQL compares a number with a text, and a decimal with a floating point
/// number, as floating point numbers, where numbers of 17 digits equal their neighbours. The new value is therefore
/// first cast to the value that the column would store. `None` for a type without such a cast.
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
        // A number means the position of a member there, so the test cannot be made if members are numbers.
        "enum" | "set" if !has_member_of_digits(&type_name) => text(),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
            format!("NOT (CAST({name} AS BINARY) <=> CAST(({expression}) AS BINARY))")
        }
        // 1 and 1.0 are equal, and stored differently. The cast turns a text into a value like that of the column.
        "json" => {
            format!("NOT (CAST({name} AS CHAR) <=> CAST(CAST(({expression}) AS JSON) AS CHAR))")
        }
        _ => return None,
    })
}

/// Returns whether a type such as `enum('1','b')` has a member that is a number.
fn has_member_of_digits(type_name: &str) -> bool {
    let members = type_name.split('\'').skip(1).step_by(2);
    members
        .into_iter()
        .any(|member| !member.is_empty() && member.chars().all(|c| c.is_ascii_digit()))
}

/// Returns whether SQLite converts all values of a column of this type to one storage class.
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
        // 1.0 and 1.00 are equal, and stored differently.
        let exact = rendered(Syntax::Postgres, "round(a)", Some("numeric"));
        assert!(
            exact.ends_with("(ROW(\"a\")::record *<> ROW((round(a))::numeric)::record)"),
            "{exact}"
        );
    }

    #[test]
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
            // Equal as numbers.
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
    fn a_default_is_written_to_every_row() {
        let text = rendered(Syntax::Sqlite, "DEFAULT", Some("TEXT"));
        assert_eq!(text, "UPDATE OR ABORT t SET \"a\" = DEFAULT WHERE (id = 1)");
        let text = rendered(Syntax::Sqlite, "1", None);
        assert_eq!(text, "UPDATE OR ABORT t SET \"a\" = (1) WHERE (id = 1)");
    }
}
