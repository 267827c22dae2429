//! Writes rows into a table of SQLite, with `INSERT` of many rows.

use sqlx::AssertSqlSafe;

use super::{Filled, INSERT_OR_ABORT, Refused};
use crate::{
    cell::Cell,
    sql::{
        import::{
            args::Assigned,
            fault::{self, Refusal},
            row::ImportRow,
        },
        table::makes_texts,
    },
};

pub(in crate::sql::import) async fn write(
    connection: &mut sqlx::SqliteConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, Refused> {
    let row = match rows.as_slice() {
        [row] => row.clone(),
        _ => return Ok(rows_into(connection, filled, rows).await?),
    };
    let error = match rows_into(&mut *connection, filled, rows).await {
        Ok(written) => return Ok(written),
        Err(error) => error,
    };
    let refusal = Refusal {
        filled,
        row: &row,
        error: &error,
    };
    let columns = fault::sqlite::columns(connection, &refusal).await;
    Err(Refused {
        columns,
        ..error.into()
    })
}

async fn rows_into(
    connection: &mut sqlx::SqliteConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, sqlx::Error> {
    let on_conflict = filled.on_conflict();
    let mut written = 0;
    for chunk in filled.chunks(rows) {
        let place = |_: &Assigned, cell: &Cell| match cell {
            // Only UTF-8 can be bound as a text.
            Cell::BrokenText(_) => "CAST(? AS TEXT)",
            _ => "?",
        };
        let statement = filled.insert(INSERT_OR_ABORT, &chunk, place, &on_conflict);
        // Names are quoted, values are bound.
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for row in chunk {
            for (assigned, cell) in filled.plan.iter().zip(row.0) {
                query = match cell {
                    Cell::Null => query.bind(None::<String>),
                    Cell::Text(text) | Cell::Json(text) => query.bind(text),
                    Cell::Flag(flag) => query.bind(i64::from(flag)),
                    Cell::Bytes(bytes) | Cell::BrokenText(bytes) => query.bind(bytes),
                    Cell::Number(number) => match sqlite_number(&number, &assigned.type_name) {
                        SqliteNumber::Whole(whole) => query.bind(whole),
                        SqliteNumber::Real(real) => query.bind(real),
                        SqliteNumber::Text => query.bind(number),
                    },
                };
            }
        }
        written += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(written)
}

/// The type with which a number is bound.
#[derive(Debug, PartialEq)]
enum SqliteNumber {
    Whole(i64),
    Real(f64),
    Text,
}

/// Chooses the type of a number. In a column of texts every digit counts, and a whole number with more digits than
/// any number type holds stays a text, too.
fn sqlite_number(number: &str, type_name: &str) -> SqliteNumber {
    if makes_texts(type_name) {
        return SqliteNumber::Text;
    }
    let whole = !number.contains(['.', 'e', 'E']);
    match (number, number.parse::<i64>(), number.parse::<f64>()) {
        ("Infinity", _, _) => SqliteNumber::Real(f64::INFINITY),
        ("-Infinity", _, _) => SqliteNumber::Real(f64::NEG_INFINITY),
        (_, Ok(found), _) => SqliteNumber::Whole(found),
        (_, _, Ok(found)) if found.is_finite() && !whole => SqliteNumber::Real(found),
        _ => SqliteNumber::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_sqlite_keep_every_digit() {
        use SqliteNumber::{Real, Text, Whole};
        for (number, type_name, expected) in [
            ("12345678901234567890", "TEXT", Text),
            ("1.50", "VARCHAR(9)", Text),
            ("7", "", Whole(7)),
            ("9223372036854775807", "INTEGER", Whole(i64::MAX)),
            ("12345678901234567890", "", Text),
            ("1.5", "", Real(1.5)),
            ("1e300", "NUMERIC", Real(1e300)),
            ("-Infinity", "REAL", Real(f64::NEG_INFINITY)),
            ("1e400", "REAL", Text),
            ("NaN", "", Text),
        ] {
            assert_eq!(sqlite_number(number, type_name), expected, "{number}");
        }
    }
}
