//! The stored part of a reducer, and its checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most values that `top` and `bottom` keep, and most bounds of a histogram.
const MAX_KEPT: usize = 100;
/// Most results of a record.
const MAX_FIELDS: usize = 20;
/// Reducers inside of reducers.
const MAX_DEPTH: usize = 4;
/// The plan travels with every stride.
const MAX_PLAN_BYTES: usize = 1024;

/// What a batch folds its outputs by. Stored in histories, so that a running batch goes on with what it began with.
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
    /// Only the code of the processor knows.
    Custom,
}

/// A reducer that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidReducer {
    /// So many values cannot be kept.
    #[error("a reducer keeps {given} values; 1 to {MAX_KEPT} are allowed")]
    Kept {
        /// The number that was given.
        given: u32,
    },
    /// So many bounds, or such as do not grow.
    #[error(
        "the bounds of a histogram must be 1 to {MAX_KEPT} numbers, each greater than the one before"
    )]
    Bounds,
    /// No results, too many of them, or two of one name.
    #[error("a record must have 1 to {MAX_FIELDS} results, each with a name of its own")]
    Fields,
    /// Too many reducers inside of each other.
    #[error("reducers are nested too deeply; at most {MAX_DEPTH} levels are allowed")]
    Depth,
    /// Code of the user's inside of a ready-made reducer.
    #[error(
        "a custom reducer must stand alone; combine the values of a record in your own code instead"
    )]
    CustomInside,
    /// Names and bounds together are too long.
    #[error("the reducer is {given} bytes of JSON; at most {MAX_PLAN_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        given: usize,
    },
}

impl Plan {
    /// Refuses what cannot work.
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
