//! The signs of life of activities.

use std::time::Duration;

use temporalio_common::data_converters::TemporalSerializable;
use temporalio_sdk::activities::ActivityContext;
use tokio::{
    task::JoinHandle,
    time::{Instant, interval_at},
};

use crate::{base::error::text::words, processor::settings::HEARTBEAT_TIMEOUT};

/// Number of signs of life per heartbeat timeout.
pub(crate) const HEARTBEATS_PER_TIMEOUT: u32 = 5;

/// Maximum time before the first sign of life. It is delayed, because a short activity is over before it would
/// be of use, and each is a billed call.
const FIRST: Duration = Duration::from_secs(1);

/// Sends signs of life until it is dropped.
pub struct Heartbeats(JoinHandle<()>);

impl Heartbeats {
    /// Sends signs of life without details.
    pub fn of(ctx: &ActivityContext) -> Self {
        Self::with(ctx, || ())
    }

    /// Sends signs of life whose details the next attempt reads. Each sign asks for the details of its moment.
    pub fn with<T: TemporalSerializable + Send + Sync + 'static>(
        ctx: &ActivityContext,
        mut details: impl FnMut() -> T + Send + 'static,
    ) -> Self {
        let ctx = ctx.clone();
        let interval = timeout_of(&ctx) / HEARTBEATS_PER_TIMEOUT;
        Self(tokio::spawn(async move {
            let mut tick = interval_at(Instant::now() + interval.min(FIRST), interval);
            loop {
                tick.tick().await;
                record(&ctx, details()).await;
            }
        }))
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The time without a sign of life after which Temporal gives the activity to another worker.
pub(super) fn timeout_of(ctx: &ActivityContext) -> Duration {
    ctx.info().heartbeat_timeout.unwrap_or(HEARTBEAT_TIMEOUT)
}

/// Sends one sign of life.
pub(super) async fn record<T: TemporalSerializable + 'static>(ctx: &ActivityContext, details: T) {
    if let Err(error) = ctx.record_heartbeat(details).await {
        tracing::warn!(error = words(&error), "heartbeat not sent");
    }
}
