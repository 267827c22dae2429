//! The arguments of a backfill, as they are stored with its batch.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::InvalidBackfill;
use crate::{
    base::{known_fields, stored::is_default},
    sql::{DEFAULT_CONNECTION, Key, TableSpec, backend::dialect::Timeouts},
};

/// The arguments of a batch of `SqlBackfill`: the rows, and the work to do on them. They are stored in histories, so
/// they must hold no secrets, and at most 512 KiB of JSON.
///
/// In JSON every field but `table`, `key` and one of `set` and `statements` is optional:
///
/// ```json
/// {"table": "users", "key": ["id"], "filter": "email IS NOT NULL",
///  "set": [{"column": "email", "expression": "lower(email)"}], "once": true}
/// ```
///
/// | field | default |
/// |---|---|
/// | `connection` | `default` |
/// | `filter`, also `where` | every row |
/// | `set`, `statements` | none; exactly one of them is needed |
/// | `once` | `false`: at least once |
/// | `high_water_mark` | `at_start` |
/// | `rewrite_unchanged` | `false` |
/// | `statement_timeout` | 30 s |
/// | `lock_timeout` | 5 s |
/// | `allow_slow_pages` | `false` |
/// | `exact_count` | `false` |
/// | `verify` | nothing is verified |
///
/// Any other field is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
#[non_exhaustive]
pub struct BackfillArgs {
    /// The name of a connection of the worker. A batch never carries a URL.
    #[serde(default = "default_connection")]
    pub connection: String,
    /// The rows.
    #[serde(flatten)]
    pub table: TableSpec,
    /// The columns to set, and their new values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Assignment>,
    /// Statements in place of `set`. They run in one transaction for each page, with `{range}` where the condition
    /// for the rows of the page belongs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    /// Tells whether a page's changes and the record that it was applied commit together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
    /// The end of the batch in a growing table.
    #[serde(default, skip_serializing_if = "is_default")]
    pub high_water_mark: HighWaterMark,
    /// Tells whether `set` also writes rows that already have their new values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rewrite_unchanged: bool,
    /// The longest time of one statement.
    #[serde(default = "statement_timeout", with = "millis")]
    pub statement_timeout: Duration,
    /// The longest wait of a statement for a lock.
    #[serde(default = "lock_timeout", with = "millis")]
    pub lock_timeout: Duration,
    /// Allows pages to be read by a plan that scans or sorts the table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_slow_pages: bool,
    /// Tells whether the rows are counted before the start, instead of estimated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact_count: bool,
    /// A query that verifies a range of rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<String>,
}

/// The names of all fields; the message that refuses any other field lists them.
const FIELDS: &[&str] = &[
    "connection",
    "table",
    "key",
    "filter",
    "where",
    "allow_row_security",
    "set",
    "statements",
    "once",
    "high_water_mark",
    "rewrite_unchanged",
    "statement_timeout",
    "lock_timeout",
    "allow_slow_pages",
    "exact_count",
    "verify",
];

impl<'de> Deserialize<'de> for BackfillArgs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        known_fields::of_flattened(from, FIELDS, Self::deserialize)
    }
}

impl Serialize for BackfillArgs {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

/// A column and its new value: `column = expression`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The name of the column as the database knows it, without quotes.
    pub column: String,
    /// An expression of the database.
    pub expression: String,
}

/// The last key of a batch, which makes the batch end in a growing table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HighWaterMark {
    /// The highest key at the start of the batch.
    #[default]
    AtStart,
    /// A fixed key. [`AtStart`](Self::AtStart) becomes one when the batch starts.
    At(Key),
    /// The table had no rows when the batch started.
    NoRows,
    /// An open end: the batch continues while it finds rows.
    Off,
}

fn default_connection() -> String {
    DEFAULT_CONNECTION.to_owned()
}

fn statement_timeout() -> Duration {
    Duration::from_secs(30)
}

fn lock_timeout() -> Duration {
    Duration::from_secs(5)
}

/// Durations as numbers of milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// # Construct
impl BackfillArgs {
    /// Creates a backfill of these rows, without any work yet.
    pub fn of(table: TableSpec) -> Self {
        Self {
            connection: default_connection(),
            table,
            set: Vec::new(),
            statements: Vec::new(),
            once: false,
            high_water_mark: HighWaterMark::default(),
            rewrite_unchanged: false,
            statement_timeout: statement_timeout(),
            lock_timeout: lock_timeout(),
            allow_slow_pages: false,
            exact_count: false,
            verify: None,
        }
    }

    /// Selects a connection of the worker.
    pub fn connection(mut self, name: impl Into<String>) -> Self {
        self.connection = name.into();
        self
    }

    /// Sets a column to an expression of the database. Repeated calls set further columns.
    pub fn set(mut self, column: impl Into<String>, expression: impl Into<String>) -> Self {
        self.set.push(Assignment {
            column: column.into(),
            expression: expression.into(),
        });
        self
    }

    /// Runs a statement for each page, with `{range}` where the condition for its rows belongs. Repeated calls add
    /// statements that follow in the same transaction.
    pub fn statement(mut self, statement: impl Into<String>) -> Self {
        self.statements.push(statement.into());
        self
    }

    /// Commits a page's changes together with the record that the page was applied. This needs the tables of the
    /// [ledger](crate::sql::SqlLedger) in the database.
    pub fn once(mut self, once: bool) -> Self {
        self.once = once;
        self
    }

    /// Sets the end of the batch in a growing table.
    pub fn high_water_mark(mut self, mark: HighWaterMark) -> Self {
        self.high_water_mark = mark;
        self
    }

    /// Makes [`set`](Self::set) also write rows that already have their new values.
    pub fn rewrite_unchanged(mut self, rewrite: bool) -> Self {
        self.rewrite_unchanged = rewrite;
        self
    }

    /// Sets the longest time of one statement. The limit has no effect in SQLite.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// Sets the longest wait of a statement for a lock.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Allows pages to be read by a plan that scans or sorts the table.
    pub fn allow_slow_pages(mut self, allow: bool) -> Self {
        self.allow_slow_pages = allow;
        self
    }

    /// Counts the rows before the start, instead of estimating them from statistics.
    pub fn exact_count(mut self, exact: bool) -> Self {
        self.exact_count = exact;
        self
    }

    /// Sets a query that verifies a range of rows.
    pub fn verify(mut self, query: impl Into<String>) -> Self {
        self.verify = Some(query.into());
        self
    }
}

/// The longest timeout of a statement or a wait. A page ends after 15 min.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// # Check
impl BackfillArgs {
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            statement: self.statement_timeout,
            lock: self.lock_timeout,
        }
    }

    pub(super) fn check_timeouts(&self) -> Result<(), InvalidBackfill> {
        let timeouts = [
            ("the statement timeout", self.statement_timeout),
            ("the lock timeout", self.lock_timeout),
        ];
        for (what, given) in timeouts {
            if given < Duration::from_millis(1) || given > LONGEST_TIMEOUT {
                return Err(InvalidBackfill::Timeout { what, given });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_field_is_known_and_any_other_is_refused_with_the_one_that_was_meant() {
        let mut all = json!({
            "connection": "c", "table": "t", "key": ["id"], "filter": "x", "allow_row_security": true,
            "set": [{"column": "a", "expression": "1"}], "statements": ["s"], "once": true,
            "high_water_mark": "off", "rewrite_unchanged": true, "statement_timeout": 1, "lock_timeout": 1,
            "allow_slow_pages": true, "exact_count": true, "verify": "v",
        });
        let read = |value: &Value| serde_json::from_value::<BackfillArgs>(value.clone());
        let args = read(&all).unwrap();
        assert_eq!(serde_json::to_value(&args).unwrap(), all);
        let named = all.as_object().unwrap().keys();
        assert!(named.clone().all(|name| FIELDS.contains(&name.as_str())));
        assert_eq!(named.len() + 1, FIELDS.len(), "`where` is the only other");

        for (wrong, meant) in [("were", "where"), ("onse", "once"), ("tabel", "table")] {
            all[wrong] = json!(1);
            let text = known_fields::explain(&read(&all).unwrap_err());
            assert!(
                text.contains(&format!("unknown field `{wrong}`; did you mean `{meant}`?")),
                "{text}"
            );
            all.as_object_mut().unwrap().remove(wrong);
        }
        all["set"][0]["colum"] = json!("b");
        let text = known_fields::explain(&read(&all).unwrap_err());
        assert!(text.contains("did you mean `column`?"), "{text}");
    }
}
