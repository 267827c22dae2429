//! Which rows of which table.

use serde::{Deserialize, Serialize};

/// The rows that a batch goes through, and in which order: a table, the columns of a unique key, and a
/// filter. Part of a batch's arguments, so it is stored in histories and holds no secrets.
///
/// Names are taken exactly as they are written, upper and lower case included. A name with a dot or a quote
/// in it is written in double quotes, as in SQL: `shop."odd.name"`.
///
/// ```
/// use temporal_batch::TableSpec;
///
/// let users = TableSpec::new("shop.users", ["country", "id"]).filter("email IS NOT NULL");
/// assert_eq!(users.key, ["country", "id"]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// The table, with its schema (MySQL: database) in front of it where that is not the usual one.
    pub table: String,
    /// The columns that pages are cut by, the most significant first. No two rows may have the same values in
    /// them.
    pub key: Vec<String>,
    /// A condition in SQL; rows for which it is not true are left out. It runs with the rights of the
    /// connection, so it must come from somebody who may do whatever the connection may do. In JSON it may also be
    /// called `where`, as in the command line.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "where")]
    pub filter: Option<String>,
    /// Whether the table may have row security that is active for the role of the connection (PostgreSQL). Rows
    /// that a policy hides are not met then, and nothing counts them; rows that a policy keeps from being changed
    /// fail.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_row_security: bool,
}

impl TableSpec {
    /// All rows of a table, in the order of a key.
    pub fn new(table: impl Into<String>, key: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            table: table.into(),
            key: key.into_iter().map(Into::into).collect(),
            filter: None,
            allow_row_security: false,
        }
    }

    /// Sets [`allow_row_security`](Self::allow_row_security).
    #[must_use]
    pub fn allow_row_security(mut self, allow: bool) -> Self {
        self.allow_row_security = allow;
        self
    }

    /// Only rows for which this condition is true.
    #[must_use]
    pub fn filter(mut self, sql: impl Into<String>) -> Self {
        self.filter = Some(sql.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_two_names_and_others_are_refused() {
        let read = serde_json::from_str::<TableSpec>;
        let spec = read(r#"{"table":"t","key":["id"],"where":"id < 3"}"#).unwrap();
        assert_eq!(spec, TableSpec::new("t", ["id"]).filter("id < 3"));
        let error = read(r#"{"table":"t","key":["id"],"were":"id < 3"}"#).unwrap_err();
        let text = crate::base::known_fields::explain(&error);
        assert!(text.contains("did you mean `where`?"), "{text}");
    }

    #[test]
    fn a_spec_without_a_filter_can_be_read_and_written() {
        let spec: TableSpec = serde_json::from_str(r#"{"table":"t","key":["id"]}"#).unwrap();
        assert_eq!(spec, TableSpec::new("t", ["id"]));
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(text, r#"{"table":"t","key":["id"]}"#);
    }
}
