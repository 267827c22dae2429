//! The walk through a table.

use serde_json::value::RawValue;
use sqlx::FromRow;

use super::{Column, Table, key::Key, statements::Bound};
use crate::{
    base::error::PageError,
    cell::{Cell, write_object},
    page::{PAGE_BYTES, Page},
    processor::{PageProcessor, SkipAhead, context::PageContext},
    sql::{
        backend::{Backend, dialect::Dialect, value::Value},
        connection::pool::on_pool,
    },
};

/// Returns a row as a JSON object.
pub(super) fn record_of(columns: &[&Column], cells: &[Cell]) -> Box<RawValue> {
    let mut json = Vec::new();
    let fields = columns.iter().zip(cells);
    let fields = fields.map(|(column, cell)| (column.name.as_str(), cell, column.encoding));
    write_object(fields, &mut json);
    let json = String::from_utf8(json).expect("JSON is UTF-8");
    RawValue::from_string(json).expect("an object")
}

/// # Find keys
impl Table {
    /// Returns the keys of the rows in `(start, end]` that match the filter, in order, at most `limit`. The query reads
    /// only an index, if the filter allows that.
    ///
    /// # Errors
    /// The errors of the database are retryable. Non-retryable are `CursorNotOfThisKey`, `KeyIsNull` for a value that
    /// cannot be a cursor, and in SQLite `KeyTypeMixed`.
    pub async fn keys(
        &self,
        start: Option<&Key>,
        end: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, PageError> {
        self.keys_from(start, end, limit as u64, 0).await
    }

    async fn keys_from(
        &self,
        start: Option<&Key>,
        end: Option<&Key>,
        limit: u64,
        offset: u64,
    ) -> Result<Vec<Key>, PageError> {
        self.check_keys([start, end])?;
        let statements = &self.inner.statements;
        let query = statements.page(Vec::new(), start, end, limit, offset);
        on_pool!(&self.inner.database, pool: Db => {
            let rows = Db::fetch(pool, query).await?;
            rows.iter().map(|row| Db::key(row, 0, &statements.key)).collect()
        })
    }

    /// Like [`keys`](Self::keys) without the first `offset` keys, on a connection.
    pub(crate) async fn keys_on<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        (start, end): (Option<&Key>, Option<&Key>),
        limit: u64,
        offset: u64,
    ) -> Result<Vec<Key>, PageError> {
        self.check_keys([start, end])?;
        let statements = &self.inner.statements;
        let Bound { sql, values } = statements.page(Vec::new(), start, end, limit, offset);
        let rows = DB::rows(connection, sql, values).await?;
        rows.iter()
            .map(|row| DB::key(row, 0, &statements.key))
            .collect()
    }

    /// Returns the key of the row that is `rows` rows after `start`, in `(start, end]`, which is the end of a page of
    /// that many rows. A jump over 0 rows counts as a jump over 1 row.
    ///
    /// # Errors
    /// Those of [`keys`](Self::keys).
    pub async fn skip(
        &self,
        start: Option<&Key>,
        end: Option<&Key>,
        rows: u64,
    ) -> Result<SkipAhead<Key>, PageError> {
        let mut keys = self
            .keys_from(start, end, 1, rows.saturating_sub(1))
            .await?;
        Ok(keys.pop().map_or(SkipAhead::PastEnd, SkipAhead::To))
    }

    /// Returns the number of rows in `(start, end]` that match the filter. The query reads all of them.
    ///
    /// # Errors
    /// Those of [`keys`](Self::keys).
    pub async fn count(&self, start: Option<&Key>, end: Option<&Key>) -> Result<u64, PageError> {
        self.check_keys([start, end])?;
        let query = self.inner.statements.count(start, end);
        let count = on_pool!(&self.inner.database, pool: Db => {
            let rows = Db::fetch(pool, query).await?;
            rows.first().map(|row| Db::number(row, 0)).transpose()?
        });
        Ok(count
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or_default())
    }

    /// Checks that a key has as many parts as the key of this table has columns.
    ///
    /// # Errors
    /// The non-retryable `CursorNotOfThisKey`.
    pub fn check_key(&self, key: &Key) -> Result<(), PageError> {
        let (parts, columns) = (key.parts().len(), &self.inner.spec.key);
        if parts == columns.len() {
            return Ok(());
        }
        Err(PageError::non_retryable(
            "CursorNotOfThisKey",
            format_args!(
                "a cursor has {parts} parts, but the key of {} is ({})",
                self.quoted_name(),
                columns.join(", ")
            ),
        ))
    }

    fn check_keys<'k>(
        &self,
        keys: impl IntoIterator<Item = Option<&'k Key>>,
    ) -> Result<(), PageError> {
        keys.into_iter()
            .flatten()
            .try_for_each(|key| self.check_key(key))
    }
}

/// # Conditions for statements of your own
impl Table {
    /// Returns the rows in `(start, end]` that match the filter, as a condition for `WHERE`, and the values of its
    /// placeholders in order. The condition is `TRUE` if all rows match.
    ///
    /// In PostgreSQL and SQLite the placeholders are `$first`, `$first + 1` and so on; in MySQL they are `?`, and a
    /// value may occur more than once. The columns are named without the table. A key of another table
    /// ([`check_key`](Self::check_key)) makes a statement that the database refuses.
    pub fn condition(
        &self,
        start: Option<&Key>,
        end: Option<&Key>,
        first: usize,
    ) -> (String, Vec<Value>) {
        let bound = self.inner.statements.range(start, end, first);
        (bound.sql, bound.values)
    }

    /// Like [`condition`](Self::condition), from the row with the key `from` to the row with the key `to`, both
    /// included. This is the condition that `process` needs, given the first and the last key of its items.
    pub fn condition_of(&self, from: &Key, to: &Key, first: usize) -> (String, Vec<Value>) {
        let bound = self.inner.statements.between(from, to, first);
        (bound.sql, bound.values)
    }
}

/// # Read rows
impl Table {
    /// Returns the rows in `(start, end]` that match the filter, in order, at most `limit`: their keys, and a `T` made
    /// of the `columns`. `T` may be a tuple in their order, or a struct with `#[derive(sqlx::FromRow)]`.
    ///
    /// # Errors
    /// As [`keys`](Self::keys). Besides, a [`PageError::environment`] of type `WrongDatabase` if the table is not in a
    /// `DB`, and non-retryable: `TableColumnMissing`.
    pub async fn rows<DB, T>(
        &self,
        columns: &[&str],
        start: Option<&Key>,
        end: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, T)>, PageError>
    where
        DB: Backend,
        T: for<'r> FromRow<'r, DB::Row>,
    {
        self.check_keys([start, end])?;
        let pool = DB::pool(&self.inner.database).ok_or_else(|| {
            PageError::environment(format_args!(
                "table {} is in {}, not in {}",
                self.quoted_name(),
                self.inner.database.system(),
                DB::NAME
            ))
            .with_type("WrongDatabase")
        })?;
        for column in columns {
            self.column(column)?;
        }
        let statements = &self.inner.statements;
        let selected = columns.iter().map(|name| self.quote(name)).collect();
        let query = statements.page(selected, start, end, limit as u64, 0);
        let rows = DB::fetch(pool, query).await?;
        rows.iter()
            .map(|row| {
                let key = DB::key(row, columns.len(), &statements.key)?;
                Ok((key, T::from_row(row)?))
            })
            .collect()
    }

    /// Returns the page of `ctx.range()`, for `fetch`: at most [`page_size`](PageContext::page_size)
    /// [`rows`](Self::rows), and none after `high_water`.
    ///
    /// # Errors
    /// Those of [`rows`](Self::rows).
    pub async fn page<DB, T, P>(
        &self,
        ctx: &PageContext<P>,
        columns: &[&str],
        high_water: Option<&Key>,
    ) -> Result<Page<Key, (Key, T)>, PageError>
    where
        DB: Backend,
        T: for<'r> FromRow<'r, DB::Row>,
        P: PageProcessor<Cursor = Key>,
    {
        let range = ctx.range();
        let end = range.end().or(high_water);
        let rows = self.rows::<DB, T>(columns, range.start(), end, ctx.page_size());
        Page::sorted(rows.await?, |(key, _)| key.clone())
    }

    /// Returns the beginning of the page that is `pages` pages further on, for `skip_ahead`.
    ///
    /// # Errors
    /// Those of [`keys`](Self::keys).
    pub async fn skip_ahead<P>(
        &self,
        ctx: &PageContext<P>,
        pages: u32,
        high_water: Option<&Key>,
    ) -> Result<SkipAhead<Key>, PageError>
    where
        P: PageProcessor<Cursor = Key>,
    {
        let range = ctx.range();
        let rows = u64::from(pages) * ctx.page_size() as u64;
        let end = range.end().or(high_water);
        self.skip(range.start(), end, rows).await
    }

    /// Returns the rows in `(start, end]` that match the filter, in order, at most `limit`: their keys, and each row as
    /// a JSON object with its columns (all of them, or the named ones). `serde_json::from_str` turns [its
    /// text](RawValue::get) into any type.
    ///
    /// | value | in JSON |
    /// |---|---|
    /// | integers, floating point numbers, booleans | as they are; numbers that are not finite as a text |
    /// | numbers with a fixed number of digits (`numeric`, `decimal`) | a text, so that no reader rounds them |
    /// | `json`, `jsonb` | unchanged, with every digit and key; a value that would not be read back unchanged, such as the JSON null, as `{"$json": "null"}` |
    /// | points in time | a text: in PostgreSQL ISO 8601, in the time zone of the session where the type has one; in MySQL `2024-01-31 12:00:00` |
    /// | bytes, and the geometry of MySQL | a text of hexadecimal digits, `\\x00ff` |
    /// | SQLite | integers and reals as numbers, of which reals have a fraction or an exponent, `{"$number": "Infinity"}`; texts; bytes as `{"$blob": "00ff"}`, texts that are not UTF-8 as `{"$text_hex": "ff"}` |
    /// | anything else, arrays and composite types of PostgreSQL too | a text, as the database writes and reads it |
    ///
    /// # Errors
    /// Those of [`keys`](Self::keys), and `TableColumnMissing`, non-retryable.
    pub async fn records(
        &self,
        columns: Option<&[String]>,
        start: Option<&Key>,
        end: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Box<RawValue>)>, PageError> {
        let columns = self.selected(columns)?;
        let rows = self.cells(&columns, start, end, limit).await?;
        let record = |(key, cells): (Key, Vec<Cell>)| (key, record_of(&columns, &cells));
        Ok(rows.into_iter().map(record).collect())
    }

    /// Returns the named columns, or all of them.
    pub(crate) fn selected(&self, columns: Option<&[String]>) -> Result<Vec<&Column>, PageError> {
        match columns {
            None => Ok(self.columns().iter().collect()),
            Some(names) => names.iter().map(|name| self.column(name)).collect(),
        }
    }

    /// Returns the values of [`records`](Self::records), one for each column. Returns fewer than `limit` rows where
    /// these have [`PAGE_BYTES`].
    pub(crate) async fn cells(
        &self,
        columns: &[&Column],
        start: Option<&Key>,
        end: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Vec<Cell>)>, PageError> {
        self.check_keys([start, end])?;
        let statements = &self.inner.statements;
        let mut rows: Vec<(Key, Vec<Cell>)> = Vec::new();
        let mut bytes = 0;
        while bytes < PAGE_BYTES && rows.len() < limit {
            // The database may build all requested rows before the first one is read.
            let asked = self.inner.row_bytes.rows_in(PAGE_BYTES - bytes);
            let asked = asked.min(limit - rows.len());
            let selected = columns.iter().map(|column| column.read.clone()).collect();
            let after = rows.last().map(|(key, _)| key).or(start);
            let query = statements.page(selected, after, end, asked as u64, 0);
            let before = (rows.len(), bytes);
            on_pool!(&self.inner.database, pool: Db => {
                Db::each_text(pool, query.into(), |row| {
                    let cells = columns.iter().enumerate();
                    let cells = cells.map(|(at, column)| Db::cell(row, at, column.encoding));
                    let cells: Vec<_> = cells.collect::<Result<_, _>>()?;
                    bytes += cells.iter().map(Cell::size).sum::<usize>();
                    rows.push((Db::key(row, columns.len(), &statements.key)?, cells));
                    Ok(bytes < PAGE_BYTES)
                }).await?;
            });
            let read = rows.len() - before.0;
            self.inner.row_bytes.note(read, bytes - before.1);
            if read < asked {
                break;
            }
        }
        Ok(rows)
    }

    fn column(&self, name: &str) -> Result<&Column, PageError> {
        let found = self.columns().iter().find(|column| column.name == name);
        found.ok_or_else(|| {
            super::TableError::MissingColumn {
                table: self.quoted_name().to_owned(),
                column: name.to_owned(),
                columns: self.columns().iter().map(|c| c.name.clone()).collect(),
            }
            .into_page_error()
        })
    }
}
