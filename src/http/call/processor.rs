//! The processor behind `call`.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use super::records::key;
use super::{
    args::CallArgs,
    journal::{Journal, Outcome},
    outcome::{Done, GivenUp, given_up, letter, shown, write},
    plan::{KEY_HEADER, Plan},
    source::{CallCursor, CallItem, CallSource},
};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::sql::{Connections, HighWaterMark, Table};
use crate::{
    base::error::PageError,
    batch::retry::{RetryMode, RetryPolicy},
    files::{PartFormat, PartSink},
    http::{ApiClient, ApiOptions, ApiThrottle, InvalidApi, at_once},
    jsonl_store::JsonlDeadLetters,
    page::{Page, size::Size},
    processor::{
        PageProcessor, SkipAhead,
        check_context::CheckContext,
        context::PageContext,
        item::{ItemRetry, Permits},
        report::PageReport,
        settings::ProcessorSettings,
        store::dead_letter::DeadLetters,
    },
    progress::check::Check,
};

/// The name of the API in messages, and of the throttle.
const API: &str = "called-api";

/// Calls an API for each record of a file or a table, and writes the answers into files. This is the processor of
/// `temporal-batch call`, for your own workers.
///
/// Its secrets are variables of the environment that a batch names. A batch can therefore send them
/// anywhere, so give a worker only those that all its batches may use: [`with_secrets`](Self::with_secrets).
///
/// ```
/// use temporal_batch::{files::CsvSource, http::{CallArgs, HttpCall}};
///
/// # fn main() -> Result<(), temporal_batch::http::InvalidApi> {
/// let processor = HttpCall::new()?.with_secrets([("API_TOKEN", "from a vault")]);
///
/// let mut args = CallArgs::new(CsvSource::new("users.csv"), "https://api.example.org/users/{id}", "out", "work");
/// args.headers = vec![("authorization".to_owned(), "Bearer ${API_TOKEN}".to_owned())];
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees
///
/// - Every record has one line in the files, or a dead letter with the status and the beginning of the answer. A
///   redriven record gets its line in its place.
/// - The idempotency key of a record is the same in all attempts of a batch run, and in its redrives.
/// - The answers of a page that is not finished are kept in [`CallArgs::journal`]. After a lost worker the page repeats
///   only the calls that were in flight, if the next worker finds that directory.
/// - An API that cannot be reached is no fault of the records: the page is tried again until it can.
pub struct HttpCall {
    api: Mutex<HashMap<(u64, u32), ApiClient>>,
    first: ApiClient,
    secrets: Secrets,
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(super) connections: Connections,
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(super) tables: Mutex<HashMap<String, Table>>,
}

/// The variables that a batch may use.
enum Secrets {
    Given(HashMap<String, String>),
    /// All variables of the environment, for a command whose user started the batch.
    Environment,
}

/// # Construct
impl HttpCall {
    /// Creates a processor without secrets.
    ///
    /// # Errors
    /// The TLS of this machine cannot be used.
    pub fn new() -> Result<Self, InvalidApi> {
        Ok(Self {
            api: Mutex::default(),
            first: ApiClient::new(API)?,
            secrets: Secrets::Given(HashMap::new()),
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            connections: Connections::new(),
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            tables: Mutex::default(),
        })
    }

    /// Sets the variables that batches may use, with their values.
    #[must_use]
    pub fn with_secrets(
        mut self,
        secrets: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        let secrets = secrets.into_iter();
        let secrets = secrets.map(|(name, value)| (name.into(), value.into()));
        self.secrets = Secrets::Given(secrets.collect());
        self
    }

    /// Lets batches use every variable of the environment.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the command"))]
    pub(crate) fn with_environment(mut self) -> Self {
        self.secrets = Secrets::Environment;
        self
    }

    /// Sets the databases whose tables batches may read.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[must_use]
    pub fn connections(mut self, connections: Connections) -> Self {
        self.connections = connections;
        self
    }

    /// Returns the throttle that holds a batch while its API asks to wait; see [`ApiClient::throttle`]. Its name is
    /// `called-api`.
    pub fn throttle(&self) -> ApiThrottle {
        self.first.throttle()
    }

    pub(crate) fn secret(&self, name: &str) -> Option<String> {
        match &self.secrets {
            Secrets::Given(all) => all.get(name).cloned(),
            Secrets::Environment => std::env::var(name).ok(),
        }
    }

    /// Returns the client for the limits of a batch.
    pub(crate) fn client(&self, args: &CallArgs) -> Result<ApiClient, PageError> {
        let mut known = self.api.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = (args.timeout_ms, args.attempts);
        if let Some(client) = known.get(&limits) {
            return Ok(client.clone());
        }
        let options = ApiOptions {
            timeout: Duration::from_millis(args.timeout_ms),
            retry: ItemRetry::attempts(args.attempts),
            key_header: KEY_HEADER.to_owned(),
            ..ApiOptions::default()
        };
        let client = self.first.with_options(options).map_err(|e| invalid(&e))?;
        known.insert(limits, client.clone());
        Ok(client)
    }

    /// Checks everything that can be checked without a call, and returns the templates.
    pub(crate) async fn check_args(&self, args: &CallArgs) -> Result<Plan, PageError> {
        let plan = Plan::of(args).map_err(|e| invalid(&e))?;
        self.client(args)?;
        plan.check_fields(&self.fields(args).await?)
            .map_err(|e| invalid(&e))?;
        let secret = |name: &str| self.secret(name);
        plan.check_secrets(&secret).map_err(|e| invalid(&e))?;
        Ok(plan)
    }

    pub(super) fn sink(args: &CallArgs) -> PartSink {
        let sink = PartSink::new(&args.to, PartFormat::json_lines());
        match &args.concatenate {
            Some(file) => sink.concatenate(file),
            None => sink,
        }
    }

    /// Returns the outcome of a record: from the journal, or by a call.
    async fn outcome(
        &self,
        ctx: &PageContext<Self>,
        (plan, client, journal): (&Plan, &ApiClient, &Journal),
        item: CallItem,
    ) -> Result<Done, PageError> {
        let CallItem { cursor, content } = item;
        let fields = match content {
            Ok(fields) => fields,
            Err(bad) => {
                return Ok(Done::Failed(GivenUp {
                    error_type: bad.error_type,
                    message: bad.message,
                    record: bad.kept,
                }));
            }
        };
        let item_key = ctx.item_key(&cursor);
        if let Some(known) = journal.known(&item_key) {
            return Ok(Done::Written(known.clone()));
        }
        let secret = |name: &str| self.secret(name);
        let request = match plan.request(&fields, &secret) {
            Ok(request) => request.key(&item_key),
            Err(error) => {
                return Ok(Done::Failed(GivenUp {
                    error_type: "NotSendable".to_owned(),
                    message: error.to_string(),
                    record: letter(&fields, None),
                }));
            }
        };
        let answer = client.call(ctx, &request).await?;
        let outcome = match answer {
            Ok(answer) => match plan.output.line(&fields, answer.status(), answer.body()) {
                Ok(line) => Outcome {
                    line,
                    instead: None,
                },
                Err(lacks) => {
                    return Ok(Done::Failed(GivenUp {
                        error_type: "AnswerNotReadable".to_owned(),
                        message: lacks.to_string(),
                        record: letter(&fields, Some((answer.status(), &shown(&answer)))),
                    }));
                }
            },
            Err(failure) if failure.is_outage() => {
                let error = failure.error();
                return Err(PageError::environment(error.message()).with_type(error.error_type()));
            }
            Err(failure) => match plan.output.fallback(&fields) {
                Some(line) => Outcome {
                    line,
                    instead: Some(failure.error().error_type().to_owned()),
                },
                None => return Ok(Done::Failed(given_up(&fields, &failure))),
            },
        };
        journal.add(&item_key, &outcome)?;
        Ok(Done::Written(outcome))
    }
}

fn invalid(error: &dyn fmt::Display) -> PageError {
    PageError::non_retryable("InvalidCall", error)
}

#[async_trait]
impl PageProcessor for HttpCall {
    const NAME: &'static str = "http-call";
    type Args = CallArgs;
    type Cursor = CallCursor;
    type Item = CallItem;

    async fn prepare(&self, mut args: CallArgs) -> Result<CallArgs, PageError> {
        args.source = args.source.prepare_file().await?;
        self.check_args(&args).await?;
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let CallSource::Table {
            connection,
            table,
            high_water_mark,
        } = &mut args.source
            && *high_water_mark == HighWaterMark::AtStart
        {
            let table = self.table(connection, table).await?;
            *high_water_mark = HighWaterMark::of(&table).await?;
        }
        Ok(args)
    }

    async fn fetch(
        &self,
        ctx: &PageContext<Self>,
    ) -> Result<Page<CallCursor, CallItem>, PageError> {
        let page = self.page(ctx.args(), ctx.range(), ctx.page_size()).await?;
        Self::sink(ctx.args()).fetched(ctx, &page).await?;
        Ok(page)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<CallItem>,
    ) -> Result<PageReport, PageError> {
        let args = ctx.args();
        let plan = Plan::of(args).map_err(|e| invalid(&e))?;
        let client = self.client(args)?;
        let journal = Journal::of(&args.journal, ctx)?;
        let cursors: Vec<_> = items.iter().map(|item| item.cursor.clone()).collect();
        let work = (&plan, &client, &journal);
        let most = args.concurrency as usize;
        let done = at_once(most, items, |_, item| self.outcome(ctx, work, item)).await?;
        let done: Vec<_> = cursors.into_iter().zip(done).collect();
        write(ctx, &done).await?;
        let mut report = PageReport::all_processed();
        let mut answered = 0;
        for (position, (_, done)) in done.into_iter().enumerate() {
            match done {
                Done::Written(Outcome { instead: None, .. }) => answered += 1,
                Done::Written(Outcome {
                    instead: Some(error),
                    ..
                }) => {
                    report.skip(format_args!("fallback after {error}"));
                }
                Done::Failed(failed) => report.fail_with_record(
                    position,
                    failed.error_type,
                    failed.message,
                    failed.record,
                ),
            }
        }
        journal.remove();
        Ok(report.changed(answered))
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<CallCursor>, PageError> {
        let records = u64::from(pages) * ctx.page_size() as u64;
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let CallSource::Table {
            connection,
            table,
            high_water_mark,
        } = &ctx.args().source
        {
            if *high_water_mark == HighWaterMark::NoRows {
                return Ok(SkipAhead::PastEnd);
            }
            let table = self.table(connection, table).await?;
            let end = key(ctx.range().end())?.or(high_water_mark.key());
            let found = table.skip(key(ctx.range().start())?, end, records).await?;
            return Ok(match found {
                SkipAhead::To(key) => SkipAhead::To(CallCursor::Row(key)),
                SkipAhead::PastEnd => SkipAhead::PastEnd,
                SkipAhead::Unsupported => SkipAhead::Unsupported,
            });
        }
        let found = ctx.args().source.skip_in_file(ctx.range(), records).await?;
        Ok(found.map_or(SkipAhead::PastEnd, SkipAhead::To))
    }

    async fn size(&self, args: &CallArgs) -> Result<Size, PageError> {
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let CallSource::Table {
            connection, table, ..
        } = &args.source
        {
            return self.table(connection, table).await?.size().await;
        }
        args.source.file_size().await
    }

    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        Self::sink(ctx.args()).finish(ctx).await
    }

    fn dead_letters(&self, args: &CallArgs) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::new(JsonlDeadLetters::new(&args.letters)))
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            permits: Permits::PerItem,
            retry_mode: RetryMode::AtLeastOnce,
            retry: RetryPolicy::default(),
            page_timeout: Duration::from_secs(900),
            ..ProcessorSettings::default()
        }
    }
}

impl fmt::Debug for HttpCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCall").finish_non_exhaustive()
    }
}
