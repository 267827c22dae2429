//! The processor that changes the rows of a table.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sqlx::Pool;
use tokio::sync::OnceCell;

use super::{
    args::{BackfillArgs, HighWaterMark},
    error::InvalidBackfill,
    session::Session,
    tokens::Syntax,
    work::Work,
};
use crate::{
    check::{Check, CheckContext},
    dead_letter::{DeadLetters, LetterFilter},
    error::PageError,
    page::Page,
    page_ledger::PageLedger,
    processor::{PageContext, PageProcessor, PageReport, ProcessorSettings, SkipAhead},
    sql::{
        Connections, Database, Key, RangeCheck, RangeCheckError, Table, TableDatabase, TableError,
        no_ledger::NoLedger,
        verify::{Checked, check_backfill},
    },
};

/// Changes the rows of a table page by page, with the database's own statements: what `temporal-batch backfill`
/// runs, for workers of your own.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example(client: temporalio_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use temporal_batch::{BackfillArgs, Batch, Connections, SqlBackfill, TableSpec, Worker};
///
/// let shop = sqlx::SqlitePool::connect("sqlite:shop.db").await?;
/// let connections = Connections::new().with("shop", shop);
/// let worker = Worker::new(client, "shop").processor(SqlBackfill::new(connections));
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
/// 1. `fetch` reads the keys of its rows.
/// 2. `process` begins a transaction (or with [`once`](BackfillArgs::once) uses that of the page ledger),
///    limits how long statements take and wait, runs the statements for the rows from the first to the last of
///    those keys that match the filter, and commits.
///
/// Several statements, or one that names its rows twice, work on rows that stand still: they are locked first,
/// and `{range}` then means exactly the rows that are locked. So `INSERT INTO archive SELECT .. WHERE {range}`
/// and `DELETE .. WHERE {range}` lose no row that comes or changes between the two.
///
/// # What is reported
///
/// Every row of the page counts as processed. Those that the statement with the most affected rows has
/// affected count as changed; with [`set`](BackfillArgs::set) the others had their values already.
///
/// # What goes wrong
///
/// A lost connection, a deadlock, a serialization failure and a lock that is not free in time are tried again.
/// What a row is to blame for (a constraint, a value that does not fit) splits the page until the rows are
/// found, where dead letters are kept: in the page ledger with `once`, otherwise in the
/// [store](Self::dead_letters) that you give.
///
/// # What is refused before anything starts
///
/// A table that cannot be paged through ([`TableError`]), work that cannot be done ([`InvalidBackfill`]), a
/// statement that the database does not take, and `once` where the tables of the ledger are missing.
pub struct SqlBackfill {
    connections: Connections,
    letters: Option<Arc<dyn DeadLetters>>,
    /// By the arguments, as JSON.
    works: Mutex<HashMap<String, Known>>,
}

/// Work for a table that is looked at, or was.
#[derive(Clone)]
struct Known {
    since: Instant,
    work: Arc<OnceCell<Arc<Work>>>,
}

/// A table is looked at again after this long: it may be altered while a worker lives.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// # Construct
impl SqlBackfill {
    /// Works on these connections; a batch names one of them.
    pub fn new(connections: Connections) -> Self {
        Self {
            connections,
            letters: None,
            works: Mutex::default(),
        }
    }

    /// Keeps the rows that are given up here, for batches without [`once`](BackfillArgs::once). Without it a
    /// page that fails is given up as a whole.
    pub fn dead_letters(mut self, store: impl DeadLetters) -> Self {
        self.letters = Some(Arc::new(store));
        self
    }
}

/// # Before the start
impl SqlBackfill {
    /// Checks everything that can be checked without changing anything, and gives what would be done.
    pub(crate) async fn check_args(&self, args: &BackfillArgs) -> Result<Arc<Work>, PageError> {
        let database = self.connections.get(&args.connection)?;
        Work::check(args, Syntax::of(database)).map_err(InvalidBackfill::into_page_error)?;
        let work = self.look(args).await?;
        if !args.allow_slow_pages {
            let plan = work.table().check_plan().await;
            plan.map_err(TableError::into_page_error)?;
        }
        work.try_out().await?;
        if let Some(verify) = &args.verify {
            let check = RangeCheck::new(work.table(), verify).await;
            let check = check.map_err(RangeCheckError::into_page_error)?;
            check.try_out().await?;
        }
        if args.once {
            check_ledger(database).await?;
        }
        Ok(work)
    }

    async fn look(&self, args: &BackfillArgs) -> Result<Arc<Work>, PageError> {
        let database = self.connections.get(&args.connection)?;
        let table = Table::inspect(database, &args.table).await;
        let table = table.map_err(TableError::into_page_error)?;
        Ok(Arc::new(Work::new(args, table).await?))
    }

    /// What is done for these arguments. A table is looked at once for all pages of a while.
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
        // It was as it should be when the batch began.
        work.map(Arc::clone).map_err(TableError::since_the_start)
    }
}

/// The letters are asked for, since that changes nothing.
async fn check_ledger(database: &Database) -> Result<(), PageError> {
    let letters = database.ledger();
    match letters.list(&LetterFilter::of(""), None, 1).await {
        Err(error) if error.error_type() == "LedgerTablesMissing" => {
            Err(InvalidBackfill::LedgerTablesMissing.into_page_error())
        }
        looked => looked.map(|_| ()),
    }
}

impl HighWaterMark {
    /// The highest key that there is.
    pub(crate) async fn of(table: &Table) -> Result<Self, PageError> {
        Ok(table
            .high_water_mark()
            .await?
            .map_or(Self::NoRows, Self::At))
    }

    /// The last key that may be read, where there is one.
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
    type Item = Key;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<Key, Key>, PageError> {
        let (args, range) = (ctx.args(), ctx.range());
        if args.high_water_mark == HighWaterMark::NoRows {
            return Ok(Page::empty());
        }
        let work = self.work(args).await?;
        let end = range.end().or(args.high_water_mark.key());
        let keys = work.table().keys(range.start(), end, ctx.page_size());
        Page::sorted(keys.await?, Key::clone)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<Key>,
    ) -> Result<PageReport, PageError> {
        let args = ctx.args();
        let work = self.work(args).await?;
        let changed = match work.table().database() {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => page(ctx, pool, &work, &items).await?,
            #[cfg(feature = "mysql")]
            Database::MySql(pool) => page(ctx, pool, &work, &items).await?,
            #[cfg(feature = "sqlite")]
            Database::Sqlite(pool) => page(ctx, pool, &work, &items).await?,
        };
        // Rows that came meanwhile may have been changed too, and are not the page's.
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
                Err(PageError::retryable("the check was told to stop").with_type("Cancelled"))
            }
        }
    }

    async fn size_hint(&self, args: &BackfillArgs) -> Result<Option<u64>, PageError> {
        if args.high_water_mark == HighWaterMark::NoRows {
            return Ok(Some(0));
        }
        let work = self.work(args).await?;
        match args.exact_count {
            true => {
                let end = args.high_water_mark.key();
                work.table().count(None, end).await.map(Some)
            }
            false => work.table().size_hint().await,
        }
    }

    fn ledger(&self, args: &BackfillArgs) -> Option<Arc<dyn PageLedger>> {
        args.once
            .then(|| match self.connections.get(&args.connection) {
                Ok(database) => database.ledger(),
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

/// Changes the rows of a page, and tells how many.
async fn page<DB: Session + TableDatabase>(
    ctx: &PageContext<SqlBackfill>,
    pool: &Pool<DB>,
    work: &Work,
    items: &[Key],
) -> Result<u64, PageError> {
    let args = ctx.args();
    let (Some(first), Some(last)) = (items.first(), items.last()) else {
        return Ok(0);
    };
    if args.once {
        let mut page = ctx.transaction::<DB>().await?;
        return work.apply::<DB>(&mut page, args, first, last).await;
    }
    // A statement and a wait for a lock are over by then.
    let silent = args.statement_timeout + args.lock_timeout + Duration::from_secs(30);
    let mut page = DB::begin(pool, silent).await?;
    let changed = work.apply::<DB>(&mut page, args, first, last).await?;
    page.commit().await?;
    Ok(changed)
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

        // Somebody renames it, and it is looked at again.
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
