//! Statements with their values, and the fields of their rows.

use serde::{Deserialize, de::IntoDeserializer};
use sqlx::{AssertSqlSafe, Database, Encode, Type, database::HasStatementCache, query::Query};

use super::dialect::Dialect;
use crate::{base::time::Timestamp, page::token::PageToken};

/// A value for a placeholder of a statement, such as those of [`Table::condition`](crate::sql::Table::condition).
/// Bind the inner value. There is no `Debug`, since the value may be personal data.
#[derive(Clone)]
pub enum Value {
    /// A text, or NULL.
    Text(Option<String>),
    /// An integer, or NULL.
    Int(Option<i64>),
    /// A boolean.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<Option<&PageToken>> for Value {
    fn from(token: Option<&PageToken>) -> Self {
        Self::from(token.map(PageToken::as_str))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::from(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(Some(number))
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::from(time.0)
    }
}

impl From<Option<Timestamp>> for Value {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::Int(None), Self::from)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A statement and its values.
pub type Statement = (String, Vec<Value>);

/// Returns the `sqlx` query of a statement.
pub(crate) fn bound<DB: Database + HasStatementCache>(
    statement: String,
    values: Vec<Value>,
) -> Query<'static, DB, DB::Arguments>
where
    Option<String>: Encode<'static, DB> + Type<DB>,
    Option<i64>: Encode<'static, DB> + Type<DB>,
    bool: Encode<'static, DB> + Type<DB>,
{
    // The statement is made of constants, quoted names and SQL that the user wrote as SQL.
    let query = sqlx::query(AssertSqlSafe(statement));
    #[cfg(feature = "postgres")]
    let query = match DB::NAME == sqlx::Postgres::NAME {
        true => query.persistent(crate::sql::connection::pgbouncer::may_be_named()),
        false => query,
    };
    values.into_iter().fold(query, |query, value| match value {
        Value::Text(text) => query.bind(text),
        Value::Int(number) => query.bind(number),
        Value::Flag(flag) => query.bind(flag),
    })
}

/// The fields of a row, read from left to right.
pub(crate) struct Fields<'r, DB: Database> {
    row: &'r DB::Row,
    next: usize,
}

impl<'r, DB: Dialect> Fields<'r, DB> {
    pub fn of(row: &'r DB::Row) -> Self {
        Self { row, next: 0 }
    }

    fn step(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    pub fn optional_text(&mut self) -> Result<Option<String>, sqlx::Error> {
        DB::text(self.row, self.step())
    }

    pub fn text(&mut self) -> Result<String, sqlx::Error> {
        self.optional_text().map(Option::unwrap_or_default)
    }

    pub fn token(&mut self) -> Result<Option<PageToken>, sqlx::Error> {
        let Some(text) = self.optional_text()? else {
            return Ok(None);
        };
        let text: serde::de::value::StringDeserializer<serde::de::value::Error> =
            text.into_deserializer();
        let token = PageToken::deserialize(text).map_err(|e| sqlx::Error::Decode(e.into()))?;
        Ok(Some(token))
    }

    pub fn number(&mut self) -> Result<i64, sqlx::Error> {
        DB::number(self.row, self.step())
    }

    /// Returns a number that is never negative.
    pub fn count(&mut self) -> Result<u64, sqlx::Error> {
        self.number().map(|n| u64::try_from(n).unwrap_or_default())
    }

    pub fn time(&mut self) -> Result<Timestamp, sqlx::Error> {
        self.count().map(Timestamp)
    }

    pub fn flag(&mut self) -> Result<bool, sqlx::Error> {
        DB::flag(self.row, self.step())
    }
}
