//! The columns that SQLite refuses: from the text of its error, and the schema.

use sqlx::AssertSqlSafe;

use super::Refusal;

/// Returns the columns that SQLite refuses. This needs a transaction that survives an error.
pub(in crate::sql::import) async fn columns(
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
        columns_of_check(connection, refusal, said).await
    } else if said.contains("datatype mismatch") {
        rowid_column(connection, refusal).await
    } else {
        Ok(named_by_sqlite(refusal, said))
    };
    // Unknown columns are left out: the error itself matters more.
    found.unwrap_or_default()
}

/// Returns the columns in a message such as `UNIQUE constraint failed: t.a, t.b` or `cannot store TEXT value in INTEGER
/// column t.age`.
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

/// Returns the columns of a CHECK. The message has the name of the constraint, or its condition if it has no name.
async fn columns_of_check(
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

/// Returns the condition in the parentheses of `CONSTRAINT name CHECK (..)`.
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

/// Returns whether a name occurs in a text as a whole word.
fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Returns the columns without a parent row. SQLite does not name the foreign key, so each one is checked.
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

#[cfg(test)]
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
