//! The page ledger in a database.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | [`SqlLedger`] |
//! | `strides.rs`, `letters.rs`, `reports.rs`, `outputs.rs`, `settled.rs` | the statements of one table each |
//! | `transaction.rs` | the transaction of a page, or of a letter that is redriven |
//! | `coverage.rs` | holes in the chain of applied strides |
//! | `same_work.rs` | the batches of a ledger, for commands that would do the same work again |
//! | `schema.rs` | the tables for the command line |
//! | `late.rs` | a ledger whose transactions begin when a page is ready to write |
//! | `no_ledger.rs` | the ledger of a connection that the worker does not have |

pub(crate) mod coverage;
#[cfg(all(feature = "files", feature = "http"))]
pub(crate) mod late;
pub(crate) mod letter_table;
pub(crate) mod no_ledger;
pub(crate) mod outputs;
pub(crate) mod reports;
#[cfg(feature = "cli")]
pub(crate) mod same_work;
#[cfg(feature = "cli")]
pub(crate) mod schema;
pub(crate) mod settled;
pub(crate) mod stride_table;
pub(crate) mod transaction;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{Pool, pool::PoolConnection};

use super::{
    backend::{Backend, blockers, dialect::Dialect},
    connection::lease::{LeasedTransaction, Leases, Limits},
};
use crate::{
    base::{
        error::{PageError, text::words},
        time::Timestamp,
    },
    batch::letter_filter::LetterFilter,
    page::token::PageToken,
    processor::store::{
        dead_letter::{DeadLetter, DeadLetters},
        page_ledger::{FENCED_OFF, OpenStride, PageClaim, PageLedger, PageTransaction, StrideId},
    },
    progress::report::BatchReport,
};
use letter_table::LetterTable;
use outputs::OutputTable;
use reports::ReportTable;
use settled::SettledTable;
use stride_table::{Applied, Ended, StrideTable};
use transaction::{Claim, SqlTransaction};

/// The error type of operations on a ledger whose tables are missing.
pub(crate) const LEDGER_TABLES_MISSING: &str = "LedgerTablesMissing";

/// The [`PageLedger`] in PostgreSQL, MySQL, MariaDB or SQLite. Its five tables stand next to the data that the pages
/// change.
///
/// | table | one row for each |
/// |---|---|
/// | `temporal_batch_stride` | stride: how far it is applied, which attempt owns it, the outcomes of its items |
/// | `temporal_batch_dead_letter` | record or page that was given up |
/// | `temporal_batch_report` | batch run that has ended |
/// | `temporal_batch_output` | page that has an [output](crate::PageReport::output) |
/// | `temporal_batch_settled` | batch run whose dead letters were redriven |
///
/// The tables are created by [`apply_schema`](Self::apply_schema), or by you with the statements of
/// [`schema_sql`](Self::schema_sql), and never implicitly. While a table is missing, every call fails with a retryable
/// error of type `LedgerTablesMissing`.
///
/// A page holds a connection of the pool from its claim to its commit, so the pool needs more connections
/// than the worker has pages in flight. SQLite has one writer: there pages wait for each other, for as long
/// as the `busy_timeout` of the pool allows.
///
/// In MySQL and MariaDB the tables use InnoDB, and so must the tables that `process` writes to: other engines cannot
/// roll back. The transactions are `READ COMMITTED`, which a server with `binlog_format = STATEMENT` refuses.
/// `process` has two duties there. It must pass on the error of a statement: after a deadlock the whole transaction
/// is rolled back, and later statements would be committed one by one. And it must not run statements like `CREATE
/// TABLE` or `TRUNCATE`, which commit the page too early.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example() -> Result<(), temporal_batch::PageError> {
/// use temporal_batch::sql::SqlLedger;
///
/// let pool = sqlx::SqlitePool::connect("sqlite:shop.db").await?;
/// let ledger = SqlLedger::new(pool);
/// ledger.apply_schema().await?;
/// # Ok(())
/// # }
/// ```
pub struct SqlLedger<DB: Backend> {
    pub(super) leases: Leases<DB>,
    idle_timeout: Duration,
    /// The limits of the transaction of a page.
    limits: Limits,
    pub(super) tables: Arc<Tables>,
}

/// The tables of one ledger.
pub(super) struct Tables {
    pub strides: StrideTable,
    pub letters: LetterTable,
    pub reports: ReportTable,
    pub outputs: OutputTable,
    pub settled: SettledTable,
}

impl Tables {
    /// Creates the tables of one ledger. `prefix` is empty, or a quoted schema and a dot.
    fn new(prefix: &str) -> Self {
        Self {
            strides: StrideTable::new(prefix),
            letters: LetterTable::new(prefix),
            reports: ReportTable::new(prefix),
            outputs: OutputTable::new(prefix),
            settled: SettledTable::new(prefix),
        }
    }
}

/// The number of strides that one statement deletes.
const FORGOTTEN_AT_ONCE: u64 = 1_000;

/// The longest silence of the owner of a transaction.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// # Construct
impl<DB: Backend> SqlLedger<DB> {
    /// Creates a ledger in the database of a pool. The call does not connect, and creates no tables.
    pub fn new(pool: Pool<DB>) -> Self {
        Self {
            leases: Leases::of(pool),
            idle_timeout: IDLE_TIMEOUT,
            limits: Limits::default(),
            tables: Arc::new(Tables::new("")),
        }
    }
}

/// # PostgreSQL only
#[cfg(feature = "postgres")]
impl SqlLedger<sqlx::Postgres> {
    /// Puts the tables into a schema, which must exist and is spelled exactly as given. By default the tables are in
    /// the first schema of the search path that has them.
    ///
    /// # Errors
    /// PostgreSQL would not accept the name.
    pub fn schema(mut self, schema: &str) -> Result<Self, InvalidSchema> {
        // PostgreSQL would truncate a longer name, and cannot store a NUL.
        if schema.is_empty() || schema.len() > 63 || schema.chars().any(char::is_control) {
            return Err(InvalidSchema {
                given: schema.to_owned(),
            });
        }
        let quoted = schema.replace('"', "\"\"");
        self.tables = Arc::new(Tables::new(&format!("\"{quoted}\".")));
        Ok(self)
    }

    /// Sets the longest silence of a page's transaction before the server ends it: 60 s by default, at least 1 ms. A
    /// worker that is suspended holds the row of its stride for at most this long. A page that does other work for
    /// longer, between two statements, fails and is retried.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }
}

/// # MySQL and MariaDB only
#[cfg(feature = "mysql")]
impl SqlLedger<sqlx::MySql> {
    /// Sets the longest silence of a page's transaction before MariaDB ends it: 60 s by default, in whole seconds, at
    /// least 1. The setting stays with a connection that has applied a page. MySQL has no such limit: there a
    /// suspended worker holds the row of its stride until `wait_timeout`, eight hours unless you set less for the
    /// connections of the pool.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }
}

/// A schema name that PostgreSQL would not accept.
#[cfg(feature = "postgres")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "schema \"{given}\" is not a valid name; allowed are 1 to 63 bytes without control characters"
)]
pub struct InvalidSchema {
    /// The given name.
    pub given: String,
}

/// # Tables
impl<DB: Backend> SqlLedger<DB> {
    /// Returns the statements that create the tables and their indexes. They do nothing where these exist.
    pub fn schema_sql(&self) -> String {
        [
            self.tables.strides.schema_sql::<DB>(),
            self.tables.letters.schema_sql::<DB>(),
            self.tables.reports.schema_sql::<DB>(),
            self.tables.outputs.schema_sql::<DB>(),
            self.tables.settled.schema_sql::<DB>(),
        ]
        .concat()
    }

    /// Creates the tables that are missing. Several processes may call it at once.
    ///
    /// # Errors
    /// The error of the database, for instance if the role may not create tables.
    pub async fn apply_schema(&self) -> Result<(), PageError> {
        let mut transaction = self.transaction(&Limits::default()).await?;
        if let Some(lock) = DB::LOCK_SCHEMA {
            DB::script(&mut transaction, lock.to_owned()).await?;
        }
        DB::script(&mut transaction, self.schema_sql()).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes the strides of batch runs that completed before a time, with failures or without, and whose report is
    /// kept. Returns the number of strides. Dead letters and reports stay. The call uses small statements, each in a
    /// transaction of its own, so that no lock is held for long. An interrupted call can be repeated.
    ///
    /// Without these strides, a late attempt or a batch that is reset in Temporal could apply a page again: choose a
    /// time before the start of any such attempt and before any point of such a reset.
    ///
    /// # Errors
    /// The error of the database.
    pub async fn prune(&self, ended_before: Timestamp) -> Result<u64, PageError> {
        self.forget(Ended::Completed, ended_before).await
    }

    /// Like [`prune`](Self::prune), for batch runs that ended before that time as failed, stopped or cancelled, and
    /// that have applied no page since. If such a batch is [continued](crate::client::Continuation) afterwards, it applies
    /// pages again that were in flight when it ended.
    ///
    /// # Errors
    /// The error of the database.
    pub async fn prune_unfinished(&self, ended_before: Timestamp) -> Result<u64, PageError> {
        self.forget(Ended::Unfinished, ended_before).await
    }

    async fn forget(&self, how: Ended, ended_before: Timestamp) -> Result<u64, PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        let Tables {
            strides, reports, ..
        } = &*self.tables;
        let mut forgotten = 0;
        let mut last = String::new();
        loop {
            let ended = strides
                .ended_before::<DB>(&mut connection, &reports.name, how, ended_before, &last)
                .await
                .map_err(failed::<DB>)?;
            for batch_run in &ended {
                self.tables
                    .outputs
                    .forget::<DB>(&mut connection, batch_run, FORGOTTEN_AT_ONCE)
                    .await
                    .map_err(failed::<DB>)?;
                loop {
                    let strides = strides
                        .forget::<DB>(&mut connection, batch_run, FORGOTTEN_AT_ONCE)
                        .await
                        .map_err(failed::<DB>)?;
                    forgotten += strides;
                    if strides == 0 {
                        break;
                    }
                }
            }
            match ended.into_iter().next_back() {
                Some(batch_run) => last = batch_run,
                None => return Ok(forgotten),
            }
        }
    }

    /// Creates a ledger on leases that are shared, with limits for the transaction of a page.
    pub(super) fn on(leases: Leases<DB>, limits: Limits) -> Self {
        Self {
            leases,
            limits,
            idle_timeout: IDLE_TIMEOUT,
            tables: Arc::new(Tables::new("")),
        }
    }

    /// Returns a connection for a single statement that writes.
    async fn connection(&self) -> Result<PoolConnection<DB>, PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        if let Some(limit) = &self.limits.before {
            DB::script(&mut connection, limit.clone()).await?;
        }
        Ok(connection)
    }

    async fn transaction(&self, limits: &Limits) -> Result<LeasedTransaction<DB>, PageError> {
        let begin = limits.begin(DB::begin(self.idle_timeout));
        Ok(LeasedTransaction::begin(&self.leases, begin).await?)
    }
}

impl<DB: Backend> fmt::Debug for SqlLedger<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlLedger<{}>", DB::NAME)
    }
}

/// Returns the page error of one of the ledger's own statements.
pub(super) fn failed<DB: Dialect>(error: sqlx::Error) -> PageError {
    let missing = error
        .as_database_error()
        .is_some_and(|e| DB::is_missing_table(e));
    if !missing {
        return error.into();
    }
    PageError::environment(format_args!(
        "the tables of the page ledger are missing; create them with `schema apply`, or in Rust with `SqlLedger::apply_schema`: {}",
        words(&error)
    ))
    .with_type(LEDGER_TABLES_MISSING)
}

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

fn not_its_database(stride: &StrideId) -> PageError {
    PageError::environment(format_args!(
        "this database has no trace of the batch, which has come to stride {} with the ledger of another one: compare \
         the database of this worker with that of the others",
        stride.stride
    ))
    .with_type("WrongDatabase")
}

fn fenced_off(stride: &StrideId) -> PageError {
    PageError::environment(format_args!(
        "a later attempt at stride {} has begun",
        stride.stride
    ))
    .with_type(FENCED_OFF)
}

#[async_trait]
impl<DB: Backend> PageLedger for SqlLedger<DB> {
    async fn open(
        &self,
        stride: &StrideId,
        start: Option<&PageToken>,
        end: Option<&PageToken>,
        is_kept: bool,
    ) -> Result<OpenStride, PageError> {
        let opened = self.raise_fence(stride, start, end, is_kept).await;
        let opened = opened.map_err(|e| blockers::of_file(self.leases.pool(), e))?;
        let opened = opened.ok_or_else(|| not_its_database(stride))?;
        if let (Some(given), Some(kept)) = (end, &opened.end)
            && given != kept
        {
            return Err(PageError::non_retryable(
                "LedgerConflict",
                format_args!(
                    "stride {} ends at {kept} in the ledger, but at {given} in the batch",
                    stride.stride
                ),
            ));
        }
        Ok(opened)
    }

    async fn cut(
        &self,
        stride: &StrideId,
        fence: i64,
        ends: &[PageToken],
    ) -> Result<Vec<PageToken>, PageError> {
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        let strides = &self.tables.strides;
        // The end and the fence may change between the two queries, but never back.
        loop {
            if self.first_to_cut(stride, fence, ends).await? {
                return Ok(ends.to_vec());
            }
            let mut connection = self.leases.pool().acquire().await?;
            let kept = strides
                .kept_ends::<DB>(&mut connection, stride)
                .await
                .map_err(failed::<DB>)?;
            match kept {
                Some(kept) if kept.fence == fence && kept.ends.is_empty() => {}
                Some(kept) if kept.fence == fence => return Ok(kept.ends),
                Some(_) | None => return Err(fenced_off(stride)),
            }
        }
    }

    async fn begin(
        &self,
        claim: PageClaim<'_>,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        if claim.to.is_none() && !claim.ends_data {
            // Such a page could be claimed again and again.
            return Err(PageError::non_retryable(
                "LedgerConflict",
                "a page has no end, but the data does not end with it",
            ));
        }
        let transaction = self.transaction(&self.limits).await;
        let mut transaction = transaction.map_err(|e| blockers::of_file(self.leases.pool(), e))?;
        let strides = &self.tables.strides;
        let claimed = strides
            .claim::<DB>(&mut transaction, &claim, now())
            .await
            .map_err(failed::<DB>)?;
        if !claimed {
            transaction.rollback().await?;
            return Ok(None);
        }
        let applied = Claim::Page(Applied::by(&claim));
        Ok(Some(self.page_transaction(transaction, applied)))
    }

    async fn outputs(
        &self,
        stride: &StrideId,
        after: u64,
    ) -> Result<Vec<serde_json::Value>, PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        let table = &self.tables.outputs;
        table.after::<DB>(&mut connection, stride, after).await
    }

    async fn strides_of(&self, batch_id: &str) -> Result<u64, PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        let strides = self
            .tables
            .strides
            .of_batch::<DB>(&mut connection, batch_id);
        strides.await.map_err(failed::<DB>)
    }

    async fn message_limit(&self) -> Option<String> {
        let (query, name) = DB::MESSAGE_LIMIT?;
        let mut connection = self.leases.pool().acquire().await.ok()?;
        let rows = DB::rows(&mut connection, query.to_owned(), Vec::new()).await;
        let bytes = DB::number(rows.ok()?.first()?, 0).ok()?;
        Some(format!(
            "the server closes a connection that sends more than {bytes} bytes at once ({name})"
        ))
    }
}

impl<DB: Backend> SqlLedger<DB> {
    async fn raise_fence(
        &self,
        stride: &StrideId,
        start: Option<&PageToken>,
        end: Option<&PageToken>,
        is_kept: bool,
    ) -> Result<Option<OpenStride>, PageError> {
        let Tables {
            strides, reports, ..
        } = &*self.tables;
        let kept = is_kept.then_some(reports.name.as_str());
        if DB::RETURNING {
            let mut connection = self.connection().await?;
            let opened = strides.open::<DB>(&mut connection, stride, (start, end), kept, now());
            return opened.await.map_err(failed::<DB>);
        }
        let mut transaction = self.transaction(&Limits::default()).await?;
        let opened = strides.open::<DB>(&mut transaction, stride, (start, end), kept, now());
        let opened = opened.await.map_err(failed::<DB>)?;
        transaction.commit().await?;
        Ok(opened)
    }

    /// Stores the ends if the stride has none and the fence is that of the attempt.
    async fn first_to_cut(
        &self,
        stride: &StrideId,
        fence: i64,
        ends: &[PageToken],
    ) -> Result<bool, PageError> {
        let strides = &self.tables.strides;
        let mut statements = strides.cut::<DB>(stride, fence, ends, now()).into_iter();
        let Some((first, values)) = statements.next() else {
            return Ok(false);
        };
        if statements.len() == 0 {
            let mut connection = self.connection().await?;
            let cut = DB::execute(&mut connection, first, values).await;
            return Ok(cut.map_err(failed::<DB>)? == 1);
        }
        let mut transaction = self.transaction(&Limits::default()).await?;
        let cut = DB::execute(&mut transaction, first, values).await;
        if cut.map_err(failed::<DB>)? == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        for (statement, values) in statements {
            DB::execute(&mut transaction, statement, values).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    fn page_transaction(
        &self,
        transaction: LeasedTransaction<DB>,
        claim: Claim,
    ) -> Box<dyn PageTransaction> {
        let tables = Arc::clone(&self.tables);
        Box::new(SqlTransaction::new(transaction, tables, claim))
    }
}

#[async_trait]
impl<DB: Backend> DeadLetters for SqlLedger<DB> {
    async fn put(&self, letters: &[DeadLetter]) -> Result<(), PageError> {
        if letters.is_empty() {
            return Ok(());
        }
        let mut transaction = self.transaction(&Limits::default()).await?;
        let table = &self.tables.letters;
        table
            .put::<DB>(&mut transaction, letters)
            .await
            .map_err(failed::<DB>)?;
        transaction.commit().await?;
        Ok(())
    }

    async fn list(
        &self,
        filter: &LetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        let table = &self.tables.letters;
        table
            .list::<DB>(&mut connection, filter, after, limit)
            .await
            .map_err(failed::<DB>)
    }

    async fn take(
        &self,
        letter: &DeadLetter,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        let (before, within) = (self.limits.before.clone(), self.limits.within.clone());
        let waits = Limits {
            before,
            within: None,
        };
        let mut transaction = self.transaction(&waits).await?;
        let table = &self.tables.letters;
        let taken = table
            .take::<DB>(&mut transaction, &letter.id)
            .await
            .map_err(failed::<DB>)?;
        if !taken {
            transaction.rollback().await?;
            return Ok(None);
        }
        if let Some(limits) = within {
            // Set only now: another redrive may have held the letter for as long as its page takes.
            DB::script(&mut transaction, limits).await?;
        }
        Ok(Some(
            self.page_transaction(transaction, Claim::of_letter(letter)),
        ))
    }

    async fn keep_report(&self, report: &BatchReport) -> Result<(), PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        self.tables
            .reports
            .keep::<DB>(&mut connection, report)
            .await
    }

    async fn reports(&self, batch_id: &str) -> Result<Vec<BatchReport>, PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        let table = &self.tables.reports;
        table.of_batch::<DB>(&mut connection, batch_id).await
    }

    async fn settled(&self, batch_run: &str) -> Result<Option<u64>, PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        let table = &self.tables.settled;
        let settled = table.of_run::<DB>(&mut connection, batch_run).await;
        settled.map(Some).map_err(failed::<DB>)
    }
}
