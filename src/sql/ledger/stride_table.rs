//! The table of the strides: the applied part of each, and the attempt that owns it.

use sqlx::Database;

use crate::{
    base::time::Timestamp,
    page::token::PageToken,
    processor::store::page_ledger::{OpenStride, PageClaim, StrideId, StrideTotals},
    progress::{ItemCounts, phase::Outcome},
    sql::backend::{
        dialect::{Cut, Dialect},
        value::{Fields, Statement},
    },
};

/// The largest number of ends that [`StrideTable::kept_ends`] returns.
const MAX_KEPT_ENDS: u64 = 100;

const STRIDES: &str = "temporal_batch_stride";

/// `temporal_batch_stride`: one row for each stride of each batch run.
pub(crate) struct StrideTable {
    pub name: String,
}

/// The stored ends of a stride and of those after it.
pub(crate) struct KeptEnds {
    pub fence: i64,
    /// The ends without a gap; empty if the stride itself has none.
    pub ends: Vec<PageToken>,
}

/// The way in which batch runs ended.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    /// Completed at the end of their data, so that they cannot be continued.
    Completed,
    /// Failed, stopped or cancelled.
    Unfinished,
}

/// The state of its stride's row that a transaction has written, and expects to find.
pub(crate) struct Applied {
    pub stride: StrideId,
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
        let name = format!("{prefix}{STRIDES}");
        Self { name }
    }

    pub fn schema_sql<DB: Dialect>(&self) -> String {
        let (key, text) = (DB::KEY_TEXT, DB::TEXT);
        let columns = format!(
            "    batch_run {key} NOT NULL,
    stride BIGINT NOT NULL,
    batch_id {key} NOT NULL,
    fence BIGINT NOT NULL,
    applied_to {text},
    stride_end {text},
    ends_data BOOLEAN NOT NULL,
    pages BIGINT NOT NULL,
    pages_failed BIGINT NOT NULL,
    processed BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    skipped BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (batch_run, stride)"
        );
        DB::create_table(&self.name, &columns, None)
    }

    /// Raises the fence of a stride, and creates its row if it has none. This needs a transaction, unless
    /// [`Dialect::RETURNING`].
    ///
    /// If `kept` names the table of the reports, the ledger must have a row of this stride or of the stride before it.
    /// A report of the batch run takes their place, since strides of batches that have ended may be deleted. Without
    /// any of these rows, nothing is written and the result is `None`.
    pub async fn open<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        id: &StrideId,
        (start, end): (Option<&PageToken>, Option<&PageToken>),
        kept: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<OpenStride>, sqlx::Error> {
        const FOUND: &str = "fence, applied_to, stride_end, ends_data, pages, pages_failed, \
             processed, changed, skipped, failed";
        let or_update = DB::or_update("batch_run, stride");
        let (end_given, time_given) = (DB::given("stride_end"), DB::given("updated_at"));
        let row = "$1, $2, $3, 1, $4, $5, FALSE, 0, 0, 0, 0, 0, 0, $6";
        let row = match kept {
            None => format!("VALUES ({row})"),
            Some(reports) => format!(
                "SELECT {row} FROM (SELECT 1 AS one) AS one
                WHERE EXISTS (SELECT 1 FROM {} AS kept WHERE kept.batch_run = $1 AND kept.stride IN ($2, $2 - 1))
                    OR EXISTS (SELECT 1 FROM {reports} AS ended WHERE ended.batch_run = $1)",
                self.name
            ),
        };
        let mut statement = format!(
            "INSERT INTO {} (batch_run, stride, batch_id, fence, applied_to, stride_end,
                ends_data, pages, pages_failed, processed, changed, skipped, failed, updated_at)
            {row}
            {or_update} fence = {STRIDES}.fence + 1,
                stride_end = coalesce({STRIDES}.stride_end, {end_given}),
                updated_at = {time_given}",
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
        let rows = if DB::RETURNING {
            statement.push_str(" RETURNING ");
            statement.push_str(FOUND);
            DB::rows(connection, statement, values).await?
        } else {
            DB::execute(connection, statement, values).await?;
            let found = format!(
                "SELECT {FOUND} FROM {} WHERE batch_run = $1 AND stride = $2",
                self.name
            );
            let values = vec![id.batch_run.as_str().into(), id.stride.into()];
            DB::rows(connection, found, values).await?
        };
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let mut fields = Fields::<DB>::of(row);
        Ok(Some(OpenStride {
            fence: fields.number()?,
            applied_to: fields.token()?,
            end: fields.token()?,
            ends_data: fields.flag()?,
            totals: totals(&mut fields)?,
        }))
    }

    /// Returns the statements of [`Dialect::cut`].
    pub fn cut<DB: Dialect>(
        &self,
        stride: &StrideId,
        fence: i64,
        ends: &[PageToken],
        now: Timestamp,
    ) -> Vec<Statement> {
        let cut = Cut {
            stride,
            fence,
            ends,
            now,
        };
        DB::cut(&self.name, &cut)
    }

    /// Returns the ends from this stride on. `None` if the stride was never opened.
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

    /// Moves the stride from a page's start to its end. `false` if the stride has another fence, or is applied up to
    /// another position.
    pub async fn claim<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        claim: &PageClaim<'_>,
        now: Timestamp,
    ) -> Result<bool, sqlx::Error> {
        let same_as = DB::SAME_AS;
        // Where the end of the data has no cursor, the last known one stays.
        let statement = format!(
            "UPDATE {} SET applied_to = coalesce($5, applied_to), ends_data = $6, pages = pages + $7,
                pages_failed = pages_failed + $8, updated_at = $9
            WHERE batch_run = $1 AND stride = $2 AND fence = $3
                AND applied_to {same_as} $4 AND NOT ends_data",
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

    /// Adds to the counts of the stride's items. `false` if the row is not as the transaction left it.
    pub async fn count<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        applied: &Applied,
        items: &ItemCounts,
    ) -> Result<bool, sqlx::Error> {
        let same_as = DB::SAME_AS;
        let statement = format!(
            "UPDATE {} SET processed = processed + $6, changed = changed + $7, skipped = skipped + $8,
                failed = failed + $9
            WHERE batch_run = $1 AND stride = $2 AND fence = $3
                AND applied_to {same_as} $4 AND ends_data = $5",
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

    /// Returns the number of strides with applied pages, in all batch runs of a batch id.
    pub async fn of_batch<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        batch_id: &str,
    ) -> Result<u64, sqlx::Error> {
        let statement = format!(
            "SELECT count(*) FROM {} WHERE batch_id = $1 AND pages + pages_failed > 0",
            self.name
        );
        let rows = DB::rows(connection, statement, vec![batch_id.into()]).await?;
        let strides = rows.first().map(|row| DB::number(row, 0)).transpose()?;
        Ok(strides
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or_default())
    }

    /// Returns the batch runs after a given one, in order, whose report says that they ended earlier, and that have
    /// strides.
    ///
    /// A batch that did not complete may have been continued since, in the same batch run, whose report stays until
    /// the next end. Strides that were updated after `ended_before` show that.
    pub async fn ended_before<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        reports: &str,
        how: Ended,
        ended_before: Timestamp,
        after: &str,
    ) -> Result<Vec<String>, sqlx::Error> {
        let strides = &self.name;
        let done = [Outcome::Completed, Outcome::CompletedWithFailures];
        let done = done.map(|outcome| format!("'{outcome}'")).join(", ");
        let how = match how {
            Ended::Completed => format!("outcome IN ({done})"),
            Ended::Unfinished => format!(
                "outcome NOT IN ({done}) AND NOT EXISTS (SELECT 1 FROM {strides} AS late
                    WHERE late.batch_run = ended.batch_run AND late.updated_at >= $1)"
            ),
        };
        let statement = format!(
            "SELECT batch_run FROM {reports} AS ended WHERE ended_at < $1 AND batch_run > $2 AND {how}
                AND EXISTS (SELECT 1 FROM {strides} AS kept WHERE kept.batch_run = ended.batch_run)
            ORDER BY batch_run LIMIT 100"
        );
        let values = vec![ended_before.into(), after.into()];
        let rows = DB::rows(connection, statement, values).await?;
        rows.iter()
            .map(|row| Fields::<DB>::of(row).text())
            .collect()
    }

    /// Deletes the first `limit` strides of a batch run, and returns their number.
    pub async fn forget<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        batch_run: &str,
        limit: u64,
    ) -> Result<u64, sqlx::Error> {
        let last = format!(
            "SELECT max(stride) FROM (
                SELECT stride FROM {} WHERE batch_run = $1 ORDER BY stride LIMIT $2
            ) AS firsts HAVING count(*) > 0",
            self.name
        );
        let values = vec![batch_run.into(), limit.into()];
        let rows = DB::rows(connection, last, values).await?;
        let Some(row) = rows.first() else {
            return Ok(0);
        };
        let last = Fields::<DB>::of(row).number()?;
        let delete = format!(
            "DELETE FROM {} WHERE batch_run = $1 AND stride <= $2",
            self.name
        );
        DB::execute(connection, delete, vec![batch_run.into(), last.into()]).await
    }
}

/// Reads the totals of a stride from the next six columns.
pub(super) fn totals<DB: Dialect>(fields: &mut Fields<DB>) -> Result<StrideTotals, sqlx::Error> {
    Ok(StrideTotals {
        pages: fields.count()?,
        pages_failed: fields.count()?,
        items: ItemCounts {
            processed: fields.count()?,
            changed: fields.count()?,
            skipped: fields.count()?,
            failed: fields.count()?,
        },
    })
}
