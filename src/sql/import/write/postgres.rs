//! Writes rows into a table of PostgreSQL, with `COPY`, or with `INSERT` where keys may conflict.

use sqlx::AssertSqlSafe;

use super::{Filled, IDENTITY, Refused};
use crate::sql::{
    backend::postgres::TEXT_FORMS,
    connection::pgbouncer::may_be_named,
    import::{
        args::OnConflict,
        fault::{self, Refusal},
        row::{ImportRow, copy_line, into_text},
    },
};

/// Writes rows, and returns the number of rows that were inserted or updated.
pub(in crate::sql::import) async fn write(
    connection: &mut sqlx::PgConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, Refused> {
    let row = match rows.as_slice() {
        [row] => row.clone(),
        _ => return Ok(rows_into(connection, filled, rows).await?),
    };
    sqlx::raw_sql(fault::postgres::BEFORE_ONE)
        .execute(&mut *connection)
        .await?;
    let written = async {
        let written = rows_into(&mut *connection, filled, rows).await?;
        // Deferred constraints are checked now, while the record is known.
        let check = sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE");
        check.execute(&mut *connection).await?;
        Ok(written)
    };
    let error = match written.await {
        Ok(written) => return Ok(written),
        Err(error) => error,
    };
    let refusal = Refusal {
        filled,
        row: &row,
        error: &error,
    };
    let columns = fault::postgres::columns(connection, &refusal).await;
    Err(Refused {
        columns,
        ..error.into()
    })
}

async fn rows_into(
    connection: &mut sqlx::PgConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, sqlx::Error> {
    if filled
        .plan
        .iter()
        .any(|assigned| assigned.encoding.is_some())
    {
        sqlx::raw_sql(TEXT_FORMS).execute(&mut *connection).await?;
    }
    if *filled.on_conflict != OnConflict::Fail {
        return insert(connection, filled, rows).await;
    }
    copy(connection, filled, &rows).await
}

pub(in crate::sql::import) async fn copy(
    connection: &mut sqlx::PgConnection,
    filled: &Filled<'_>,
    rows: &[ImportRow],
) -> Result<u64, sqlx::Error> {
    let statement = format!("COPY {} ({}) FROM STDIN", filled.table, filled.columns());
    let mut lines = Vec::new();
    for row in rows {
        copy_line(row, &mut lines);
    }
    let mut copy = connection.copy_in_raw(&statement).await?;
    if let Err(error) = copy.send(lines).await {
        // The connection may be lost, too.
        let _ = copy.abort("the rows could not be sent").await;
        return Err(error);
    }
    copy.finish().await
}

/// Inserts rows where keys may conflict, for which `COPY` would fail. Each column is bound as one array of texts,
/// which the database converts like the input of `COPY`.
async fn insert(
    connection: &mut sqlx::PgConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, sqlx::Error> {
    let width = filled.columns.len();
    let numbered = 1..=width;
    let values: Vec<_> = numbered
        .clone()
        .zip(filled.plan)
        .map(|(n, assigned)| format!("c{n}::{}", assigned.type_name))
        .collect();
    let arrays: Vec<_> = numbered.clone().map(|n| format!("${n}::text[]")).collect();
    let names: Vec<_> = numbered.map(|n| format!("c{n}")).collect();
    let statement = format!(
        "INSERT INTO {} ({}) {IDENTITY} SELECT {} FROM unnest({}) AS rows ({}){}",
        filled.table,
        filled.columns(),
        values.join(", "),
        arrays.join(", "),
        names.join(", "),
        filled.on_conflict(),
    );
    let mut columns: Vec<Vec<Option<String>>> = vec![Vec::with_capacity(rows.len()); width];
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(row.0) {
            column.push(into_text(cell));
        }
    }
    // Names are quoted, types come from the catalog.
    let query = sqlx::query(AssertSqlSafe(statement)).persistent(may_be_named());
    let query = columns
        .into_iter()
        .fold(query, |query, column| query.bind(column));
    Ok(query.execute(connection).await?.rows_affected())
}
