//! Rows into a table: `COPY` in PostgreSQL, `INSERT` with many rows elsewhere and where keys may conflict.

use sqlx::AssertSqlSafe;

use super::{
    InvalidImport,
    args::{Assigned, ColumnKind, OnConflict},
    fault::{self, Refusal},
    row::{ImportRow, copy_line, into_text},
    target::Target,
};
#[cfg(feature = "sqlite")]
use crate::sql::table::makes_texts;
#[cfg(feature = "postgres")]
use crate::sql::{connection::proxied::may_be_named, table::POSTGRES_TEXTS};
use crate::{base::error::PageError, cell::Cell, sql::Database};

/// The table and the columns that are filled, as they stand in statements.
pub(super) struct Filled<'a> {
    target: &'a Target,
    table: String,
    columns: Vec<String>,
    plan: &'a [Assigned],
    on_conflict: &'a OnConflict,
    quoted_key: Vec<String>,
}

/// The values of a record go into identity columns that are `GENERATED ALWAYS`, too, as they do with `COPY`.
#[cfg(feature = "postgres")]
const IDENTITY: &str = "OVERRIDING SYSTEM VALUE";

/// A table may say that a conflict removes the other row, or passes over the record (`UNIQUE ON CONFLICT REPLACE`,
/// `IGNORE`). The statement's own word goes before that.
#[cfg(feature = "sqlite")]
const INSERT_OR_ABORT: &str = "INSERT OR ABORT";

/// The database does not take the records.
pub(super) struct Refused {
    pub error: PageError,
    /// Which columns are at fault, where there is one record and they are known.
    pub columns: Vec<String>,
}

impl From<PageError> for Refused {
    fn from(error: PageError) -> Self {
        Self {
            error,
            columns: Vec::new(),
        }
    }
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        PageError::from(error).into()
    }
}

/// Values that one statement binds. SQLite takes 32,766, MySQL 65,535.
const MOST_VALUES: usize = 30_000;
const MOST_ROWS: usize = 1_000;
/// Bytes in the values of one statement, about; MySQL takes 16 MiB unless told.
const MOST_BYTES: usize = 4 * 1024 * 1024;

impl<'a> Filled<'a> {
    pub fn new(target: &'a Target, plan: &'a [Assigned], on_conflict: &'a OnConflict) -> Self {
        let quoted_key = match on_conflict {
            OnConflict::Update(key) => key.iter().map(|column| target.quote(column)).collect(),
            OnConflict::Fail | OnConflict::Nothing => Vec::new(),
        };
        Self {
            target,
            table: target.quoted(),
            columns: plan.iter().map(|a| target.quote(&a.column)).collect(),
            plan,
            on_conflict,
            quoted_key,
        }
    }

    pub fn target(&self) -> &'a Target {
        self.target
    }

    /// Whether rows are updated by these columns.
    #[cfg(feature = "mysql")]
    pub fn updates_by(&self, columns: &[String]) -> bool {
        match self.on_conflict {
            OnConflict::Update(key) => {
                key.len() == columns.len() && key.iter().all(|column| columns.contains(column))
            }
            OnConflict::Fail | OnConflict::Nothing => false,
        }
    }

    pub fn plan(&self) -> &'a [Assigned] {
        self.plan
    }

    /// Fails where a trigger has kept records out of the table, of which the database reports no error.
    pub fn all(&self, records: u64, written: u64) -> Result<u64, Refused> {
        if *self.on_conflict == OnConflict::Nothing || written >= records {
            return Ok(written);
        }
        let message = format!(
            "{} of {records} records are not in {}: a trigger keeps them out",
            records - written,
            self.table
        );
        Err(PageError::non_retryable("RowsPassedOver", message).into())
    }

    fn columns(&self) -> String {
        self.columns.join(", ")
    }

    /// What follows an `INSERT` in PostgreSQL and SQLite.
    fn on_conflict(&self) -> String {
        match self.on_conflict {
            OnConflict::Fail => String::new(),
            OnConflict::Nothing => " ON CONFLICT DO NOTHING".to_owned(),
            OnConflict::Update(_) => {
                let others = self.columns.iter().filter(|c| !self.quoted_key.contains(c));
                let set: Vec<_> = others.map(|c| format!("{c} = excluded.{c}")).collect();
                let key = self.quoted_key.join(", ");
                match set.is_empty() {
                    true => format!(" ON CONFLICT ({key}) DO NOTHING"),
                    false => format!(" ON CONFLICT ({key}) DO UPDATE SET {}", set.join(", ")),
                }
            }
        }
    }

    /// The same in MySQL, where `INSERT IGNORE` would also hide values that do not fit.
    #[cfg(feature = "mysql")]
    fn on_duplicate_key(&self) -> String {
        let set: Vec<_> = match self.on_conflict {
            OnConflict::Fail => return String::new(),
            OnConflict::Nothing => self
                .columns
                .first()
                .map(|c| format!("{c} = {c}"))
                .into_iter()
                .collect(),
            // MySQL updates the row with which a record collides on any unique key. Where the key that was named
            // differs, a subquery with two rows makes the statement fail.
            OnConflict::Update(_) => {
                let of = |c: &String| match self.quoted_key.contains(c) {
                    true => format!(
                        "{c} = IF({c} <=> VALUES({c}), VALUES({c}), (SELECT {c} UNION ALL SELECT {c}))"
                    ),
                    false => format!("{c} = VALUES({c})"),
                };
                self.columns.iter().map(of).collect()
            }
        };
        format!(" ON DUPLICATE KEY UPDATE {}", set.join(", "))
    }

    /// The error of a record whose collision the subquery of [`on_duplicate_key`](Self::on_duplicate_key) has found.
    #[cfg(feature = "mysql")]
    fn collision(&self, error: sqlx::Error) -> PageError {
        const SUBQUERY_WITH_ROWS: u16 = 1242;
        let number = error.as_database_error().and_then(|error| {
            let error = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>();
            error.map(sqlx::mysql::MySqlDatabaseError::number)
        });
        match number {
            Some(SUBQUERY_WITH_ROWS) if !self.quoted_key.is_empty() => PageError::non_retryable(
                "UniqueViolation",
                format_args!(
                    "a record collides on another unique key of the table with a row that has another ({}); only \
                     a row with the same is updated",
                    self.quoted_key.join(", ")
                ),
            ),
            _ => error.into(),
        }
    }

    /// `place`: the placeholder of a value.
    fn insert(
        &self,
        verb: &str,
        rows: &[ImportRow],
        place: fn(&Assigned, &Cell) -> &'static str,
        on_conflict: &str,
    ) -> String {
        let row = |row: &ImportRow| {
            let places = self.plan.iter().zip(&row.0);
            let places: Vec<_> = places.map(|(column, cell)| place(column, cell)).collect();
            format!("({})", places.join(", "))
        };
        format!(
            "{verb} INTO {} ({}) VALUES {}{on_conflict}",
            self.table,
            self.columns(),
            rows.iter().map(row).collect::<Vec<_>>().join(", ")
        )
    }

    /// Rows that fit into one statement.
    fn chunks(&self, rows: Vec<ImportRow>) -> Vec<Vec<ImportRow>> {
        let most = (MOST_VALUES / self.columns.len().max(1)).clamp(1, MOST_ROWS);
        let mut chunks = Vec::new();
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for row in rows {
            let size: usize = row.0.iter().map(Cell::size).sum();
            if chunk.len() >= most || (bytes + size > MOST_BYTES && !chunk.is_empty()) {
                chunks.push(std::mem::take(&mut chunk));
                bytes = 0;
            }
            bytes += size;
            chunk.push(row);
        }
        chunks.push(chunk);
        chunks
    }
}

/// Has the database plan an insert of no rows, so that it can refuse a key that is none before anything starts.
/// The statement of MySQL has no place for a key, so its keys are looked up.
pub(super) async fn try_out(
    database: &Database,
    target: &Target,
    filled: &Filled<'_>,
) -> Result<(), PageError> {
    if *filled.on_conflict == OnConflict::Fail {
        return Ok(());
    }
    let (table, columns, on_conflict) = (&filled.table, filled.columns(), filled.on_conflict());
    let explained = match database {
        #[cfg(feature = "postgres")]
        Database::Postgres(pool) => {
            let nulls = filled.plan.iter().map(|a| format!("NULL::{}", a.type_name));
            let nulls: Vec<_> = nulls.collect();
            let statement = format!(
                "EXPLAIN INSERT INTO {table} ({columns}) {IDENTITY} SELECT {} WHERE FALSE{on_conflict}",
                nulls.join(", ")
            );
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(pool)
                .await
                .map(drop)
        }
        #[cfg(feature = "sqlite")]
        Database::Sqlite(pool) => {
            let nulls = vec!["NULL"; filled.columns.len()].join(", ");
            let statement = format!(
                "EXPLAIN {INSERT_OR_ABORT} INTO {table} ({columns}) VALUES ({nulls}){on_conflict}"
            );
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(pool)
                .await
                .map(drop)
        }
        #[cfg(feature = "mysql")]
        Database::MySql(pool) => {
            let _ = (columns, on_conflict);
            if let OnConflict::Update(key) = filled.on_conflict
                && !target.is_unique_key(pool, key).await?
            {
                let message = format!("({}) is no unique key of {table}", key.join(", "));
                return Err(refused(message).into_page_error());
            }
            Ok(())
        }
    };
    explained.map_err(|error: sqlx::Error| match error.as_database_error() {
        Some(refusal) => {
            let message = refusal.message().to_owned();
            refused(message).into_page_error()
        }
        None => error.into(),
    })
}

fn refused(message: String) -> InvalidImport {
    let remedy = match message.contains("can only be updated to DEFAULT") {
        true => {
            "an identity column keeps its value in an update, so leave it out, or make it the key"
        }
        false => "an update needs exactly the columns of a unique key",
    };
    InvalidImport::OnConflict { message, remedy }
}

/// Rows that are in the table now, or were changed there, as far as the database tells.
#[cfg(feature = "postgres")]
pub(super) async fn postgres(
    connection: &mut sqlx::PgConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, Refused> {
    let row = match rows.as_slice() {
        [row] => row.clone(),
        _ => return Ok(postgres_rows(connection, filled, rows).await?),
    };
    sqlx::raw_sql(fault::BEFORE_ONE)
        .execute(&mut *connection)
        .await?;
    let written = async {
        let written = postgres_rows(&mut *connection, filled, rows).await?;
        // Constraints that wait for the commit are checked now, while the record is known.
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
    let columns = fault::of_postgres(connection, &refusal).await;
    Err(Refused {
        columns,
        ..error.into()
    })
}

#[cfg(feature = "postgres")]
async fn postgres_rows(
    connection: &mut sqlx::PgConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, sqlx::Error> {
    if filled
        .plan
        .iter()
        .any(|assigned| assigned.encoding.is_some())
    {
        sqlx::raw_sql(POSTGRES_TEXTS)
            .execute(&mut *connection)
            .await?;
    }
    if *filled.on_conflict != OnConflict::Fail {
        return postgres_insert(connection, filled, rows).await;
    }
    postgres_copy(connection, filled, &rows).await
}

#[cfg(feature = "postgres")]
pub(super) async fn postgres_copy(
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
        // The connection may be gone, too.
        let _ = copy.abort("the rows could not be sent").await;
        return Err(error);
    }
    copy.finish().await
}

/// `COPY` fails for a key that is there. Each column is bound as one array of texts, which the database
/// converts like the input of `COPY`.
#[cfg(feature = "postgres")]
async fn postgres_insert(
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

#[cfg(feature = "sqlite")]
pub(super) async fn sqlite(
    connection: &mut sqlx::SqliteConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, Refused> {
    let row = match rows.as_slice() {
        [row] => row.clone(),
        _ => return Ok(sqlite_rows(connection, filled, rows).await?),
    };
    let error = match sqlite_rows(&mut *connection, filled, rows).await {
        Ok(written) => return Ok(written),
        Err(error) => error,
    };
    let refusal = Refusal {
        filled,
        row: &row,
        error: &error,
    };
    let columns = fault::of_sqlite(connection, &refusal).await;
    Err(Refused {
        columns,
        ..error.into()
    })
}

#[cfg(feature = "sqlite")]
async fn sqlite_rows(
    connection: &mut sqlx::SqliteConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, sqlx::Error> {
    let on_conflict = filled.on_conflict();
    let mut written = 0;
    for chunk in filled.chunks(rows) {
        let place = |_: &Assigned, cell: &Cell| match cell {
            // Only a text can be bound as one that is UTF-8.
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

/// How a number is bound.
#[cfg(feature = "sqlite")]
#[derive(Debug, PartialEq)]
enum SqliteNumber {
    Whole(i64),
    Real(f64),
    Text,
}

/// Every digit counts in a column of texts, and a whole number that has too many for any other stays a text, too.
#[cfg(feature = "sqlite")]
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

#[cfg(feature = "mysql")]
pub(super) async fn mysql(
    connection: &mut sqlx::MySqlConnection,
    filled: &Filled<'_>,
    rows: Vec<ImportRow>,
) -> Result<u64, Refused> {
    let row = match rows.as_slice() {
        [row] => Some(row.clone()),
        _ => None,
    };
    let error = match mysql_rows(&mut *connection, filled, rows).await {
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
            fault::of_mysql(connection, &refusal).await
        }
        None => Vec::new(),
    };
    Err(Refused {
        error: filled.collision(error),
        columns,
    })
}

#[cfg(feature = "mysql")]
async fn mysql_rows(
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
                // The database knows no other form of a boolean.
                Cell::Flag(flag) => query.bind(i64::from(flag)),
                Cell::Bytes(bytes) => query.bind(bytes),
                cell => query.bind(into_text(cell)),
            };
        }
        written += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(written)
}

#[cfg(all(test, feature = "sqlite"))]
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
