//! The dead letters of a batch, which distinguish rows that are known to be unfinished from other rows.

use crate::{
    base::error::PageError,
    batch::letter_filter::LetterFilter,
    page::token::PageToken,
    processor::store::dead_letter::DeadLetters,
    progress::check::Check,
    sql::{Key, Table, backend::value::Value, connection::read_only},
};

/// The number of letters that are searched for in the ranges; of more, only the number is shown.
const MAX_LETTERS: usize = 500;
/// The number of keys in one statement: SQLite and MySQL plan it again each time, and PostgreSQL looks up each key.
const KEYS_AT_ONCE: usize = 50;

/// The ranges that a batch gave up.
pub(super) struct KnownLetters {
    /// The last key of each range; for a record, its own key.
    ends: Vec<Key>,
    /// True if there are more letters.
    more: bool,
}

impl KnownLetters {
    pub async fn read(
        letters: Option<&dyn DeadLetters>,
        batch_id: &str,
    ) -> Result<Self, PageError> {
        let mut known = Self {
            ends: Vec::new(),
            more: false,
        };
        let Some(letters) = letters else {
            return Ok(known);
        };
        let filter = LetterFilter::of(batch_id);
        let found = letters.list(&filter, None, MAX_LETTERS + 1).await?;
        known.more = found.len() > MAX_LETTERS;
        let ends = found
            .into_iter()
            .take(MAX_LETTERS)
            .filter_map(|letter| letter.end);
        known.ends = ends.filter_map(|end| end.decode().ok()).collect();
        Ok(known)
    }

    /// Adds the number of dead letters to the messages of failed ranges.
    pub async fn explain(&self, table: &Table, check: &mut Check) -> Result<(), PageError> {
        if self.ends.is_empty() {
            return Ok(());
        }
        for range in &mut check.failed {
            let key = |token: &Option<PageToken>| token.as_ref().map(PageToken::decode).transpose();
            let (start, end): (Option<Key>, Option<Key>) = (key(&range.start)?, key(&range.end)?);
            let mut inside = 0;
            for keys in self.ends.chunks(KEYS_AT_ONCE) {
                inside += rows_among(table, keys, start.as_ref(), end.as_ref()).await?;
            }
            if inside > 0 {
                let letters = if inside == 1 {
                    "dead letter"
                } else {
                    "dead letters"
                };
                let note = format!("; {inside} {letters} of the batch in this range");
                range.message.push_str(&note);
            }
        }
        if self.more && !check.failed.is_empty() {
            check.notes.push(format!(
                "the batch has more than {MAX_LETTERS} dead letters; the ranges name the first of them only"
            ));
        }
        Ok(())
    }
}

/// Returns the number of rows in a range whose key is among the given keys.
async fn rows_among(
    table: &Table,
    keys: &[Key],
    start: Option<&Key>,
    end: Option<&Key>,
) -> Result<u64, PageError> {
    let (range, mut values) = table.condition(start, end, 1);
    let mut any = Vec::new();
    for key in keys.iter().filter(|key| table.check_key(key).is_ok()) {
        let (is_key, its_values) = table.condition_of(key, key, values.len() + 1);
        any.push(format!("({is_key})"));
        values.extend(its_values);
    }
    if any.is_empty() {
        return Ok(0);
    }
    let sql = format!(
        "SELECT count(*) FROM {} WHERE {range} AND ({})",
        table.quoted_name(),
        any.join(" OR ")
    );
    let values: Vec<Value> = values;
    let timeout = super::STATEMENT_TIMEOUT;
    let found = read_only::numbers(table.database(), timeout, (sql, values), 1).await?;
    Ok(u64::try_from(found[0]).unwrap_or_default())
}
