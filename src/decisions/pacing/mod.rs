//! How fast a batch goes: planned increase, operating windows, tuning, and how fast it has been.
//!
//! Pure: time comes in as an argument, and the same calls always give the same answers.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod advice;
mod credit;
mod pacing;
mod page_size;
mod parallelism;
mod ramp;
mod running_time;
mod spec;
mod stride_length;
mod throughput;
mod window;

pub(crate) use advice::{Terms, advice, fitting_page};
pub(crate) use credit::{Credit, Earned, Standing};
pub(crate) use pacing::{PaceNow, Pacing};
pub(crate) use page_size::{PageSample, PageSizer};
pub(crate) use parallelism::{PaceSample, ParallelismTuner};
pub(crate) use ramp::RampState;
pub(crate) use spec::{PaceSpec, validate_windows};
pub(crate) use stride_length::{Length, LengthBy, StrideLength, StrideSample, Uncut};
pub(crate) use throughput::Throughput;
pub(crate) use window::{Openings, openings};

pub use page_size::{AutoPageSize, InvalidAutoPageSize};
pub use parallelism::{AutoParallelism, InvalidAutoParallelism};
pub use ramp::{InvalidRamp, Ramp};
pub use stride_length::{AutoStride, InvalidAutoStride, Stride};
pub use window::{InvalidWindow, Opening, Window};
