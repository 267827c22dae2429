//! Writes rows into a table: with `COPY` in PostgreSQL, with `INSERT` of many rows in other databases and where keys
//! may conflict.

#[cfg(feature = "mysql")]
pub(super) mod mysql;
#[cfg(feature = "postgres")]
pub(super) mod postgres;
#[cfg(feature = "sqlite")]
pub(super) mod sqlite;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use sqlx::AssertSqlSafe;

use super::{
    InvalidImport,
    args::{Assigned, OnConflict},
    row::ImportRow,
    target::Target,
};
use crate::{base::error::PageError, cell::Cell, sql::Database};

/// The table and the filled columns, as they stand in statements.
pub(super) struct Filled<'a> {
    target: &'a Target,
    table: String,
    columns: Vec<String>,
    plan: &'a [Assigned],
    on_conflict: &'a OnConflict,
    quoted_key: Vec<String>,
}

/// Makes an INSERT fill identity columns that are `GENERATED ALWAYS`, as `COPY` does.
#[cfg(feature = "postgres")]
const IDENTITY: &str = "OVERRIDING SYSTEM VALUE";

/// The verb for SQLite. A table may say that a conflict removes the other row, or skips the record (`UNIQUE ON
/// CONFLICT REPLACE`, `IGNORE`). The conflict clause of the statement overrides that.
#[cfg(feature = "sqlite")]
const INSERT_OR_ABORT: &str = "INSERT OR ABORT";

/// A refusal of the records by the database.
pub(super) struct Refused {
    pub error: PageError,
    /// The columns at fault, for a single record whose columns are known.
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

/// The largest number of values that one statement binds. SQLite accepts 32,766, MySQL 65,535.
const MOST_VALUES: usize = 30_000;
const MOST_ROWS: usize = 1_000;
/// The approximate number of bytes in the values of one statement. MySQL accepts 16 MiB by default.
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

    /// Returns whether rows are updated by these columns.
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

    /// Fails if a trigger has kept records out of the table, which the database does not report as an error.
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

    /// Returns the conflict clause of an `INSERT` in PostgreSQL and SQLite.
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

    /// Returns the conflict clause in MySQL, where `INSERT IGNORE` would also hide values that do not fit.
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
            // MySQL updates the row with which a record collides on any unique key. If its named key differs, a
            // subquery with two rows makes the statement fail.
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

    /// Returns the error of a record, where the subquery of [`on_duplicate_key`](Self::on_duplicate_key) has detected a
    /// collision.
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
                    "a record collides on another unique key of the table with a row whose ({}) differs; only \
                     a row with the same key is updated",
                    self.quoted_key.join(", ")
                ),
            ),
            _ => error.into(),
        }
    }

    /// Makes an INSERT. `place` returns the placeholder for a value.
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

    /// Splits rows into groups that fit into one statement.
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

/// Makes the database plan an insert of no rows, so that it can refuse a key that is not unique before anything
/// starts. The statement of MySQL names no key, so its keys are looked up.
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
                let message = format!("({}) is not a unique key of {table}", key.join(", "));
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
