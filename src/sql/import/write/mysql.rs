//! Writes rows into a table of MySQL or MariaDB, with `INSERT` of many rows.

use sqlx::AssertSqlSafe;

use super::{Filled, Refused};
use crate::{
    cell::Cell,
    sql::import::{
        args::{Assigned, ColumnKind},
        fault::{self, Refusal},
        row::{ImportRow, into_text},
    },
};

pub(in crate::sql::import) async fn write(
    connection: &mut sqlx::MySqlConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, Refused> {
    let row = match rows.as_slice() {
        [row] => Some(row.clone()),
        _ => None,
    };
    let error = match rows_into(&mut *connection, filled, rows).await {
        Ok(written) => return Ok(written),
        Err(error) => error,
    };
    let columns = match &row {
        Some(row) => {
            let refusal = Refusal {
                filled,
                row,
                error: &error,
            };
            fault::mysql::columns(connection, &refusal).await
        }
        None => Vec::new(),
    };
    Err(Refused {
        error: filled.collision(error),
        columns,
    })
}

async fn rows_into(
    connection: &mut sqlx::MySqlConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, sqlx::Error> {
    let on_conflict = filled.on_duplicate_key();
    let mut written = 0;
    for chunk in filled.chunks(rows) {
        let place = |assigned: &Assigned, cell: &Cell| match (assigned.kind, cell) {
            (ColumnKind::Bits, _) => "CAST(? AS UNSIGNED)",
            (ColumnKind::Year, Cell::Number(_)) => "? + 0",
            _ => "?",
        };
        let statement = filled.insert("INSERT", &chunk, place, &on_conflict);
        // Names are quoted, values are bound.
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for cell in chunk.into_iter().flat_map(|row| row.0) {
            query = match cell {
                // MySQL has no other form of a boolean.
                Cell::Flag(flag) => query.bind(i64::from(flag)),
                Cell::Bytes(bytes) => query.bind(bytes),
                cell => query.bind(into_text(cell)),
            };
        }
        written += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(written)
}
