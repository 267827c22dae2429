//! A trial of a backfill on a few pages that are rolled back.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | [`DryRun`] |
//! | `trial.rs`, `lock_watch.rs` | a page that is rolled back, and its waits for locks |
//! | `diff.rs` | rows before and after |
//! | `plan.rs`, `estimate.rs` | the plans, and the duration of the batch |
//! | `report.rs` | the report |

mod diff;
mod estimate;
mod lock_watch;
mod plan;
mod report;
mod trial;

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    base::error::PageError,
    page::size::Certainty,
    sql::{
        BackfillArgs, Database, Key, RangeCheck, RangeCheckError, Table, TableError,
        backend::table_engine::{Untransactional, untransactional},
        backfill::{Rows, Work},
        connection::pool::on_pool,
        table::KeySample,
    },
};
pub use diff::{ChangeKind, ColumnChange, RowChange};
pub use estimate::Estimate;
pub use plan::Plan;
pub use report::{DryRunReport, PageTrial};

/// The number of rows of a page that are compared for differences.
const ROWS_LOOKED_AT: usize = 200;
/// The number of pages that are compared for differences, until there are enough.
const PAGES_LOOKED_AT: usize = 5;
/// The number of failed pages after which the dry run stops.
const MAX_FAILED: usize = 3;

/// Tries a backfill on pages from all parts of its table, in transactions that are rolled back. A dry run needs no
/// Temporal server, and leaves all tables as they were.
///
/// | setting | default |
/// |---|---|
/// | [`page_size`](Self::page_size) | 1,000 |
/// | [`pages`](Self::pages) | 20 |
/// | [`rows_shown`](Self::rows_shown) | 5 |
/// | [`parallelism`](Self::parallelism) | 10, for the estimate only |
///
/// # Side effects
///
/// - The rows of a page are locked while the page runs, as in the batch; in SQLite the whole database is locked. The
///   [lock timeout](BackfillArgs::lock_timeout) applies here, too.
/// - Some effects are not rolled back: numbers of sequences, and actions of functions and triggers outside of the
///   database. `NOTIFY` is not sent.
/// - PostgreSQL keeps the rolled-back row versions until the next vacuum: at most two times `pages` times
///   `page_size`. They are invisible.
/// - No page is committed, so estimates do not include the time of commits.
///
/// The dry run is refused if a table in the statements cannot roll back (MyISAM and similar engines of MySQL).
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use temporal_batch::sql::{BackfillArgs, Database, DryRun, TableSpec};
///
/// let shop = Database::from(sqlx::SqlitePool::connect("sqlite:shop.db").await?);
/// let args = BackfillArgs::of(TableSpec::new("users", ["id"])).set("email", "lower(email)");
/// let report = DryRun::of(args).pages(10).run(&shop).await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "nothing is tried before `run`"]
pub struct DryRun {
    args: BackfillArgs,
    page_size: u32,
    pages: u32,
    rows_shown: usize,
    parallelism: u32,
}

/// # Construct
impl DryRun {
    /// Creates a dry run of a backfill. The connection in its arguments is ignored.
    pub fn of(args: BackfillArgs) -> Self {
        Self {
            args,
            page_size: 1_000,
            pages: 20,
            rows_shown: 5,
            parallelism: 10,
        }
    }

    /// Sets the number of rows in a page; 0 counts as 1.
    pub fn page_size(mut self, rows: u32) -> Self {
        self.page_size = rows.max(1);
        self
    }

    /// Sets the number of pages to try; 0 counts as 1. A table with fewer pages is tried as a whole.
    pub fn pages(mut self, pages: u32) -> Self {
        self.pages = pages.max(1);
        self
    }

    /// Sets the number of rows whose values are shown before and after.
    pub fn rows_shown(mut self, rows: usize) -> Self {
        self.rows_shown = rows;
        self
    }

    /// Sets the parallelism for the estimate. The dry run itself runs one page after the other.
    pub fn parallelism(mut self, pages: u32) -> Self {
        self.parallelism = pages.max(1);
        self
    }
}

/// # Run
impl DryRun {
    /// Runs the trial. Dropping the future rolls back the current page.
    ///
    /// # Errors
    /// The reasons to refuse the backfill, apart from slow pages and missing tables of a ledger, which are notes of
    /// the report. A page that fails is part of the report, too.
    pub async fn run(&self, database: &Database) -> Result<DryRunReport, PageError> {
        let args = &self.args;
        let table = Table::inspect(database, &args.table).await;
        let work = Work::new(args, table.map_err(TableError::into_page_error)?).await?;
        work.try_out(args).await?;
        let mut notes = Vec::new();
        if let Some(verify) = &args.verify {
            let check = RangeCheck::new(work.table(), verify).await;
            let check = check.map_err(RangeCheckError::into_page_error)?;
            check.try_out().await?;
            if !check.is_ranged() {
                notes.push(
                    "the query to verify has no place for a range: it will run once, after the last page"
                        .to_owned(),
                );
            }
        }
        can_roll_back(database, &work).await?;
        match work.table().check_plan().await {
            Ok(()) => {}
            Err(slow @ TableError::SlowPages { .. }) => notes.push(slow.to_string()),
            Err(error) => return Err(error.into_page_error()),
        }
        let (rows, rows_are_exact) = match args.exact_count {
            true => (Some(work.table().count(None, None).await?), true),
            false => {
                let size = work.table().size().await?;
                (size.items(), size.certainty() == Certainty::Exact)
            }
        };
        let (sample, pages, keys) = self.try_pages(&work, rows).await?;
        let failed = pages.iter().any(|page| page.error.is_some());
        let changes = match failed {
            // A statement that fails in the batch fails here.
            true => Vec::new(),
            false => self.changes(&work, &keys).await?,
        };
        let times: Vec<_> = pages
            .iter()
            .map(|p| Duration::from_secs_f64(p.seconds))
            .collect();
        let (rows, rows_are_exact) = match sample {
            WHOLE => (Some(pages.iter().map(|page| page.matched).sum()), true),
            _ => (rows, rows_are_exact),
        };
        let batch_pages = rows.map(|rows| rows.div_ceil(u64::from(self.page_size)));
        let parallelism = match database {
            // SQLite has one writer.
            #[cfg(feature = "sqlite")]
            Database::Sqlite(_) => 1,
            #[allow(unreachable_patterns, reason = "SQLite may be all there is")]
            _ => self.parallelism,
        };
        let estimate = match (failed, batch_pages) {
            (false, Some(pages)) => Estimate::from_pages(&times, pages, parallelism),
            _ => None,
        };
        notes.extend(self.notes(rows, rows_are_exact, estimate.is_some(), database));
        let start = keys.get(keys.len() / 2).and_then(|page| page.first());
        let size = u64::from(self.page_size);
        let (statement, lines) = work.table().page_plan(start, size).await?;
        Ok(DryRunReport {
            table: work.table().quoted_name().to_owned(),
            system: database.system().to_owned(),
            rows,
            rows_are_exact,
            page_size: size,
            page_query: Plan::new(statement, lines, database),
            statements: statements(&work, args, &keys, database).await?,
            sample: sample.to_owned(),
            pages,
            changes,
            estimate,
            notes,
        })
    }

    /// Tries pages from all parts of the table, or all pages of a small one.
    async fn try_pages(
        &self,
        work: &Work,
        rows: Option<u64>,
    ) -> Result<(&'static str, Vec<PageTrial>, Vec<Vec<Key>>), PageError> {
        let (count, size) = (u64::from(self.pages), u64::from(self.page_size));
        let spread = match rows {
            Some(rows) if rows <= count.saturating_mul(size) => None,
            rows => work.table().spread(count, rows).await?,
        };
        let (method, starts) = match spread {
            None => ("from the beginning on", None),
            Some(KeySample { keys, method }) => {
                let starts = std::iter::once(None).chain(keys.into_iter().map(Some));
                let starts: Vec<_> = starts.take(self.pages as usize).collect();
                (method, Some(starts))
            }
        };
        let mut sample = method;
        let (mut trials, mut pages): (Vec<PageTrial>, Vec<Vec<Key>>) = (Vec::new(), Vec::new());
        let mut failed = 0;
        for number in 0..self.pages as usize {
            let last = pages.last().and_then(|page| page.last());
            let start = match &starts {
                Some(starts) => match starts.get(number) {
                    Some(start) => start.as_ref(),
                    None => break,
                },
                None => last,
            };
            // Gaps in the keys, and a filter, may lead to rows of the previous page. Only the database knows which
            // key comes first.
            let behind = match last {
                Some(last) if starts.is_some() => {
                    !work.table().keys(start, Some(last), 1).await?.is_empty()
                }
                _ => false,
            };
            let start = if behind { last } else { start };
            let (keys, found) = self.keys(work, start).await?;
            let (Some(first), Some(end)) = (keys.first(), keys.last()) else {
                if starts.is_some() {
                    continue;
                }
                sample = WHOLE;
                break;
            };
            let rows = Rows::Between(first.clone(), end.clone());
            let trial = on_pool!(work.table().database(), pool: Db => {
                trial::page::<Db>(pool, work, &self.args, &rows).await?
            });
            let matched = keys.len() as u64;
            let changed = *trial.changed.as_ref().unwrap_or(&0);
            let wait = trial.lock_wait;
            failed += usize::from(trial.changed.is_err());
            trials.push(PageTrial {
                first: first.clone(),
                last: end.clone(),
                matched,
                changed: changed.min(matched),
                unchanged: match &trial.changed {
                    Ok(_) => matched.saturating_sub(changed),
                    Err(_) => 0,
                },
                seconds: (found + trial.took).as_secs_f64(),
                lock_wait_seconds: wait.as_ref().map(|wait| wait.waited.as_secs_f64()),
                blocked_by: wait.map_or_else(Vec::new, |w| w.blockers.into_iter().collect()),
                error: trial.changed.err().map(|error| error.to_string()),
            });
            pages.push(keys);
            if failed == MAX_FAILED {
                break;
            }
        }
        Ok((sample, trials, pages))
    }

    /// Returns the keys of a page, and the time it took to find them.
    async fn keys(
        &self,
        work: &Work,
        start: Option<&Key>,
    ) -> Result<(Vec<Key>, Duration), PageError> {
        let began = Instant::now();
        let keys = work
            .table()
            .keys(start, None, self.page_size as usize)
            .await?;
        Ok((keys, began.elapsed()))
    }

    /// Returns changed rows from the pages of the sample, from as many places as possible.
    async fn changes(&self, work: &Work, pages: &[Vec<Key>]) -> Result<Vec<RowChange>, PageError> {
        let mut changes = Vec::new();
        let apart = pages.len().div_ceil(PAGES_LOOKED_AT).max(1);
        for (number, page) in pages.iter().step_by(apart).enumerate() {
            let left = self.rows_shown.saturating_sub(changes.len());
            let most = left.div_ceil(PAGES_LOOKED_AT.saturating_sub(number).max(1));
            if most == 0 {
                break;
            }
            let every = page.len().div_ceil(ROWS_LOOKED_AT).max(1);
            let looked_at: Vec<_> = page.iter().step_by(every).cloned().collect();
            let found = on_pool!(work.table().database(), pool: Db => {
                trial::changes::<Db>(pool, work, &self.args, page, &looked_at, most).await?
            });
            changes.extend(found);
        }
        Ok(changes)
    }

    fn notes(
        &self,
        rows: Option<u64>,
        exact: bool,
        estimated: bool,
        database: &Database,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        match rows {
            None => notes.push(
                "the number of rows is not known, so there is no estimate; ask for an exact count"
                    .to_owned(),
            ),
            Some(_) if !exact => notes.push("the number of rows comes from statistics".to_owned()),
            Some(_) => {}
        }
        if estimated {
            notes.push(
                "the estimate assumes pages that run one after the other, without commits; its interval is that of \
                 Student's t for the average page"
                    .to_owned(),
            );
        }
        #[cfg(feature = "postgres")]
        if matches!(database, Database::Postgres(_)) {
            notes.push(
                "PostgreSQL keeps the row versions that were rolled back until the next vacuum; numbers taken \
                 from sequences are not given back"
                    .to_owned(),
            );
        }
        let _ = database;
        notes
    }
}

/// The sample has all pages.
const WHOLE: &str = "all of the table";

/// Returns the statements with their plans for a page from the middle of the sample.
async fn statements(
    work: &Work,
    args: &BackfillArgs,
    pages: &[Vec<Key>],
    database: &Database,
) -> Result<Vec<Plan>, PageError> {
    let shown = work.shown("{range}");
    let page = pages.get(pages.len() / 2);
    let Some((first, last)) = page.and_then(|page| page.first().zip(page.last())) else {
        let plans = shown.into_iter();
        return Ok(plans.map(|s| Plan::new(s, Vec::new(), database)).collect());
    };
    let plans = shown.into_iter().zip(work.plans(args, first, last).await?);
    Ok(plans
        .map(|(statement, lines)| Plan::new(statement, lines, database))
        .collect())
}

/// Refuses statements that write to a table whose changes are not rolled back.
async fn can_roll_back(database: &Database, work: &Work) -> Result<(), PageError> {
    match untransactional(database, &work.shown("TRUE"), false).await? {
        None => Ok(()),
        Some(Untransactional { table, engine }) => Err(PageError::non_retryable(
            "CannotRollBack",
            format_args!(
                "a statement writes to the table {table}, whose engine {engine} has no transactions: changes \
                 to it would remain, so there can be no dry run"
            ),
        )),
    }
}
