//! The order of values: total, exact, and the same on every machine.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::ReduceError;

/// Compares two numbers or two texts.
pub(super) fn compare(a: &Value, b: &Value) -> Result<Ordering, ReduceError> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Ok(numbers(a, b)),
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        _ => Err(ReduceError::Mismatch {
            what: "a number cannot be compared with a text".to_owned(),
        }),
    }
}

/// Returns whether a value can be compared.
pub(super) fn is_comparable(value: &Value) -> bool {
    value.is_number() || value.is_string()
}

/// Compares numbers by value, not by their notation. Integers are not rounded for the comparison.
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

/// Compares an integer with a float. JSON has no infinities and no integers beyond 64 bits.
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
    // The cast is exact: `whole` has no fraction and is well within range.
    let compared = a.cmp(&(whole as i128));
    compared.then_with(|| 0.0_f64.total_cmp(&(b - whole + 0.0)))
}
