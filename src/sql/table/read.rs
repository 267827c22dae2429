//! Running statements and reading rows, per database.

use futures::future::BoxFuture;
use sqlx::{Database as SqlxDatabase, Decode, Pool, Row as _, Type, ValueRef as _};

use super::{
    column::{JsonForm, KeyColumn, KeyForm},
    key::{Key, KeyPart},
    statements::Bound,
};
use crate::{
    error::PageError,
    sql::{Database, dialect::bound},
};

/// A database whose rows a [`Table`](crate::Table) can read: `sqlx::Postgres`, `sqlx::MySql` or
/// `sqlx::Sqlite`, each with the feature of its name. Nothing else can implement it.
pub trait TableDatabase: Reading {}

#[cfg(feature = "postgres")]
impl TableDatabase for sqlx::Postgres {}
#[cfg(feature = "mysql")]
impl TableDatabase for sqlx::MySql {}
#[cfg(feature = "sqlite")]
impl TableDatabase for sqlx::Sqlite {}

/// What reading a table needs of a database. Public only because the marker [`TableDatabase`] needs it.
pub trait Reading: SqlxDatabase {
    /// The pool, if it is one of this kind.
    fn pool(database: &Database) -> Option<&Pool<Self>>;

    /// Runs a statement and gives its rows.
    #[doc(hidden)]
    fn fetch(
        pool: &Pool<Self>,
        statement: Query,
    ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>>;

    #[doc(hidden)]
    fn key_part(row: &Self::Row, at: usize, column: &KeyOf<'_>) -> Result<KeyPart, PageError>;

    #[doc(hidden)]
    fn json(row: &Self::Row, at: usize, form: FormOf) -> Result<serde_json::Value, PageError>;

    #[doc(hidden)]
    fn text(row: &Self::Row, at: usize) -> Result<Option<String>, sqlx::Error>;

    #[doc(hidden)]
    fn number(row: &Self::Row, at: usize) -> Result<Option<i64>, sqlx::Error>;
}

/// A statement with its values.
pub struct Query(pub(super) Bound);

/// A key column.
pub struct KeyOf<'c>(pub(super) &'c KeyColumn);

/// How a column becomes JSON.
#[derive(Clone, Copy)]
pub struct FormOf(pub(super) JsonForm);

impl From<Bound> for Query {
    fn from(bound: Bound) -> Self {
        Self(bound)
    }
}

impl From<&str> for Query {
    fn from(sql: &str) -> Self {
        Self(Bound {
            sql: sql.to_owned(),
            values: Vec::new(),
        })
    }
}

/// The key of a row, which begins at a column of the result.
pub(super) fn key_of<DB: Reading>(
    row: &DB::Row,
    first: usize,
    columns: &[KeyColumn],
) -> Result<Key, PageError> {
    let parts = columns.iter().enumerate();
    let parts: Result<Vec<_>, _> = parts
        .map(|(number, column)| DB::key_part(row, first + number, &KeyOf(column)))
        .collect();
    Ok(Key::new(parts?))
}

fn null_in_key(column: &KeyColumn) -> PageError {
    PageError::non_retryable(
        "KeyIsNull",
        format_args!(
            "a row has NULL in key column `{}`, so no page can begin or end at it",
            column.name
        ),
    )
}

fn part_of<DB: Reading>(
    row: &DB::Row,
    at: usize,
    column: &KeyColumn,
) -> Result<KeyPart, PageError> {
    let part = match column.form {
        KeyForm::Int => DB::number(row, at)?.map(KeyPart::Int),
        KeyForm::Text | KeyForm::Blob | KeyForm::IntOrText => DB::text(row, at)?.map(KeyPart::Text),
    };
    part.ok_or_else(|| null_in_key(column))
}

/// The value of a column that the database wrote as a text.
fn json_of(text: Option<String>, form: JsonForm) -> Result<serde_json::Value, PageError> {
    let Some(text) = text else {
        return Ok(serde_json::Value::Null);
    };
    match form {
        JsonForm::Json | JsonForm::Number => Ok(serde_json::from_str(&text)?),
        JsonForm::Text | JsonForm::Dynamic => Ok(serde_json::Value::String(text)),
    }
}

fn get<'r, DB, T>(row: &'r DB::Row, at: usize) -> Result<T, sqlx::Error>
where
    DB: SqlxDatabase,
    usize: sqlx::ColumnIndex<DB::Row>,
    T: Decode<'r, DB> + Type<DB>,
{
    row.try_get(at)
}

macro_rules! reading {
    ($variant:ident) => {
        fn pool(database: &Database) -> Option<&Pool<Self>> {
            match database {
                Database::$variant(pool) => Some(pool),
                #[allow(unreachable_patterns, reason = "where it is the only database")]
                _ => None,
            }
        }

        fn fetch(
            pool: &Pool<Self>,
            Query(Bound { sql, values }): Query,
        ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>> {
            let query = bound::<Self>(sql, values);
            Box::pin(query.fetch_all(pool))
        }

        fn text(row: &Self::Row, at: usize) -> Result<Option<String>, sqlx::Error> {
            get::<Self, _>(row, at)
        }

        fn number(row: &Self::Row, at: usize) -> Result<Option<i64>, sqlx::Error> {
            get::<Self, _>(row, at)
        }
    };
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
macro_rules! plain_values {
    () => {
        fn key_part(row: &Self::Row, at: usize, column: &KeyOf<'_>) -> Result<KeyPart, PageError> {
            part_of::<Self>(row, at, column.0)
        }

        fn json(row: &Self::Row, at: usize, form: FormOf) -> Result<serde_json::Value, PageError> {
            json_of(<Self as Reading>::text(row, at)?, form.0)
        }
    };
}

#[cfg(feature = "postgres")]
impl Reading for sqlx::Postgres {
    reading!(Postgres);
    plain_values!();
}

#[cfg(feature = "mysql")]
impl Reading for sqlx::MySql {
    reading!(MySql);
    plain_values!();
}

#[cfg(feature = "sqlite")]
impl Reading for sqlx::Sqlite {
    reading!(Sqlite);

    /// Of whatever type the value is, which in SQLite need not be that of its column.
    fn key_part(row: &Self::Row, at: usize, column: &KeyOf<'_>) -> Result<KeyPart, PageError> {
        let column = column.0;
        let raw = row.try_get_raw(at)?;
        if raw.is_null() {
            return Err(null_in_key(column));
        }
        let class = sqlx::TypeInfo::name(&*raw.type_info()).to_owned();
        match (column.form, class.as_str()) {
            (KeyForm::Int | KeyForm::IntOrText, "INTEGER") => {
                Ok(KeyPart::Int(row.try_get_unchecked(at)?))
            }
            (KeyForm::Text | KeyForm::IntOrText, "TEXT") => {
                Ok(KeyPart::Text(row.try_get_unchecked(at)?))
            }
            (KeyForm::Blob, "BLOB") => {
                let bytes: Vec<u8> = row.try_get_unchecked(at)?;
                Ok(KeyPart::Text(hexadecimal(&bytes)))
            }
            (form, class) => Err(PageError::non_retryable(
                "KeyTypeMixed",
                format_args!(
                    "key column `{}` holds a value of type {class} where it should hold {}",
                    column.name,
                    match form {
                        KeyForm::Int => "integers only",
                        KeyForm::Text => "texts only",
                        KeyForm::Blob => "blobs only",
                        KeyForm::IntOrText => "integers and texts only",
                    }
                ),
            )),
        }
    }

    fn json(row: &Self::Row, at: usize, _: FormOf) -> Result<serde_json::Value, PageError> {
        let raw = row.try_get_raw(at)?;
        if raw.is_null() {
            return Ok(serde_json::Value::Null);
        }
        let class = sqlx::TypeInfo::name(&*raw.type_info()).to_owned();
        Ok(match class.as_str() {
            "INTEGER" => row.try_get_unchecked::<i64, _>(at)?.into(),
            "REAL" => {
                let number: f64 = row.try_get_unchecked(at)?;
                // JSON has no infinity.
                serde_json::Number::from_f64(number)
                    .map_or_else(|| number.to_string().into(), Into::into)
            }
            "BLOB" => hexadecimal(&row.try_get_unchecked::<Vec<u8>, _>(at)?).into(),
            _ => row.try_get_unchecked::<String, _>(at)?.into(),
        })
    }
}

#[cfg(feature = "sqlite")]
fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
