//! The throttle that holds a batch while its API asks to wait.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::gate::Gate;
use crate::{
    base::text::exactly,
    processor::throttle::{Throttle, Verdict},
};

/// A shorter wait is kept by the calls themselves, without holding the batch.
const WORTH_HOLDING: Duration = Duration::from_secs(2);

/// Holds a batch while an API asks to wait for 2 s or longer. Created by [`ApiClient::throttle`](super::ApiClient::throttle).
///
/// The calls of a process keep every wait by themselves. With the throttle the whole batch keeps it too: no page of any
/// worker starts, and `status` shows the reason. Register it with each worker, and name it in the batch:
///
/// ```
/// # fn main() -> Result<(), temporal_batch::http::InvalidApi> {
/// use temporal_batch::http::ApiClient;
///
/// let api = ApiClient::new("crm")?;
/// let throttle = api.throttle();
/// // Worker::new(&client, "crm").processor(Enrich { api }).throttle(throttle)
/// // Batch::of::<Enrich>("enrich", args).throttle("crm")
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ApiThrottle {
    pub(super) name: String,
    pub(super) gate: Arc<Gate>,
}

#[async_trait]
impl Throttle for ApiThrottle {
    fn name(&self) -> &str {
        &self.name
    }

    async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
        let held = self.gate.held();
        if held < WORTH_HOLDING {
            return Ok(Verdict::Go);
        }
        let rest = exactly(Duration::from_secs(held.as_secs()));
        Ok(Verdict::Hold {
            reason: format!("API {} asks to wait for {rest} more", self.name),
        })
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(500)
    }
}
