//! A processor that calls an API for each of some numbers.

use std::time::Duration;

use async_trait::async_trait;
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, Permits, ProcessorSettings, SkipAhead,
    http::{ApiClient, ApiOptions, ApiRequest, at_once},
    settings::ItemRetry,
};

use crate::support::number_pages;

/// Calls `/n/7` for the number 7.
pub struct CallNumbers {
    pub api: ApiClient,
    pub url: String,
    pub numbers: u64,
    pub concurrency: usize,
}

/// Options with short waits.
pub fn options() -> ApiOptions {
    let mut options = ApiOptions::default();
    options.retry = ItemRetry::attempts(4).first_backoff(Duration::from_millis(10));
    options.timeout = Duration::from_secs(5);
    options
}

impl CallNumbers {
    pub fn new(url: &str, numbers: u64) -> Self {
        Self::with(url, numbers, options())
    }

    pub fn with(url: &str, numbers: u64, options: ApiOptions) -> Self {
        Self {
            api: ApiClient::with("numbers", options).unwrap(),
            url: url.to_owned(),
            numbers,
            concurrency: 5,
        }
    }
}

#[async_trait]
impl PageProcessor for CallNumbers {
    const NAME: &'static str = "call-numbers";
    type Args = ();
    type Cursor = u64;
    type Item = u64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
        Page::keyset(number_pages::numbers_of(ctx, self.numbers), |n| *n)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        numbers: Vec<u64>,
    ) -> Result<PageReport, PageError> {
        let answers = at_once(self.concurrency, numbers, |_, number| async move {
            let request = ApiRequest::post(&format!("{}/n/{number}", self.url))?
                .json(&number)?
                .key(ctx.item_key(number));
            self.api.call(ctx, &request).await
        });
        let mut report = PageReport::all_processed();
        for (position, answer) in answers.await?.into_iter().enumerate() {
            if let Err(failure) = answer {
                let error = failure.error();
                report.fail(position, error.error_type(), error.message());
            }
        }
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u64>, PageError> {
        Ok(number_pages::skip(ctx, pages, self.numbers))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            permits: Permits::PerItem,
            ..ProcessorSettings::default()
        }
    }
}
