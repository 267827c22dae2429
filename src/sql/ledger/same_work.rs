//! The batches whose pages a ledger has, for commands that would do the same work again.

use super::{SqlLedger, failed};
use crate::{
    base::error::PageError,
    sql::{
        Database,
        backend::{Backend, value::Fields},
        connection::pool::on_pool,
    },
};

/// A batch with applied pages.
pub(crate) struct AppliedBatch {
    pub batch_id: String,
    /// The number of strides with applied pages, over all its batch runs.
    pub strides: u64,
}

/// The number of batches that are returned. One is enough to refuse a command.
const MOST: u64 = 5;

/// Returns the batches of a database's ledger whose ids begin with a text, and of which pages are applied.
///
/// # Errors
/// The ledger cannot be read.
pub(crate) async fn applied_batches(
    database: &Database,
    id_prefix: &str,
) -> Result<Vec<AppliedBatch>, PageError> {
    on_pool!(database, pool: Db => SqlLedger::<Db>::new(pool.clone()).applied_batches(id_prefix).await)
}

impl<DB: Backend> SqlLedger<DB> {
    async fn applied_batches(&self, id_prefix: &str) -> Result<Vec<AppliedBatch>, PageError> {
        let statement = format!(
            "SELECT batch_id, count(*) FROM {} WHERE batch_id LIKE $1 ESCAPE '!' AND pages + pages_failed > 0
            GROUP BY batch_id ORDER BY batch_id LIMIT $2",
            self.tables.strides.name
        );
        let values = vec![beginning_with(id_prefix).as_str().into(), MOST.into()];
        let mut connection = self.leases.pool().acquire().await?;
        let rows = DB::rows(&mut connection, statement, values).await;
        let rows = rows.map_err(failed::<DB>)?;
        let batch = |row| {
            let mut fields = Fields::<DB>::of(row);
            Ok(AppliedBatch {
                batch_id: fields.text()?,
                strides: fields.count()?,
            })
        };
        let batches: Result<_, sqlx::Error> = rows.iter().map(batch).collect();
        batches.map_err(failed::<DB>)
    }
}

/// Returns the pattern of `LIKE` for texts that begin with another text, with `!` before what is no wildcard.
fn beginning_with(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if matches!(c, '!' | '%' | '_') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_of_a_name_stand_for_themselves() {
        assert_eq!(beginning_with("a_b%c!"), "a!_b!%c!!%");
    }
}
