//! The table of the final reports.

use sqlx::Database;

use crate::{
    base::error::PageError,
    progress::report::BatchReport,
    sql::backend::{
        dialect::{Dialect, Index},
        value::Fields,
    },
};

/// `temporal_batch_report`: one row for each batch run that has ended.
pub(crate) struct ReportTable {
    pub name: String,
}

impl ReportTable {
    pub fn new(prefix: &str) -> Self {
        let name = format!("{prefix}temporal_batch_report");
        Self { name }
    }

    pub fn schema_sql<DB: Dialect>(&self) -> String {
        let (key, text) = (DB::KEY_TEXT, DB::TEXT);
        let columns = format!(
            "    batch_run {key} NOT NULL PRIMARY KEY,
    batch_id {key} NOT NULL,
    outcome {text} NOT NULL,
    ended_at BIGINT NOT NULL,
    report {text} NOT NULL"
        );
        let of_batch = Index {
            name: "temporal_batch_report_of_batch",
            columns: "batch_id, ended_at",
        };
        DB::create_table(&self.name, &columns, Some(of_batch))
    }

    pub async fn keep<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        report: &BatchReport,
    ) -> Result<(), PageError> {
        let anew = ["batch_id", "outcome", "ended_at", "report"]
            .map(|column| format!("{column} = {}", DB::given(column)));
        let statement = format!(
            "INSERT INTO {} (batch_run, batch_id, outcome, ended_at, report)
            VALUES ($1, $2, $3, $4, $5)
            {} {}",
            self.name,
            DB::or_update("batch_run"),
            anew.join(", ")
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
            .map_err(crate::sql::ledger::failed::<DB>)?;
        Ok(())
    }

    /// Returns the reports of a batch, the latest first.
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
            .map_err(crate::sql::ledger::failed::<DB>)?;
        rows.iter()
            .map(|row| Ok(serde_json::from_str(&Fields::<DB>::of(row).text()?)?))
            .collect()
    }
}
