//! The polling and caching settings of a worker.

use temporalio_sdk::runtime::PollerBehavior;

use super::WorkerError;

pub(crate) const WORKFLOW_POLLERS: Setting = Setting::new("workflow pollers", 2, 100);
pub(crate) const STRIDE_POLLERS: Setting = Setting::new("stride pollers", 1, 100);
pub(crate) const EAGER_STRIDES: Setting = Setting::new("eager strides", 0, 100);
pub(crate) const CACHED_BATCHES: Setting = Setting::new("cached batches", 1, 10_000);

/// The SDK's default.
const DEFAULT_CACHED_BATCHES: u32 = 1_000;

/// The settings that were given. `None` is the default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tuning {
    pub workflow_pollers: Option<u32>,
    pub stride_pollers: Option<u32>,
    pub eager_strides: Option<u32>,
    pub cached_batches: Option<u32>,
}

impl Tuning {
    pub fn check(self) -> Result<(), WorkerError> {
        WORKFLOW_POLLERS.check(self.workflow_pollers)?;
        STRIDE_POLLERS.check(self.stride_pollers)?;
        EAGER_STRIDES.check(self.eager_strides)?;
        CACHED_BATCHES.check(self.cached_batches)
    }

    pub fn workflow_polling(self) -> Option<PollerBehavior> {
        self.workflow_pollers.map(at_most)
    }

    pub fn stride_polling(self) -> Option<PollerBehavior> {
        self.stride_pollers.map(at_most)
    }

    pub fn eager(self) -> Option<usize> {
        self.eager_strides.map(|strides| strides as usize)
    }

    pub fn cached(self) -> usize {
        self.cached_batches.unwrap_or(DEFAULT_CACHED_BATCHES) as usize
    }
}

fn at_most(pollers: u32) -> PollerBehavior {
    PollerBehavior::SimpleMaximum(pollers as usize)
}

/// A number with a name and bounds.
pub(crate) struct Setting {
    name: &'static str,
    lowest: u32,
    highest: u32,
}

impl Setting {
    const fn new(name: &'static str, lowest: u32, highest: u32) -> Self {
        Self {
            name,
            lowest,
            highest,
        }
    }

    /// The bounds, for the command line.
    #[cfg(feature = "cli")]
    pub(crate) fn range(&self) -> std::ops::RangeInclusive<i64> {
        i64::from(self.lowest)..=i64::from(self.highest)
    }

    fn check(&self, given: Option<u32>) -> Result<(), WorkerError> {
        match given {
            Some(given) if given < self.lowest || given > self.highest => {
                Err(WorkerError::Tuning {
                    setting: self.name,
                    given,
                    lowest: self.lowest,
                    highest: self.highest,
                })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused_with_what_is_allowed() {
        let message = |tuning: Tuning| tuning.check().unwrap_err().to_string();
        assert_eq!(
            message(Tuning {
                workflow_pollers: Some(1),
                ..Tuning::default()
            }),
            "workflow pollers is 1; it must be from 2 to 100"
        );
        assert_eq!(
            message(Tuning {
                stride_pollers: Some(0),
                ..Tuning::default()
            }),
            "stride pollers is 0; it must be from 1 to 100"
        );
        assert_eq!(
            message(Tuning {
                eager_strides: Some(101),
                ..Tuning::default()
            }),
            "eager strides is 101; it must be from 0 to 100"
        );
        assert_eq!(
            message(Tuning {
                cached_batches: Some(0),
                ..Tuning::default()
            }),
            "cached batches is 0; it must be from 1 to 10000"
        );
    }

    #[test]
    fn both_ends_of_each_range_are_allowed() {
        for setting in [
            &WORKFLOW_POLLERS,
            &STRIDE_POLLERS,
            &EAGER_STRIDES,
            &CACHED_BATCHES,
        ] {
            setting.check(None).unwrap();
            setting.check(Some(setting.lowest)).unwrap();
            setting.check(Some(setting.highest)).unwrap();
        }
    }
}
