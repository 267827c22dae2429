//! The order of values: total, exact, and the same everywhere.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::ReduceError;

/// Two numbers, or two texts.
pub(super) fn compare(a: &Value, b: &Value) -> Result<Ordering, ReduceError> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Ok(numbers(a, b)),
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        _ => Err(ReduceError::Mismatch {
            what: "a number cannot be compared with a text".to_owned(),
        }),
    }
}

/// Whether it can be compared at all.
pub(super) fn is_comparable(value: &Value) -> bool {
    value.is_number() || value.is_string()
}

/// Numbers by what they are, not by how they are written; an integer is not rounded to be compared.
pub(super) fn numbers(a: &Number, b: &Number) -> Ordering {
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(a), None) => integer_and_float(a, float(b)),
        (None, Some(b)) => integer_and_float(b, float(a)).reverse(),
        (None, None) => float(a).total_cmp(&float(b)),
    }
}

pub(super) fn integer(number: &Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or_default()
}

/// JSON has no infinities, and integers of 64 bits only.
fn integer_and_float(a: i128, b: f64) -> Ordering {
    const BEYOND: f64 = 1e20;
    if b.abs() >= BEYOND {
        return if b > 0.0 {
            Ordering::Less
        } else {
            Ordering::Greater
        };
    }
    let whole = b.trunc();
    // Exact: it has no fraction and is far within the range.
    let compared = a.cmp(&(whole as i128));
    compared.then_with(|| 0.0_f64.total_cmp(&(b - whole + 0.0)))
}
