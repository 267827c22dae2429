//! Which columns of a record its database refuses.
//!
//! Databases name them in different places: in a field of the error, in its context, in its text, or only by the name
//! of a constraint, whose columns are then looked up. Texts are compared with the names of the columns that are
//! filled, so nothing that came with a record is taken for a name.

use sqlx::AssertSqlSafe;

use super::{
    row::{ImportRow, into_text},
    write::Filled,
};

#[cfg(feature = "mysql")]
use crate::base::error::of_database::without_mysql_values;

/// A record that was sent alone, and refused.
pub(super) struct Refusal<'a> {
    pub filled: &'a Filled<'a>,
    pub row: &'a ImportRow,
    pub error: &'a sqlx::Error,
}

impl Refusal<'_> {
    /// The columns whose name, between these marks, is in a text.
    #[cfg(feature = "mysql")]
    fn quoted_in(&self, text: &str, marks: &[char]) -> Vec<String> {
        self.columns_where(|name| {
            let quoted = |mark: &char| text.contains(&format!("{mark}{name}{mark}"));
            marks.iter().any(quoted)
        })
    }

    /// The value of a column; `None` for NULL, and for a column that is not filled.
    fn value(&self, column: &str) -> Option<String> {
        let plan = self.filled.plan();
        let place = plan.iter().position(|assigned| assigned.column == column)?;
        into_text(self.row.0[place].clone())
    }

    fn columns_where(&self, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        let names = self.filled.plan().iter().map(|assigned| &assigned.column);
        names.filter(|name| is_meant(name)).cloned().collect()
    }

    /// Columns of a constraint in the order in which they are filled; those that are not are kept as well.
    fn in_order(&self, mut columns: Vec<String>) -> Vec<String> {
        let plan = self.filled.plan();
        let place = |name: &String| plan.iter().position(|assigned| assigned.column == *name);
        columns.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
        columns
    }
}

/// Before a record that is sent alone, so that the database can be asked after it refuses it.
#[cfg(feature = "postgres")]
pub(super) const BEFORE_ONE: &str = "SAVEPOINT temporal_batch_one_record";
#[cfg(feature = "postgres")]
const BACK_TO_IT: &str = "ROLLBACK TO SAVEPOINT temporal_batch_one_record";

/// Needs a transaction with [`BEFORE_ONE`]. Columns that cannot be found out are left out: the error itself matters more.
#[cfg(feature = "postgres")]
pub(super) async fn of_postgres(
    connection: &mut sqlx::PgConnection,
    refusal: &Refusal<'_>,
) -> Vec<String> {
    let Some(error) = postgres_error(refusal.error) else {
        return Vec::new();
    };
    if let Some(column) = error.column() {
        return vec![column.to_owned()];
    }
    if let Some(column) = column_of_copy(refusal, refusal.error) {
        return vec![column];
    }
    if error.code() == "22021" {
        // The one character that UTF-8 has and PostgreSQL has not.
        return refusal.columns_where(|name| refusal.value(name).is_some_and(|v| v.contains('\0')));
    }
    let ask = async {
        sqlx::raw_sql(BACK_TO_IT).execute(&mut *connection).await?;
        if let (Some(name), Some(table)) = (error.constraint(), error.table()) {
            let schema = error.schema().unwrap_or_default();
            return columns_of_constraint(connection, name, schema, table).await;
        }
        // An INSERT converts its values without saying of which column, and COPY says it.
        let copied = super::write::postgres_copy(
            connection,
            refusal.filled,
            std::slice::from_ref(refusal.row),
        );
        let column = match copied.await {
            Ok(_) => None,
            Err(again) => column_of_copy(refusal, &again),
        };
        Ok::<_, sqlx::Error>(column.into_iter().collect())
    };
    let columns = ask.await.unwrap_or_default();
    refusal.in_order(columns)
}

#[cfg(feature = "postgres")]
fn postgres_error(error: &sqlx::Error) -> Option<&sqlx::postgres::PgDatabaseError> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
}

/// `COPY t, line 1, column age: "seven"`.
#[cfg(feature = "postgres")]
fn column_of_copy(refusal: &Refusal<'_>, error: &sqlx::Error) -> Option<String> {
    let context = postgres_error(error)?.r#where()?;
    let line = context.lines().find(|line| line.starts_with("COPY "))?;
    let (_, named) = line.split_once(", column ")?;
    let found = refusal.columns_where(|name| {
        let after = named.strip_prefix(name);
        after.is_some_and(|after| after.is_empty() || after.starts_with(':'))
    });
    found.into_iter().max_by_key(String::len)
}

/// The columns of a constraint, or of a unique index.
#[cfg(feature = "postgres")]
async fn columns_of_constraint(
    connection: &mut sqlx::PgConnection,
    name: &str,
    schema: &str,
    table: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let statement = "WITH refused (id) AS (
            SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = $2 AND c.relname = $3
        ), numbers (attnum) AS (
            SELECT unnest(conkey) FROM pg_catalog.pg_constraint JOIN refused ON conrelid = id WHERE conname = $1
            UNION
            SELECT unnest(indkey::int2[]) FROM pg_catalog.pg_index JOIN refused ON indrelid = id
                JOIN pg_catalog.pg_class AS i ON i.oid = indexrelid
            WHERE i.relname = $1
        )
        SELECT attname::text FROM pg_catalog.pg_attribute JOIN refused ON attrelid = id
            JOIN numbers USING (attnum) ORDER BY attnum";
    let query =
        sqlx::query_scalar(statement).persistent(crate::sql::connection::proxied::may_be_named());
    let query = query.bind(name).bind(schema).bind(table);
    query.fetch_all(connection).await
}

/// Needs a transaction that goes on after an error.
#[cfg(feature = "mysql")]
pub(super) async fn of_mysql(
    connection: &mut sqlx::MySqlConnection,
    refusal: &Refusal<'_>,
) -> Vec<String> {
    const DUPLICATE: [u16; 3] = [1062, 1169, 1586];
    const NO_PARENT: [u16; 2] = [1216, 1452];
    const CHECK: [u16; 2] = [3819, 4025];
    // The error of the subquery by which an update finds that a record collides on another key than its own.
    const COLLISION: u16 = 1242;
    let error = refusal.error.as_database_error();
    let Some(error) =
        error.and_then(|error| error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>())
    else {
        return Vec::new();
    };
    let number = error.number();
    let said = without_mysql_values(number, error.message());
    let found = if DUPLICATE.contains(&number) {
        let key = said.rsplit('\'').nth(1).unwrap_or_default();
        columns_of_key(connection, refusal, key).await
    } else if NO_PARENT.contains(&number) {
        let key = said
            .split_once("FOREIGN KEY (")
            .and_then(|(_, rest)| rest.split_once(')'));
        Ok(key
            .map(|(key, _)| refusal.quoted_in(key, &['`']))
            .unwrap_or_default())
    } else if number == COLLISION {
        columns_of_collision(connection, refusal).await
    } else if CHECK.contains(&number) {
        columns_of_check(connection, refusal, &said).await
    } else {
        // `d`.`t`.`c`: the database and the table may have the name of a column.
        let columns = refusal.quoted_in(&said, &['`', '\'']);
        let place = |name: &String| {
            said.rfind(&format!("{name}`"))
                .max(said.rfind(&format!("{name}'")))
        };
        Ok(columns.into_iter().max_by_key(place).into_iter().collect())
    };
    // Columns that cannot be found out are left out: the error itself matters more.
    let columns = found.unwrap_or_default();
    refusal.in_order(columns)
}

/// `email`, or `users.email` in MySQL.
#[cfg(feature = "mysql")]
async fn columns_of_key(
    connection: &mut sqlx::MySqlConnection,
    refusal: &Refusal<'_>,
    key: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let (schema, table) = refusal.filled.target().names();
    let of_table = key
        .strip_prefix(table)
        .and_then(|key| key.strip_prefix('.'));
    let statement = "SELECT CAST(column_name AS CHAR) FROM information_schema.statistics
        WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE()) AND index_name IN (?, ?)
            AND column_name IS NOT NULL
        ORDER BY seq_in_index";
    let query = sqlx::query_scalar(statement).bind(table).bind(schema);
    let query = query.bind(key).bind(of_table.unwrap_or(key));
    query.fetch_all(connection).await
}

/// The key, other than the one that is updated by, on which there is a row with the values of the record.
#[cfg(feature = "mysql")]
async fn columns_of_collision(
    connection: &mut sqlx::MySqlConnection,
    refusal: &Refusal<'_>,
) -> Result<Vec<String>, sqlx::Error> {
    let filled = refusal.filled;
    let (schema, table) = filled.target().names();
    let statement = "SELECT CAST(index_name AS CHAR), CAST(column_name AS CHAR) FROM information_schema.statistics
        WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE()) AND non_unique = 0
            AND column_name IS NOT NULL
        ORDER BY index_name, seq_in_index";
    let parts = sqlx::query_as(statement).bind(table).bind(schema);
    let parts: Vec<(String, String)> = parts.fetch_all(&mut *connection).await?;
    for key in parts.chunk_by(|a, b| a.0 == b.0) {
        let columns: Vec<_> = key.iter().map(|(_, column)| column.clone()).collect();
        let values: Option<Vec<_>> = columns.iter().map(|c| refusal.value(c)).collect();
        let Some(values) = values.filter(|_| !filled.updates_by(&columns)) else {
            continue;
        };
        let equal = columns
            .iter()
            .map(|c| format!("{} = ?", filled.target().quote(c)));
        let statement = format!(
            "SELECT EXISTS (SELECT 1 FROM {} WHERE {})",
            filled.target().quoted(),
            equal.collect::<Vec<_>>().join(" AND ")
        );
        // Names are quoted, values are bound.
        let query = sqlx::query_scalar(AssertSqlSafe(statement));
        let query = values
            .into_iter()
            .fold(query, |query, value| query.bind(value));
        if query.fetch_one(&mut *connection).await? {
            return Ok(columns);
        }
    }
    Ok(Vec::new())
}

/// A constraint of a column bears its name in MariaDB; of others the clause tells.
#[cfg(feature = "mysql")]
async fn columns_of_check(
    connection: &mut sqlx::MySqlConnection,
    refusal: &Refusal<'_>,
    said: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let (schema, table) = refusal.filled.target().names();
    let name = said.split(['`', '\'']).nth(1).unwrap_or_default();
    let name = name
        .strip_prefix(table)
        .and_then(|name| name.strip_prefix('.'))
        .unwrap_or(name);
    let statement = "SELECT CAST(check_clause AS CHAR) FROM information_schema.check_constraints
        WHERE constraint_schema = COALESCE(?, DATABASE()) AND constraint_name = ?";
    let query = sqlx::query_scalar(statement).bind(schema).bind(name);
    let clauses: Vec<String> = query.fetch_all(connection).await?;
    let columns = refusal.quoted_in(&clauses.join(" "), &['`']);
    Ok(match columns.is_empty() {
        true => refusal.columns_where(|column| column == name),
        false => columns,
    })
}

/// Needs a transaction that goes on after an error.
#[cfg(feature = "sqlite")]
pub(super) async fn of_sqlite(
    connection: &mut sqlx::SqliteConnection,
    refusal: &Refusal<'_>,
) -> Vec<String> {
    let Some(error) = refusal.error.as_database_error() else {
        return Vec::new();
    };
    let said = error.message();
    let found = if said.contains("FOREIGN KEY constraint failed") {
        columns_without_parent(connection, refusal).await
    } else if said.contains("CHECK constraint failed: ") {
        columns_of_sqlite_check(connection, refusal, said).await
    } else if said.contains("datatype mismatch") {
        rowid_column(connection, refusal).await
    } else {
        Ok(named_by_sqlite(refusal, said))
    };
    // Columns that cannot be found out are left out: the error itself matters more.
    found.unwrap_or_default()
}

/// `UNIQUE constraint failed: t.a, t.b`, `cannot store TEXT value in INTEGER column t.age`.
#[cfg(feature = "sqlite")]
fn named_by_sqlite(refusal: &Refusal<'_>, said: &str) -> Vec<String> {
    let (_, table) = refusal.filled.target().names();
    let named = said
        .rsplit_once(" failed: ")
        .or_else(|| said.rsplit_once(" column "));
    let named = named.map(|(_, named)| named).unwrap_or_default();
    refusal.columns_where(|name| {
        let wanted = format!("{table}.{name}");
        named.split(", ").any(|part| part == wanted)
    })
}

#[cfg(feature = "sqlite")]
async fn rowid_column(
    connection: &mut sqlx::SqliteConnection,
    refusal: &Refusal<'_>,
) -> Result<Vec<String>, sqlx::Error> {
    let (schema, table) = refusal.filled.target().names();
    let statement =
        "SELECT name FROM pragma_table_info(?, ?) WHERE pk = 1 AND upper(type) = 'INTEGER'";
    let query = sqlx::query_scalar(statement)
        .bind(table)
        .bind(schema.unwrap_or("main"));
    query.fetch_all(connection).await
}

/// The message has the constraint's name, or its condition where it has none.
#[cfg(feature = "sqlite")]
async fn columns_of_sqlite_check(
    connection: &mut sqlx::SqliteConnection,
    refusal: &Refusal<'_>,
    said: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let name = said
        .rsplit_once(" failed: ")
        .map(|(_, name)| name)
        .unwrap_or_default();
    let (schema, table) = refusal.filled.target().names();
    let statement = format!(
        "SELECT sql FROM {}.sqlite_master WHERE type = 'table' AND name = ?",
        refusal.filled.target().quote(schema.unwrap_or("main"))
    );
    let query = sqlx::query_scalar(AssertSqlSafe(statement)).bind(table);
    let definition: Option<String> = query.fetch_optional(connection).await?;
    let definition = definition.unwrap_or_default();
    let condition = condition_of(&definition, name).unwrap_or(name);
    Ok(refusal.columns_where(|column| has_word(condition, column)))
}

/// The condition in the parentheses of `CONSTRAINT name CHECK (..)`.
#[cfg(feature = "sqlite")]
fn condition_of<'a>(definition: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = definition;
    loop {
        let at = rest.find(name)?;
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let before = before.trim_end_matches(['"', '`', '[', '\'']).trim_end();
        let after = after.trim_start_matches(['"', '`', ']', '\'']).trim_start();
        let is_named = before.len() >= 10
            && before.is_char_boundary(before.len() - 10)
            && before[before.len() - 10..].eq_ignore_ascii_case("CONSTRAINT");
        let is_check = after
            .get(..5)
            .is_some_and(|word| word.eq_ignore_ascii_case("CHECK"));
        if is_named && is_check {
            let open = after.find('(')?;
            let mut depth = 0;
            for (at, c) in after[open..].char_indices() {
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    return Some(&after[open + 1..open + at]);
                }
            }
            return None;
        }
        rest = &rest[at + name.len()..];
    }
}

/// Whether a name stands in a text by itself.
#[cfg(feature = "sqlite")]
fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// SQLite does not say which foreign key: each is looked at.
#[cfg(feature = "sqlite")]
async fn columns_without_parent(
    connection: &mut sqlx::SqliteConnection,
    refusal: &Refusal<'_>,
) -> Result<Vec<String>, sqlx::Error> {
    let filled = refusal.filled;
    let (schema, table) = filled.target().names();
    let schema = schema.unwrap_or("main");
    let keys = "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?, ?) ORDER BY id, seq";
    let keys = sqlx::query_as(keys).bind(table).bind(schema);
    let parts: Vec<(i64, String, String, Option<String>)> =
        keys.fetch_all(&mut *connection).await?;
    let mut columns = Vec::new();
    for key in parts.chunk_by(|a, b| a.0 == b.0) {
        let parent = &key[0].1;
        let own_key = "SELECT name FROM pragma_table_info(?, ?) WHERE pk > 0 ORDER BY pk";
        let own_key = sqlx::query_scalar(own_key).bind(parent).bind(schema);
        let own_key: Vec<String> = own_key.fetch_all(&mut *connection).await?;
        let mut conditions = Vec::new();
        let mut values = Vec::new();
        for (number, (_, _, from, to)) in key.iter().enumerate() {
            let Some(to) = to.as_ref().or_else(|| own_key.get(number)) else {
                continue;
            };
            // A column that is NULL needs no parent.
            let Some(value) = refusal.value(from) else {
                continue;
            };
            conditions.push(format!("{} = ?", filled.target().quote(to)));
            values.push(value);
        }
        if conditions.len() < key.len() {
            continue;
        }
        let target = filled.target();
        let statement = format!(
            "SELECT EXISTS (SELECT 1 FROM {}.{} WHERE {})",
            target.quote(schema),
            target.quote(parent),
            conditions.join(" AND ")
        );
        // Names are quoted, values are bound.
        let query = sqlx::query_scalar(AssertSqlSafe(statement));
        let query = values
            .into_iter()
            .fold(query, |query, value| query.bind(value));
        let is_there: bool = query.fetch_one(&mut *connection).await?;
        if !is_there {
            columns.extend(key.iter().map(|(_, _, from, _)| from.clone()));
        }
    }
    Ok(columns)
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn the_condition_of_a_named_check_is_found_in_the_definition_of_its_table() {
        let table =
            "CREATE TABLE t (ok int, n int CONSTRAINT \"ok\" CHECK ((n) > 0 AND ok), m int)";
        assert_eq!(condition_of(table, "ok"), Some("(n) > 0 AND ok"));
        assert_eq!(condition_of(table, "none"), None);
        assert!(has_word("(n) > 0 AND ok", "n") && !has_word("name > 0", "n"));
    }
}
