//! Running statements and reading rows, per database.

use futures::{TryStreamExt as _, future::BoxFuture};
use sqlx::{Database as SqlxDatabase, Decode, Pool, Row as _, Type, ValueRef as _};

use super::{
    column::{KeyColumn, KeyForm},
    key::{Key, KeyPart},
    statements::Bound,
};
#[cfg(feature = "postgres")]
use crate::sql::connection::lease::LeasedTransaction;
use crate::{
    base::error::PageError,
    cell::{Cell, Encoding},
    sql::{
        Database,
        backend::dialect::{Dialect, bound},
    },
};

/// Fixes in which form PostgreSQL writes and reads texts, until the transaction ends.
#[cfg(feature = "postgres")]
pub(in crate::sql) const POSTGRES_TEXTS: &str = "SET LOCAL DateStyle = ISO; \
    SET LOCAL IntervalStyle = postgres; SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = hex; \
    SET LOCAL lc_monetary = 'C'; SET LOCAL xmloption = content";

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

    /// Runs a statement and gives its rows one by one, until `each` has enough.
    #[doc(hidden)]
    fn each<'c>(
        connection: &'c mut Self::Connection,
        statement: Query,
        each: impl FnMut(&Self::Row) -> Result<bool, PageError> + Send + 'c,
    ) -> BoxFuture<'c, Result<(), PageError>>;

    /// The same for a statement that reads values as texts, in the same form whatever the session is set to.
    #[doc(hidden)]
    fn each_text<'p>(
        pool: &'p Pool<Self>,
        statement: Query,
        each: impl FnMut(&Self::Row) -> Result<bool, PageError> + Send + 'p,
    ) -> BoxFuture<'p, Result<(), PageError>> {
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            Self::each(&mut connection, statement, each).await
        })
    }

    #[doc(hidden)]
    fn cell(row: &Self::Row, at: usize, encoding: Encoding) -> Result<Cell, sqlx::Error>;

    #[doc(hidden)]
    fn text(row: &Self::Row, at: usize) -> Result<Option<String>, sqlx::Error>;

    #[doc(hidden)]
    fn number(row: &Self::Row, at: usize) -> Result<Option<i64>, sqlx::Error>;
}

/// A statement with its values.
pub struct Query(pub(super) Bound);

/// A key column.
pub struct KeyOf<'c>(pub(super) &'c KeyColumn);

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
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn cell_of(text: Option<String>, encoding: Encoding) -> Cell {
    match (text, encoding) {
        (None, _) => Cell::Null,
        (Some(text), Encoding::Number) => Cell::Number(text),
        (Some(text), Encoding::Boolean) => Cell::Flag(text == "true"),
        (Some(text), Encoding::Json) => Cell::Json(text),
        (Some(text), _) => Cell::Text(text),
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
            Box::pin(async move {
                let mut connection = pool.acquire().await?;
                <Self as Dialect>::rows(&mut connection, sql, values).await
            })
        }

        fn each<'c>(
            connection: &'c mut Self::Connection,
            Query(Bound { sql, values }): Query,
            mut each: impl FnMut(&Self::Row) -> Result<bool, PageError> + Send + 'c,
        ) -> BoxFuture<'c, Result<(), PageError>> {
            Box::pin(async move {
                let mut rows = bound::<Self>(sql, values).fetch(connection);
                while let Some(row) = rows.try_next().await? {
                    if !each(&row)? {
                        break;
                    }
                }
                Ok(())
            })
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
    };
}

#[cfg(feature = "postgres")]
impl Reading for sqlx::Postgres {
    reading!(Postgres);
    plain_values!();

    fn each_text<'p>(
        pool: &'p Pool<Self>,
        statement: Query,
        each: impl FnMut(&Self::Row) -> Result<bool, PageError> + Send + 'p,
    ) -> BoxFuture<'p, Result<(), PageError>> {
        Box::pin(async move {
            let begin = format!("BEGIN; {POSTGRES_TEXTS}");
            let mut transaction = LeasedTransaction::on(pool, begin).await?;
            Self::each(&mut transaction, statement, each).await?;
            transaction.commit().await?;
            Ok(())
        })
    }

    fn cell(row: &Self::Row, at: usize, encoding: Encoding) -> Result<Cell, sqlx::Error> {
        if encoding == Encoding::Hex {
            let bytes: Option<Vec<u8>> = get::<Self, _>(row, at)?;
            return Ok(bytes.map_or(Cell::Null, Cell::Bytes));
        }
        Ok(cell_of(<Self as Reading>::text(row, at)?, encoding))
    }
}

#[cfg(feature = "mysql")]
impl Reading for sqlx::MySql {
    reading!(MySql);
    plain_values!();

    fn cell(row: &Self::Row, at: usize, encoding: Encoding) -> Result<Cell, sqlx::Error> {
        if encoding == Encoding::Hex {
            let bytes: Option<Vec<u8>> = row.try_get_unchecked(at)?;
            return Ok(bytes.map_or(Cell::Null, Cell::Bytes));
        }
        let number = match sqlx::TypeInfo::name(sqlx::Column::type_info(row.column(at))) {
            "FLOAT" => row.try_get_unchecked::<Option<f32>, _>(at)?.map(float),
            "DOUBLE" => row.try_get_unchecked::<Option<f64>, _>(at)?.map(double),
            _ => return Ok(cell_of(<Self as Reading>::text(row, at)?, encoding)),
        };
        Ok(number.map_or(Cell::Null, Cell::Number))
    }
}

/// The fewest digits from which MySQL makes the same number. It reads a double first, and refuses one that is
/// larger than any float, if only by its last digit.
#[cfg(feature = "mysql")]
fn float(number: f32) -> String {
    let short = format!("{number:?}");
    #[allow(clippy::cast_possible_truncation, reason = "that is what MySQL does")]
    let comes_back = short
        .parse::<f64>()
        .is_ok_and(|read| read as f32 == number && read.abs() <= f64::from(f32::MAX));
    match comes_back {
        true => short.strip_suffix(".0").unwrap_or(&short).to_owned(),
        false => double(f64::from(number)),
    }
}

#[cfg(feature = "mysql")]
fn double(number: f64) -> String {
    let text = format!("{number:?}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
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
                Ok(KeyPart::Text(hex::encode(bytes)))
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

    fn cell(row: &Self::Row, at: usize, _: Encoding) -> Result<Cell, sqlx::Error> {
        let raw = row.try_get_raw(at)?;
        if raw.is_null() {
            return Ok(Cell::Null);
        }
        let class = sqlx::TypeInfo::name(&*raw.type_info()).to_owned();
        let bytes = || row.try_get_unchecked::<Vec<u8>, _>(at);
        Ok(match class.as_str() {
            "INTEGER" => Cell::Number(row.try_get_unchecked::<i64, _>(at)?.to_string()),
            "REAL" => Cell::Number(match row.try_get_unchecked::<f64, _>(at)? {
                f64::INFINITY => "Infinity".to_owned(),
                f64::NEG_INFINITY => "-Infinity".to_owned(),
                // With a fraction or an exponent, which an integer does not have.
                number => format!("{number:?}"),
            }),
            "BLOB" => Cell::Bytes(bytes()?),
            _ => match String::from_utf8(bytes()?) {
                Ok(text) => Cell::Text(text),
                Err(error) => Cell::BrokenText(error.into_bytes()),
            },
        })
    }
}
