//! The table of the dead letters that redrives have settled.

use sqlx::Database;

use crate::sql::backend::{dialect::Dialect, value::Fields};

/// `temporal_batch_settled`: one row for each batch run whose dead letters were redriven. A letter that is gone
/// leaves no trace of its own. The count distinguishes a settled letter from a deleted one, and the store of a batch
/// from another store that is empty.
pub(crate) struct SettledTable {
    name: String,
}

/// The bare name of the table, which qualifies the columns of the existing row.
const TABLE: &str = "temporal_batch_settled";

impl SettledTable {
    pub fn new(prefix: &str) -> Self {
        Self {
            name: format!("{prefix}{TABLE}"),
        }
    }

    pub fn schema_sql<DB: Dialect>(&self) -> String {
        let key = DB::KEY_TEXT;
        let columns = format!(
            "    batch_run {key} NOT NULL PRIMARY KEY,
    taken BIGINT NOT NULL,
    added BIGINT NOT NULL"
        );
        DB::create_table(&self.name, &columns, None)
    }

    /// Counts letters that were taken out, and letters that replaced them.
    pub async fn count<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        batch_run: &str,
        (taken, added): (u64, u64),
    ) -> Result<(), sqlx::Error> {
        let statement = format!(
            "INSERT INTO {} (batch_run, taken, added) VALUES ($1, $2, $3)
            {} taken = {TABLE}.taken + {}, added = {TABLE}.added + {}",
            self.name,
            DB::or_update("batch_run"),
            DB::given("taken"),
            DB::given("added"),
        );
        let values = vec![batch_run.into(), taken.into(), added.into()];
        DB::execute(connection, statement, values).await?;
        Ok(())
    }

    /// Returns the number of letters of a batch run that were taken out and not replaced.
    pub async fn of_run<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        batch_run: &str,
    ) -> Result<u64, sqlx::Error> {
        let statement = format!(
            "SELECT taken, added FROM {} WHERE batch_run = $1",
            self.name
        );
        let rows = DB::rows(connection, statement, vec![batch_run.into()]).await?;
        let Some(row) = rows.first() else {
            return Ok(0);
        };
        let mut fields = Fields::<DB>::of(row);
        let (taken, added) = (fields.count()?, fields.count()?);
        Ok(taken.saturating_sub(added))
    }
}
