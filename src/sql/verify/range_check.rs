//! The check of a table, range by range.

use std::time::Duration;

use async_trait::async_trait;
use futures::{TryStreamExt, stream};
use tokio::time::Instant;

use super::{
    narrow::{Found, Rows, Span, narrow},
    query::{Answer, InvalidVerify, VerifyQuery},
};
use crate::{
    base::{
        error::{PageError, truncate},
        text::count,
    },
    page::token::PageToken,
    processor::SkipAhead,
    progress::check::{Check, FailedRange},
    sql::{
        Database, Key, Table, TableError, TableSpec, backend::value::Value, connection::read_only,
        syntax::Syntax,
    },
};

/// The number of failed ranges that are narrowed and described; a [`Check`] lists no more.
const MAX_DESCRIBED: usize = 20;
/// The longest part of a condition in the message of a failed range.
const MAX_CONDITION_CHARS: usize = 80;
/// The timeout for a query of the whole table.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Checks the rows of a table, range by range, and returns the ranges that do not hold.
///
/// The query has one of these forms:
///
/// | form | wrong rows |
/// |---|---|
/// | a condition, `email_hash IS NOT NULL` | each row that does not fulfil it, or for which it is NULL; the [filter](TableSpec::filter) of the table plays no part |
/// | `SELECT count(*) FROM t WHERE ..` of the table and nothing else | as many rows as it counts; the range is added to its `WHERE` |
/// | a `SELECT` with `{range}` in it | as many rows as it counts; the range takes the place of `{range}`, once or several times |
/// | any other `SELECT` | as many rows as it counts; it runs once for the whole table, however long that takes |
///
/// A `SELECT` whose only column is a `count(..)` or `sum(..)` returns the number of wrong rows. Each row of any other
/// `SELECT` stands for one wrong row.
///
/// Each range is read in a transaction of its own that cannot write, so that the check holds no old snapshot while it
/// goes through a large table. A range that does not hold is split until the wrong rows are in small ranges, or are
/// most of their range.
///
/// | setting | default |
/// |---|---|
/// | [`rows_per_range`](Self::rows_per_range) | 50,000 |
/// | [`narrow_to`](Self::narrow_to) | 1,000 rows |
/// | [`parallelism`](Self::parallelism) | 1 |
/// | [`rest`](Self::rest) | a quarter of the time that a range took |
/// | [`statement_timeout`](Self::statement_timeout) | 60 s |
#[derive(Clone, Debug)]
pub struct RangeCheck {
    /// The table without a filter.
    table: Table,
    query: VerifyQuery,
    rows_per_range: u64,
    narrow_to: u64,
    parallelism: usize,
    rest: f64,
    statement_timeout: Duration,
}

/// The reason why a check cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RangeCheckError {
    /// The query is invalid.
    #[error(transparent)]
    Verify(#[from] InvalidVerify),
    /// The table cannot be inspected.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl RangeCheckError {
    /// Returns the error as that of a page. Errors of the arguments are not retried.
    pub(crate) fn into_page_error(self) -> PageError {
        match self {
            Self::Verify(error) => PageError::non_retryable("InvalidVerify", error),
            Self::Table(error) => error.into_page_error(),
        }
    }
}

/// # Construct
impl RangeCheck {
    /// Creates a check of a table. `verify` has one of the forms above.
    ///
    /// # Errors
    /// `verify` has none of the forms, or the table does not exist any more.
    pub async fn new(table: &Table, verify: &str) -> Result<Self, RangeCheckError> {
        let query = VerifyQuery::parse(verify, &table.spec().table, Syntax::of(table.database()))?;
        let table = match table.spec().filter {
            None => table.clone(),
            Some(_) => {
                let spec = TableSpec {
                    filter: None,
                    ..table.spec().clone()
                };
                Table::inspect(table.database(), &spec).await?
            }
        };
        Ok(Self {
            table,
            query,
            rows_per_range: 50_000,
            narrow_to: 1_000,
            parallelism: 1,
            rest: 0.25,
            statement_timeout: super::STATEMENT_TIMEOUT,
        })
    }

    /// Sets the number of rows that are examined at once; 0 counts as 1.
    #[must_use]
    pub fn rows_per_range(mut self, rows: u64) -> Self {
        self.rows_per_range = rows.max(1);
        self
    }

    /// Sets the number of rows down to which a failed range is split; 0 counts as 1.
    #[must_use]
    pub fn narrow_to(mut self, rows: u64) -> Self {
        self.narrow_to = rows.max(1);
        self
    }

    /// Sets the number of ranges that are examined at the same time; 0 counts as 1.
    #[must_use]
    pub fn parallelism(mut self, ranges: usize) -> Self {
        self.parallelism = ranges.max(1);
        self
    }

    /// Sets the rest after each range, as a share of the time that the range took: 0 means no rest, 1 makes the check
    /// take twice as long. Negative values, and NaN, count as 0.
    #[must_use]
    pub fn rest(mut self, share: f64) -> Self {
        self.rest = if share.is_finite() {
            share.max(0.0)
        } else {
            0.0
        };
        self
    }

    /// Sets the longest time for one range. A query of the whole table has another limit.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }
}

/// # Run
impl RangeCheck {
    /// Returns whether the check works range by range. Otherwise it examines the whole table for any range, so it says
    /// nothing about an unfinished batch.
    pub fn is_ranged(&self) -> bool {
        !matches!(self.query, VerifyQuery::Whole { .. })
    }

    /// Makes the database plan the query, so that it can refuse errors in it before anything starts.
    ///
    /// # Errors
    /// `InvalidVerify`, non-retryable, with the message of the database. Other errors mean that the query could not
    /// be checked.
    pub async fn try_out(&self) -> Result<(), PageError> {
        let (sql, values) = self.query_in(None, None);
        let planned = read_only::plan(self.table.database(), (sql, values)).await;
        match planned {
            Err(sqlx::Error::Database(refusal)) => Err(PageError::non_retryable(
                "InvalidVerify",
                format_args!(
                    "the database refuses the query to verify: {}",
                    refusal.message()
                ),
            )),
            planned => Ok(planned.map(|_| ())?),
        }
    }

    /// Checks the rows in `(start, end]`. Dropping the future ends the check.
    ///
    /// # Errors
    /// The error of the database. Retryable, apart from a key of another table.
    pub async fn run(&self, start: Option<&Key>, end: Option<&Key>) -> Result<Check, PageError> {
        if !self.is_ranged() {
            return self.whole().await;
        }
        let mut check = Check::default();
        let mut ranges = Box::pin(self.spans(start, end));
        while let Some(span) = ranges.try_next().await? {
            self.judge(&mut check, span).await?;
        }
        Ok(check)
    }

    /// Returns the ranges in order, with their counts.
    fn spans<'a>(
        &'a self,
        start: Option<&Key>,
        end: Option<&'a Key>,
    ) -> impl stream::Stream<Item = Result<Span<Key>, PageError>> + 'a {
        let ranges = stream::try_unfold(Some(start.cloned()), move |start| async move {
            let Some(start) = start else {
                return Ok(None);
            };
            let found = self.table.skip(start.as_ref(), end, self.rows_per_range);
            Ok::<_, PageError>(match found.await? {
                SkipAhead::To(key) if Some(&key) != end => {
                    let range = (start, Some(key.clone()));
                    Some((range, Some(Some(key))))
                }
                _ => Some(((start, end.cloned()), None)),
            })
        });
        ranges
            .map_ok(move |(start, end)| async move {
                let began = Instant::now();
                let found = self.look(start.as_ref(), end.as_ref()).await?;
                tokio::time::sleep(began.elapsed().mul_f64(self.rest)).await;
                Ok(Span { start, end, found })
            })
            .try_buffered(self.parallelism)
    }

    async fn judge(&self, check: &mut Check, span: Span<Key>) -> Result<(), PageError> {
        let described = check.failed.len();
        let most = MAX_DESCRIBED.saturating_sub(described);
        let parts = match span.found.wrong {
            0 => vec![span],
            _ => narrow(self, span, self.narrow_to, most).await?,
        };
        for Span { start, end, found } in parts {
            if found.wrong == 0 {
                check.passes(found.rows);
                continue;
            }
            *check.items.get_or_insert_default() += found.rows;
            check.fails(FailedRange {
                start: start.as_ref().map(PageToken::encode).transpose()?,
                end: end.as_ref().map(PageToken::encode).transpose()?,
                items: found.wrong,
                message: format!(
                    "{} of {} {}",
                    found.wrong,
                    count(found.rows.max(found.wrong), "row"),
                    self.complaint()
                ),
            });
        }
        Ok(())
    }

    fn complaint(&self) -> String {
        match &self.query {
            VerifyQuery::Condition(condition) => {
                let condition = condition.split_whitespace().collect::<Vec<_>>().join(" ");
                format!(
                    "do not fulfil {}",
                    truncate(&condition, MAX_CONDITION_CHARS)
                )
            }
            VerifyQuery::Ranged { .. } | VerifyQuery::Whole { .. } => {
                "are wrong, by the query to verify".to_owned()
            }
        }
    }

    async fn whole(&self) -> Result<Check, PageError> {
        let Found { wrong, .. } = self.look(None, None).await?;
        let mut check = Check {
            notes: vec![
                "the query ran once for the whole table, because it has no place for a range; \
                 write {range} where a condition on the key belongs"
                    .to_owned(),
            ],
            ..Check::default()
        };
        if wrong == 0 {
            check.ranges = 1;
            return Ok(check);
        }
        check.fails(FailedRange {
            start: None,
            end: None,
            items: wrong,
            message: format!("{} {}", count(wrong, "row"), self.complaint()),
        });
        Ok(check)
    }

    /// Returns the query whose first column is the number of wrong rows in a range.
    fn query_in(&self, start: Option<&Key>, end: Option<&Key>) -> (String, Vec<Value>) {
        match &self.query {
            VerifyQuery::Condition(condition) => {
                let (range, values) = self.table.condition(start, end, 1);
                let table = self.table.quoted_name();
                // A NULL result does not hold.
                let sql = format!(
                    "SELECT count(CASE WHEN (\n{condition}\n) THEN NULL ELSE 1 END), count(*) \
                     FROM {table} WHERE {range}"
                );
                (sql, values)
            }
            VerifyQuery::Ranged { pieces, answer } => {
                let mut sql = pieces[0].clone();
                let mut all = Vec::new();
                for piece in &pieces[1..] {
                    let (range, values) = self.table.condition(start, end, all.len() + 1);
                    sql.push_str(&range);
                    sql.push_str(piece);
                    all.extend(values);
                }
                (self.total(&sql, *answer), all)
            }
            VerifyQuery::Whole { query, answer } => (self.total(query, *answer), Vec::new()),
        }
    }

    /// Returns a query for the number of wrong rows.
    fn total(&self, query: &str, answer: Answer) -> String {
        let integer = match self.table.database() {
            #[cfg(feature = "mysql")]
            Database::MySql(_) => "SIGNED",
            #[allow(unreachable_patterns, reason = "where it is the only database")]
            _ => "BIGINT",
        };
        match answer {
            Answer::Numbers => format!(
                "WITH counted(n) AS (\n{query}\n) SELECT CAST(coalesce(sum(abs(n)), 0) AS {integer}) FROM counted"
            ),
            Answer::Rows => format!("SELECT count(*) FROM (\n{query}\n) AS wrong"),
        }
    }

    async fn numbers(
        &self,
        query: (String, Vec<Value>),
        columns: usize,
        timeout: Duration,
    ) -> Result<Vec<u64>, PageError> {
        let numbers = read_only::numbers(self.table.database(), timeout, query, columns).await?;
        // A query with a negative result is an error, too.
        Ok(numbers.into_iter().map(i64::unsigned_abs).collect())
    }
}

#[async_trait]
impl Rows<Key> for RangeCheck {
    async fn look(&self, start: Option<&Key>, end: Option<&Key>) -> Result<Found, PageError> {
        for key in [start, end].into_iter().flatten() {
            self.table.check_key(key)?;
        }
        let timeout = match self.is_ranged() {
            true => self.statement_timeout,
            false => WHOLE_TIMEOUT,
        };
        let query = self.query_in(start, end);
        match &self.query {
            VerifyQuery::Condition(_) => {
                let numbers = self.numbers(query, 2, timeout).await?;
                Ok(Found {
                    rows: numbers[1],
                    wrong: numbers[0],
                })
            }
            VerifyQuery::Ranged { .. } => {
                let wrong = self.numbers(query, 1, timeout).await?[0];
                let rows = self.table.count(start, end).await?;
                Ok(Found { rows, wrong })
            }
            VerifyQuery::Whole { .. } => {
                let wrong = self.numbers(query, 1, timeout).await?[0];
                Ok(Found { rows: wrong, wrong })
            }
        }
    }

    async fn after(
        &self,
        start: Option<&Key>,
        end: Option<&Key>,
        rows: u64,
    ) -> Result<Option<Key>, PageError> {
        Ok(match self.table.skip(start, end, rows).await? {
            SkipAhead::To(key) => Some(key),
            SkipAhead::PastEnd | SkipAhead::Unsupported => None,
        })
    }
}
