//! The processor behind `call`.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    args::CallArgs,
    calling::{Calling, Shape},
    journal::{Journal, Outcome},
    outcome::{Done, write},
    plan::{KEY_HEADER, Plan},
    source::{CallCursor, CallItem, CallSource},
};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use super::{into_table, records::key};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::sql::{Connections, HighWaterMark, LateLedger, RowUpdate, Table, backfill_coverage};
use crate::{
    base::error::PageError,
    batch::retry::{RetryMode, RetryPolicy},
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
        store::{dead_letter::DeadLetters, page_ledger::PageLedger},
    },
    progress::check::Check,
};

/// The name of the API in messages, and of the throttle.
const API: &str = "called-api";

/// Calls an API for each record of a file or a table, and writes the answers into files, or back into the rows of the
/// table. This is the processor of `temporal-batch call`, for your own workers.
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
/// - Without files, the [columns](CallArgs::set) of a row are written in the transaction in which the page ledger records
///   the page, which begins after the calls. A value that its column would change (round, cut, read as something else)
///   fails its record. A row whose fields in the request were changed meanwhile is not written.
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
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(super) updates: Mutex<HashMap<String, Arc<RowUpdate>>>,
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
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            updates: Mutex::default(),
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

    /// Sets the databases whose tables batches may read, and whose rows they may set.
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
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        let of_table = matches!(args.source, CallSource::Table { .. });
        #[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
        let of_table = false;
        args.check_place(of_table).map_err(|e| invalid(&e))?;
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let Some(update) = self.update(args).await? {
            let fixed = plan.output.fixed();
            let fixed = fixed.map(|(at, datum)| ("--set", at, datum.json()));
            let fallback = plan.output.fallback_values().unwrap_or_default();
            let fallback = fallback.iter().enumerate();
            let fallback = fallback.map(|(at, (_, datum))| ("--fallback", at, datum.json()));
            for (flag, at, json) in fixed.chain(fallback) {
                let fits = update.fitting(at, &json);
                fits.map_err(|why| invalid(&format_args!("{flag}: {why}")))?;
            }
        }
        Ok(plan)
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
        if let Some(update) = self.update(&args).await? {
            update.check_ledger().await?;
        }
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
        if let Some(sink) = Self::sink(ctx.args()) {
            sink.fetched(ctx, &page).await?;
        }
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
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        let update = self.update(args).await?;
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        let fields = update.as_ref().map(|_| {
            let fields = items.iter().map(|item| item.content.as_ref().cloned());
            fields.map(Result::unwrap_or_default).collect::<Vec<_>>()
        });
        let calling = Calling {
            client: &client,
            journal: &journal,
            shape: Shape {
                plan: &plan,
                #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
                update: update.as_deref(),
            },
        };
        let most = args.concurrency as usize;
        let done = at_once(most, items, |_, item| self.outcome(ctx, &calling, item)).await?;
        let done: Vec<_> = cursors.into_iter().zip(done).collect();
        let mut report = PageReport::all_processed();
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let Some((update, fields)) = update.as_deref().zip(fields) {
            let work = (update, &plan, &journal);
            let changed = into_table::write(ctx, work, fields, done, &mut report).await?;
            return Ok(report.changed(changed));
        }
        write(ctx, &done).await?;
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
                Done::Failed(failed) => failed.into_report(position, &mut report),
            }
        }
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
        let args = ctx.args();
        if ctx.covered_to().is_none() {
            let forgotten = Journal::forget(&args.journal, ctx.batch_run());
            if let Err(error) = forgotten {
                tracing::warn!(
                    folder = %args.journal.display(),
                    %error,
                    "the answers of finished pages cannot be removed; they are not needed any more"
                );
            }
        }
        if let Some(sink) = Self::sink(args) {
            return sink.finish_without(ctx, &self.letters(ctx).await?).await;
        }
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let CallSource::Table {
            connection,
            table,
            high_water_mark,
        } = &args.source
        {
            let table = self.table(connection, table).await?;
            let range = (key(ctx.covered_from())?, key(ctx.covered_to())?);
            let run = (ctx.batch_id(), ctx.batch_run());
            let checking = backfill_coverage(&table, high_water_mark, run, range);
            return tokio::select! {
                check = checking => check,
                () = ctx.cancelled() => {
                    Err(PageError::retryable("the check was cancelled").with_type("Cancelled"))
                }
            };
        }
        Ok(None)
    }

    /// Returns a ledger whose transactions begin after the calls, for answers that go into a table.
    fn ledger(&self, args: &CallArgs) -> Option<Arc<dyn PageLedger>> {
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let (None, CallSource::Table { connection, .. }) = (&args.to, &args.source) {
            return Some(Arc::new(LateLedger::of(&self.connections, connection)));
        }
        let _ = args;
        None
    }

    fn dead_letters(&self, args: &CallArgs) -> Option<Arc<dyn DeadLetters>> {
        let file = args.letters.as_ref()?;
        Some(Arc::new(JsonlDeadLetters::new(file)))
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
