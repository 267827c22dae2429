//! The settings that can be changed while a batch runs.

use std::time::Duration;

use crate::{
    batch::{
        pace_settings::{
            page_size::AutoPageSize, parallelism::AutoParallelism, ramp::Ramp, stride::Stride,
            window::Window,
        },
        validate::InvalidBatch,
    },
    protocol::steering::{PageSizeSetting, SetRequest, Setting},
};

/// The changes of [`BatchHandle::set`](crate::BatchHandle::set). Settings that are not named stay as they are.
///
/// ```
/// # use std::time::Duration;
/// # use temporal_batch::settings::Settings;
/// let night = Settings::new().max_parallelism(40).rate(None).page_pause(Duration::from_millis(20));
/// assert!(night.validate().is_ok());
/// ```
///
/// | setting | allowed |
/// |---|---|
/// | `max_parallelism` | 0 (starts no further pages) to 500 |
/// | `rate` | more than 0 items per second, or `None` for no limit |
/// | `page_rate` | more than 0 pages per second, or `None` for no limit |
/// | `page_pause` | 1 ms to 1 h, or `None` for no pause |
/// | `page_size`, `auto_page_size` | 1 to 1,000,000 items; see [`AutoPageSize`] |
/// | `stride`, `auto_stride` | 1 to 10,000 pages; see [`AutoStride`](crate::settings::AutoStride) |
/// | `auto_parallelism`, `ramp` | see [`AutoParallelism`], [`Ramp`] |
/// | `windows` | up to 20, see [`Window`] |
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    request: SetRequest,
}

/// # Construct
impl Settings {
    /// An empty set of changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the pages in flight, over all workers.
    #[must_use]
    pub fn max_parallelism(mut self, pages: u32) -> Self {
        self.request.max_parallelism = Some(pages);
        self
    }

    /// Limits the items per second, over all workers.
    #[must_use]
    pub fn rate(mut self, items_per_second: impl Into<Option<f64>>) -> Self {
        self.request.rate = Some(items_per_second.into().into());
        self
    }

    /// Limits the pages per second, over all workers.
    #[must_use]
    pub fn page_rate(mut self, pages_per_second: impl Into<Option<f64>>) -> Self {
        self.request.page_rate = Some(pages_per_second.into().into());
        self
    }

    /// Sets the pause before each page of a stride.
    #[must_use]
    pub fn page_pause(mut self, pause: impl Into<Option<Duration>>) -> Self {
        self.request.page_pause = Some(pause.into().into());
        self
    }

    /// Sets the number of items in a page. Pages whose start is already known keep their bounds, so they may be
    /// divided but never become larger.
    #[must_use]
    pub fn page_size(mut self, items: u32) -> Self {
        self.request.page_size = Some(PageSizeSetting::Fixed(items));
        self
    }

    /// Tunes the page size from now on.
    #[must_use]
    pub fn auto_page_size(mut self, auto: AutoPageSize) -> Self {
        self.request.page_size = Some(PageSizeSetting::Auto(auto));
        self
    }

    /// Sets the number of pages in a stride, or tunes it from now on. Strides that are already known keep their
    /// length.
    #[must_use]
    pub fn stride(mut self, stride: impl Into<Stride>) -> Self {
        self.request.stride = Some(stride.into());
        self
    }

    /// Tunes the parallelism from now on, beginning at the lower bound.
    #[must_use]
    pub fn auto_parallelism(mut self, auto: AutoParallelism) -> Self {
        self.request.auto_parallelism = Some(auto);
        self
    }

    /// Starts a ramp, whose end becomes the parallelism.
    #[must_use]
    pub fn ramp(mut self, ramp: Ramp) -> Self {
        self.request.ramp = Some(ramp);
        self
    }

    /// Replaces the operating windows. An empty list means always open.
    #[must_use]
    pub fn windows(mut self, windows: impl IntoIterator<Item = Window>) -> Self {
        self.request.windows = Some(windows.into_iter().collect());
        self
    }
}

/// # Inspect
impl Settings {
    /// Returns whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.request == SetRequest::default()
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is not allowed, with the allowed values.
    pub fn validate(&self) -> Result<(), InvalidBatch> {
        self.request.validate()
    }

    pub(crate) fn into_request(self) -> SetRequest {
        self.request
    }
}

impl<T> From<Option<T>> for Setting<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Off, Self::To)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pace_settings::stride::AutoStride;

    #[test]
    fn bad_settings_are_refused_with_what_is_allowed() {
        let message = |settings: Settings| settings.validate().unwrap_err().to_string();
        let new = Settings::new;
        assert!(message(new().max_parallelism(501)).contains("from 0 to 500"));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(message(new().rate(bad)).contains("items per second; it must be more than 0"));
            let pages = message(new().page_rate(bad));
            assert!(
                pages.contains("pages per second; it must be more than 0"),
                "{pages}"
            );
        }
        assert!(message(new().stride(0)).contains("stride is 0; it must be from 1 to 10000"));
        let auto = AutoStride::of(Duration::from_secs(601));
        assert!(message(new().stride(auto)).contains("from 100ms to 10m"));
        for bad in [Duration::ZERO, Duration::from_secs(3_601)] {
            assert!(message(new().page_pause(bad)).contains("from 1ms to 1h"));
        }
    }

    #[test]
    fn taking_a_limit_away_is_a_change() {
        assert!(Settings::new().is_empty());
        for settings in [
            Settings::new().max_parallelism(0),
            Settings::new().rate(None),
            Settings::new().page_rate(None),
            Settings::new().page_pause(None),
        ] {
            assert!(!settings.is_empty());
            assert_eq!(settings.validate(), Ok(()));
        }
        let both = Settings::new().rate(5.0).rate(None).into_request();
        assert_eq!(both.rate, Some(Setting::Off), "the last one counts");
    }
}
