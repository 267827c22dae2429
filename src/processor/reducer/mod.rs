//! A result of the whole batch, folded from the outputs of its pages.
//!
//! ```text
//!   process           stride (worker)             controller
//!     | output ------> |                            |
//!     | output ------> | fold of the page           |
//!     |                | fold of the stride --------> fold of the batch -> Progress::output
//! ```
//!
//! | file | contents |
//! |---|---|
//! | here | [`Reducer`], which a processor returns, and [`Reduce`] for its own folds |
//! | `plan` | the stored part of a reducer, and its checks |
//! | `fold` | the conversion of values into partial results, and their combination; pure |
//! | `compare` | the order of values |
//! | `output` | the stored state of the result |
//!
//! The controller folds everything that a [`Plan`] describes. A plan is data, so every version of the code and
//! every replay gives the same result. Values that only a user's code can fold are kept as a short list, which
//! an activity combines.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod compare;
mod fold;
mod output;
mod plan;
#[cfg(test)]
mod properties;

use std::{collections::BTreeMap, fmt, panic::AssertUnwindSafe};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::base::error::PageError;

pub(crate) use output::{Fold, Output};
pub use plan::InvalidReducer;
pub(crate) use plan::Plan;

/// Maximum size of a result as JSON, and of the output of one page. The result travels with every report and
/// every continue-as-new.
pub(crate) const MAX_OUTPUT_BYTES: usize = 6 * 1024;

/// Folds the outputs of the pages into the result of the batch; see
/// [`PageProcessor::reducer`](crate::PageProcessor::reducer).
///
/// `process` outputs values with [`PageReport::output`](crate::PageReport::output): one for each item, or fewer
/// that stand for many. A reducer reads fields of these values and computes the result:
///
/// | reducer | reads from each value | result |
/// |---|---|---|
/// | [`count`](Self::count) | | the number of values |
/// | [`sum`](Self::sum) | an integer | their exact sum |
/// | [`sum_of_floats`](Self::sum_of_floats) | a number | their sum; rounding depends on the order |
/// | [`min`](Self::min), [`max`](Self::max) | a number or a text | the least or the greatest; `null` if there are no values |
/// | [`top`](Self::top), [`bottom`](Self::bottom) | the value itself | the values with the greatest or least field, in order |
/// | [`histogram`](Self::histogram) | a number | the count of each bucket |
/// | [`by_key`](Self::by_key) | a text, an integer or a boolean | an object with a result for each key |
/// | [`record`](Self::record) | | an object with the result of each of several reducers |
/// | [`custom`](Self::custom) | anything | computed by your code |
///
/// An empty field name means the value itself. A value without the field, or with a field of another kind,
/// fails its page with the non-retryable error `OutputMismatch`. `null` is ignored by everything except
/// `count`.
///
/// ```
/// use temporal_batch::Reducer;
///
/// // {"country": "DE", "cents": 1999, "id": 7} and the like
/// let sales = Reducer::record([
///     ("orders", Reducer::count()),
///     ("cents", Reducer::sum("cents")),
///     ("cents_by_country", Reducer::by_key("country", Reducer::sum("cents"))),
///     ("largest", Reducer::top(10, "cents")),
/// ]);
/// # sales.validate().unwrap();
/// ```
///
/// # Guarantees
///
/// Every finished page counts exactly once, whatever is retried, lost or handed over. A page that is given up
/// does not count. Pages finish and are folded in any order, so the result must not depend on order or
/// grouping. Every reducer here satisfies this except `sum_of_floats`, whose last digits may differ.
#[derive(Clone)]
pub struct Reducer {
    plan: Plan,
    combine: Option<Combine>,
}

/// A user's own way to combine two values.
///
/// ```
/// use temporal_batch::{Reduce, Reducer};
///
/// /// The greatest common divisor of everything.
/// struct Divisor;
///
/// impl Reduce for Divisor {
///     type Value = u64;
///
///     fn combine(mut a: u64, mut b: u64) -> u64 {
///         while b != 0 {
///             (a, b) = (b, a % b);
///         }
///         a
///     }
/// }
///
/// let reducer = Reducer::custom::<Divisor>();
/// # reducer.validate().unwrap();
/// ```
pub trait Reduce: 'static {
    /// The type of outputs and of the result. As JSON it has at most 6 KiB, however many values are combined.
    type Value: Serialize + DeserializeOwned;

    /// Combines two values. It must be associative and commutative, and must depend on nothing but its
    /// arguments. It runs in workers, on the values of a page and on partial results, and never in the
    /// controller.
    fn combine(a: Self::Value, b: Self::Value) -> Self::Value;
}

type Combine = fn(Value, Value) -> Result<Value, ReduceError>;

/// The reason why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReduceError {
    #[error("the result would be {bytes} bytes of JSON; at most {MAX_OUTPUT_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error("{what}")]
    Mismatch { what: String },
    #[error("a sum exceeds its range")]
    Overflow,
    #[error("the reducer panicked: {message}")]
    Panic { message: String },
}

impl ReduceError {
    fn error_type(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "OutputTooLarge",
            Self::Mismatch { .. } => "OutputMismatch",
            Self::Overflow => "OutputOverflow",
            Self::Panic { .. } => "Panic",
        }
    }

    /// Converts the error to that of a page, which no retry cures.
    pub(crate) fn of_page(&self) -> PageError {
        PageError::non_retryable(self.error_type(), self)
    }
}

/// # Ready-made
impl Reducer {
    fn of(plan: Plan) -> Self {
        Self {
            plan,
            combine: None,
        }
    }

    /// Counts the values.
    pub fn count() -> Self {
        Self::of(Plan::Count)
    }

    /// Adds integers exactly. Values and results beyond 64 bits are written as a text of decimal digits. Beyond
    /// 128 bits there is no result.
    pub fn sum(of: impl Into<String>) -> Self {
        Self::of(Plan::Sum { of: of.into() })
    }

    /// Adds numbers with fractions. Rounding depends on the order, which differs from run to run, so the last
    /// digits may differ. For exact results add integers, such as cents.
    pub fn sum_of_floats(of: impl Into<String>) -> Self {
        Self::of(Plan::SumOfFloats { of: of.into() })
    }

    /// Finds the least number, or the first text by byte order. All values must be of one kind.
    pub fn min(of: impl Into<String>) -> Self {
        Self::of(Plan::Min { of: of.into() })
    }

    /// Finds the greatest number, or the last text by byte order. All values must be of one kind.
    pub fn max(of: impl Into<String>) -> Self {
        Self::of(Plan::Max { of: of.into() })
    }

    /// Keeps the `k` values with the greatest field, greatest first; `k` is from 1 to 100. Values with equal
    /// fields are ordered by their JSON, so that the choice is deterministic.
    pub fn top(k: u32, by: impl Into<String>) -> Self {
        Self::of(Plan::Top { k, by: by.into() })
    }

    /// Keeps the `k` values with the least field, least first. Otherwise like [`top`](Self::top).
    pub fn bottom(k: u32, by: impl Into<String>) -> Self {
        Self::of(Plan::Bottom { k, by: by.into() })
    }

    /// Counts the values in each bucket: below the first bound, from each bound to below the next, and from the
    /// last bound up. There are 1 to 100 ascending bounds.
    pub fn histogram(of: impl Into<String>, bounds: impl IntoIterator<Item = f64>) -> Self {
        Self::of(Plan::Histogram {
            of: of.into(),
            bounds: bounds.into_iter().collect(),
        })
    }

    /// Computes a result for each key. The result is bounded, so this suits few keys, such as countries. With
    /// too many keys there is no result.
    pub fn by_key(key: impl Into<String>, each: Self) -> Self {
        Self::of(Plan::ByKey {
            key: key.into(),
            each: Box::new(each.plan),
        })
    }

    /// Computes several results at once, each with a name; 1 to 20 of them.
    pub fn record<N: Into<String>>(fields: impl IntoIterator<Item = (N, Self)>) -> Self {
        let fields = fields.into_iter();
        let fields: Vec<_> = fields
            .map(|(name, each)| (name.into(), each.plan))
            .collect();
        let given = fields.len();
        let fields: BTreeMap<_, _> = fields.into_iter().collect();
        Self::of(match fields.len() == given {
            true => Plan::Record(fields),
            // Two fields have the same name: an empty record is refused with the right error.
            false => Plan::Record(BTreeMap::new()),
        })
    }

    /// Folds values with your own code. It cannot be used within a `record` or `by_key`.
    pub fn custom<R: Reduce>() -> Self {
        Self {
            plan: Plan::Custom,
            combine: Some(combine_as::<R>),
        }
    }

    /// Checks the reducer.
    ///
    /// # Errors
    /// The setting that is not allowed, with the allowed values. A batch whose processor has such a reducer is
    /// refused.
    pub fn validate(&self) -> Result<(), InvalidReducer> {
        self.plan.validate()
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl fmt::Debug for Reducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reducer").field(&self.plan).finish()
    }
}

/// # Fold
impl Reducer {
    /// Returns the reducer with which a running batch began. `now` is the current reducer of the processor.
    pub(crate) fn stored(plan: &Plan, now: Option<Self>) -> Result<Self, PageError> {
        if *plan != Plan::Custom {
            return Ok(Self::of(plan.clone()));
        }
        now.filter(|now| now.plan == Plan::Custom).ok_or_else(|| {
            PageError::environment(
                "the batch began with a reducer of its processor's own, which the code of this worker does not have",
            )
            .with_type("ReducerChanged")
        })
    }

    /// Folds the outputs of one page. `null` if there are none.
    pub(crate) fn page(&self, values: &[Value]) -> Result<Value, ReduceError> {
        let mut page = Value::Null;
        for value in values {
            page = self.combine(page, self.plan.lift(value)?)?;
        }
        fits(page)
    }

    /// Adds a page to the output of its stride.
    pub(crate) fn add(&self, output: &mut Output, page: Value) {
        output.change(|parts| {
            let folded = parts.drain(..).try_fold(page, |a, b| self.combine(b, a));
            folded.and_then(fits)
        });
    }

    /// Combines several partial results.
    pub(crate) fn all(&self, parts: Vec<Value>) -> Result<Value, ReduceError> {
        let folded = parts
            .into_iter()
            .try_fold(Value::Null, |a, b| self.combine(a, b));
        folded.and_then(fits)
    }

    fn combine(&self, a: Value, b: Value) -> Result<Value, ReduceError> {
        match (self.combine, a, b) {
            (_, Value::Null, one) | (_, one, Value::Null) => Ok(one),
            (Some(combine), a, b) => combine(a, b),
            (None, a, b) => self.plan.combine(a, b),
        }
    }
}

/// Rejects values that are too large to be stored.
fn fits(value: Value) -> Result<Value, ReduceError> {
    match value.to_string().len() {
        bytes if bytes > MAX_OUTPUT_BYTES => Err(ReduceError::TooLarge { bytes }),
        _ => Ok(value),
    }
}

fn combine_as<R: Reduce>(a: Value, b: Value) -> Result<Value, ReduceError> {
    let read = |value: Value| {
        serde_json::from_value::<R::Value>(value).map_err(|e| ReduceError::Mismatch {
            what: format!("a value does not fit the reducer: {e}"),
        })
    };
    let (a, b) = (read(a)?, read(b)?);
    let combined = std::panic::catch_unwind(AssertUnwindSafe(|| R::combine(a, b)));
    let combined = combined.map_err(|panic| ReduceError::Panic {
        message: PageError::panicked(&*panic).message().to_owned(),
    })?;
    serde_json::to_value(combined).map_err(|e| ReduceError::Mismatch {
        what: format!("the result of the reducer does not serialize to JSON: {e}"),
    })
}
