//! The processor: it adds to each user the region that the API knows, or else `UNKNOWN`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use temporal_batch::{
    CheckContext, Page, PageContext, PageError, PageProcessor, PageReport, Permits,
    ProcessorSettings, SkipAhead, async_trait,
    files::{CsvSource, FilePosition, FileRecord, PartFormat, PartSink},
    http::{ApiClient, ApiFailure, ApiOptions, ApiRequest, at_once},
    progress::Check,
    settings::ItemRetry,
    store::{DeadLetters, JsonlDeadLetters},
};

use super::users::User;

/// The arguments of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrichArgs {
    pub users: CsvSource,
    /// The address of the API.
    pub api: String,
    /// The directory of the results.
    pub out: PathBuf,
    /// The file of the records for which the API failed.
    pub failed: PathBuf,
}

/// A line of the result.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enriched {
    pub id: u64,
    pub name: String,
    pub country: String,
    pub region: String,
    pub enriched: bool,
}

#[derive(Deserialize)]
struct Answer {
    region: String,
}

/// Adds regions to users.
pub struct Enrich {
    api: ApiClient,
}

/// The number of calls of a page in flight.
const IN_FLIGHT: usize = 10;

impl Enrich {
    pub fn new() -> Result<Self, temporal_batch::http::InvalidApi> {
        let mut options = ApiOptions::default();
        options.retry = ItemRetry::attempts(3).first_backoff(Duration::from_millis(50));
        Ok(Self {
            api: ApiClient::with("regions", options)?,
        })
    }

    pub fn api(&self) -> &ApiClient {
        &self.api
    }

    fn sink(args: &EnrichArgs) -> PartSink {
        PartSink::new(&args.out, PartFormat::json_lines())
    }

    async fn region(
        &self,
        ctx: &PageContext<Self>,
        user: &User,
    ) -> Result<Result<String, ApiFailure>, PageError> {
        let url = format!("{}/users/{}/{}", ctx.args().api, user.id, user.country);
        let request = ApiRequest::get(&url)?.key(ctx.item_key(user.id));
        let answer = match self.api.call(ctx, &request).await? {
            Ok(answer) => answer,
            Err(failure) => return Ok(Err(failure)),
        };
        Ok(Ok(answer.json::<Answer>()?.region))
    }
}

#[async_trait]
impl PageProcessor for Enrich {
    const NAME: &'static str = "csv-enrichment";
    type Args = EnrichArgs;
    type Cursor = FilePosition;
    type Item = FileRecord<User>;

    async fn prepare(&self, mut args: EnrichArgs) -> Result<EnrichArgs, PageError> {
        args.users = args.users.prepare().await?;
        Ok(args)
    }

    async fn fetch(
        &self,
        ctx: &PageContext<Self>,
    ) -> Result<Page<FilePosition, FileRecord<User>>, PageError> {
        let page = ctx.args().users.fetch(ctx).await?;
        Self::sink(ctx.args()).fetched(ctx, &page).await?;
        Ok(page)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        records: Vec<FileRecord<User>>,
    ) -> Result<PageReport, PageError> {
        let mut report = PageReport::all_processed();
        let mut users = Vec::new();
        for (position, record) in records.into_iter().enumerate() {
            if let Some(user) = record.or_fail(position, &mut report) {
                users.push((position, user));
            }
        }
        let regions = at_once(IN_FLIGHT, users, |_, (position, user)| async move {
            let region = self.region(ctx, &user).await?;
            Ok((position, user, region))
        });
        let mut rows = Vec::new();
        for (position, user, region) in regions.await? {
            let (region, enriched) = match region {
                Ok(region) => (region, true),
                Err(failure) => {
                    // The row gets a value all the same, and the failure is counted, logged and listed.
                    let error = failure.error();
                    report.fail_with_record(
                        position,
                        error.error_type(),
                        error.message(),
                        serde_json::json!({ "id": user.id, "answer": failure.body_start() })
                            .to_string(),
                    );
                    ("UNKNOWN".to_owned(), false)
                }
            };
            let User { id, name, country } = user;
            rows.push(Enriched {
                id,
                name,
                country,
                region,
                enriched,
            });
        }
        Self::sink(ctx.args()).write(ctx, &rows).await?;
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<FilePosition>, PageError> {
        ctx.args().users.skip_ahead(ctx, pages).await
    }

    async fn size_hint(&self, args: &EnrichArgs) -> Result<Option<u64>, PageError> {
        args.users.size_hint().await
    }

    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        Self::sink(ctx.args()).finish(ctx).await
    }

    fn dead_letters(&self, args: &EnrichArgs) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::new(JsonlDeadLetters::new(&args.failed)))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            permits: Permits::PerItem,
            ..ProcessorSettings::default()
        }
    }
}
