//! A simulated API that is unavailable now and then.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use temporal_batch::PageError;

/// The number of calls for each order.
#[derive(Default)]
pub struct Api {
    calls: Mutex<HashMap<u32, u32>>,
}

impl Api {
    /// Sends an invoice, which takes 20 ms. Each hundredth order succeeds only at the second attempt, and two of the
    /// first 2,000 never do.
    pub async fn invoice(&self, order: u32) -> Result<(), PageError> {
        let times = {
            let mut calls = self.calls.lock().expect("no call panics");
            let times = calls.entry(order).or_default();
            *times += 1;
            *times
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        match order {
            _ if order.is_multiple_of(777) => Err(PageError::non_retryable(
                "NoSuchCustomer",
                "422: the customer has moved away",
            )),
            _ if order.is_multiple_of(100) && times == 1 => {
                Err(PageError::retryable("503: try again later").with_type("Unavailable"))
            }
            _ => Ok(()),
        }
    }

    /// The number of all calls, and of the orders that were called for.
    #[cfg(test)]
    pub fn calls(&self) -> (u32, usize) {
        let calls = self.calls.lock().unwrap();
        (calls.values().sum(), calls.len())
    }
}
