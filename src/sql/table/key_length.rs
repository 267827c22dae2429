//! Keys that are too long for a cursor.

use super::{Table, column::KeyForm};
use crate::{
    base::{error::PageError, text::count},
    page::token::PageToken,
    processor::SkipAhead,
    sql::{connection::read_only, syntax::Syntax},
};

/// The number of rows, from the beginning of the table on, whose keys are measured before the start.
const MEASURED: u64 = 100_000;

/// The bytes of a token around the texts of a key: `["` and `"]`.
const AROUND: usize = 4;

impl Table {
    /// Refuses a table with keys that no cursor can hold, among the first 100,000 rows that match the filter. A page that
    /// ends at such a row can never be finished.
    ///
    /// # Errors
    /// The non-retryable `CursorTooLarge` with the way out, or those of the database.
    pub(crate) async fn check_key_lengths(&self) -> Result<(), PageError> {
        let statements = &self.inner.statements;
        let texts = || statements.key.iter().filter(|c| c.form != KeyForm::Int);
        if texts().next().is_none() {
            return Ok(());
        }
        let length: Vec<_> = texts().map(|c| self.bytes_of(&c.read)).collect();
        let length = length.join(" + ");
        let most = PageToken::MAX_BYTES - AROUND;
        let end = match self.skip(None, None, MEASURED).await? {
            SkipAhead::To(end) => Some(end),
            _ => None,
        };
        let (condition, values) = self.condition(None, end.as_ref(), 1);
        let name = self.quoted_name();
        let query = format!("SELECT count(*) FROM {name} WHERE {condition} AND {length} > {most}");
        let timeout = super::super::verify::STATEMENT_TIMEOUT;
        let found = read_only::numbers(self.database(), timeout, (query, values), 1).await?;
        let Ok(long @ 1..) = u64::try_from(found[0]) else {
            return Ok(());
        };
        Err(PageError::non_retryable(
            "CursorTooLarge",
            format_args!(
                "{} of {name} have a key ({}) of more than {most} bytes, and a page that ends at one cannot be \
                 continued; page by another unique key (--key), or leave these rows out with the filter (--where) \
                 {length} <= {most} and treat them by other means",
                count(long, "row"),
                self.spec().key.join(", "),
            ),
        ))
    }

    /// Returns the expression for the length of a text.
    fn bytes_of(&self, text: &str) -> String {
        match self.inner.statements.syntax {
            Syntax::Postgres => format!("octet_length({text})"),
            Syntax::MySql => format!("LENGTH({text})"),
            Syntax::Sqlite => format!("length(CAST({text} AS BLOB))"),
        }
    }
}
