//! The page of the engine that a pipeline runs in.

use async_trait::async_trait;
use serde_json::Value;
use temporal_batch::{PageContext, PageError, PageProcessor, settings::ItemRetry};

use crate::run::{Attempts, Host};

pub(crate) struct PageHost<'a, P: PageProcessor>(pub &'a PageContext<P>);

#[async_trait]
impl<P: PageProcessor> Host for PageHost<'_, P> {
    async fn attempts<'w>(
        &self,
        retry: ItemRetry,
        work: Attempts<'w>,
    ) -> Result<Result<(), PageError>, PageError> {
        self.0.with_retry(retry, work).await
    }

    async fn permit(&self) -> Result<(), PageError> {
        self.0.permit().await
    }

    fn page_attempt(&self) -> u32 {
        self.0.attempt()
    }

    fn batch_id(&self) -> &str {
        self.0.batch_id()
    }

    fn batch_run(&self) -> &str {
        self.0.batch_run()
    }

    fn item_key(&self, item: &Value) -> String {
        self.0.item_key(item)
    }
}
