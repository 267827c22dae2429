//! The pace of a batch: ramps, operating windows, tuning, and the measured throughput.
//!
//! Pure: time comes in as an argument, and the same calls always give the same answers.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod advice;
mod credit;
mod openings;
mod pace;
mod page_size;
mod parallelism;
mod ramp;
mod running_time;
mod stride_length;
mod throughput;

pub(crate) use advice::{Terms, advice, fitting_page};
pub(crate) use credit::{Credit, Earned, RateUse};
pub(crate) use openings::Openings;
pub(crate) use pace::{PaceNow, Pacing};
pub(crate) use page_size::{PageSample, PageSizer};
pub(crate) use parallelism::{PaceSample, ParallelismTuner};
pub(crate) use ramp::RampState;
pub(crate) use stride_length::{Length, LengthBy, StrideLength, StrideSample, Uncut};
pub(crate) use throughput::Throughput;
