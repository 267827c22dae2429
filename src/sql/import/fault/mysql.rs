//! The columns that MySQL or MariaDB refuses: from the text of its error, and the catalog.

use sqlx::AssertSqlSafe;

use super::Refusal;
use crate::base::error::redaction::without_mysql_values;

/// Returns the columns that MySQL refuses. This needs a transaction that survives an error.
pub(in crate::sql::import) async fn columns(
    connection: &mut sqlx::MySqlConnection,
    refusal: &Refusal<'_>,
) -> Vec<String> {
    const DUPLICATE: [u16; 3] = [1062, 1169, 1586];
    const NO_PARENT: [u16; 2] = [1216, 1452];
    const CHECK: [u16; 2] = [3819, 4025];
    // The error of the subquery that detects in an update that a record collides on another key.
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
        // `d`.`t`.`c`: the database and the table may have the same name as a column.
        let columns = refusal.quoted_in(&said, &['`', '\'']);
        let place = |name: &String| {
            said.rfind(&format!("{name}`"))
                .max(said.rfind(&format!("{name}'")))
        };
        Ok(columns.into_iter().max_by_key(place).into_iter().collect())
    };
    // Unknown columns are left out: the error itself matters more.
    let columns = found.unwrap_or_default();
    refusal.in_order(columns)
}

/// Returns the columns of a key. It is named `email`, or `users.email` in MySQL.
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

/// Returns the key, other than that of the update, on which a row has the values of the record.
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

/// Returns the columns of a CHECK. In MariaDB a column's constraint has the name of the column; for others the clause
/// is searched.
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
