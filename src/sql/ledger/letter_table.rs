//! The table of the dead letters.

use std::collections::BTreeSet;

use sqlx::Database;

use crate::{
    batch::letter_filter::LetterFilter,
    processor::store::dead_letter::DeadLetter,
    sql::backend::{
        dialect::{Dialect, Index},
        value::Fields,
    },
};

/// `temporal_batch_dead_letter`: one row for each dead letter.
pub(crate) struct LetterTable {
    name: String,
}

/// Replaces NUL characters, which PostgreSQL cannot store and a broken record may have.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

const COLUMNS: &str = "id, batch_id, batch_run, processor, stride, range_start, range_end, item_key, \
     error_type, message, attempts, first_at, last_at, record";

impl LetterTable {
    pub fn new(prefix: &str) -> Self {
        let name = format!("{prefix}temporal_batch_dead_letter");
        Self { name }
    }

    pub fn schema_sql<DB: Dialect>(&self) -> String {
        let (key, text) = (DB::KEY_TEXT, DB::TEXT);
        let columns = format!(
            "    id {key} NOT NULL PRIMARY KEY,
    batch_id {key} NOT NULL,
    batch_run {key} NOT NULL,
    processor {text} NOT NULL,
    stride BIGINT NOT NULL,
    range_start {text},
    range_end {text},
    item_key {text},
    error_type {text} NOT NULL,
    message {text} NOT NULL,
    attempts BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    record {text}"
        );
        let of_batch = Index {
            name: "temporal_batch_dead_letter_of_batch",
            columns: "batch_id, id",
        };
        DB::create_table(&self.name, &columns, Some(of_batch))
    }

    /// Stores letters; a letter that exists keeps its `first_at`.
    pub async fn put<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        letters: &[DeadLetter],
    ) -> Result<(), sqlx::Error> {
        let anew = COLUMNS
            .split(", ")
            .filter(|column| !["id", "first_at"].contains(column))
            .map(|column| format!("{column} = {}", DB::given(column)));
        let statement = format!(
            "INSERT INTO {} ({COLUMNS})
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
            {} {}",
            self.name,
            DB::or_update("id"),
            anew.collect::<Vec<_>>().join(", ")
        );
        let mut letters: Vec<_> = letters.iter().collect();
        // A common order keeps two writers of the same letters from a deadlock.
        letters.sort_by(|a, b| a.id.cmp(&b.id));
        for letter in letters {
            let values = vec![
                letter.id.as_str().into(),
                letter.batch_id.as_str().into(),
                letter.batch_run.as_str().into(),
                letter.processor.as_str().into(),
                letter.stride.into(),
                letter.start.as_ref().into(),
                letter.end.as_ref().into(),
                letter.key.as_deref().map(storable).as_deref().into(),
                storable(&letter.error_type).as_str().into(),
                storable(&letter.message).as_str().into(),
                u64::from(letter.attempts).into(),
                letter.first_at.into(),
                letter.last_at.into(),
                letter.record.as_deref().map(storable).as_deref().into(),
            ];
            DB::execute(connection, statement.clone(), values).await?;
        }
        Ok(())
    }

    pub async fn list<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        filter: &LetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, sqlx::Error> {
        let statement = format!(
            "SELECT {COLUMNS} FROM {}
            WHERE batch_id = $1
                AND ($2 IS NULL OR id > $2)
                AND ($3 IS NULL OR error_type = $3)
                AND ($4 IS NULL OR range_start = $4)
                AND ($5 IS NULL OR last_at >= $5)
                AND ($6 IS NULL OR last_at < $6)
            ORDER BY id LIMIT $7",
            self.name
        );
        let values = vec![
            filter.batch_id.as_str().into(),
            after.into(),
            filter.error_type.as_deref().into(),
            filter.page_start.as_ref().into(),
            filter.since.into(),
            filter.until.into(),
            u64::try_from(limit).unwrap_or(u64::MAX).into(),
        ];
        let rows = DB::rows(connection, statement, values).await?;
        rows.iter().map(letter_of::<DB>).collect()
    }

    /// Returns the number of these letters that do not exist.
    pub async fn missing<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        letters: &[DeadLetter],
    ) -> Result<u64, sqlx::Error> {
        let statement = format!("SELECT 1 FROM {} WHERE id = $1", self.name);
        let ids: BTreeSet<_> = letters.iter().map(|letter| letter.id.as_str()).collect();
        let mut missing = 0;
        for id in ids {
            let found = DB::rows(connection, statement.clone(), vec![id.into()]).await?;
            missing += u64::from(found.is_empty());
        }
        Ok(missing)
    }

    /// Deletes a letter. `false` if it did not exist.
    pub async fn take<DB: Dialect>(
        &self,
        connection: &mut <DB as Database>::Connection,
        id: &str,
    ) -> Result<bool, sqlx::Error> {
        let statement = format!("DELETE FROM {} WHERE id = $1", self.name);
        Ok(DB::execute(connection, statement, vec![id.into()]).await? == 1)
    }
}

/// Reads [`COLUMNS`].
fn letter_of<DB: Dialect>(row: &DB::Row) -> Result<DeadLetter, sqlx::Error> {
    let mut fields = Fields::<DB>::of(row);
    Ok(DeadLetter {
        id: fields.text()?,
        batch_id: fields.text()?,
        batch_run: fields.text()?,
        processor: fields.text()?,
        stride: fields.count()?,
        start: fields.token()?,
        end: fields.token()?,
        key: fields.optional_text()?,
        error_type: fields.text()?,
        message: fields.text()?,
        attempts: u32::try_from(fields.count()?).unwrap_or(u32::MAX),
        first_at: fields.time()?,
        last_at: fields.time()?,
        record: fields.optional_text()?,
    })
}
