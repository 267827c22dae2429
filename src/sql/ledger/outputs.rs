//! The table of the outputs of pages.

use sqlx::Database;

use crate::{
    base::error::PageError,
    processor::store::page_ledger::StrideId,
    sql::backend::{dialect::Dialect, value::Fields},
};

/// `temporal_batch_output`: one row for each page with an output. The row is written in the transaction of the page,
/// for a later attempt, which must not run the page again.
pub(crate) struct OutputTable {
    pub name: String,
    strides: String,
}

impl OutputTable {
    pub fn new(prefix: &str) -> Self {
        Self {
            name: format!("{prefix}temporal_batch_output"),
            strides: format!("{prefix}temporal_batch_stride"),
        }
    }

    pub fn schema_sql<DB: Dialect>(&self) -> String {
        let (key, text) = (DB::KEY_TEXT, DB::TEXT);
        let columns = format!(
            "    batch_run {key} NOT NULL,
    stride BIGINT NOT NULL,
    extent BIGINT NOT NULL,
    output {text} NOT NULL,
    PRIMARY KEY (batch_run, stride, extent)"
        );
        DB::create_table(&self.name, &columns, None)
    }

    /// Stores the output of the page that the row of the stride has just counted.
    pub async fn keep<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        stride: &StrideId,
        output: &serde_json::Value,
    ) -> Result<(), sqlx::Error> {
        let statement = format!(
            "INSERT INTO {} (output, batch_run, stride, extent)
            SELECT $1, batch_run, stride, pages + pages_failed + processed + skipped + failed
            FROM {} WHERE batch_run = $2 AND stride = $3",
            self.name, self.strides
        );
        let values = vec![
            output.to_string().as_str().into(),
            stride.batch_run.as_str().into(),
            stride.stride.into(),
        ];
        DB::execute(connection, statement, values).await?;
        Ok(())
    }

    /// Returns the outputs of the pages of a stride that were applied after a value of its progress counter, in order.
    pub async fn after<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        stride: &StrideId,
        extent: u64,
    ) -> Result<Vec<serde_json::Value>, PageError> {
        let statement = format!(
            "SELECT output FROM {} WHERE batch_run = $1 AND stride = $2 AND extent > $3 ORDER BY extent",
            self.name
        );
        let values = vec![
            stride.batch_run.as_str().into(),
            stride.stride.into(),
            extent.into(),
        ];
        let rows = DB::rows(connection, statement, values)
            .await
            .map_err(crate::sql::ledger::failed::<DB>)?;
        rows.iter()
            .map(|row| Ok(serde_json::from_str(&Fields::<DB>::of(row).text()?)?))
            .collect()
    }

    /// Deletes the outputs of a batch run in small statements. A missing table counts as empty.
    pub async fn forget<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        batch_run: &str,
        at_once: u64,
    ) -> Result<(), sqlx::Error> {
        let last = format!(
            "SELECT max(stride) FROM (
                SELECT stride FROM {} WHERE batch_run = $1 ORDER BY stride LIMIT $2
            ) AS firsts HAVING count(*) > 0",
            self.name
        );
        let delete = format!(
            "DELETE FROM {} WHERE batch_run = $1 AND stride <= $2",
            self.name
        );
        loop {
            let values = vec![batch_run.into(), at_once.into()];
            let rows = match DB::rows(connection, last.clone(), values).await {
                Ok(rows) => rows,
                Err(sqlx::Error::Database(error)) if DB::is_missing_table(&*error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let Some(row) = rows.first() else {
                return Ok(());
            };
            let last = Fields::<DB>::of(row).number()?;
            DB::execute(
                connection,
                delete.clone(),
                vec![batch_run.into(), last.into()],
            )
            .await?;
        }
    }
}
