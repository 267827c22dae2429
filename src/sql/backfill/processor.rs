//! The processor that changes the rows of a table.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{
    args::{BackfillArgs, HighWaterMark},
    error::InvalidBackfill,
    work::{Rows, Work},
};
use crate::{
    base::error::PageError,
    page::{Page, range::PageRange, size::Size},
    processor::{
        PageProcessor, SkipAhead,
        check_context::CheckContext,
        context::PageContext,
        report::PageReport,
        settings::ProcessorSettings,
        store::{dead_letter::DeadLetters, page_ledger::PageLedger},
    },
    progress::check::Check,
    sql::{
        Connections, Key, RangeCheck, RangeCheckError, SqlLedger, Table, TableError,
        backend::{
            blockers,
            dialect::Dialect,
            table_engine::{Untransactional, untransactional},
        },
        connection::{
            lease::{LeasedTransaction, Leases, LeasesOf},
            session::LOCK_TIMEOUT,
        },
        ledger::no_ledger::NoLedger,
        syntax::Syntax,
        verify::{Checked, check_backfill},
    },
};

/// Changes the rows of a table page by page, with the database's own statements. This is the processor of
/// `temporal-batch backfill`, for your own workers.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example(client: temporal_batch::BatchClient) -> Result<(), Box<dyn std::error::Error>> {
/// use temporal_batch::{sql::{BackfillArgs, Connections, SqlBackfill, TableSpec}, Batch, Worker};
///
/// let shop = sqlx::SqlitePool::connect("sqlite:shop.db").await?;
/// let connections = Connections::new().with("shop", shop);
/// let worker = Worker::new(&client, "shop").processor(SqlBackfill::new(connections));
///
/// let users = TableSpec::new("users", ["id"]).filter("email IS NOT NULL");
/// let args = BackfillArgs::of(users).connection("shop").set("email", "lower(email)");
/// let batch = Batch::of::<SqlBackfill>("lower-emails", args).task_queue("shop");
/// # let _ = (worker, batch);
/// # Ok(())
/// # }
/// ```
///
/// # For each page
///
/// 1. `fetch` reads the last key of the page, which is its end. All keys are read only if fewer rows are left than a
///    page has, and if a page is split or redriven.
/// 2. `process` begins a transaction (with [`once`](BackfillArgs::once) that of the page ledger), limits how long
///    statements take and wait for locks, runs the statements for the matching rows from the end of the page before up
///    to that key, and commits.
///
/// A page hands its connection to the next page, as long as the pool has another connection to spare. A connection is
/// kept for at most a quarter of a second.
///
/// Several statements, or one that names its rows twice, work on locked rows: the rows are locked first, and
/// `{range}` then means exactly the locked rows. So `INSERT INTO archive SELECT .. WHERE {range}` and `DELETE ..
/// WHERE {range}` lose no row that is added or changed between the two.
///
/// # The report
///
/// Every row of the page counts as processed. If several statements change rows, the largest number of rows that one of
/// them affected counts as changed. With [`set`](BackfillArgs::set) the other rows already had their new values.
///
/// # Failures
///
/// A lost connection, a deadlock, a serialization failure and a lock timeout are retried. An error that a row causes
/// (a constraint, a value that does not fit) splits the page until the rows are found, where dead letters are kept:
/// in the page ledger with `once`, otherwise in your [store](Self::dead_letters).
///
/// # What is refused before anything starts
///
/// A table that cannot be paged through ([`TableError`]), work that cannot be done ([`InvalidBackfill`]), a statement
/// that the database refuses, and `once` while the tables of the ledger are missing.
pub struct SqlBackfill {
    connections: Connections,
    /// The leases by the names of their connections.
    leases: HashMap<String, LeasesOf>,
    letters: Option<Arc<dyn DeadLetters>>,
    /// The work by its arguments, as JSON.
    works: Mutex<HashMap<String, Known>>,
}

/// Work for a table that was inspected, or is being inspected.
#[derive(Clone)]
struct Known {
    since: Instant,
    work: Arc<OnceCell<Arc<Work>>>,
}

/// The time after which a table is inspected again, since it may be altered while a worker lives.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// # Construct
impl SqlBackfill {
    /// Creates a processor for these connections; each batch names one of them.
    pub fn new(connections: Connections) -> Self {
        let leases = connections.iter();
        let leases = leases.map(|(name, database)| (name.to_owned(), LeasesOf::of(database)));
        Self {
            leases: leases.collect(),
            connections,
            letters: None,
            works: Mutex::default(),
        }
    }

    /// Keeps the rows that are given up in a store, for batches without [`once`](BackfillArgs::once). Without a
    /// store, a page that fails is given up as a whole.
    pub fn dead_letters(mut self, store: impl DeadLetters) -> Self {
        self.letters = Some(Arc::new(store));
        self
    }
}

/// # Before the start
impl SqlBackfill {
    /// Checks everything that can be checked without changing anything, and returns the work.
    pub(crate) async fn check_args(&self, args: &BackfillArgs) -> Result<Arc<Work>, PageError> {
        let database = self.connections.get(&args.connection)?;
        Work::check(args, Syntax::of(database)).map_err(InvalidBackfill::into_page_error)?;
        let work = self.look(args).await?;
        if !args.allow_slow_pages {
            let plan = work.table().check_plan().await;
            plan.map_err(TableError::into_page_error)?;
        }
        work.table().check_key_lengths().await?;
        work.try_out(args).await?;
        if let Some(verify) = &args.verify {
            let check = RangeCheck::new(work.table(), verify).await;
            let check = check.map_err(RangeCheckError::into_page_error)?;
            check.try_out().await?;
        }
        let repeatable = args.statements.is_empty() && work.read_by_themselves(args).is_empty();
        if args.once || !repeatable {
            let found = untransactional(database, &work.shown("TRUE"), args.once).await?;
            if let Some(Untransactional { table, engine }) = found {
                let refused = InvalidBackfill::NoTransactions {
                    table,
                    engine,
                    repeatable,
                };
                return Err(refused.into_page_error());
            }
        }
        if args.once && !database.has_ledger_tables().await? {
            return Err(InvalidBackfill::LedgerTablesMissing.into_page_error());
        }
        Ok(work)
    }

    fn leases(&self, args: &BackfillArgs) -> Result<&LeasesOf, PageError> {
        self.connections.get(&args.connection)?;
        Ok(&self.leases[&args.connection])
    }

    async fn look(&self, args: &BackfillArgs) -> Result<Arc<Work>, PageError> {
        let database = self.connections.get(&args.connection)?;
        let table = Table::inspect(database, &args.table).await;
        let table = table.map_err(TableError::into_page_error)?;
        Ok(Arc::new(Work::new(args, table).await?))
    }

    /// Returns the work for these arguments. The inspection of a table is used for all pages of the next minute.
    pub(crate) async fn work(&self, args: &BackfillArgs) -> Result<Arc<Work>, PageError> {
        let name = serde_json::to_string(args)?;
        let known = {
            let mut works = self.works.lock().unwrap_or_else(PoisonError::into_inner);
            works.retain(|_, known| known.since.elapsed() < LOOK_AGAIN_AFTER);
            let known = works.entry(name).or_insert_with(|| Known {
                since: Instant::now(),
                work: Arc::default(),
            });
            known.clone()
        };
        let work = known.work.get_or_try_init(|| self.look(args)).await;
        // The table was valid when the batch began.
        work.map(Arc::clone).map_err(TableError::since_the_start)
    }
}

impl HighWaterMark {
    /// Returns the highest key of the table.
    pub(crate) async fn of(table: &Table) -> Result<Self, PageError> {
        Ok(table
            .high_water_mark()
            .await?
            .map_or(Self::NoRows, Self::At))
    }

    /// Returns the last key that may be read, if there is one.
    pub(crate) fn key(&self) -> Option<&Key> {
        match self {
            Self::At(key) => Some(key),
            Self::AtStart | Self::NoRows | Self::Off => None,
        }
    }
}

#[async_trait]
impl PageProcessor for SqlBackfill {
    const NAME: &'static str = "sql-backfill";
    type Args = BackfillArgs;
    type Cursor = Key;
    /// The key of a row, if it was read.
    type Item = Option<Key>;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<Key, Option<Key>>, PageError> {
        let (args, range) = (ctx.args(), ctx.range());
        if args.high_water_mark == HighWaterMark::NoRows {
            return Ok(Page::empty());
        }
        let work = self.work(args).await?;
        let end = range.end().or(args.high_water_mark.key());
        let range = (range.start(), end);
        match self.leases(args)? {
            #[cfg(feature = "postgres")]
            LeasesOf::Postgres(leases) => read(ctx, leases, work.table(), range).await,
            #[cfg(feature = "mysql")]
            LeasesOf::MySql(leases) => read(ctx, leases, work.table(), range).await,
            #[cfg(feature = "sqlite")]
            LeasesOf::Sqlite(leases) => read(ctx, leases, work.table(), range).await,
        }
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<Option<Key>>,
    ) -> Result<PageReport, PageError> {
        let Some(rows) = rows_of(ctx, &items)? else {
            return Ok(PageReport::all_processed());
        };
        let work = self.work(ctx.args()).await?;
        let changed = match self.leases(ctx.args())? {
            #[cfg(feature = "postgres")]
            LeasesOf::Postgres(leases) => page(ctx, leases, &work, &rows).await?,
            #[cfg(feature = "mysql")]
            LeasesOf::MySql(leases) => page(ctx, leases, &work, &rows).await?,
            #[cfg(feature = "sqlite")]
            LeasesOf::Sqlite(leases) => page(ctx, leases, &work, &rows).await?,
        };
        // Rows that were added meanwhile may have been changed, too, but do not belong to the page.
        let changed = changed.min(items.len() as u64);
        Ok(PageReport::all_processed().changed(changed))
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<Key>, PageError> {
        if ctx.args().high_water_mark == HighWaterMark::NoRows {
            return Ok(SkipAhead::PastEnd);
        }
        let work = self.work(ctx.args()).await?;
        let mark = ctx.args().high_water_mark.key();
        work.table().skip_ahead(ctx, pages, mark).await
    }

    async fn prepare(&self, mut args: BackfillArgs) -> Result<BackfillArgs, PageError> {
        let work = self.check_args(&args).await?;
        if args.high_water_mark == HighWaterMark::AtStart {
            args.high_water_mark = HighWaterMark::of(work.table()).await?;
        }
        Ok(args)
    }

    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        let (args, work) = (ctx.args(), self.work(ctx.args()).await?);
        let letters = match args.once {
            true => Some(work.table().database().ledger() as Arc<dyn DeadLetters>),
            false => self.letters.clone(),
        };
        let checked = Checked {
            batch_id: ctx.batch_id(),
            batch_run: ctx.batch_run(),
            covered_from: ctx.covered_from(),
            covered_to: ctx.covered_to(),
            letters,
        };
        tokio::select! {
            check = check_backfill(work.table(), args, checked) => check,
            () = ctx.cancelled() => {
                Err(PageError::retryable("the check was cancelled").with_type("Cancelled"))
            }
        }
    }

    async fn size(&self, args: &BackfillArgs) -> Result<Size, PageError> {
        if args.high_water_mark == HighWaterMark::NoRows {
            return Ok(Size::Exact(0));
        }
        let work = self.work(args).await?;
        match args.exact_count {
            true => {
                let end = args.high_water_mark.key();
                work.table().count(None, end).await.map(Size::Exact)
            }
            false => work.table().size().await,
        }
    }

    fn ledger(&self, args: &BackfillArgs) -> Option<Arc<dyn PageLedger>> {
        args.once.then(|| match self.leases(args) {
            Ok(leases) => ledger(leases, args),
            // Without a ledger its pages would run at least once.
            Err(_) => Arc::new(NoLedger::of(self.connections.clone(), &args.connection)),
        })
    }

    fn dead_letters(&self, _: &BackfillArgs) -> Option<Arc<dyn DeadLetters>> {
        self.letters.clone()
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            // Longer than a statement and a wait for a lock may take.
            page_timeout: Duration::from_secs(900),
            ..ProcessorSettings::default()
        }
    }
}

/// Returns the ledger on the connections of the pages, so that each page needs only one.
fn ledger(leases: &LeasesOf, args: &BackfillArgs) -> Arc<dyn PageLedger> {
    fn on<DB: Dialect>(leases: &Leases<DB>, args: &BackfillArgs) -> SqlLedger<DB> {
        SqlLedger::on(leases.clone(), Work::limits::<DB>(args))
    }
    match leases {
        #[cfg(feature = "postgres")]
        LeasesOf::Postgres(leases) => Arc::new(on(leases, args)),
        #[cfg(feature = "mysql")]
        LeasesOf::MySql(leases) => Arc::new(on(leases, args)),
        #[cfg(feature = "sqlite")]
        LeasesOf::Sqlite(leases) => Arc::new(on(leases, args)),
    }
}

/// Reads the end of the next page of a range. The keys of its rows are read only where they are needed, since the
/// work is for a range.
async fn read<DB: Dialect>(
    ctx: &PageContext<SqlBackfill>,
    leases: &Leases<DB>,
    table: &Table,
    range: (Option<&Key>, Option<&Key>),
) -> Result<Page<Key, Option<Key>>, PageError> {
    let rows = ctx.page_size();
    let reading = async {
        let mut lease = leases.take().await?;
        if !ctx.wants_keys() {
            let before = rows.saturating_sub(1) as u64;
            let last = table.keys_on::<DB>(&mut lease, range, 1, before).await?;
            if let Some(last) = last.into_iter().next() {
                lease.give_back();
                return Ok(Page::not_read(vec![None; rows], last));
            }
        }
        let keys = table
            .keys_on::<DB>(&mut lease, range, rows as u64, 0)
            .await?;
        lease.give_back();
        Ok(Page::sorted(keys, Key::clone)?.map(Some))
    };
    blockers::named(leases.pool(), table.quoted_name(), LOCK_TIMEOUT, reading).await
}

/// Returns the rows of a page; `None` if it has no rows.
fn rows_of(
    ctx: &PageContext<SqlBackfill>,
    items: &[Option<Key>],
) -> Result<Option<Rows>, PageError> {
    let (Some(first), Some(last)) = (items.first(), items.last()) else {
        return Ok(None);
    };
    if let (Some(first), Some(last)) = (first, last) {
        return Ok(Some(Rows::Between(first.clone(), last.clone())));
    }
    let page = ctx.page();
    match page.and_then(PageRange::end) {
        Some(end) => {
            let start = page.and_then(PageRange::start).cloned();
            Ok(Some(Rows::UpTo(start, end.clone())))
        }
        // Without an end, this would be the rest of the table.
        None => Err(PageError::non_retryable(
            "PageWithoutEnd",
            "the keys of the page were not read, so its end is unknown",
        )),
    }
}

/// Changes the rows of a page, and returns the number of changed rows.
async fn page<DB: Dialect>(
    ctx: &PageContext<SqlBackfill>,
    leases: &Leases<DB>,
    work: &Work,
    rows: &Rows,
) -> Result<u64, PageError> {
    let args = ctx.args();
    let changing = async {
        if args.once {
            let mut page = ctx.transaction::<DB>().await?;
            return work.apply::<DB>(&mut page, args, rows).await;
        }
        let mut page = LeasedTransaction::begin(leases, Work::begin::<DB>(args)).await?;
        let changed = work.apply::<DB>(&mut page, args, rows).await?;
        page.commit().await?;
        Ok(changed)
    };
    let table = work.table().quoted_name();
    blockers::named(leases.pool(), table, args.lock_timeout, changing).await
}

impl fmt::Debug for SqlBackfill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.connections.names().collect();
        f.debug_struct("SqlBackfill")
            .field("connections", &names)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::{sql::TableSpec, testing::run_page};

    #[tokio::test]
    async fn a_table_that_is_away_for_a_while_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(folder.path().join("shop.db"))
            .create_if_missing(true);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        let script = async |text: &'static str| sqlx::raw_sql(text).execute(&pool).await.unwrap();
        script("CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER); INSERT INTO t VALUES (1, 0)")
            .await;
        let processor = || SqlBackfill::new(Connections::new().with("default", pool.clone()));
        let args = BackfillArgs::of(TableSpec::new("t", ["id"])).set("x", "1");
        let args = processor().prepare(args).await.unwrap();

        // The table is renamed, and inspected again.
        script("ALTER TABLE t RENAME TO u").await;
        let error = processor().work(&args).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert_eq!(error.error_type(), "SqlStatement");
        assert!(error.message().contains("TableMissing"), "{error}");
        let refused = processor().prepare(args.clone()).await.unwrap_err();
        assert!(!refused.is_retryable(), "{refused}");

        script("ALTER TABLE u RENAME TO t").await;
        let page = run_page(&processor(), args, None).await.unwrap();
        assert_eq!(page.counts.changed, 1);
    }
}
