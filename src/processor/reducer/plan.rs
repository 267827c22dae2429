//! The stored part of a reducer, and its checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Maximum number of values that `top` and `bottom` keep, and of bounds of a histogram.
const MAX_KEPT: usize = 100;
/// Maximum number of results in a record.
const MAX_FIELDS: usize = 20;
/// Maximum depth of nested reducers.
const MAX_DEPTH: usize = 4;
/// Maximum size of a plan, which travels with every stride.
const MAX_PLAN_BYTES: usize = 1024;

/// The stored description of a reducer. It is kept in histories, so that a running batch continues with the
/// reducer with which it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Plan {
    Count,
    Sum {
        of: String,
    },
    SumOfFloats {
        of: String,
    },
    Min {
        of: String,
    },
    Max {
        of: String,
    },
    Top {
        k: u32,
        by: String,
    },
    Bottom {
        k: u32,
        by: String,
    },
    Histogram {
        of: String,
        bounds: Vec<f64>,
    },
    ByKey {
        key: String,
        each: Box<Plan>,
    },
    Record(BTreeMap<String, Plan>),
    /// The fold is code of the processor.
    Custom,
}

/// A reducer that is not allowed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidReducer {
    /// The number of values to keep is out of range.
    #[error("a reducer keeps {given} values; 1 to {MAX_KEPT} are allowed")]
    Kept {
        /// The number that was given.
        given: u32,
    },
    /// The number of bounds is out of range, or they do not ascend.
    #[error(
        "the bounds of a histogram must be 1 to {MAX_KEPT} numbers, each greater than the one before"
    )]
    Bounds,
    /// A record is empty, is too large, or has two results with one name.
    #[error("a record must have 1 to {MAX_FIELDS} results, each with a name of its own")]
    Fields,
    /// The nesting is too deep.
    #[error("reducers are nested too deeply; at most {MAX_DEPTH} levels are allowed")]
    Depth,
    /// A custom reducer is inside another reducer.
    #[error(
        "a custom reducer must stand alone; combine the values of a record in your own code instead"
    )]
    CustomInside,
    /// The names and bounds are too long in total.
    #[error("the reducer is {given} bytes of JSON; at most {MAX_PLAN_BYTES} are allowed")]
    TooLarge {
        /// The size in bytes.
        given: usize,
    },
}

impl Plan {
    /// Rejects plans that are not allowed.
    pub fn validate(&self) -> Result<(), InvalidReducer> {
        self.validate_at(1)?;
        let given = serde_json::json!(self).to_string().len();
        match given {
            given if given > MAX_PLAN_BYTES => Err(InvalidReducer::TooLarge { given }),
            _ => Ok(()),
        }
    }

    fn validate_at(&self, depth: usize) -> Result<(), InvalidReducer> {
        if depth > MAX_DEPTH {
            return Err(InvalidReducer::Depth);
        }
        match self {
            Self::Top { k, .. } | Self::Bottom { k, .. } => match *k as usize {
                1..=MAX_KEPT => Ok(()),
                _ => Err(InvalidReducer::Kept { given: *k }),
            },
            Self::Histogram { bounds, .. } => {
                let grow = bounds.windows(2).all(|pair| pair[0] < pair[1]);
                let finite = bounds.iter().all(|bound| bound.is_finite());
                match bounds.len() {
                    1..=MAX_KEPT if grow && finite => Ok(()),
                    _ => Err(InvalidReducer::Bounds),
                }
            }
            Self::ByKey { each, .. } => each.validate_inside(depth),
            Self::Record(fields) => {
                if !(1..=MAX_FIELDS).contains(&fields.len()) {
                    return Err(InvalidReducer::Fields);
                }
                fields
                    .values()
                    .try_for_each(|each| each.validate_inside(depth))
            }
            Self::Count
            | Self::Sum { .. }
            | Self::SumOfFloats { .. }
            | Self::Min { .. }
            | Self::Max { .. }
            | Self::Custom => Ok(()),
        }
    }

    fn validate_inside(&self, depth: usize) -> Result<(), InvalidReducer> {
        match self {
            Self::Custom => Err(InvalidReducer::CustomInside),
            _ => self.validate_at(depth + 1),
        }
    }
}
