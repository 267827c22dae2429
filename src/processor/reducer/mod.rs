//! One result of the whole batch, folded from what its pages put out.
//!
//! ```text
//!   process           stride (worker)             controller
//!     | output ------> |                            |
//!     | output ------> | fold of the page           |
//!     |                | fold of the stride --------> fold of the batch -> Progress::output
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | here | [`Reducer`]: what a processor says, and [`Reduce`] for what it folds itself |
//! | `plan` | the stored part of a reducer, and its checks |
//! | `fold` | values become partial results, and two of these become one; pure |
//! | `compare` | the order of values |
//! | `output` | what is known of the result, as it is stored |
//!
//! The controller folds what it can: a [`Plan`] is data, so any version of the code and any replay gives the same
//! result. What only a user's code can fold is kept as a short list, which an activity makes shorter.

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

/// Most bytes that a result has as JSON, and so has what one page puts out. It travels with every report and
/// every continue-as-new.
pub const MAX_OUTPUT_BYTES: usize = 6 * 1024;

/// How what the pages put out becomes the result of the batch; see
/// [`PageProcessor::reducer`](crate::PageProcessor::reducer).
///
/// `process` puts out values with [`PageReport::output`](crate::PageReport::output): one for each item, or fewer
/// that stand for many. A reducer looks at fields of these values, and what it makes of them is the result:
///
/// | reducer | of each value | result |
/// |---|---|---|
/// | [`count`](Self::count) | | how many values there were |
/// | [`sum`](Self::sum) | an integer | their exact sum |
/// | [`sum_of_floats`](Self::sum_of_floats) | a number | their sum, rounded in whatever order it was made |
/// | [`min`](Self::min), [`max`](Self::max) | a number or a text | the least, the greatest; `null` without any |
/// | [`top`](Self::top), [`bottom`](Self::bottom) | the value itself | those with the greatest or least field, in order |
/// | [`histogram`](Self::histogram) | a number | how many were in each bucket |
/// | [`by_key`](Self::by_key) | a text, an integer or a boolean | an object with a result for each key |
/// | [`record`](Self::record) | | an object with the result of each of several reducers |
/// | [`custom`](Self::custom) | what your code makes of it | what your code makes of it |
///
/// The name of a field may be empty, which means the value itself. A value without the field, or of another kind,
/// fails its page with the non-retryable error `OutputMismatch`. `null` is left out of everything but `count`.
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
/// # What is guaranteed
///
/// Every finished page counts exactly once, whatever is retried, lost or handed over; a page that is given up counts
/// not at all. Pages finish in any order, and so they are folded: it must not matter in which order and in which groups
/// values are combined. For all of these it does not, but for `sum_of_floats`, whose last digits may differ.
#[derive(Clone)]
pub struct Reducer {
    plan: Plan,
    combine: Option<Combine>,
}

/// Your own way to make one value of two.
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
    /// What pages put out and what the result is. As JSON at most 6 KiB, however many values are in it.
    type Value: Serialize + DeserializeOwned;

    /// Makes one value of two. It must not matter in which order and in which groups values are combined:
    /// associative and commutative. Nothing else may play a part, such as time. It runs in workers, on the values of a page
    /// and on partial results; never in the controller.
    fn combine(a: Self::Value, b: Self::Value) -> Self::Value;
}

type Combine = fn(Value, Value) -> Result<Value, ReduceError>;

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReduceError {
    #[error("the result would be {bytes} bytes of JSON; at most {MAX_OUTPUT_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error("{what}")]
    Mismatch { what: String },
    #[error("a sum went out of its range")]
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

    /// The error of a page, which no retry cures.
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

    /// How many values there were.
    pub fn count() -> Self {
        Self::of(Plan::Count)
    }

    /// The exact sum of integers. Beyond what 64 bits hold, values and result are decimal digits in a text; beyond
    /// 128 bits there is no result.
    pub fn sum(of: impl Into<String>) -> Self {
        Self::of(Plan::Sum { of: of.into() })
    }

    /// The sum of numbers with fractions. Such sums depend on their order, which is not the same in two runs: the last
    /// digits may differ. Sum cents where it has to be exact.
    pub fn sum_of_floats(of: impl Into<String>) -> Self {
        Self::of(Plan::SumOfFloats { of: of.into() })
    }

    /// The least number, or the first text in the order of its bytes. All have to be of one kind.
    pub fn min(of: impl Into<String>) -> Self {
        Self::of(Plan::Min { of: of.into() })
    }

    /// The greatest number, or the last text in the order of its bytes. All have to be of one kind.
    pub fn max(of: impl Into<String>) -> Self {
        Self::of(Plan::Max { of: of.into() })
    }

    /// The `k` values with the greatest field, the greatest first; 1 to 100 of them. Among equals those come first whose
    /// JSON does, so that the choice is always the same one.
    pub fn top(k: u32, by: impl Into<String>) -> Self {
        Self::of(Plan::Top { k, by: by.into() })
    }

    /// The `k` values with the least field, the least first; otherwise like [`top`](Self::top).
    pub fn bottom(k: u32, by: impl Into<String>) -> Self {
        Self::of(Plan::Bottom { k, by: by.into() })
    }

    /// How many values were in each bucket: below the first bound, from each bound to below the next, and from the last
    /// one on. 1 to 100 bounds, which must grow.
    pub fn histogram(of: impl Into<String>, bounds: impl IntoIterator<Item = f64>) -> Self {
        Self::of(Plan::Histogram {
            of: of.into(),
            bounds: bounds.into_iter().collect(),
        })
    }

    /// A result for each key. As a result is bounded, this is for few keys, such as countries; with too many of them there is
    /// no result.
    pub fn by_key(key: impl Into<String>, each: Self) -> Self {
        Self::of(Plan::ByKey {
            key: key.into(),
            each: Box::new(each.plan),
        })
    }

    /// Several results at once, by name; 1 to 20 of them.
    pub fn record<N: Into<String>>(fields: impl IntoIterator<Item = (N, Self)>) -> Self {
        let fields = fields.into_iter();
        let fields: Vec<_> = fields
            .map(|(name, each)| (name.into(), each.plan))
            .collect();
        let given = fields.len();
        let fields: BTreeMap<_, _> = fields.into_iter().collect();
        Self::of(match fields.len() == given {
            true => Plan::Record(fields),
            // Two of one name: refused like a record without any.
            false => Plan::Record(BTreeMap::new()),
        })
    }

    /// What your own code makes of the values. It stands alone, not in a `record` or `by_key`.
    pub fn custom<R: Reduce>() -> Self {
        Self {
            plan: Plan::Custom,
            combine: Some(combine_as::<R>),
        }
    }

    /// Checks everything.
    ///
    /// # Errors
    /// What cannot work, and what is allowed. A batch of a processor with such a reducer is refused.
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
    /// The reducer that a running batch began with, for the worker of a processor that now says `now`.
    pub(crate) fn stored(plan: &Plan, now: Option<Self>) -> Result<Self, PageError> {
        if *plan != Plan::Custom {
            return Ok(Self::of(plan.clone()));
        }
        now.filter(|now| now.plan == Plan::Custom).ok_or_else(|| {
            PageError::retryable(
                "the batch began with a reducer of its processor's own, which the code of this worker does not have",
            )
            .with_type("ReducerChanged")
        })
    }

    /// What one page has put out. `null` where that is nothing.
    pub(crate) fn page(&self, values: &[Value]) -> Result<Value, ReduceError> {
        let mut page = Value::Null;
        for value in values {
            page = self.combine(page, self.plan.lift(value)?)?;
        }
        fits(page)
    }

    /// Adds a page to what its stride has put out.
    pub(crate) fn add(&self, output: &mut Output, page: Value) {
        output.change(|parts| {
            let folded = parts.drain(..).try_fold(page, |a, b| self.combine(b, a));
            folded.and_then(fits)
        });
    }

    /// One partial result of several.
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

/// Refuses what is too large to be kept.
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
        what: format!("what the reducer made does not serialize to JSON: {e}"),
    })
}
