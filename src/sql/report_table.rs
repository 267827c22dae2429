//! The table of the final reports.

use sqlx::Database;

use super::dialect::{Dialect, Fields};
use crate::{error::PageError, progress::BatchReport};

/// `temporal_batch_report`: one row for each batch run that has ended.
pub(super) struct ReportTable {
    pub name: String,
}

impl ReportTable {
    pub fn new(prefix: &str) -> Self {
        let name = format!("{prefix}temporal_batch_report");
        Self { name }
    }

    pub fn schema_sql<DB: Dialect>(&self) -> String {
        let (table, key) = (&self.name, DB::KEY_TEXT);
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (
    batch_run {key} NOT NULL PRIMARY KEY,
    batch_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    ended_at BIGINT NOT NULL,
    report TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS temporal_batch_report_of_batch ON {table} (batch_id, ended_at);
"
        )
    }

    pub async fn keep<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        report: &BatchReport,
    ) -> Result<(), PageError> {
        let statement = format!(
            "INSERT INTO {} (batch_run, batch_id, outcome, ended_at, report)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (batch_run) DO UPDATE SET
                batch_id = excluded.batch_id, outcome = excluded.outcome,
                ended_at = excluded.ended_at, report = excluded.report",
            self.name
        );
        let values = vec![
            report.progress.batch_run.as_str().into(),
            report.progress.batch_id.as_str().into(),
            report.outcome.to_string().as_str().into(),
            report.ended_at.into(),
            serde_json::to_string(report)?.as_str().into(),
        ];
        DB::execute(connection, statement, values)
            .await
            .map_err(super::ledger::failed::<DB>)?;
        Ok(())
    }

    /// The latest first.
    pub async fn of_batch<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        batch_id: &str,
    ) -> Result<Vec<BatchReport>, PageError> {
        let statement = format!(
            "SELECT report FROM {} WHERE batch_id = $1 ORDER BY ended_at DESC, batch_run",
            self.name
        );
        let rows = DB::rows(connection, statement, vec![batch_id.into()])
            .await
            .map_err(super::ledger::failed::<DB>)?;
        rows.iter()
            .map(|row| Ok(serde_json::from_str(&Fields::<DB>::of(row).text()?)?))
            .collect()
    }
}
