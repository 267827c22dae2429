//! The table of the strides: how far each is applied, and whose attempt it is.

use sqlx::Database;

use super::dialect::{Dialect, Fields, Value};
use crate::{
    page::PageToken,
    page_ledger::{OpenStride, PageClaim, StrideId, StrideTotals},
    progress::{ItemCounts, Timestamp},
};

/// Most ends that [`StrideTable::kept_ends`] gives.
const MAX_KEPT_ENDS: u64 = 100;

/// `temporal_batch_stride`: one row for each stride of each batch run.
pub(super) struct StrideTable {
    name: String,
}

/// The ends that are kept for a stride and those after it.
pub(super) struct KeptEnds {
    pub fence: i64,
    /// Without a gap; empty when the stride itself has none.
    pub ends: Vec<PageToken>,
}

/// What a transaction has made of its stride's row, and expects to find there.
pub(super) struct Applied {
    stride: StrideId,
    fence: i64,
    applied_to: Option<PageToken>,
    ends_data: bool,
}

impl Applied {
    pub fn by(claim: &PageClaim<'_>) -> Self {
        Self {
            stride: claim.stride.clone(),
            fence: claim.fence,
            applied_to: claim.to.or(claim.from).cloned(),
            ends_data: claim.ends_data,
        }
    }
}

impl StrideTable {
    pub fn new(prefix: &str) -> Self {
        let name = format!("{prefix}temporal_batch_stride");
        Self { name }
    }

    pub fn schema_sql<DB: Dialect>(&self) -> String {
        let (table, key) = (&self.name, DB::KEY_TEXT);
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (
    batch_run {key} NOT NULL,
    stride BIGINT NOT NULL,
    batch_id TEXT NOT NULL,
    fence BIGINT NOT NULL,
    applied_to TEXT,
    stride_end TEXT,
    ends_data BOOLEAN NOT NULL,
    pages BIGINT NOT NULL,
    pages_failed BIGINT NOT NULL,
    processed BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    skipped BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (batch_run, stride)
);
"
        )
    }

    /// Raises the fence of a stride, whose row is made where there is none.
    pub async fn open<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        id: &StrideId,
        start: Option<&PageToken>,
        end: Option<&PageToken>,
        now: Timestamp,
    ) -> Result<OpenStride, sqlx::Error> {
        let statement = format!(
            "INSERT INTO {} AS kept (batch_run, stride, batch_id, fence, applied_to, stride_end,
                ends_data, pages, pages_failed, processed, changed, skipped, failed, updated_at)
            VALUES ($1, $2, $3, 1, $4, $5, FALSE, 0, 0, 0, 0, 0, 0, $6)
            ON CONFLICT (batch_run, stride) DO UPDATE SET
                fence = kept.fence + 1,
                stride_end = coalesce(kept.stride_end, excluded.stride_end),
                updated_at = excluded.updated_at
            RETURNING fence, applied_to, stride_end, ends_data, pages, pages_failed, processed, changed, skipped,
                failed",
            self.name
        );
        let values = vec![
            id.batch_run.as_str().into(),
            id.stride.into(),
            id.batch_id.as_str().into(),
            start.into(),
            end.into(),
            now.into(),
        ];
        let rows = DB::rows(connection, statement, values).await?;
        let mut fields = Fields::<DB>::of(rows.first().ok_or(sqlx::Error::RowNotFound)?);
        Ok(OpenStride {
            fence: fields.number()?,
            applied_to: fields.token()?,
            end: fields.token()?,
            ends_data: fields.flag()?,
            totals: StrideTotals {
                pages: fields.count()?,
                pages_failed: fields.count()?,
                items: ItemCounts {
                    processed: fields.count()?,
                    changed: fields.count()?,
                    skipped: fields.count()?,
                    failed: fields.count()?,
                },
            },
        })
    }

    /// The statements and values for [`Dialect::cut`].
    pub fn cut<DB: Dialect>(
        &self,
        id: &StrideId,
        fence: i64,
        ends: &[PageToken],
        now: Timestamp,
    ) -> (Vec<String>, Vec<Value>) {
        let ends = serde_json::Value::from_iter(ends.iter().map(PageToken::as_str)).to_string();
        let values = vec![
            id.batch_run.as_str().into(),
            id.stride.into(),
            fence.into(),
            ends.as_str().into(),
            now.into(),
        ];
        (DB::cut(&self.name), values)
    }

    /// The ends from this stride on. `None`: the stride was never opened.
    pub async fn kept_ends<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        id: &StrideId,
    ) -> Result<Option<KeptEnds>, sqlx::Error> {
        let statement = format!(
            "SELECT stride, fence, stride_end FROM {}
            WHERE batch_run = $1 AND stride >= $2 AND stride < $3 ORDER BY stride",
            self.name
        );
        let values = vec![
            id.batch_run.as_str().into(),
            id.stride.into(),
            id.stride.saturating_add(MAX_KEPT_ENDS).into(),
        ];
        let mut kept: Option<KeptEnds> = None;
        for (expected, row) in (id.stride..).zip(DB::rows(connection, statement, values).await?) {
            let mut fields = Fields::<DB>::of(&row);
            let (stride, fence, end) = (fields.count()?, fields.number()?, fields.token()?);
            if stride != expected {
                break;
            }
            let kept = kept.get_or_insert(KeptEnds {
                fence,
                ends: Vec::new(),
            });
            let Some(end) = end else { break };
            kept.ends.push(end);
        }
        Ok(kept)
    }

    /// Moves the stride from a page's start to its end. `false`: it has another fence, or is applied up to
    /// elsewhere.
    pub async fn claim<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        claim: &PageClaim<'_>,
        now: Timestamp,
    ) -> Result<bool, sqlx::Error> {
        // Where the end of the data has no cursor, the last one that is known stays.
        let statement = format!(
            "UPDATE {} SET applied_to = coalesce($5, applied_to), ends_data = $6, pages = pages + $7,
                pages_failed = pages_failed + $8, updated_at = $9
            WHERE batch_run = $1 AND stride = $2 AND fence = $3
                AND applied_to IS NOT DISTINCT FROM $4 AND NOT ends_data",
            self.name
        );
        let values = vec![
            claim.stride.batch_run.as_str().into(),
            claim.stride.stride.into(),
            claim.fence.into(),
            claim.from.into(),
            claim.to.into(),
            claim.ends_data.into(),
            u64::from(claim.pages).into(),
            u64::from(claim.pages_failed).into(),
            now.into(),
        ];
        Ok(DB::execute(connection, statement, values).await? == 1)
    }

    /// Adds to what became of the stride's items. `false`: the row is not as the transaction left it.
    pub async fn count<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        applied: &Applied,
        items: &ItemCounts,
    ) -> Result<bool, sqlx::Error> {
        let statement = format!(
            "UPDATE {} SET processed = processed + $6, changed = changed + $7, skipped = skipped + $8,
                failed = failed + $9
            WHERE batch_run = $1 AND stride = $2 AND fence = $3
                AND applied_to IS NOT DISTINCT FROM $4 AND ends_data = $5",
            self.name
        );
        let values = vec![
            applied.stride.batch_run.as_str().into(),
            applied.stride.stride.into(),
            applied.fence.into(),
            applied.applied_to.as_ref().into(),
            applied.ends_data.into(),
            items.processed.into(),
            items.changed.into(),
            items.skipped.into(),
            items.failed.into(),
        ];
        Ok(DB::execute(connection, statement, values).await? == 1)
    }

    /// Forgets the strides of the batch runs whose report is kept and says that they ended earlier.
    pub async fn prune<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        reports: &str,
        ended_before: Timestamp,
    ) -> Result<u64, sqlx::Error> {
        let statement = format!(
            "DELETE FROM {} WHERE batch_run IN (SELECT batch_run FROM {reports} WHERE ended_at < $1)",
            self.name
        );
        DB::execute(connection, statement, vec![ended_before.into()]).await
    }
}
