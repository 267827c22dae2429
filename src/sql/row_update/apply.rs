//! The rows of a page, in its transaction.

use super::{Fitting, RowUpdate};
use crate::{
    base::error::{Blame, PageError},
    processor::{PageProcessor, context::PageContext},
    sql::{
        Key,
        backend::{blockers, dialect::Dialect},
        connection::{pool::on_pool, session::LOCK_TIMEOUT},
    },
};

/// The new values of a row.
#[derive(Clone, Debug)]
pub(crate) struct NewValues {
    pub key: Key,
    /// One value for each column.
    pub values: Vec<Fitting>,
}

/// The outcome for a row.
#[derive(Debug)]
pub(crate) enum Written {
    Changed,
    /// The row had the values already.
    Unchanged,
    /// The row was deleted, or no longer matches the filter.
    Gone,
    /// Other columns of the row were changed since it was read, so the values may be wrong for it.
    Outdated,
    /// The database refuses the values.
    Refused(PageError),
}

/// The savepoints of a page, and of a row that is written alone.
const ALL: &str = "temporal_batch_rows";
const ONE: &str = "temporal_batch_row";

impl RowUpdate {
    /// Writes rows in the transaction of the page, and returns one outcome for each. The rows are locked first, and
    /// `is_same` tells of each, by its position, whether the `looked_at` columns that it now has, as a JSON object, are
    /// those for which the values are meant.
    ///
    /// # Errors
    /// Those of the database that are not the fault of a row.
    pub async fn apply<P: PageProcessor>(
        &self,
        ctx: &PageContext<P>,
        rows: &[NewValues],
        looked_at: &[String],
        is_same: impl Fn(usize, &str) -> bool + Send + Sync,
    ) -> Result<Vec<Written>, PageError> {
        on_pool!(self.table.database(), pool: Db => {
            let writing = async {
                let mut page = ctx.transaction::<Db>().await?;
                let outdated = self.look::<Db>(&mut page, rows, looked_at, &is_same).await?;
                self.write::<Db>(&mut page, rows, outdated).await
            };
            blockers::named(pool, self.table.quoted_name(), LOCK_TIMEOUT, writing).await
        })
    }

    /// Locks the rows, and returns the outcomes of those that are not written.
    async fn look<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        rows: &[NewValues],
        looked_at: &[String],
        is_same: &(impl Fn(usize, &str) -> bool + Sync),
    ) -> Result<Vec<Option<Written>>, PageError> {
        let keys: Vec<_> = rows.iter().map(|row| row.key.clone()).collect();
        let found = self.table.lock_records::<DB>(connection, looked_at, &keys);
        let found = found.await?;
        let outcome = |(at, row): (usize, &NewValues)| match found.get(&row.key) {
            None => Some(Written::Gone),
            Some(now) if !is_same(at, now.get()) => Some(Written::Outdated),
            Some(_) => None,
        };
        Ok(rows.iter().enumerate().map(outcome).collect())
    }

    async fn write<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        rows: &[NewValues],
        known: Vec<Option<Written>>,
    ) -> Result<Vec<Written>, PageError> {
        DB::script(connection, format!("SAVEPOINT {ALL}")).await?;
        match self.together::<DB>(connection, rows, &known).await {
            Ok(written) => {
                let mut written = written.into_iter();
                let each = known
                    .into_iter()
                    .map(|known| known.or_else(|| written.next()));
                Ok(each.flatten().collect())
            }
            Err(error) if error.blame() != Blame::Page => Err(error),
            Err(_) => {
                DB::script(connection, format!("ROLLBACK TO SAVEPOINT {ALL}")).await?;
                self.one_by_one::<DB>(connection, rows, known).await
            }
        }
    }

    /// Writes the rows whose outcome is not known.
    async fn together<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        rows: &[NewValues],
        known: &[Option<Written>],
    ) -> Result<Vec<Written>, PageError> {
        let mut written = Vec::new();
        for (row, _) in rows.iter().zip(known).filter(|(_, known)| known.is_none()) {
            written.push(self.row::<DB>(connection, row).await?);
        }
        check_deferred::<DB>(connection).await?;
        Ok(written)
    }

    /// Writes each row by itself, so that a refused one leaves the others alone.
    async fn one_by_one<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        rows: &[NewValues],
        known: Vec<Option<Written>>,
    ) -> Result<Vec<Written>, PageError> {
        let mut all = Vec::new();
        for (row, known) in rows.iter().zip(known) {
            if let Some(known) = known {
                all.push(known);
                continue;
            }
            DB::script(connection, format!("SAVEPOINT {ONE}")).await?;
            let row = std::slice::from_ref(row);
            let written = self.together::<DB>(connection, row, &[None]).await;
            all.push(match written {
                Ok(mut outcome) => {
                    DB::script(connection, format!("RELEASE SAVEPOINT {ONE}")).await?;
                    outcome.remove(0)
                }
                Err(error) if error.blame() != Blame::Page => return Err(error),
                Err(error) => {
                    DB::script(connection, format!("ROLLBACK TO SAVEPOINT {ONE}")).await?;
                    Written::Refused(error)
                }
            });
        }
        Ok(all)
    }

    async fn row<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        row: &NewValues,
    ) -> Result<Written, PageError> {
        let (text, values) = self.bound(&row.values, |at| {
            self.table.condition_of(&row.key, &row.key, at)
        });
        match DB::execute(connection, text, values).await? {
            0 if self.table.passes_over() => Ok(Written::Refused(PageError::non_retryable(
                "RowsPassedOver",
                format_args!(
                    "the row of {} stayed as it was: a trigger, a rule or a policy kept the statement from changing it",
                    self.table.quoted_name()
                ),
            ))),
            0 => Ok(Written::Unchanged),
            _ => Ok(Written::Changed),
        }
    }
}

/// Checks the constraints that the database would otherwise check in the commit.
async fn check_deferred<DB: Dialect>(connection: &mut DB::Connection) -> Result<(), PageError> {
    if let Some(check) = DB::CHECK_DEFERRED {
        DB::script(connection, check.to_owned()).await?;
    }
    Ok(())
}
