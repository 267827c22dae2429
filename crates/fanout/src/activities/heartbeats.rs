//! Signs of life of activities.

use std::time::Duration;

use temporal_batch::of_crates::words;
use temporalio_sdk::activities::ActivityContext;
use tokio::{
    task::JoinHandle,
    time::{Instant, interval_at},
};

/// Sends signs of life until it is dropped.
pub(super) struct Heartbeats(JoinHandle<()>);

impl Heartbeats {
    pub fn of(ctx: &ActivityContext) -> Self {
        const PER_TIMEOUT: u32 = 5;
        const WITHOUT_TIMEOUT: Duration = Duration::from_secs(15);
        // A short activity is over before a sign of life would be of use, and each is a billed call.
        const FIRST: Duration = Duration::from_secs(1);
        let ctx = ctx.clone();
        let timeout = ctx.info().heartbeat_timeout.unwrap_or(WITHOUT_TIMEOUT);
        let interval = timeout / PER_TIMEOUT;
        Self(tokio::spawn(async move {
            let mut tick = interval_at(Instant::now() + interval.min(FIRST), interval);
            loop {
                tick.tick().await;
                if let Err(error) = ctx.record_heartbeat(()).await {
                    tracing::warn!(error = words(&error), "sign of life not sent");
                }
            }
        }))
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.0.abort();
    }
}
