//! Checks of a batch's settings, and the error that names the allowed values.

use std::time::Duration;

use crate::{
    base::text::{exactly, given},
    batch::{
        MAX_ID_CHARS, MAX_PAGE_SIZE, MAX_PARALLELISM, MAX_STRIDE, PAGE_PAUSES, SHORTEST_DEADLINE,
        WEIGHTS,
        lock_name::InvalidLockName,
        pace_settings::{
            page_size::InvalidAutoPageSize, parallelism::InvalidAutoParallelism, ramp::InvalidRamp,
            stride::InvalidAutoStride,
        },
        spec::{BatchSpec, MAX_ARGS_BYTES},
        stage::InvalidStages,
        tolerance::Tolerance,
    },
};

/// Rejects settings that batches with partitions do not support.
pub(crate) fn validate_partitioned(spec: &BatchSpec) -> Result<(), InvalidBatch> {
    let consecutive = spec.tolerance.as_ref();
    let consecutive = consecutive.is_some_and(Tolerance::counts_consecutive);
    let cannot = [
        (!spec.stages.is_empty(), "stages"),
        (spec.first_cursor.is_some(), "a first cursor"),
        (spec.pace.auto_parallelism.is_some(), "auto_parallelism"),
        (spec.redrive_of.is_some(), "a redrive"),
        (consecutive, "tolerated consecutive failures"),
    ];
    match cannot.into_iter().find(|(is_set, _)| *is_set) {
        Some((_, what)) => Err(InvalidBatch::Partitioned { what }),
        None => Ok(()),
    }
}

pub(crate) fn validate_max_parallelism(given: u32) -> Result<(), InvalidBatch> {
    within("max parallelism", given, 0, MAX_PARALLELISM)
}

pub(crate) fn validate_stride(given: u32) -> Result<(), InvalidBatch> {
    within("stride", given, 1, MAX_STRIDE)
}

pub(crate) fn validate_page_size(given: u32) -> Result<(), InvalidBatch> {
    within("page size", given, 1, MAX_PAGE_SIZE)
}

pub(crate) fn validate_deadline(given: Option<Duration>) -> Result<(), InvalidBatch> {
    let longest = Duration::from_secs(366 * 86_400);
    lasts("deadline", given, SHORTEST_DEADLINE, longest)
}

pub(crate) fn validate_rate(given: Option<f64>) -> Result<(), InvalidBatch> {
    match given {
        Some(given) if !is_rate(given) => Err(InvalidBatch::Rate { given }),
        _ => Ok(()),
    }
}

pub(crate) fn validate_page_rate(given: Option<f64>) -> Result<(), InvalidBatch> {
    match given {
        Some(given) if !is_rate(given) => Err(InvalidBatch::PageRate { given }),
        _ => Ok(()),
    }
}

pub(crate) fn is_rate(given: f64) -> bool {
    given.is_finite() && given > 0.0
}

pub(crate) fn validate_page_pause(given: Option<Duration>) -> Result<(), InvalidBatch> {
    lasts("page pause", given, PAGE_PAUSES.0, PAGE_PAUSES.1)
}

pub(crate) fn lasts(
    what: &'static str,
    given: Option<Duration>,
    min: Duration,
    max: Duration,
) -> Result<(), InvalidBatch> {
    match given {
        Some(given) if !(min..=max).contains(&given) => Err(InvalidBatch::Lasts {
            what,
            given,
            min,
            max,
        }),
        _ => Ok(()),
    }
}

pub(crate) fn validate_id(id: &str) -> Result<(), InvalidBatch> {
    let printable = id.chars().all(|c| !c.is_whitespace() && !c.is_control());
    if id.is_empty() || id.chars().count() > MAX_ID_CHARS || !printable {
        return Err(InvalidBatch::Id {
            given: given(id, 60),
        });
    }
    Ok(())
}

pub(crate) fn within(
    what: &'static str,
    given: u32,
    min: u32,
    max: u32,
) -> Result<(), InvalidBatch> {
    if (min..=max).contains(&given) {
        Ok(())
    } else {
        Err(InvalidBatch::OutOfRange {
            what,
            given,
            min,
            max,
        })
    }
}

/// A setting of a batch that is not allowed. The batch was not started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBatch {
    /// The batch id is not a valid workflow id.
    #[error(
        "batch id \"{given}\" is not allowed; use 1 to {MAX_ID_CHARS} characters without white space"
    )]
    Id {
        /// The id, shortened.
        given: String,
    },
    /// The processor is not named.
    #[error("no processor is named")]
    NoProcessor,
    /// The task queue is empty.
    #[error("the task queue is empty")]
    NoTaskQueue,
    /// A whole number is out of range.
    #[error("{what} is {given}; it must be from {min} to {max}")]
    OutOfRange {
        /// The setting.
        what: &'static str,
        /// The value that was given.
        given: u32,
        /// Lowest allowed value.
        min: u32,
        /// Highest allowed value.
        max: u32,
    },
    /// The name of the lock is not allowed.
    #[error(transparent)]
    Lock(#[from] InvalidLockName),
    /// The stages cannot follow each other.
    #[error(transparent)]
    Stages(#[from] InvalidStages),
    /// The batch is to hold for approval, but has no stages.
    #[error("stages are to be approved, but there are none")]
    NoStages,
    /// The batch is to wait for a lock, but has none.
    #[error("the batch is to wait for its lock, but no lock is named")]
    NoLock,
    /// The weight is out of range.
    #[error("weight is {given}; it must be from {} to {}", WEIGHTS.start(), WEIGHTS.end())]
    Weight {
        /// The weight that was given.
        given: f32,
    },
    /// A setting does not support partitions.
    #[error("{what} cannot be used with partitions; leave it out")]
    Partitioned {
        /// The setting.
        what: &'static str,
    },
    /// The rate is not a positive number.
    #[error("rate is {given} items per second; it must be more than 0 (leave it out for no limit)")]
    Rate {
        /// The rate that was given.
        given: f64,
    },
    /// The rate of pages is not a positive number.
    #[error(
        "page rate is {given} pages per second; it must be more than 0 (leave it out for no limit)"
    )]
    PageRate {
        /// The rate that was given.
        given: f64,
    },
    /// A duration is out of range.
    #[error("{what} is {}; it must be from {} to {}", exactly(*given), exactly(*min), exactly(*max))]
    Lasts {
        /// The setting.
        what: &'static str,
        /// The value that was given.
        given: Duration,
        /// Shortest allowed value.
        min: Duration,
        /// Longest allowed value.
        max: Duration,
    },
    /// The tolerated percentage is out of range.
    #[error("the tolerated share is {given} %; it must be from 0 to 100")]
    TolerancePercent {
        /// The percentage that was given.
        given: f64,
    },
    /// The limit on consecutive failures is zero.
    #[error(
        "tolerated consecutive failures are 0; it must be at least 1 (leave it out for no limit)"
    )]
    ToleranceConsecutive,
    /// A list is too long.
    #[error("{given} {what} are named; at most {max} are allowed")]
    TooMany {
        /// The kind of entries.
        what: &'static str,
        /// The number of entries that were given.
        given: usize,
        /// The number of entries that are allowed.
        max: usize,
    },
    /// The ramp is not allowed.
    #[error(transparent)]
    Ramp(#[from] InvalidRamp),
    /// The automatic page size is not allowed.
    #[error(transparent)]
    AutoPageSize(#[from] InvalidAutoPageSize),
    /// The automatic stride is not allowed.
    #[error(transparent)]
    AutoStride(#[from] InvalidAutoStride),
    /// The automatic parallelism is not allowed.
    #[error(transparent)]
    AutoParallelism(#[from] InvalidAutoParallelism),
    /// The setting does not exist.
    #[error(
        "there is no setting `{name}`{}",
        meant.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
    )]
    UnknownSetting {
        /// The name that was given.
        name: String,
        /// The setting with the most similar name.
        meant: Option<&'static str>,
    },
    /// The arguments do not serialize to JSON.
    #[error("the arguments do not serialize to JSON: {message}")]
    Args {
        /// The serializer's message.
        message: String,
    },
    /// The arguments are too large to be stored with the batch.
    #[error(
        "the arguments are {bytes} bytes of JSON; at most {MAX_ARGS_BYTES} are allowed (pass a reference to large data instead)"
    )]
    ArgsTooLarge {
        /// The size in bytes.
        bytes: usize,
    },
    /// The processor could not prepare the batch. Before the start, only [`testing`](crate::testing) detects
    /// this.
    #[error("the batch cannot be prepared: {message}")]
    Prepare {
        /// The processor's message.
        message: String,
    },
    /// The first cursor is not usable.
    #[error("the first cursor is not usable: {message}")]
    FirstCursor {
        /// The reason.
        message: String,
    },
}
