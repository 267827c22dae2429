//! Invoices every order with an API, and tests the number of calls in each second.

use std::time::Duration;

use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, Permits, ProcessorSettings,
    async_trait, settings::ItemRetry,
};

use super::api::Api;

pub const ORDERS: u32 = 2_000;

/// A processor that calls the API for the orders from 1 to [`ORDERS`].
pub struct CallApi {
    pub api: Api,
}

impl CallApi {
    pub fn new() -> Self {
        let api = Api::default();
        Self { api }
    }
}

#[async_trait]
impl PageProcessor for CallApi {
    const NAME: &'static str = "call-api";
    type Args = ();
    type Cursor = u32;
    type Item = u32;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
        let first = ctx.range().start().copied().unwrap_or(0) + 1;
        let last = ctx.range().end().copied().unwrap_or(ORDERS);
        Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        orders: Vec<u32>,
    ) -> Result<PageReport, PageError> {
        let mut report = PageReport::all_processed();
        for (position, order) in orders.into_iter().enumerate() {
            // Waits for a permit under the rate of the batch, calls, and tries again if the API is unavailable.
            if let Err(error) = ctx.try_item(|| self.api.invoice(order)).await? {
                report.fail(position, error.error_type(), error.message());
            }
        }
        Ok(report)
    }

    async fn size_hint(&self, _: &()) -> Result<Option<u64>, PageError> {
        Ok(Some(u64::from(ORDERS)))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            permits: Permits::PerItem,
            item_retry: ItemRetry::attempts(4).first_backoff(Duration::from_millis(100)),
            ..ProcessorSettings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use temporal_batch::{Batch, Outcome, testing::Simulator};

    use super::*;

    #[tokio::test]
    async fn only_the_order_that_failed_is_called_again() {
        let processor = CallApi::new();
        let batch = Batch::of::<CallApi>("test", ()).page_size(50);
        let run = Simulator::new().run(&processor, &batch).await.unwrap();
        assert_eq!(run.outcome, Outcome::CompletedWithFailures);
        assert_eq!((run.items.processed, run.items.failed), (1_998, 2));
        assert_eq!(run.retries, 0);
        assert_eq!(processor.api.calls(), (2_020, 2_000));
    }
}
