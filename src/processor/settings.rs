//! Settings of a processor.

use std::time::Duration;

use crate::{
    base::text::exactly,
    batch::retry::{RetryMode, RetryPolicy, RetryPolicyError},
    processor::item::{InvalidItemRetry, ItemRetry, Permits},
};

/// The time without a sign of life after which a worker counts as lost. It holds for all other activities, and is
/// the default for pages. With less time, a worker that is busy or reconnects would count as lost. With more, the
/// work of a lost worker would wait longer than necessary.
pub(crate) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

/// The retries and timeouts of a processor's pages.
///
/// | field | default |
/// |---|---|
/// | `retry_mode` | [`RetryMode::AtLeastOnce`] |
/// | `retry` | [`RetryPolicy::default`]: 10 attempts, then every 5 min |
/// | `page_timeout` | 5 min |
/// | `heartbeat_timeout` | 15 s |
/// | `non_retryable_types` | none |
/// | `permits` | [`Permits::PerPage`] |
/// | `item_retry` | [`ItemRetry::default`]: an item is tried once |
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessorSettings {
    /// The guarantee: whether a page may run more than once.
    pub retry_mode: RetryMode,
    /// The number of attempts and the waits between them.
    pub retry: RetryPolicy,
    /// The time limit of `fetch` and `process` of one page together. Waits for the rate do not count, but waits
    /// between two attempts at an item do. Code that blocks its thread cannot be stopped at the limit: the page
    /// fails, and its code continues beside the next attempt. Run such code on `tokio::task::spawn_blocking`.
    pub page_timeout: Duration,
    /// The time without a sign of life after which a worker counts as lost and its pages go to another worker.
    /// The engine sends signs of life by itself, five times as often.
    pub heartbeat_timeout: Duration,
    /// The [types](crate::PageError::error_type) of errors that no retry can cure.
    pub non_retryable_types: Vec<String>,
    /// The granularity at which the batch's rate is enforced: pages or items.
    pub permits: Permits,
    /// The attempts of [`PageContext::try_item`](crate::PageContext::try_item) at an item.
    pub item_retry: ItemRetry,
}

impl Default for ProcessorSettings {
    fn default() -> Self {
        Self {
            retry_mode: RetryMode::default(),
            retry: RetryPolicy::default(),
            page_timeout: Duration::from_secs(300),
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            non_retryable_types: Vec::new(),
            permits: Permits::default(),
            item_retry: ItemRetry::default(),
        }
    }
}

/// Settings that are not allowed, detected when the processor is registered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// The page retries are not allowed.
    #[error(transparent)]
    Retry(#[from] RetryPolicyError),
    /// The item retries are not allowed.
    #[error(transparent)]
    ItemRetry(#[from] InvalidItemRetry),
    /// The page timeout is too short.
    #[error("page_timeout is {}; it must be at least 1ms", exactly(*given))]
    PageTimeout {
        /// The timeout that was given.
        given: Duration,
    },
    /// The heartbeat timeout is so short that a busy worker would count as lost.
    #[error("heartbeat_timeout is {}; it must be at least 1s", exactly(*given))]
    HeartbeatTimeout {
        /// The timeout that was given.
        given: Duration,
    },
}

impl ProcessorSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is wrong, with the allowed values.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        self.retry.validate(self.retry_mode)?;
        self.item_retry.validate(self.retry_mode)?;
        if self.page_timeout < Duration::from_millis(1) {
            return Err(InvalidSettings::PageTimeout {
                given: self.page_timeout,
            });
        }
        if self.heartbeat_timeout < Duration::from_secs(1) {
            return Err(InvalidSettings::HeartbeatTimeout {
                given: self.heartbeat_timeout,
            });
        }
        Ok(())
    }
}
