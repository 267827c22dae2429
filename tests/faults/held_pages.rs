//! Pages that record their worker, and that wait where a test wants, on each database that can have a ledger.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{MySql, Pool, Postgres, Sqlite};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, ProcessorSettings, SkipAhead,
    sql::{Backend, SqlLedger},
    store::PageLedger,
};
use tokio::sync::watch;

use crate::{
    id_pages::skip,
    increment::HEARTBEAT_TIMEOUT,
    support::servers::{MariaDb, Postgres as PostgresServer},
};

pub const ROWS: i64 = 60;
pub const PAGE: u32 = 10;

/// A database with the table `counters (id, x, worker)` and the tables of a ledger.
pub struct Home<DB: LateDatabase> {
    pub pool: Pool<DB>,
    ledger: Arc<SqlLedger<DB>>,
    /// Deletes the file of the database when it is dropped.
    _folder: Option<tempfile::TempDir>,
}

/// The parts of a database that these tests need.
#[async_trait]
pub trait LateDatabase: Backend {
    /// Creates the database. `None` where its server is not installed.
    async fn home(test: &str) -> Option<Home<Self>>;
    async fn run_script(pool: &Pool<Self>, statements: String);
    async fn read_number(pool: &Pool<Self>, query: String) -> i64;
    async fn add_one(
        connection: &mut Self::Connection,
        worker: &str,
        ids: (i64, i64),
    ) -> Result<(), sqlx::Error>;
}

macro_rules! late_database {
    ($database:ty, $update:literal, $pool:expr) => {
        #[async_trait]
        impl LateDatabase for $database {
            async fn home(test: &str) -> Option<Home<Self>> {
                let folder = tempfile::tempdir().unwrap();
                let pool = ($pool)(test.to_owned(), folder.path().to_owned()).await?;
                Some(Home::new(pool, folder).await)
            }

            async fn run_script(pool: &Pool<Self>, statements: String) {
                let script = sqlx::raw_sql(sqlx::AssertSqlSafe(statements));
                script.execute(pool).await.unwrap();
            }

            async fn read_number(pool: &Pool<Self>, query: String) -> i64 {
                let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query));
                query.fetch_one(pool).await.unwrap()
            }

            async fn add_one(
                connection: &mut Self::Connection,
                worker: &str,
                (first, last): (i64, i64),
            ) -> Result<(), sqlx::Error> {
                let update = sqlx::query($update).bind(worker).bind(first).bind(last);
                update.execute(connection).await.map(|_| ())
            }
        }
    };
}

late_database!(
    Sqlite,
    "UPDATE counters SET x = x + 1, worker = ? WHERE id >= ? AND id <= ?",
    async |_test, folder: std::path::PathBuf| {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(folder.join("test.db"))
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(20));
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(10);
        Some(pool.connect_with(options).await.unwrap())
    }
);
late_database!(
    Postgres,
    "UPDATE counters SET x = x + 1, worker = $1 WHERE id >= $2 AND id <= $3",
    async |test: String, _folder| Some(PostgresServer::shared()?.pool(&test, 10).await)
);
late_database!(
    MySql,
    "UPDATE counters SET x = x + 1, worker = ? WHERE id >= ? AND id <= ?",
    async |test: String, _folder| Some(MariaDb::shared()?.pool(&test, 10).await)
);

impl<DB: LateDatabase> Home<DB> {
    async fn new(pool: Pool<DB>, folder: tempfile::TempDir) -> Self {
        let ledger = Arc::new(SqlLedger::new(pool.clone()));
        ledger.apply_schema().await.unwrap();
        let rows: Vec<String> = (1..=ROWS).map(|id| format!("({id})")).collect();
        let tables = format!(
            "CREATE TABLE counters (id BIGINT PRIMARY KEY, x BIGINT NOT NULL DEFAULT 0, worker VARCHAR(20));
            INSERT INTO counters (id) VALUES {}",
            rows.join(", ")
        );
        DB::run_script(&pool, tables).await;
        Self {
            pool,
            ledger,
            _folder: Some(folder),
        }
    }

    /// The number of rows that satisfy the condition.
    pub async fn count(&self, condition: &str) -> i64 {
        let query = format!("SELECT count(*) FROM counters WHERE {condition}");
        DB::read_number(&self.pool, query).await
    }
}

/// The point at which a page waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// The page is read, and its transaction has not begun.
    Fetch,
    /// The page has written, and its transaction is open.
    Transaction,
}

/// A hold on the page that begins after a row: it waits at a place until it is released.
#[derive(Clone)]
pub struct Hold {
    pub place: Place,
    pub after: i64,
    state: Arc<watch::Sender<Held>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Held {
    #[default]
    NotYet,
    Waiting,
    Released,
}

impl Hold {
    pub fn at(place: Place, after: i64) -> Self {
        let state = Arc::new(watch::channel(Held::NotYet).0);
        Self {
            place,
            after,
            state,
        }
    }

    /// Resolves when the page waits.
    pub async fn is_held(&self) {
        let mut state = self.state.subscribe();
        state.wait_for(|s| *s == Held::Waiting).await.unwrap();
    }

    pub fn let_go(&self) {
        self.state.send_replace(Held::Released);
    }

    async fn wait(&self) {
        let hold = |state: &mut Held| {
            if *state == Held::NotYet {
                *state = Held::Waiting;
            }
        };
        self.state.send_modify(hold);
        let mut state = self.state.subscribe();
        state.wait_for(|s| *s == Held::Released).await.unwrap();
    }
}

/// A processor that adds one to every row, and records the name of its worker.
pub struct Late<DB: LateDatabase> {
    worker: &'static str,
    ledger: Arc<SqlLedger<DB>>,
    hold: Hold,
}

impl<DB: LateDatabase> Late<DB> {
    pub fn new(home: &Home<DB>, worker: &'static str, hold: &Hold) -> Self {
        Self {
            worker,
            ledger: Arc::clone(&home.ledger),
            hold: hold.clone(),
        }
    }

    async fn wait(&self, place: Place, after: i64) {
        if (self.hold.place, self.hold.after) == (place, after) {
            self.hold.wait().await;
        }
    }
}

#[async_trait]
impl<DB: LateDatabase> PageProcessor for Late<DB> {
    const NAME: &'static str = "late";
    type Args = ();
    type Cursor = i64;
    type Item = i64;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, i64>, PageError> {
        let start = ctx.range().start().copied().unwrap_or(0);
        let end = ctx.range().end().copied().unwrap_or(ROWS).min(ROWS);
        self.wait(Place::Fetch, start).await;
        let ids = (start + 1..=end).take(ctx.page_size()).collect();
        Page::keyset(ids, |id| *id)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        ids: Vec<i64>,
    ) -> Result<PageReport, PageError> {
        let mut transaction = ctx.transaction::<DB>().await?;
        let (first, last) = (ids[0], ids[ids.len() - 1]);
        DB::add_one(&mut transaction, self.worker, (first, last)).await?;
        self.wait(Place::Transaction, first - 1).await;
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<i64>, PageError> {
        Ok(skip(ctx, pages, ROWS))
    }

    fn ledger(&self, (): &()) -> Option<Arc<dyn PageLedger>> {
        Some(Arc::clone(&self.ledger) as Arc<dyn PageLedger>)
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            ..ProcessorSettings::default()
        }
    }
}
