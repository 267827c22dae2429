//! The conversion of values into partial results, and the combination of two partial results.
//!
//! `null` is the partial result of no values. All other partial results look like the final result.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};

use super::{
    Plan, ReduceError,
    compare::{compare, integer, is_comparable, numbers},
};

impl Plan {
    /// Returns the result of no values.
    pub fn empty(&self) -> Value {
        match self {
            Self::Count | Self::Sum { .. } => 0.into(),
            Self::SumOfFloats { .. } => 0.0.into(),
            Self::Min { .. } | Self::Max { .. } | Self::Custom => Value::Null,
            Self::Top { .. } | Self::Bottom { .. } => Value::Array(Vec::new()),
            Self::Histogram { bounds, .. } => vec![0; bounds.len() + 1].into(),
            Self::ByKey { .. } => Map::new().into(),
            Self::Record(fields) => {
                let fields = fields.iter();
                let fields = fields.map(|(name, each)| (name.clone(), each.empty()));
                Value::Object(fields.collect())
            }
        }
    }

    /// Returns the partial result of one value.
    pub fn lift(&self, value: &Value) -> Result<Value, ReduceError> {
        match self {
            Self::Count => Ok(1.into()),
            Self::Sum { of } => match field(value, of)? {
                Value::Null => Ok(Value::Null),
                number => Ok(stored(exact(number, of)?)),
            },
            Self::SumOfFloats { of } => match field(value, of)? {
                Value::Null => Ok(Value::Null),
                Value::Number(number) => Ok(number.as_f64().unwrap_or_default().into()),
                other => Err(mismatch(of, "a number", other)),
            },
            Self::Min { of } | Self::Max { of } => match field(value, of)? {
                found if found.is_null() || is_comparable(found) => Ok(found.clone()),
                other => Err(mismatch(of, "a number or a text", other)),
            },
            Self::Top { by, .. } | Self::Bottom { by, .. } => match field(value, by)? {
                Value::Null => Ok(Value::Null),
                found if is_comparable(found) => Ok(Value::Array(vec![value.clone()])),
                other => Err(mismatch(by, "a number or a text", other)),
            },
            Self::Histogram { of, bounds } => match field(value, of)? {
                Value::Null => Ok(Value::Null),
                Value::Number(number) => Ok(one_in_bucket(number, bounds)),
                other => Err(mismatch(of, "a number", other)),
            },
            Self::ByKey { key, each } => {
                let name = match field(value, key)? {
                    Value::Null => return Ok(Value::Null),
                    Value::String(name) => name.clone(),
                    Value::Number(number) if integer(number).is_some() => number.to_string(),
                    Value::Bool(flag) => flag.to_string(),
                    other => {
                        return Err(mismatch(key, "a text, an integer or a boolean", other));
                    }
                };
                Ok(Map::from_iter([(name, each.lift(value)?)]).into())
            }
            Self::Record(fields) => {
                let lifted = fields
                    .iter()
                    .map(|(name, each)| Ok((name.clone(), each.lift(value)?)));
                Ok(Value::Object(lifted.collect::<Result<_, _>>()?))
            }
            Self::Custom => Ok(value.clone()),
        }
    }

    /// Combines two partial results.
    pub fn combine(&self, a: Value, b: Value) -> Result<Value, ReduceError> {
        match (self, a, b) {
            (_, Value::Null, one) | (_, one, Value::Null) => Ok(one),
            (Self::Count | Self::Sum { .. }, a, b) => {
                let sum = exact(&a, "")?.checked_add(exact(&b, "")?);
                Ok(stored(sum.ok_or(ReduceError::Overflow)?))
            }
            (Self::SumOfFloats { .. }, a, b) => {
                let sum = a.as_f64().unwrap_or_default() + b.as_f64().unwrap_or_default();
                let sum = Number::from_f64(sum).ok_or(ReduceError::Overflow)?;
                Ok(sum.into())
            }
            (Self::Min { .. }, a, b) => extreme(a, b, Ordering::Less),
            (Self::Max { .. }, a, b) => extreme(a, b, Ordering::Greater),
            (Self::Top { k, by }, Value::Array(a), Value::Array(b)) => {
                first(*k, by, Ordering::Greater, a, b)
            }
            (Self::Bottom { k, by }, Value::Array(a), Value::Array(b)) => {
                first(*k, by, Ordering::Less, a, b)
            }
            (Self::Histogram { .. }, Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                let sums = a.iter().zip(&b).map(|(a, b)| {
                    let sum = exact(a, "")?.checked_add(exact(b, "")?);
                    Ok(stored(sum.ok_or(ReduceError::Overflow)?))
                });
                Ok(Value::Array(sums.collect::<Result<_, _>>()?))
            }
            (Self::ByKey { each, .. }, Value::Object(a), Value::Object(b)) => {
                merged(a, b, |_| Some(&**each))
            }
            (Self::Record(fields), Value::Object(a), Value::Object(b)) => {
                merged(a, b, |name| fields.get(name))
            }
            _ => Err(ReduceError::Mismatch {
                what: "a partial result does not fit the reducer of the batch".to_owned(),
            }),
        }
    }
}

/// Returns the field that a reducer reads. The empty name stands for the value itself.
fn field<'v>(value: &'v Value, name: &str) -> Result<&'v Value, ReduceError> {
    if name.is_empty() {
        return Ok(value);
    }
    value.get(name).ok_or_else(|| ReduceError::Mismatch {
        what: format!("a value has no field \"{name}\""),
    })
}

fn mismatch(name: &str, wanted: &str, found: &Value) -> ReduceError {
    // The message names only the kind of the value, because the value itself may be personal data.
    let kind = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number with a fraction",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let what = match name {
        "" => "a value".to_owned(),
        name => format!("field \"{name}\" of a value"),
    };
    ReduceError::Mismatch {
        what: format!("{what} has to be {wanted}, not {kind}"),
    }
}

/// Reads an integer. Integers beyond 64 bits are written as a text of digits.
fn exact(value: &Value, name: &str) -> Result<i128, ReduceError> {
    let found = match value {
        Value::Number(number) => integer(number),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    };
    found.ok_or_else(|| mismatch(name, "an integer", value))
}

fn stored(sum: i128) -> Value {
    match (i64::try_from(sum), u64::try_from(sum)) {
        (Ok(signed), _) => signed.into(),
        (_, Ok(unsigned)) => unsigned.into(),
        _ => sum.to_string().into(),
    }
}

/// Returns the value that compares to the other as `wanted`.
fn extreme(a: Value, b: Value, wanted: Ordering) -> Result<Value, ReduceError> {
    let order = compare(&a, &b)?;
    // 1 and 1.0 are equal but not identical. Comparing their texts makes the choice deterministic.
    let order = order.then_with(|| a.to_string().cmp(&b.to_string()));
    Ok(if order == wanted { a } else { b })
}

/// Returns the first `k` values of two sorted lists.
fn first(
    k: u32,
    by: &str,
    wanted: Ordering,
    a: Vec<Value>,
    b: Vec<Value>,
) -> Result<Value, ReduceError> {
    let comes_first = |a: &Value, b: &Value| -> Result<bool, ReduceError> {
        let order = compare(field(a, by)?, field(b, by)?)?;
        Ok(match order {
            Ordering::Equal => a.to_string().cmp(&b.to_string()).is_le(),
            order => order == wanted,
        })
    };
    if let (Some(last), [one]) = (a.last().filter(|_| a.len() >= k as usize), &b[..])
        && !comes_first(one, last)?
    {
        // Most values are not among the first `k`.
        return Ok(Value::Array(a));
    }
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    let mut kept = Vec::new();
    while kept.len() < k as usize {
        let next = match (a.peek(), b.peek()) {
            (Some(one), Some(other)) => match comes_first(one, other)? {
                true => a.next(),
                false => b.next(),
            },
            (Some(_), None) => a.next(),
            (None, _) => b.next(),
        };
        let Some(next) = next else { break };
        kept.push(next);
    }
    Ok(Value::Array(kept))
}

fn one_in_bucket(number: &Number, bounds: &[f64]) -> Value {
    let at_or_above = |bound: &&f64| {
        let bound = Number::from_f64(**bound);
        bound.is_some_and(|bound| numbers(number, &bound) != Ordering::Less)
    };
    let bucket = bounds.iter().take_while(at_or_above).count();
    let mut counts = vec![0; bounds.len() + 1];
    counts[bucket] = 1;
    counts.into()
}

/// Merges two objects. Values with the same name are combined.
fn merged<'p>(
    mut a: Map<String, Value>,
    b: Map<String, Value>,
    each: impl Fn(&str) -> Option<&'p Plan>,
) -> Result<Value, ReduceError> {
    for (name, b) in b {
        let both = match (a.get_mut(&name).map(Value::take), each(&name)) {
            (Some(a), Some(plan)) => plan.combine(a, b)?,
            _ => b,
        };
        a.insert(name, both);
    }
    Ok(Value::Object(a))
}
