//! Settings of a processor.

use std::time::Duration;

use crate::{
    base::text::exactly,
    batch::retry::{RetryMode, RetryPolicy, RetryPolicyError},
    processor::item::{InvalidItemRetry, ItemRetry, Permits},
};

/// How the pages of a processor are retried and timed out.
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
    /// Whether a page may run more than once.
    pub retry_mode: RetryMode,
    /// How often, and after which waits.
    pub retry: RetryPolicy,
    /// Longest time for `fetch` and `process` of one page together, waits for the rate not included, those between two
    /// attempts at an item included. Code that blocks
    /// its thread cannot be dropped when it is over: the page has failed then, and its code goes on beside the next
    /// attempt. Put such code on `tokio::task::spawn_blocking`.
    pub page_timeout: Duration,
    /// After this long without a sign of life a worker counts as lost and its pages go to another. The
    /// engine sends signs of life by itself, five times as often.
    pub heartbeat_timeout: Duration,
    /// [Types](PageError::error_type) of errors that no retry will cure.
    pub non_retryable_types: Vec<String>,
    /// Whether the rate of a batch is kept page by page or item by item.
    pub permits: Permits,
    /// How often an item is tried by [`PageContext::try_item`].
    pub item_retry: ItemRetry,
}

impl Default for ProcessorSettings {
    fn default() -> Self {
        Self {
            retry_mode: RetryMode::default(),
            retry: RetryPolicy::default(),
            page_timeout: Duration::from_secs(300),
            heartbeat_timeout: Duration::from_secs(15),
            non_retryable_types: Vec::new(),
            permits: Permits::default(),
            item_retry: ItemRetry::default(),
        }
    }
}

/// Settings that cannot work; found when the processor is registered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// See the cause.
    #[error(transparent)]
    Retry(#[from] RetryPolicyError),
    /// See the cause.
    #[error(transparent)]
    ItemRetry(#[from] InvalidItemRetry),
    /// A page needs time.
    #[error("page_timeout is {}; it must be at least 1ms", exactly(*given))]
    PageTimeout {
        /// The timeout that was given.
        given: Duration,
    },
    /// Too short a timeout takes a busy worker for a lost one.
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
    /// The first field that cannot work, and what is allowed.
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
