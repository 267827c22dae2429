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

pub(crate) use self::{
    advice::{Terms, advice, fitting_page},
    credit::{Credit, Earned, Standing},
    pacing::{PaceNow, Pacing},
    page_size::{PageSample, PageSizer},
    parallelism::{PaceSample, ParallelismTuner},
    ramp::RampState,
    spec::{PaceSpec, validate_windows},
    stride_length::{Length, LengthBy, StrideLength, StrideSample, Uncut},
    throughput::Throughput,
    window::{Openings, openings},
};

pub use self::{
    page_size::{AutoPageSize, InvalidAutoPageSize},
    parallelism::{AutoParallelism, InvalidAutoParallelism},
    ramp::{InvalidRamp, Ramp},
    stride_length::{AutoStride, InvalidAutoStride, Stride},
    window::{InvalidWindow, Opening, Window},
};
