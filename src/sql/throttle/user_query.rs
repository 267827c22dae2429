//! The user's own query, which returns one number.

use futures::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, Column as _, PgConnection, Row as _, TypeInfo as _, ValueRef as _,
    postgres::PgRow,
};

use super::{AskError, checks::figure, threshold::Threshold};
use crate::{processor::throttle::Verdict, sql::connection::pgbouncer::may_be_named};

#[derive(Debug)]
pub(super) struct UserQuery {
    pub sql: String,
    pub above: Threshold<f64>,
}

/// The query has run, but its result has no meaning.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotOneNumber {
    #[error("the query returned no row; it must return one number, or NULL")]
    NoRow,
    #[error("the query returned more than one row; it must return one number")]
    Rows,
    #[error("the query returned {0} columns; it must return one number")]
    Columns(usize),
    #[error("the query returned a value of type {0}; it must return a number")]
    Type(String),
    #[error("the query returned NaN; it must return a number, or NULL")]
    NaN,
}

impl UserQuery {
    pub async fn ask(&self, connection: &mut PgConnection) -> Result<Verdict, AskError> {
        let number = {
            // The query as its author wrote it.
            let query = sqlx::query(AssertSqlSafe(self.sql.clone())).persistent(may_be_named());
            let mut rows = query.fetch(connection);
            let first = rows.try_next().await.map_err(AskError::Query)?;
            let first = first.ok_or(NotOneNumber::NoRow)?;
            if first.len() != 1 {
                return Err(NotOneNumber::Columns(first.len()).into());
            }
            if rows.try_next().await.map_err(AskError::Query)?.is_some() {
                return Err(NotOneNumber::Rows.into());
            }
            number(&first)?
        };
        Ok(number.map_or(Verdict::Go, |number| {
            self.above.judge(number, |limit| {
                format!("query is {} > {}", figure(number), figure(limit))
            })
        }))
    }
}

fn number(row: &PgRow) -> Result<Option<f64>, AskError> {
    let kind = row.column(0).type_info().name().to_owned();
    let number = match kind.as_str() {
        "INT2" => row.try_get::<Option<i16>, _>(0).map(|n| n.map(f64::from)),
        "INT4" => row.try_get::<Option<i32>, _>(0).map(|n| n.map(f64::from)),
        "INT8" => row
            .try_get::<Option<i64>, _>(0)
            .map(|n| n.map(|n| n as f64)),
        "FLOAT4" => row.try_get::<Option<f32>, _>(0).map(|n| n.map(f64::from)),
        "FLOAT8" => row.try_get::<Option<f64>, _>(0),
        "NUMERIC" => row.try_get_raw(0).and_then(|value| {
            if value.is_null() {
                return Ok(None);
            }
            let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
            let number = numeric(bytes);
            let bad = || sqlx::Error::Decode("a numeric that ends early".into());
            number.map(Some).ok_or_else(bad)
        }),
        _ => return Err(NotOneNumber::Type(kind).into()),
    };
    match number.map_err(AskError::Query)? {
        Some(number) if number.is_nan() => Err(NotOneNumber::NaN.into()),
        number => Ok(number),
    }
}

/// Returns a `numeric` in PostgreSQL's binary form: number of digits, weight of the first one, sign, scale, digits; 16
/// bits each, in base 10000.
fn numeric(bytes: &[u8]) -> Option<f64> {
    let mut words = bytes
        .chunks_exact(2)
        .map(|word| i16::from_be_bytes([word[0], word[1]]));
    let digits = words.next()?;
    let weight = words.next()?;
    let sign = words.next()? as u16;
    words.next()?;
    let size = match sign {
        0xC000 => return Some(f64::NAN),
        0xD000 => return Some(f64::INFINITY),
        0xF000 => return Some(f64::NEG_INFINITY),
        _ => {
            let mut size = 0.0;
            for place in 0..i32::from(digits) {
                size += f64::from(words.next()?) * 10_000f64.powi(i32::from(weight) - place);
            }
            size
        }
    };
    Some(if sign == 0x4000 { -size } else { size })
}
