//! The initial settings of a batch's pace.

pub(crate) mod page_size;
pub(crate) mod parallelism;
pub(crate) mod ramp;
pub(crate) mod stride;
pub(crate) mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::{
    pace_settings::{
        page_size::AutoPageSize, parallelism::AutoParallelism, ramp::Ramp, stride::AutoStride,
        window::Window,
    },
    validate::{InvalidBatch, validate_page_pause, validate_page_rate},
};

/// Maximum number of throttles, and of windows, of one batch.
const MAX_LISTED: usize = 20;

/// The pace settings of a [`Batch`](crate::Batch) other than page size, parallelism and rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PaceSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_pause: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_page_size: Option<AutoPageSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_parallelism: Option<AutoParallelism>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_stride: Option<AutoStride>,
}

impl PaceSpec {
    pub fn validate(&self) -> Result<(), InvalidBatch> {
        validate_page_rate(self.page_rate)?;
        validate_page_pause(self.page_pause)?;
        if let Some(auto) = &self.auto_page_size {
            auto.validate()?;
        }
        if let Some(auto) = &self.auto_parallelism {
            auto.validate()?;
        }
        if let Some(auto) = &self.auto_stride {
            auto.validate()?;
        }
        if let Some(ramp) = &self.ramp {
            ramp.validate()?;
        }
        at_most("throttles", self.throttles.len())?;
        validate_windows(&self.windows)
    }
}

/// Checks the number of windows. Their time zones were checked when they were parsed; a check here could fail
/// because this process has older time zone data than the workers.
pub(crate) fn validate_windows(windows: &[Window]) -> Result<(), InvalidBatch> {
    at_most("windows", windows.len())
}

fn at_most(what: &'static str, given: usize) -> Result<(), InvalidBatch> {
    if given > MAX_LISTED {
        return Err(InvalidBatch::TooMany {
            what,
            given,
            max: MAX_LISTED,
        });
    }
    Ok(())
}
